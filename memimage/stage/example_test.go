package stage_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/memimage/stage"
)

// A capture of a running guest is written into memory where there is room, and
// sealed when the guest runs again.
func Example() {
	shm, err := os.MkdirTemp("/dev/shm", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(shm)
	area, _, err := stage.Open(stage.Config{Dir: shm, Budget: 1 << 20})
	if err != nil {
		log.Fatal(err)
	}
	defer area.Close()

	var full *stage.NoRoomError
	if _, err := area.Begin(2 << 20); errors.As(err, &full) {
		fmt.Println("straight to disk, for lack of", full.Limit)
	}
	s, err := area.Begin(64 << 10)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Discard()
	// Pause the guest, let its VMM write to s.Path("mem"), resume the guest.
	if err := os.WriteFile(s.Path("mem"), make([]byte, 64<<10), 0o600); err != nil {
		log.Fatal(err)
	}

	dir, err := os.MkdirTemp("", "capture")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sealed, err := s.Seal(context.Background(), stage.SealOptions{Memory: "mem", Dir: dir, Kind: memimage.Full})
	if err != nil {
		log.Fatal(err)
	}
	_, err = os.Stat(filepath.Join(dir, memimage.ManifestName))
	fmt.Println(sealed.Pages.Zero, "zero pages; on disk:", err == nil)
	// Output:
	// straight to disk, for lack of budget
	// 16 zero pages; on disk: true
}
