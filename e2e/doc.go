// Package e2e runs the project's programs as a user does, and looks at nothing
// but their exit codes, their output and what they leave behind. Its tests build
// the programs once, into a directory that is removed at the end.
//
// The package has no code of its own.
package e2e
