package config

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
)

// Size is a number of bytes, written with its unit: 4GiB, 512 MB, 0B.
type Size uint64

// parseSize reads a size. A number without a unit is refused: whoever writes 4 rarely
// means four bytes.
func parseSize(text string) (Size, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "-") {
		return 0, fmt.Errorf("%.40q is negative: write a size like 4GiB", text)
	}
	if strings.Trim(text, "0123456789., ") == "" {
		if text == "0" {
			return 0, nil
		}
		return 0, fmt.Errorf("%.40q has no unit: write a size like 4GiB", text)
	}
	n, err := humanize.ParseBytes(text)
	if err != nil {
		return 0, fmt.Errorf("%.40q is no size with a known unit: write it like 4GiB", text)
	}
	return Size(n), nil
}

// String writes the size so that it is read again as the same.
func (s Size) String() string {
	for _, unit := range []struct {
		name  string
		shift uint
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
		if s != 0 && s&(1<<unit.shift-1) == 0 {
			return fmt.Sprintf("%d%s", s>>unit.shift, unit.name)
		}
	}
	return fmt.Sprintf("%dB", uint64(s))
}
