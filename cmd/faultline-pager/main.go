// Command faultline-pager serves the page faults of lazily restored microVMs.
package main

import (
	"os"

	"github.com/faultline-vm/faultline/pager"
)

func main() { os.Exit(pager.Main(os.Args[1:], os.Stdout, os.Stderr)) }
