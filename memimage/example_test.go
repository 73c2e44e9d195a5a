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
