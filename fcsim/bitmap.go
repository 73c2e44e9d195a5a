package fcsim

import "sync/atomic"

// bitmap has one bit per guest page. Setting bits is safe from several vCPUs at
// once; everything else needs them parked.
type bitmap []uint64

func newBitmap(pages uint64) bitmap { return make(bitmap, (pages+63)/64) }

func (b bitmap) set(page uint64) {
	word, bit := &b[page/64], uint64(1)<<(page%64)
	// Most pages are written again and again: a look is cheaper than a locked
	// instruction on a word that other vCPUs use.
	if atomic.LoadUint64(word)&bit == 0 {
		atomic.OrUint64(word, bit)
	}
}

func (b bitmap) has(page uint64) bool { return b[page/64]>>(page%64)&1 != 0 }

func (b bitmap) reset() { clear(b) }
