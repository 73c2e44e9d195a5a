package fcsim

import (
	"fmt"
	"slices"
	"strings"
)

// option is one command line option of Firecracker. Those that configure what is
// not simulated are accepted, so that a driver need not know whom it starts.
type option struct {
	name  string
	value bool
	help  string
}

func options() []option {
	return []option{
		{"api-sock", true, "Path to unix domain socket used by the API."},
		{"boot-timer", false, "Accepted for compatibility."},
		{"describe-snapshot", true, "Print the data format version of the provided snapshot state file."},
		{"help", false, "Show the help message."},
		{"http-api-max-payload-size", true, "Http API request payload max size, in bytes."},
		{"id", true, "MicroVM unique identifier."},
		{"level", true, "Set the logger level."},
		{"log-path", true, "Path to a fifo or a file used for configuring the logger on startup."},
		{"metrics-path", true, "Path to a fifo or a file used for configuring the metrics on startup."},
		{"module", true, "Accepted for compatibility."},
		{"no-seccomp", false, "Accepted for compatibility."},
		{"parent-cpu-time-us", true, "Accepted for compatibility."},
		{"show-level", false, "Whether or not to output the level in the logs."},
		{"show-log-origin", false, "Accepted for compatibility."},
		{"snapshot-version", false, "Print the supported data format version."},
		{"start-time-cpu-us", true, "Accepted for compatibility."},
		{"start-time-us", true, "Accepted for compatibility."},
		{"version", false, "Print the binary version number."},
	}
}

// arguments are the options that were given, by name without dashes.
type arguments map[string]string

func (a arguments) has(name string) bool { _, ok := a[name]; return ok }

func (a arguments) or(name, otherwise string) string {
	if value, ok := a[name]; ok {
		return value
	}
	return otherwise
}

// parseArguments reads a command line without the program's name. Like
// Firecracker's parser it knows only "--name" and "--name value", each at most once.
func parseArguments(args []string) (arguments, error) {
	known := options()
	given := arguments{}
	for i := 0; i < len(args); i++ {
		name, dashed := strings.CutPrefix(args[i], "--")
		if args[i] == "-h" {
			name, dashed = "help", true
		}
		at := slices.IndexFunc(known, func(o option) bool { return o.name == name })
		if !dashed || at < 0 {
			return nil, faultf("Found argument '%s' which wasn't expected, or isn't valid in this context.", name)
		}
		if given.has(name) {
			return nil, faultf("The argument '%s' was provided more than once.", name)
		}
		if !known[at].value {
			given[name] = ""
			continue
		}
		if i++; i == len(args) || strings.HasPrefix(args[i], "--") {
			return nil, faultf("The argument '%s' requires a value, but none was supplied.", name)
		}
		given[name] = args[i]
	}
	return given, nil
}

func usage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s v%s, a simulator of the Firecracker process\n\noptional arguments:\n", AppName, Version)
	for _, o := range options() {
		name := "--" + o.name
		if o.value {
			name += " <" + o.name + ">"
		}
		fmt.Fprintf(&b, "  %-56s  %s\n", name, o.help)
	}
	return b.String()
}

// maxInstanceID is Firecracker's limit for --id, in characters.
const maxInstanceID = 64

func validateInstanceID(id string) error {
	if n := len(id); n < 1 || n > maxInstanceID {
		return faultf("Invalid instance ID: Invalid len (%d);  the length must be between 1 and %d", n, maxInstanceID)
	}
	for i, c := range id {
		if c != '-' && !alphanumeric(c) {
			return faultf("Invalid instance ID: Invalid char (%c) at position %d", c, i)
		}
	}
	return nil
}

func alphanumeric(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
