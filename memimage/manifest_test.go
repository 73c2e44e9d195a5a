package memimage

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testManifest returns a manifest of so many layers.
func testManifest(layers int) Manifest {
	m := Manifest{Version: 1, Size: 4 * PageSize, PageSize: PageSize}
	for i := range layers {
		kind := Diff
		if i == 0 {
			kind = Full
		}
		m.Layers = append(m.Layers, newEntry(testID(i+1), kind, m.Size))
	}
	return m
}

func TestManifestRoundTrip(t *testing.T) {
	for _, n := range []int{1, 2, MaxLayers} {
		m := testManifest(n)
		data, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > maxManifestBytes {
			t.Errorf("%d layers take %d bytes, more than the reader's bound", n, len(data))
		}
		got, err := DecodeManifest(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Errorf("%d layers (-want +got):\n%s", n, diff)
		}
	}
}

func TestManifestFormIsStable(t *testing.T) {
	data, err := testManifest(1).Encode()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "version": 1,
  "size": 16384,
  "page_size": 4096,
  "layers": [
    {
      "id": "00000000000000000000000000000001",
      "kind": "full",
      "file": "layers/00000000000000000000000000000001.mem",
      "index": "layers/00000000000000000000000000000001.idx",
      "size": 16384
    }
  ]
}
`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("memory.json (-want +got):\n%s", diff)
	}
}

func TestDecodeManifestRefuses(t *testing.T) {
	good, err := testManifest(2).Encode()
	if err != nil {
		t.Fatal(err)
	}
	first, second := string(testID(1)), string(testID(2))
	for name, c := range map[string]struct{ from, to, want string }{
		"not json":           {"{", "[", "decode manifest"},
		"trailing":           {"]\n}\n", "]\n}\n{}", "follows"},
		"unknown field":      {`"version"`, `"owner": "x", "version"`, "owner"},
		"unknown in layer":   {`"kind": "full"`, `"kind": "full", "parent": 1`, "parent"},
		"version":            {`"version": 1`, `"version": 2`, "version is 2"},
		"page size":          {"4096", "8192", "page_size"},
		"size unaligned":     {"16384", "16385", "size is 16385"},
		"size zero":          {"16384", "0", "size is 0"},
		"size negative":      {"16384", "-4096", "decode manifest"},
		"size huge":          {"16384", "18446744073709547520", "size is"},
		"id short":           {first, first[1:], "31 characters"},
		"id upper case":      {first, "A" + first[1:], `'A'`},
		"id twice":           {second, first, "twice"},
		"kind":               {`"full"`, `"thin"`, "thin"},
		"oldest is a diff":   {`"full"`, `"diff"`, "oldest layer must be full"},
		"two full layers":    {`"diff"`, `"full"`, "oldest layer must be full"},
		"path out of dir":    {"layers/" + first + ".mem", "../" + first + ".mem", "want"},
		"absolute path":      {"layers/" + first + ".mem", "/etc/passwd", "want"},
		"other layer's name": {"layers/" + first + ".idx", "layers/" + second + ".idx", "want"},
	} {
		data := strings.ReplaceAll(string(good), c.from, c.to)
		if data == string(good) {
			t.Errorf("%s: nothing replaced", name)
		}
		_, err := DecodeManifest([]byte(data))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
	if err := testManifest(0).Validate(); err == nil {
		t.Error("a manifest without layers is valid")
	}
	if err := testManifest(MaxLayers + 1).Validate(); err == nil {
		t.Error("a manifest of too many layers is valid")
	}
	uneven := testManifest(2)
	uneven.Layers[1].Size += PageSize
	if err := uneven.Validate(); err == nil || !strings.Contains(err.Error(), "layers[1]") {
		t.Errorf("layers of different sizes: error %v, want one about layers[1]", err)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	for _, n := range []int{0, 1, 3} {
		data, err := testManifest(n).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"version":1,"size":4096,"page_size":4096,"layers":[{"id":"../../etc"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeManifest(data)
		if err != nil {
			return
		}
		for _, l := range m.Layers {
			if l.File != LayerFile(l.ID) || strings.Contains(string(l.ID), "/") {
				t.Fatalf("layer file %q of id %q", l.File, l.ID)
			}
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeManifest(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Fatalf("second decoding (-want +got):\n%s", diff)
		}
	})
}
