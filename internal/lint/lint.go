// Package lint holds the project's rules as tests: what a reader can rely on in
// every file, checked with the standard library alone. Run it with
//
//	go test ./internal/lint
//
// The package has no code of its own; its tests only read the source tree.
package lint
