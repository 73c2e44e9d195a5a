package fcsim

import (
	"os"
	"testing"
)

// childVariable makes the test binary be fcsim, so that its process life can be
// tested without building the command.
const childVariable = "FCSIM_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}
