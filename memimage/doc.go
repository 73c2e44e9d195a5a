// Package memimage owns the memory of captured microVMs on disk: it makes layers
// out of the memory files that a VMM wrote, and finds the place of every page.
//
// # Vocabulary
//
// A memory image is the guest memory of one capture: an ordered stack of layers,
// oldest first, described by the file memory.json ([Manifest]).
//
// A layer is one sealed, never again written memory file of the image's full
// size, in which page p lies at byte p times [PageSize]. A full layer is complete
// by itself: its holes are zero pages. A diff layer holds the pages that changed
// since the layer below: its holes mean "look below". The oldest layer of an
// image is full, all others are diffs.
//
// A layer's page index ([Index]) says of each page whether it is data, zero or
// absent. It is made from the file's extents when the layer is sealed, and stored
// beside the layer. From then on the index is the truth: a copy of the layer that
// lost its holes, or gained some, still means the same.
//
// To resolve a page is to find the topmost layer that has it ([Image.Resolve]).
// An image resolves its whole stack once, when it is opened.
//
// # On disk
//
//	memory.json              the manifest; its presence makes the directory an image
//	layers/<layer id>.mem    the layer, mode 0444
//	layers/<layer id>.idx    its page index, mode 0444
//
// A layer's id is drawn when it is sealed and travels with it through hard links
// and copies: equal id means equal content. It is the only fit key for a cache.
//
// # Rules
//
// Nothing in this package writes to a file that has been published, and nothing
// depends on who reads the pages: resolving gives places in files, not bytes.
//
// [Image], [Layer] and [Index] are immutable and may be used by any number of
// goroutines. The only lock is the one inside [Library]; it is a leaf and is
// never held across I/O. Resolving takes no lock and does not allocate.
package memimage
