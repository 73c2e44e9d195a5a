package memimage

import (
	"errors"
	"fmt"
	"syscall"
)

// Inspection describes an image as it is on disk.
type Inspection struct {
	// Path is that of the manifest.
	Path string `json:"path"`
	// Size is the guest's memory in bytes.
	Size uint64 `json:"size"`
	// Zero is how many pages of the image are zero.
	Zero uint64 `json:"zero_pages"`
	// Superseded is the share, from 0 to 1, of the layers' data pages that a layer
	// above hides: what a flattening would free if nobody else had the layers.
	Superseded float64 `json:"superseded"`
	// DiskBytes is the room that the layers take, whoever else shares them.
	DiskBytes uint64 `json:"disk_bytes"`
	// Layers are ordered oldest first. Their number is the depth of the image.
	Layers []LayerInfo `json:"layers"`
}

// LayerInfo describes one layer of an image.
type LayerInfo struct {
	ID   LayerID `json:"id"`
	Kind Kind    `json:"kind"`
	Path string  `json:"path"`
	// Size is the layer's length in bytes, holes included.
	Size uint64 `json:"size"`
	// Data, Zero and Absent are its pages by state.
	Data   uint64 `json:"data_pages"`
	Zero   uint64 `json:"zero_pages"`
	Absent uint64 `json:"absent_pages"`
	// Contributes is how many data pages of the image come from this layer.
	Contributes uint64 `json:"contributing_pages"`
	// DiskBytes is the room that the file takes on its disk.
	DiskBytes uint64 `json:"disk_bytes"`
	// Names is the file's link count: 1 and one for each other owner.
	Names uint64 `json:"names"`
	// Digest is the content's as it was recorded, empty where the layer has no
	// checksums yet. It is not compared with the content; see [Verify].
	Digest Digest `json:"digest,omitempty"`
}

// Inspect describes the image at manifestPath. It reads no page.
func Inspect(manifestPath string) (Inspection, error) {
	var out Inspection
	err := withManifest(manifestPath, func(m Manifest) error {
		img, err := openStack(manifestPath, m)
		if err != nil {
			return err
		}
		out, err = inspect(img)
		return errors.Join(err, img.Close())
	})
	if err != nil {
		return Inspection{}, fmt.Errorf("inspect %s: %w", manifestPath, err)
	}
	return out, nil
}

func inspect(img *Image) (Inspection, error) {
	out := Inspection{Path: img.path, Size: img.Size()}
	contributes := make(map[*Layer]uint64, len(img.layers))
	for e := range img.Extents(0, img.Pages()) {
		if e.Location.Zero {
			out.Zero += e.Pages
		} else {
			contributes[e.Location.Layer] += e.Pages
		}
	}
	var data, used uint64
	for _, l := range img.layers {
		info, err := l.file.Stat()
		if err != nil {
			return Inspection{}, openError(l.path, "", err)
		}
		li := LayerInfo{
			ID: l.ID(), Kind: l.Kind(), Path: l.path, Size: l.Size(),
			Data: l.counts.Data, Zero: l.counts.Zero, Absent: l.counts.Absent, Contributes: contributes[l],
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			li.Names, li.DiskBytes = uint64(st.Nlink), uint64(st.Blocks)*512
		}
		if li.Digest, err = recordedDigest(img, l); err != nil {
			return Inspection{}, err
		}
		out.Layers = append(out.Layers, li)
		out.DiskBytes += li.DiskBytes
		data += li.Data
		used += li.Contributes
	}
	if data > 0 {
		out.Superseded = float64(data-used) / float64(data)
	}
	return out, nil
}

// FlattenPolicy says when an image should be flattened. A zero field sets no limit.
type FlattenPolicy struct {
	// MaxDepth is the largest number of layers that is left alone. Each layer
	// costs every user of the image a file and a part of its index.
	MaxDepth int
	// MaxSuperseded is the largest share of hidden data pages, from 0 to 1, that
	// is left alone. They take room that nobody reads.
	MaxSuperseded float64
}

// Due returns why an image should be flattened, and "" where it should not. A flat
// image never should.
func (p FlattenPolicy) Due(i Inspection) string {
	switch depth := len(i.Layers); {
	case depth <= 1:
		return ""
	case p.MaxDepth > 0 && depth > p.MaxDepth:
		return fmt.Sprintf("it has %d layers, more than %d", depth, p.MaxDepth)
	case p.MaxSuperseded > 0 && i.Superseded > p.MaxSuperseded:
		return fmt.Sprintf("%.0f %% of its data pages are superseded, more than %.0f %%", 100*i.Superseded, 100*p.MaxSuperseded)
	}
	return ""
}
