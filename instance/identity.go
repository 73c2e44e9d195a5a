package instance

import (
	"encoding/binary"
	"encoding/hex"
)

// identityPageSize is that of an overlay page of the pager.
const identityPageSize = 4096

// MaxIdentity is how many bytes of its own a caller can put on an identity page.
const MaxIdentity = 2048

// identityMagic stands at byte 8 of an identity page.
const identityMagic = "faultln\x01"

// IdentityPage returns the page that tells a fork who it is. All numbers are little
// endian:
//
//	 0  8  a number that no other instance of this host has: the first eight bytes of its id
//	 8  8  "faultln" and a byte 1, the version of this layout
//	16  2  length of the id
//	18  2  length of the name
//	20  4  length of the caller's bytes
//	24     id, name, the caller's bytes, one behind the other; zeros follow
//
// A guest finds it at Spec.IdentityAddress from its first instruction after a
// restore; before its first capture the page is what the guest made it. A guest that
// keeps the page should read it again whenever the number differs from the one it
// knows: it is a fork then.
func IdentityPage(id, name string, data []byte) []byte {
	page := make([]byte, 24, identityPageSize)
	// An id that is no hexadecimal number leaves zeros; ids made here always are.
	_, _ = hex.Decode(page[:8], []byte(id)[:min(16, len(id))])
	copy(page[8:], identityMagic)
	binary.LittleEndian.PutUint16(page[16:], uint16(len(id)))
	binary.LittleEndian.PutUint16(page[18:], uint16(len(name)))
	binary.LittleEndian.PutUint32(page[20:], uint32(len(data)))
	page = append(page, id...)
	page = append(page, name...)
	return append(page, data...)
}
