package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/hostmemory"
	"github.com/faultline-vm/faultline/pager"
)

func TestSampleIsTheDefault(t *testing.T) {
	c, err := Parse("sample", Sample(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c, emptyLists); diff != "" {
		t.Errorf("the sample differs from the defaults (-default +sample):\n%s", diff)
	}
}

// emptyLists takes an empty list for none.
var emptyLists = cmp.Transformer("list", func(l []string) string { return strings.Join(l, "\x00") })

func TestSampleIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```yaml\n"+string(Sample())+"```\n") {
		t.Errorf("docs/configuration.md does not have the sample as it is now:\n%s", Sample())
	}
}

func TestEmptyFiles(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "hypervisor:\n"} {
		c, err := Parse("f", []byte(text), nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(Default(), c); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

// TestFaults has one entry for each thing that may be wrong, with the line and the
// words that the report must have.
func TestFaults(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"data_dirs: /x\n", "line 1: data_dirs: unknown key"},
		{"\nhypervisor:\n  firecracker_binaries: x\n", "line 3: hypervisor.firecracker_binaries: unknown key"},
		{"firecracker_binary: x\n", "is hypervisor.firecracker_binary meant?"},
		{"data_dir: /x\ndata_dir: /y\n", "line 2: data_dir: is there twice, first in line 1"},
		{"data_dir: x\n", `line 1: data_dir: "x" is not an absolute path`},
		{"data_dir: 5\n", "wants a text"},
		{"data_dir:\n", "has no value"},
		{"data_dir: [/x]\n", "wants one value"},
		{"data_dir: {a: b}\n", "wants one value"},
		{"hypervisor: 5\n", "line 1: hypervisor: wants keys and values"},
		{"hypervisor:\n  firecracker_snapshot_memory_backend: tape\n", `line 2: hypervisor.firecracker_snapshot_memory_backend: "tape" is not among`},
		{"hypervisor:\n  firecracker_uffd_cache_max_bytes: 0B\n", "line 2: hypervisor.firecracker_uffd_cache_max_bytes: 0B is not between 1MiB"},
		{"hypervisor:\n  firecracker_uffd_cache_max_bytes: -1GiB\n", `"-1GiB" is negative`},
		{"hypervisor:\n  firecracker_uffd_cache_max_bytes: 4096\n", `"4096" has no unit`},
		{"hypervisor:\n  firecracker_uffd_cache_max_bytes: 4 Gibi\n", "known unit"},
		{"hypervisor:\n  firecracker_uffd_cache_max_bytes: 512TiB\n", "the host's memory"},
		{"hypervisor:\n  firecracker_max_concurrent_restores: 0\n", "0 is not between 1 and 10000"},
		{"hypervisor:\n  firecracker_max_concurrent_restores: many\n", "wants a number"},
		{"hypervisor:\n  firecracker_arguments: --no-seccomp\n", "wants a list"},
		{"hypervisor:\n  firecracker_arguments: [1]\n", "list of texts"},
		{"hypervisor:\n  prefer: qemu\n", `"qemu" is not among`},
		{"pager:\n  manager: cron\n", `"cron" is not among`},
		{"pager:\n  watchdog: 10\n", "wants a time"},
		{"pager:\n  watchdog: 20ms\n", "pager.watchdog: 20ms is neither 0s nor between 1s and 1h"},
		{"network:\n  tap_template: tap\n", "network.tap_template"},
		{"network:\n  tap_template: a-long-name-{id}-{n}\n", "at most 15 bytes"},
		{"network:\n  reconfigure_timeout: soon\n", "wants a time"},
		{"network:\n  reconfigure_timeout: 0s\n", "no time to wait"},
		{"network:\n  reconfigure_vsock_port: 5\n  reconfigure_command: [a]\n", "use one of them"},
		{"capture:\n  stage_budget: 512TiB\n", "capture.stage_budget: 512TiB is more than the host's memory"},
		{"capture:\n  stage_budget: 1GiB\n  stage_dir: \"\"\n", "capture.stage_dir"},
		{"images:\n  flatten_depth: -1\n", "line 2: images.flatten_depth: -1 is not between 0 and 1024"},
		{"images:\n  flatten_superseded_percent: 100\n", "100 is not between 0 and 99"},
		{"images:\n  checksums: yes\n", `wants true or false, not "yes"`},
		{"api:\n  socket: /" + strings.Repeat("x", 110) + "\n", "107 bytes"},
		{"data_dir: &a /x\napi:\n  socket: *a\n", "no aliases"},
		{"a: b\n---\nc: d\n", "second document"},
		{"data_dir: /x\n\tapi: y\n", "line 2: it is not YAML"},
		{"- a\n", "wants keys and values"},
	} {
		_, err := Parse("f.yaml", []byte(test.text), nil)
		var all *Error
		if !errors.As(err, &all) || !strings.Contains(err.Error(), "f.yaml: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.text, err, test.want)
		}
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := Parse("f", []byte(`
data_dir: relative
unknown: 1
hypervisor:
  firecracker_snapshot_memory_backend: tape
  firecracker_uffd_cache_max_bytes: 0B
  firecracker_max_concurrent_restores: x
`), nil)
	var all *Error
	if !errors.As(err, &all) {
		t.Fatalf("no faults: %v", err)
	}
	var lines []int
	for _, f := range all.Faults {
		lines = append(lines, f.Line)
	}
	if diff := cmp.Diff([]int{2, 3, 5, 6, 7}, lines); diff != "" {
		t.Errorf("lines of the faults (-want +got):\n%s\n%v", diff, err)
	}
}

func TestEnvironment(t *testing.T) {
	file := []byte("data_dir: /from/file\nhypervisor:\n  firecracker_snapshot_memory_backend: tape\n")
	c, err := Parse("f", file, []string{
		"FAULTLINE_DATA_DIR=/from/variable", "FAULTLINE_HYPERVISOR_FIRECRACKER_SNAPSHOT_MEMORY_BACKEND=uffd",
		"FAULTLINE_HYPERVISOR_FIRECRACKER_UFFD_CACHE_MAX_BYTES=64MiB", `FAULTLINE_NETWORK_RECONFIGURE_COMMAND=[a, "b c"]`,
		"FAULTLINE_API_SOCKET_GROUP=100", "FAULTLINE_PAGER_BINARY=", "FAULTLINE_FAILPOINTS=x=crash", "PATH=/bin",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.DataDir, want.API.SocketGroup = "/from/variable", "100"
	want.Hypervisor.FirecrackerSnapshotMemoryBackend, want.Hypervisor.FirecrackerUffdCacheMaxBytes = instance.Uffd, 64<<20
	want.Network.ReconfigureCommand = []string{"a", "b c"}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, err = Parse("f", nil, []string{"FAULTLINE_HYPERVISOR_PREFER=qemu", "FAULTLINE_NETWORK_RECONFIGURE_TIMEOUT=x"})
	for _, want := range []string{"FAULTLINE_HYPERVISOR_PREFER: ", "FAULTLINE_NETWORK_RECONFIGURE_TIMEOUT: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("data_dir: /d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, nil)
	if err != nil || c.DataDir != "/d" || c.SocketPath() != "/d/faultline.sock" {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = Load("", []string{"FAULTLINE_DATA_DIR=/e"})
	if err != nil || c.DataDir != "/e" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestValidate(t *testing.T) {
	if err := Default().Validate(); err != nil {
		total, _ := hostmemory.Total()
		if total >= 4<<30 {
			t.Error(err)
		}
	}
	if err := (Config{}).Validate(); err == nil || len(err.(*Error).Faults) < 6 {
		t.Errorf("an empty configuration: %v", err)
	}
}

func TestRoundTrip(t *testing.T) {
	text := rapid.OneOf(rapid.SampledFrom([]string{"", "true", "null", "5", "~", "a b", "{id}", "x: y", "# c", "'", "\"", "\\", "1e3", "0x1", "yes"}), rapid.StringMatching(`[ -~]{0,12}`))
	rapid.Check(t, func(t *rapid.T) {
		c := Default()
		c.DataDir = "/" + text.Draw(t, "dir")
		c.API.SocketGroup = text.Draw(t, "group")
		c.Hypervisor.FirecrackerBinary = text.Draw(t, "binary")
		c.Hypervisor.FirecrackerArguments = rapid.SliceOfN(text, 1, 3).Draw(t, "arguments")
		c.Hypervisor.FirecrackerSnapshotMemoryBackend = rapid.SampledFrom([]instance.Backend{instance.File, instance.Uffd, instance.Auto}).Draw(t, "backend")
		c.Hypervisor.FirecrackerUffdCacheMaxBytes = Size(rapid.Uint64Range(pager.MinCacheBytes, 64<<20).Draw(t, "cache"))
		c.Hypervisor.FirecrackerMaxConcurrentRestores = rapid.IntRange(1, 100).Draw(t, "restores")
		c.Images.FlattenDepth = rapid.IntRange(0, 1024).Draw(t, "depth")
		c.Images.FlattenSupersededPercent = rapid.IntRange(0, 99).Draw(t, "percent")
		c.Images.Checksums = rapid.Bool().Draw(t, "checksums")
		c.Network.ReconfigureTimeout = time.Duration(rapid.Int64Range(1, 1<<40).Draw(t, "time"))
		again, err := Parse("f", c.Encode(), nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, c.Encode())
		}
		if diff := cmp.Diff(c, again, emptyLists); diff != "" {
			t.Fatalf("(-written +read):\n%s\n%s", diff, c.Encode())
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(Sample())
	f.Add([]byte("hypervisor: {firecracker_binary: x}\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Add([]byte("? {a: b}\n: c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data, nil)
		if err != nil {
			return
		}
		again, err := Parse("f", c.Encode(), nil)
		if err != nil {
			t.Fatalf("what was read is not read again: %v\n%s", err, c.Encode())
		}
		if diff := cmp.Diff(c, again, emptyLists); diff != "" {
			t.Fatalf("(-read +read again):\n%s", diff)
		}
	})
}
