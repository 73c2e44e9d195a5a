// Package shortdir gives tests directories whose paths leave room for the names of unix
// sockets, which are limited to 107 bytes (unix(7)). The directories of testing.T have
// the name of the test in theirs.
//
// The package owns nothing beyond the end of a test, and is for tests only.
package shortdir

import (
	"os"
	"testing"
)

// Make returns a new directory, which is removed at the end of the test.
func Make(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
