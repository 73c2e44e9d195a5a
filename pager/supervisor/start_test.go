package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/leftover"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/internal/syscallfault"
	"github.com/faultline-vm/faultline/pager"
)

// asPager makes the test binary run as the program faultline-pager.
const asPager = "FAULTLINE_TEST_AS_PAGER"

// withoutGetfd denies a pager pidfd_getfd(2), as a container's seccomp profile does.
const withoutGetfd = "FAULTLINE_TEST_WITHOUT_GETFD"

func TestMain(m *testing.M) {
	faulter.Main()
	if os.Getenv(asPager) != "" {
		if os.Getenv(withoutGetfd) != "" {
			if err := syscallfault.Deny(unix.SYS_PIDFD_GETFD); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		os.Exit(pager.Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// options are those of a pager of the test's own. Whatever runs in its directory when the
// test and its supervisors are over is ended: a supervisor may have let one go that it was
// just starting.
func options(t *testing.T) Options {
	t.Helper()
	t.Setenv(asPager, "1")
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortdir.Make(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := leftover.End(ctx, dir); err != nil {
			t.Error(err)
		}
	})
	return Options{Binary: binary, DataDir: dir, CacheMaxBytes: pager.MinCacheBytes}
}

func TestStartAndStop(t *testing.T) {
	o := options(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	st, err := p.Stats(ctx)
	if err != nil || st.Cache.MaxBytes != pager.MinCacheBytes {
		t.Errorf("stats %+v, %v", st, err)
	}
	second, err := Start(ctx, o)
	if err == nil {
		second.Kill()
		t.Fatal("a second pager of the same version started in the same directory")
	}
	if !strings.Contains(err.Error(), "already") || !strings.Contains(err.Error(), "pager.log") {
		t.Errorf("the error does not say why and where: %v", err)
	}
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pager.ControlSocket(o.DataDir, pager.Version())); !os.IsNotExist(err) {
		t.Errorf("the control socket is left: %v", err)
	}
	again, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-again.Exited():
	default:
		t.Error("killed, but not reaped")
	}
	afterKill, err := Start(ctx, o)
	if err != nil {
		t.Fatalf("a killed pager keeps the next from starting: %v", err)
	}
	if err := afterKill.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func TestStartFailures(t *testing.T) {
	o := options(t)
	missing := o
	missing.Binary = filepath.Join(o.DataDir, "no-such-pager")
	if _, err := Start(context.Background(), missing); err == nil || !strings.Contains(err.Error(), "no-such-pager") {
		t.Errorf("a missing binary gave %v", err)
	}
	o.CacheMaxBytes = 1
	if _, err := Start(context.Background(), o); err == nil || !strings.Contains(err.Error(), "cache-max-bytes") {
		t.Errorf("a pager that refuses its arguments gave %v", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	o.CacheMaxBytes = 0
	if _, err := Start(cancelled, o); err == nil {
		t.Error("a cancelled start succeeded")
	}
}
