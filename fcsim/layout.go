package fcsim

// span is a contiguous piece of guest-physical memory.
type span struct {
	Base uint64 `json:"base"` // guest-physical address
	Size uint64 `json:"size"` // bytes
}

// layout returns where Firecracker puts size bytes of DRAM on x86: from zero up,
// around the MMIO holes below 4 GiB and from 256 to 512 GiB. A memory file is the
// spans in this order, without gaps.
func layout(size uint64) []span {
	holes := [...]span{{3 << 30, 1 << 30}, {256 << 30, 256 << 30}}
	var spans []span
	base := uint64(0)
	for _, hole := range holes {
		if base+size <= hole.Base {
			break
		}
		spans = append(spans, span{base, hole.Base - base})
		size -= hole.Base - base
		base = hole.Base + hole.Size
	}
	return append(spans, span{base, size})
}
