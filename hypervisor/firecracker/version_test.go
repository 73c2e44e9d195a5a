package firecracker_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/hypervisor/firecracker"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]firecracker.Version{
		"v1.16.1":         {Major: 1, Minor: 16, Patch: 1},
		"1.17.0-dev":      {Major: 1, Minor: 17, Suffix: "-dev"},
		"1.0.0+fcsim":     {Major: 1, Suffix: "+fcsim"},
		"10.20.30-rc.1+x": {Major: 10, Minor: 20, Patch: 30, Suffix: "-rc.1+x"},
	} {
		got, err := firecracker.ParseVersion(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{"", "v", "1", "1.2", "1.2.3.4", "vv1.2.3", "-1.2.3", "1.2.x", "1.+2.3",
		"1.2.99999999999999999999", "1.2.3-\x1b[31m", "1.2.3- x", "1.2.3-" + strings.Repeat("a", 100)} {
		if v, err := firecracker.ParseVersion(text); err == nil {
			t.Errorf("%q is version %v", text, v)
		}
	}
}

func TestVersionCompare(t *testing.T) {
	ordered := []string{"0.25.2", "1.0.0", "1.1.0", "1.1.1", "1.12.0", "2.0.0"}
	for i, a := range ordered {
		for j, b := range ordered {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			va, _ := firecracker.ParseVersion(a)
			vb, _ := firecracker.ParseVersion(b)
			if got := va.Compare(vb); got != want {
				t.Errorf("%s against %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestParseIdentity(t *testing.T) {
	name, version, err := firecracker.ParseIdentity("Firecracker v1.16.1\n\n2026-11-23T08:11:45 [anonymous-instance:main] Firecracker exiting successfully. exit_code=0\n")
	if err != nil || name != firecracker.Real || version != (firecracker.Version{Major: 1, Minor: 16, Patch: 1}) {
		t.Errorf("name %q, version %v, error %v", name, version, err)
	}
	if name, _, err = firecracker.ParseIdentity("fcsim v1.16.0\n"); err != nil || name != firecracker.Simulator {
		t.Errorf("name %q, error %v", name, err)
	}
	for _, text := range []string{"", "\n", "Firecracker", "Firecracker ", "jailer v1.16.1", "firecracker v1.16.1", " Firecracker v1.16.1", "\nFirecracker v1.16.1"} {
		if name, version, err := firecracker.ParseIdentity(text); err == nil {
			t.Errorf("%q is %s %v", text, name, version)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	for _, seed := range []string{"Firecracker v1.16.1\n", "fcsim v1.16.0", "Firecracker v1.17.0-dev\nmore", "jailer v1.0.0", "Firecracker v1.2.3-\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, version, err := firecracker.ParseIdentity(text)
		if err != nil {
			return
		}
		if name != firecracker.Real && name != firecracker.Simulator {
			t.Errorf("name %q", name)
		}
		// What was understood can be written and understood again.
		again, err := firecracker.ParseVersion(version.String())
		if err != nil || again != version {
			t.Errorf("%v became %v, error %v", version, again, err)
		}
		for _, r := range version.String() {
			if r <= ' ' || r > '~' {
				t.Errorf("version %q is not printable", version.String())
			}
		}
	})
}
