package instance

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
)

var (
	idPattern     = regexp.MustCompile(`^[0-9a-f]{16}$`)
	namePattern   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	devicePattern = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)
	tapPattern    = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`) // IFNAMSIZ less its terminating zero
	captureID     = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)
)

// newID draws an id: 16 lower-case hexadecimal digits.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func checkID(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("id %.80q is not 16 lower-case hexadecimal digits", id)
	}
	return nil
}

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("name %.80q is not 1 to 63 lower-case letters, digits and dashes, the first a letter", name)
	}
	return nil
}

// mmioGap is where x86 leaves guest-physical addresses to devices; below it the
// offset in a memory image equals the address.
const mmioGap = 3 << 30

// validate reports everything that is wrong with the specification in itself.
func (s Spec) validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for what, path := range map[string]string{"kernel": s.Kernel, "initrd": s.Initrd} {
		if (path != "" || what == "kernel") && !filepath.IsAbs(path) {
			fault("%s %.200q is not an absolute path", what, path)
		}
	}
	if len(s.BootArgs) > 2048 {
		fault("boot_args has %d bytes, more than 2048", len(s.BootArgs))
	}
	if s.VCPUs < 1 || s.VCPUs > 32 {
		fault("vcpus is %d, use 1 to 32", s.VCPUs)
	}
	if s.MemoryBytes == 0 || s.MemoryBytes%mebibyte != 0 {
		fault("memory_bytes is %d, use whole MiB, at least one", s.MemoryBytes)
	}
	if s.HugePages && s.MemoryBytes%(2*mebibyte) != 0 {
		fault("memory_bytes is %d, which is not a whole number of 2 MiB pages", s.MemoryBytes)
	}
	if s.VsockCID != 0 && s.VsockCID < 3 {
		fault("vsock_cid %d is reserved, use 3 or above", s.VsockCID)
	}
	if a := s.IdentityAddress; a != 0 && (a%pageSize != 0 || a >= s.MemoryBytes || a >= mmioGap) {
		fault("identity_address %d is not the address of a page below the guest's memory and 3 GiB", a)
	}
	return errors.Join(append(errs, s.validateDevices())...)
}

const (
	maxDrives   = 16
	maxNetworks = 16
)

func (s Spec) validateDevices() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(s.Drives) > maxDrives || len(s.Networks) > maxNetworks {
		fault("%d drives and %d networks, use at most %d of each", len(s.Drives), len(s.Networks), maxDrives)
	}
	seen := map[string]bool{}
	roots := 0
	for i, d := range s.Drives {
		if !devicePattern.MatchString(d.ID) || seen["drive "+d.ID] {
			fault("drives[%d]: id %.80q is not 1 to 64 letters, digits and underscores, or is there twice", i, d.ID)
		}
		seen["drive "+d.ID] = true
		if !filepath.IsAbs(d.Source) {
			fault("drives[%d]: source %.200q is not an absolute path", i, d.Source)
		}
		if d.Root {
			roots++
		}
	}
	if roots > 1 {
		fault("%d drives are the root device, use one", roots)
	}
	for i, n := range s.Networks {
		if !devicePattern.MatchString(n.ID) || seen["network "+n.ID] {
			fault("networks[%d]: id %.80q is not 1 to 64 letters, digits and underscores, or is there twice", i, n.ID)
		}
		seen["network "+n.ID] = true
		if n.Tap != "" && !tapPattern.MatchString(n.Tap) {
			fault("networks[%d]: tap %.80q is not 1 to 15 letters, digits, dots, dashes and underscores", i, n.Tap)
		}
		if _, err := net.ParseMAC(n.MAC); n.MAC != "" && err != nil {
			fault("networks[%d]: mac %.80q is not a hardware address", i, n.MAC)
		}
	}
	return errors.Join(errs...)
}
