package firecracker_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

// serve answers every request with status and body.
func serve(t *testing.T, status int, body string) *firecracker.Client {
	t.Helper()
	return serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
}

func serveFunc(t *testing.T, handler http.HandlerFunc) *firecracker.Client {
	t.Helper()
	path := filepath.Join(shortdir.Make(t), "api.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return firecracker.NewClient(path)
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, body, want string
	}{
		{"usual", `{"fault_message":"no such drive"}`, "no such drive"},
		{"other object", `{"error":"x"}`, `{"error":"x"}`},
		{"no JSON", "<html>", "<html>"},
		{"empty", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := serve(t, 400, c.body).Pause(t.Context())
			var refused *firecracker.APIError
			if !errors.As(err, &refused) {
				t.Fatalf("error %v", err)
			}
			want := firecracker.APIError{Status: 400, Method: "PATCH", Path: "/vm", FaultMessage: c.want}
			if diff := cmp.Diff(want, *refused); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLongFaultIsCut(t *testing.T) {
	var refused *firecracker.APIError
	err := serve(t, 500, strings.Repeat("ä", 5000)).Pause(t.Context())
	if !errors.As(err, &refused) || len(refused.FaultMessage) > 4096+3 || !utf8.ValidString(refused.FaultMessage) {
		t.Errorf("fault message of %d bytes, valid %v", len(refused.FaultMessage), utf8.ValidString(refused.FaultMessage))
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	t.Run("huge", func(t *testing.T) {
		if _, err := serve(t, 200, strings.Repeat(" ", 2<<20)).Info(t.Context()); err == nil || !strings.Contains(err.Error(), "larger than") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no JSON", func(t *testing.T) {
		if _, err := serve(t, 200, "yes").Info(t.Context()); err == nil || !strings.Contains(err.Error(), "GET /: decode") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		_, err := firecracker.NewClient(filepath.Join(shortdir.Make(t), "none")).Info(t.Context())
		var refused *firecracker.APIError
		if err == nil || errors.As(err, &refused) {
			t.Errorf("error %v", err)
		}
	})
}

func TestCallEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	client := serveFunc(t, func(http.ResponseWriter, *http.Request) {
		cancel()
		<-release
	})
	defer close(release)
	if err := client.Resume(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestCallsKeepNothingOpen(t *testing.T) {
	client := serve(t, 204, "")
	before := len(openFiles(t))
	for range 20 {
		if err := client.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	requireNoLeak(t)
	if after := len(openFiles(t)); after > before+2 { // the server closes its side later
		t.Errorf("%d descriptors before 20 calls, %d after", before, after)
	}
}
