package capture

import (
	"os"
	"testing"

	"github.com/faultline-vm/faultline/fcsim"
)

// Variables that make the test binary something else: the simulator, or a program
// that is killed while it works.
const (
	simulatorVariable = "CAPTURE_TEST_FCSIM"
	victimVariable    = "CAPTURE_TEST_VICTIM"
)

func TestMain(m *testing.M) {
	if os.Getenv(simulatorVariable) != "" {
		os.Exit(fcsim.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	if task := os.Getenv(victimVariable); task != "" {
		os.Exit(victim(task))
	}
	os.Exit(m.Run())
}
