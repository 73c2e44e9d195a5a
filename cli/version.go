package cli

import "fmt"

// version is set by the linker.
var version = "dev"

type versionCommand struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (c versionCommand) Run(s streams) error {
	if c.JSON {
		return printJSON(s, map[string]string{"version": version})
	}
	_, err := fmt.Fprintf(s.out, "faultline %s\n", version)
	return err
}
