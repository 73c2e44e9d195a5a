package cli

import (
	"fmt"

	"github.com/dustin/go-humanize"
)

// size is a number of bytes, written like 256MiB.
type size uint64

// UnmarshalText reads a size with an IEC or SI unit, or without one.
func (s *size) UnmarshalText(text []byte) error {
	bytes, err := humanize.ParseBytes(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a size: write it like 256MiB", text)
	}
	*s = size(bytes)
	return nil
}
