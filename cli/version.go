package cli

import "fmt"

// version is set by the linker.
var version = "dev"

type versionCommand struct{}

func (versionCommand) Run(s streams) error {
	_, err := fmt.Fprintf(s.out, "faultline %s\n", version)
	return err
}
