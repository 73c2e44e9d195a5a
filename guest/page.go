package guest

import "encoding/binary"

// The words that a workload keeps in a page come in pairs: word 2k is the first
// word of the page's k-th span of 2×PageSize/Words bytes, word 2k+1 its last one.
// Both functions below walk spans, which is what [Workload.WordOffset] says word
// by word, without its multiplications.

// spanFactor is what a word's argument of Mix grows by from span to span.
const spanFactor = 2 * WordFactor % (1 << 64)

// FillPage writes the words of page p under seed into page. Page must hold
// PageSize bytes and w must be valid. It does not allocate.
func FillPage(page []byte, w Workload, seed, p uint64) {
	span := 2 * PageSize / w.Words
	x := seed + p*PageFactor
	for at := uint64(0); at < PageSize; at += span {
		both := page[at : at+span]
		binary.LittleEndian.PutUint64(both, Mix(x))
		binary.LittleEndian.PutUint64(both[span-8:], Mix(x+WordFactor))
		x += spanFactor
	}
}

// CheckPage reports whether page holds the words of page p under seed. Page must
// hold PageSize bytes and w must be valid. It does not allocate.
func CheckPage(page []byte, w Workload, seed, p uint64) bool {
	span := 2 * PageSize / w.Words
	x := seed + p*PageFactor
	for at := uint64(0); at < PageSize; at += span {
		both := page[at : at+span]
		if binary.LittleEndian.Uint64(both) != Mix(x) || binary.LittleEndian.Uint64(both[span-8:]) != Mix(x+WordFactor) {
			return false
		}
		x += spanFactor
	}
	return true
}
