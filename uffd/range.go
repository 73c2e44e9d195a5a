package uffd

import "fmt"

// Range is a range of addresses of the process that a userfaultfd belongs to,
// in bytes. Both fields must be multiples of the page size of the memory there.
type Range struct {
	Start uint64
	Len   uint64
}

// End returns the first address after the range.
func (r Range) End() uint64 {
	return r.Start + r.Len
}

// String returns the range as two hexadecimal addresses.
func (r Range) String() string {
	return fmt.Sprintf("%#x-%#x", r.Start, r.End())
}

// Ioctls is the set of commands that the kernel allows on a range or, from the
// API handshake, on the descriptor.
type Ioctls uint64

// Has reports whether the set contains a command, such as UFFDIO_ZEROPAGE.
func (i Ioctls) Has(command uintptr) bool {
	return i>>(command&0xff)&1 == 1
}

// API is the kernel's answer to the API handshake.
type API struct {
	// Features are those that the kernel knows, asked for or not.
	Features Features
	// Ioctls are the commands allowed on the descriptor itself.
	Ioctls Ioctls
}
