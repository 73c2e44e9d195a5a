package memimage_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/memimage"
)

// A VMM has written the memory of a guest into a file. Seal makes a memory image
// of it, and Resolve tells where its pages are.
func Example() {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	memory := make([]byte, 8*memimage.PageSize)
	copy(memory[3*memimage.PageSize:], "the fourth page")
	source := filepath.Join(dir, "mem.tmp")
	if err := os.WriteFile(source, memory, 0o600); err != nil {
		log.Fatal(err)
	}

	sealed, err := memimage.Seal(context.Background(), memimage.SealOptions{
		Source: source, Dir: dir, Kind: memimage.Full,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sealed.Pages.Data, "page of data,", sealed.Pages.Zero, "zero pages")

	image, err := memimage.Open(filepath.Join(dir, memimage.ManifestName))
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()
	for extent := range image.Extents(0, image.Pages()) {
		fmt.Println("page", extent.Page, "and on:", extent.Pages, "zero:", extent.Location.Zero)
	}
	where := image.Resolve(3)
	text := make([]byte, 15)
	if _, err := where.Layer.ReadAt(text, where.Offset); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", text)
	// Output:
	// 1 page of data, 7 zero pages
	// page 0 and on: 3 zero: true
	// page 3 and on: 1 zero: false
	// page 4 and on: 4 zero: true
	// the fourth page
}

// snapshot makes an image of a memory file whose pages are given.
func snapshot(dir string, base memimage.Manifest, pages map[int64]string) memimage.Manifest {
	source := filepath.Join(dir, "mem.tmp")
	f, err := os.Create(source)
	if err != nil {
		log.Fatal(err)
	}
	if err := f.Truncate(8 * memimage.PageSize); err != nil {
		log.Fatal(err)
	}
	for page, text := range pages {
		if _, err := f.WriteAt([]byte(text), page*memimage.PageSize); err != nil {
			log.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
	o := memimage.SealOptions{Source: source, Dir: dir, Kind: memimage.Full, Base: base}
	if len(base.Layers) > 0 {
		o.Kind = memimage.Diff
	}
	sealed, err := memimage.Seal(context.Background(), o)
	if err != nil {
		log.Fatal(err)
	}
	return sealed.Manifest
}

func newDir() string {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		log.Fatal(err)
	}
	return dir
}

// A fork gets names of its own for all layers, and outlives its source.
func ExampleShareImage() {
	source, fork := newDir(), newDir()
	defer os.RemoveAll(fork)
	snapshot(source, memimage.Manifest{}, map[int64]string{3: "the fourth page"})

	shared, err := memimage.ShareImage(context.Background(), filepath.Join(source, memimage.ManifestName), fork)
	if err != nil {
		log.Fatal(err)
	}
	for _, reason := range shared.Reasons {
		log.Println("not hard-linked:", reason)
	}
	fmt.Println(shared.Rungs[memimage.HardLink], "hard links")
	if err := os.RemoveAll(source); err != nil {
		log.Fatal(err)
	}

	image, err := memimage.Open(filepath.Join(fork, memimage.ManifestName))
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()
	text := make([]byte, 15)
	if _, err := image.ReadAt(text, 3*memimage.PageSize); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", text)
	// Output:
	// 2 hard links
	// the fourth page
}

// A stack of layers becomes one that a VMM can map as it is.
func ExampleFlatten() {
	base, dir := newDir(), newDir()
	defer os.RemoveAll(base)
	defer os.RemoveAll(dir)
	full := snapshot(base, memimage.Manifest{}, map[int64]string{3: "old", 4: "kept"})
	if _, err := memimage.ShareLayers(context.Background(), filepath.Join(base, memimage.ManifestName), dir); err != nil {
		log.Fatal(err)
	}
	snapshot(dir, full, map[int64]string{3: "new"})

	manifest := filepath.Join(dir, memimage.ManifestName)
	info, err := memimage.Inspect(manifest)
	if err != nil {
		log.Fatal(err)
	}
	if reason := (memimage.FlattenPolicy{MaxSuperseded: 0.3}).Due(info); reason != "" {
		fmt.Println("flatten:", reason)
	}
	out, err := memimage.Flatten(context.Background(), memimage.FlattenOptions{Manifest: manifest})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(out.Superseded), "layers became 1 with", out.Pages.Data, "pages of data")
	removed, err := memimage.Prune(manifest)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(removed), "files removed")
	// Output:
	// flatten: 33 % of its data pages are superseded, more than 30 %
	// 2 layers became 1 with 2 pages of data
	// 4 files removed
}
