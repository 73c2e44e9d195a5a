// Package config reads the configuration of the daemon: one YAML file, and
// environment variables that override it.
//
// Reading is strict. An unknown key, a key that is there twice, a value of another
// kind, an unknown backend or an impossible size is a fault, and all faults are
// reported at once, each with its line. What the file leaves out has its default.
//
// Every key has an environment variable: FAULTLINE_ and the key in capitals, with
// underscores for dots, such as FAULTLINE_HYPERVISOR_FIRECRACKER_BINARY. Its value is
// what would stand behind the key in the file; an empty variable counts as absent.
// Variables of other names are not looked at.
//
// One table, in keys.go, is the source of the keys, the variables, the sample and
// the encoding. The package owns nothing and has no state.
package config
