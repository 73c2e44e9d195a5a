// Package api is the wire form of the instance manager's HTTP API: the types of all
// bodies, the checks that need no look at the host, and the OpenAPI document.
//
// openapi.yaml is written by hand, and tests of this package and of api/server hold
// it, the types and the routes together, in both directions. The package owns
// nothing, opens nothing and imports nothing of the manager: a program that only
// talks to a daemon links little. The client is package api/client.
//
// Sizes are bytes, durations milliseconds, times RFC 3339 in UTC. Errors are
// application/problem+json, see [Problem].
package api

import (
	_ "embed"

	"github.com/faultline-vm/faultline/internal/problem"
)

// Problem is an error that the daemon answered. Its Code is stable and safe to
// switch on.
type Problem = problem.Problem

//go:embed openapi.yaml
var document []byte

// Document returns the OpenAPI 3.1 document of the API. The caller must not change
// it.
func Document() []byte { return document }
