// Package capture owns the immutable records of paused microVMs: it takes them,
// publishes them, hands them on to forks and removes them.
//
// # On disk
//
// A capture is a directory. Everything in it is written once, and its owner has
// names of its own for all of it:
//
//	capture.json   the [Record]
//	vmstate        the VM state as the VMM wrote it
//	memory.json    the memory image, see package memimage
//	layers/        its layers: those of the base under further names, and one more
//	disks/         a private copy of each writable disk, a further name of each other
//
// An instance keeps its captures in captures/<id>/ and the disks of its VMM in
// disks/, both below the VMM's working directory; a snapshot is a directory of the
// same layout. The parent of such directories may also hold, under names that
// begin with a dot,
//
//	.new-<name>    what is being made
//	.trash-<name>  what is being removed
//
// # States of a directory
//
//	(nothing) ──make──▶ .new-<name> ──rename, fsync of the parent──▶ <name>
//	<name> ──rename──▶ .trash-<name> ──rm -r──▶ (nothing)
//
// The rename is the one point of publication. All that lies in the directory is on
// disk before it, so that whoever finds <name> finds all of it. A crash leaves any
// of the four; [Sweep] takes those with a dot away, and what remains is the state
// before or the state after.
//
// # Taking a capture
//
// See [Take] for the order of steps, and [Lineage] for what the next capture of the
// same VMM may build upon.
//
// # Rules
//
// No file that has been published is written again, and the VMM only ever writes
// into new files. Flattening ([memimage.Flatten]) puts another memory.json in the
// place of a capture's, which has the same memory. Nothing refers to another owner's directory: a capture, a fork or
// a snapshot can be removed at any time, whoever was made from it.
//
// The only lock is the one inside [Lineage]. It is held during a capture, and by
// nothing else; a second capture of the same VMM is refused instead of waiting.
// Nothing here logs: what a caller should know of a success is in its result.
package capture
