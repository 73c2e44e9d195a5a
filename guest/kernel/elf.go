package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

const (
	headerSize  = 64
	segmentSize = 56
	// codeOffset is where the code begins in the file: a page behind the start,
	// so that file offset and address agree modulo the page size as ELF asks.
	codeOffset = 4096
)

// wrapELF returns an executable of one segment that is loaded at address and
// entered at its first byte.
func wrapELF(code []byte, address uint64) ([]byte, error) {
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: address, Phoff: headerSize,
		Ehsize: headerSize, Phentsize: segmentSize, Phnum: 1,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X),
		Off: codeOffset, Vaddr: address, Paddr: address,
		Filesz: uint64(len(code)), Memsz: uint64(len(code)), Align: codeOffset,
	}
	var file bytes.Buffer
	for _, part := range []any{header, segment} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	file.Write(make([]byte, codeOffset-file.Len()))
	file.Write(code)
	return file.Bytes(), nil
}
