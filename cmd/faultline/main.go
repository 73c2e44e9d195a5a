// Command faultline snapshots, restores and forks microVMs on this host.
package main

import (
	"os"

	"github.com/faultline-vm/faultline/cli"
	"github.com/faultline-vm/faultline/internal/faulter"
)

func main() {
	faulter.Main() // a benchmark runs this program once more, as the one whose memory faults
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
