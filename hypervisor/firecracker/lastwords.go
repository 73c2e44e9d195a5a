package firecracker

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// maxLastWords bounds what an error quotes of a log, in bytes.
const maxLastWords = 1024

// lastWords returns the end of what a VMM said: of its standard error, or, when
// that is empty, of its log. The text is one line of printable characters: what
// it quotes may come from a guest.
func lastWords(dir string) string {
	for _, name := range []string{StderrName, LogName} {
		if said := tail(filepath.Join(dir, name)); said != "" {
			return said
		}
	}
	return ""
}

func tail(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return ""
	}
	end := make([]byte, min(info.Size(), maxLastWords))
	n, err := file.ReadAt(end, info.Size()-int64(len(end)))
	if err != nil && err != io.EOF {
		return ""
	}
	end = end[:n]
	// What was cut off at the front is not a line.
	if info.Size() > maxLastWords {
		if at := bytes.IndexByte(end, '\n'); at >= 0 {
			end = end[at+1:]
		}
	}
	lines := strings.Split(strings.TrimSpace(string(end)), "\n")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.Join(lines, " | "))
}
