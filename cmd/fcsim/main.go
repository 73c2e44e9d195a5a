// Command fcsim simulates the Firecracker process; see package fcsim.
package main

import (
	"os"

	"github.com/faultline-vm/faultline/fcsim"
)

func main() {
	os.Exit(fcsim.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
