package cli

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/memimage"
)

func TestStats(t *testing.T) {
	withDaemon(t)
	var stats instance.Stats
	if err := json.Unmarshal([]byte(must(t, "stats", "--json")), &stats); err != nil {
		t.Fatal(err)
	}
	if len(stats.Shared) != 0 || stats.Unlinked != "" {
		t.Errorf("a new daemon has %+v", stats)
	}
	want := "files shared           none\ndisks copied           none\nstacks flattened       0, for 0 images\nlayers with checksums  0\n"
	if diff := cmp.Diff(want, must(t, "stats")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPrintStats(t *testing.T) {
	var out bytes.Buffer
	err := printStats(streams{out: &out}, instance.Stats{
		Shared:   map[memimage.Rung]uint64{memimage.HardLink: 40, memimage.SparseCopy: 2},
		Copied:   map[memimage.Rung]uint64{memimage.Reflink: 3},
		Unlinked: "link a b: too many links",
		Upkeep:   instance.UpkeepStats{Flattened: 1, Superseded: 4, Checksummed: 9, Failed: 2, LastError: "no room"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `files shared           40 by hard link, 2 by sparse copy
disks copied           3 by reflink
not hard-linked        link a b: too many links
stacks flattened       1, for 4 images
layers with checksums  9
upkeep failed          2, the last time: no room
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
