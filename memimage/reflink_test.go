package memimage

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/faultline-vm/faultline/internal/loopmount"
)

// TestOnRealFilesystems copies, guards, flattens, exports and verifies on the
// filesystems that hosts have. Where blocks can be shared, none of that takes room.
func TestOnRealFilesystems(t *testing.T) {
	for _, name := range loopmount.Names() {
		want := SparseCopy
		if loopmount.Reflinks(name) {
			want = Reflink
		}
		t.Run(name, func(t *testing.T) {
			const pages, dirty = 16 << 20 / PageSize, 1000
			mount, rung := loopmount.Mount(t, name), want
			dirs := make([]string, 3)
			for i := range dirs {
				dirs[i] = filepath.Join(mount, string(rune('a'+i)))
				check(t, os.Mkdir(dirs[i], 0o755))
			}
			full := mustSeal(t, dirs[0], Manifest{}, pages, noise(1, 0, pages)).Manifest
			linkLayers(t, dirs[0], dirs[1], full)
			mustSeal(t, dirs[1], full, pages, noise(2, 500, 500+dirty))
			stack := manifestOf(dirs[1])
			want := contents(t, dirs[1])

			before := loopmount.Used(t, mount)
			mem, _ := layerPaths(dirs[1], full.Layers[0])
			got, err := Copy(context.Background(), mem, filepath.Join(mount, "copy"), 0o600)
			check(t, err)
			if got.Rung != rung || (got.Reason == nil) != (rung == Reflink) {
				t.Errorf("copied by %+v, want %s", got, rung)
			}
			target, _, err := PrepareTarget(context.Background(), mem)
			if target != TargetReplaced || err != nil {
				t.Errorf("target %q, %v", target, err)
			}
			_, err = Flatten(context.Background(), FlattenOptions{Manifest: stack, Dir: dirs[2]})
			check(t, err)
			check(t, Export(context.Background(), stack, filepath.Join(mount, "export"), nil))
			growth := loopmount.Used(t, mount) - before
			if rung == Reflink && growth > 16<<20 {
				t.Errorf("four files of 16 MiB took %d more bytes: their blocks are not shared", growth)
			}
			t.Logf("a copy, a guarded target, a flat layer and an export of 16 MiB each took %d KiB", growth>>10)

			check(t, mustVerify(t, dirs[2]).Err())
			exported, err := os.ReadFile(filepath.Join(mount, "export"))
			check(t, err)
			if !bytes.Equal(exported, want) || !bytes.Equal(contents(t, dirs[2]), want) || !bytes.Equal(contents(t, dirs[1]), want) {
				t.Error("stack, flat image and exported file differ")
			}
		})
	}
}

// noise returns pages that nothing can compress.
func noise(seed byte, first, end int) map[int][]byte {
	rng := rand.NewChaCha8([32]byte{seed})
	out := make(map[int][]byte)
	for p := first; p < end; p++ {
		out[p] = make([]byte, PageSize)
		_, _ = rng.Read(out[p])
	}
	return out
}
