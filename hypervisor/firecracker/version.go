package firecracker

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is a semantic version. What follows the three numbers is kept for
// display and ignored in comparisons: a development build of 1.17 is built from
// source that already has 1.17's fields.
type Version struct {
	Major, Minor, Patch int
	// Suffix is what follows the numbers, like "-dev" or "+fuzzing".
	Suffix string
}

// String returns the version with a leading v.
func (v Version) String() string {
	return fmt.Sprintf("v%d.%d.%d%s", v.Major, v.Minor, v.Patch, v.Suffix)
}

// Compare returns -1, 0 or 1 as v is older than, the same as or newer than other.
func (v Version) Compare(other Version) int {
	return cmp.Or(cmp.Compare(v.Major, other.Major), cmp.Compare(v.Minor, other.Minor), cmp.Compare(v.Patch, other.Patch))
}

// maxVersion bounds the length of a version: it ends up in error messages.
const maxVersion = 64

// ParseVersion reads a version like "v1.16.1" or "1.17.0-dev".
func ParseVersion(text string) (Version, error) {
	malformed := func() (Version, error) {
		return Version{}, fmt.Errorf("%.*q is not a version like v1.16.1", maxVersion, text)
	}
	if len(text) > maxVersion {
		return malformed()
	}
	numbers := strings.TrimPrefix(text, "v")
	var suffix string
	if at := strings.IndexAny(numbers, "-+"); at >= 0 {
		numbers, suffix = numbers[:at], numbers[at:]
	}
	for _, r := range suffix {
		if r <= ' ' || r > '~' {
			return malformed()
		}
	}
	parts := strings.Split(numbers, ".")
	if len(parts) != 3 {
		return malformed()
	}
	v := Version{Suffix: suffix}
	for i, field := range []*int{&v.Major, &v.Minor, &v.Patch} {
		n, err := strconv.ParseUint(parts[i], 10, 31)
		if err != nil {
			return malformed()
		}
		*field = int(n)
	}
	return v, nil
}
