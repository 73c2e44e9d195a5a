// Package memimage owns the memory of captured microVMs on disk: it makes layers
// out of the memory files that a VMM wrote, finds the place of every page, and
// shares, checks and merges layers.
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
//	layers/<layer id>.sum    its digest and page checksums, mode 0444; optional
//
// A layer's id is drawn when it is sealed and travels with it through hard links
// and copies: equal id means equal content. It is the only fit key for a cache.
//
// # The life of an image
//
// [PrepareTarget] makes sure that a VMM writes into a file of nobody else. [Seal]
// makes a layer of what it wrote and publishes an image; package stage does that
// for captures that the VMM writes into memory. [Import] seals files that came from
// elsewhere. Later, and off every hot path, [WriteSums] computes checksums, and
// [Verify] compares the layers with them.
//
// [ShareImage] gives a fork names of its own for all layers, by hard links:
// deleting an image is removing its directory, and the last name takes the layer
// along. [Copy] is for what must be private. [Flatten] merges a stack that has
// become deep ([Inspect], [FlattenPolicy]), [Supersede] lets all owners of the stack
// share the result, and [Prune] removes what an image no longer needs. [Export]
// writes the memory as one flat file.
//
// Each of them leaves the state before or the state after when it fails or is
// cancelled, and after a crash either of the two and names that Prune removes; in
// a directory without memory.json, all is to be removed.
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
