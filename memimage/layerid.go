package memimage

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// PageSize is the unit of page indexes and of resolving, in bytes. Guests that
// are backed by 2 MiB pages have the same index; their handler resolves 512
// pages at a time.
const PageSize = 4096

// MaxPages is the largest number of pages that an image may have (16 TiB). It
// lets a resolved run fit into one word.
const MaxPages = 1 << 32

// MaxLayers is the largest number of layers that an image may have. Each open
// layer holds a file descriptor, and a stack should be flattened long before.
const MaxLayers = 1024

// LayerID names the content of a layer: 32 lower-case hexadecimal digits, drawn
// at random when the layer is sealed. Two layers of the same id are the same.
type LayerID string

// layerIDBytes is the length of a layer id in binary form.
const layerIDBytes = 16

// NewLayerID draws a layer id.
func NewLayerID() LayerID {
	var b [layerIDBytes]byte
	// Documented never to fail: the process ends where the kernel gives no
	// random bytes.
	_, _ = rand.Read(b[:])
	return LayerID(hex.EncodeToString(b[:]))
}

// ParseLayerID checks that s is a layer id, and returns it.
func ParseLayerID(s string) (LayerID, error) {
	if len(s) != 2*layerIDBytes {
		return "", fmt.Errorf("layer id %.40q has %d characters, want %d hexadecimal digits", s, len(s), 2*layerIDBytes)
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("layer id %q has a character %q, want lower-case hexadecimal digits only", s, c)
		}
	}
	return LayerID(s), nil
}

// Kind says what the holes of a layer mean.
type Kind string

const (
	// Full is a layer that is complete by itself: a hole is a zero page.
	Full Kind = "full"
	// Diff is a layer over others: a hole means that the page is in a layer below.
	Diff Kind = "diff"
)

// check reports whether k is one of the two kinds.
func (k Kind) check() error {
	if k != Full && k != Diff {
		return fmt.Errorf("layer kind %.40q is neither %q nor %q", string(k), Full, Diff)
	}
	return nil
}
