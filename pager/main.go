package pager

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/faultline-vm/faultline/internal/failpoint"
)

const usage = `faultline-pager serves the page faults of microVMs that were restored lazily.

usage: faultline-pager --data-dir DIR [--cache-max-bytes SIZE] [--log-format text|json] [--as VERSION]
       faultline-pager --version

It listens on DIR/uffd/VERSION/control.sock and runs until it is drained:
SIGTERM or SIGINT drains it, a second one ends it and every VM that it serves.

`

// Main is the program faultline-pager. It returns the exit status: 0 after a drain,
// 1 for a failure, 2 for wrong arguments.
func Main(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("faultline-pager", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	dataDir := flags.String("data-dir", "", "the host's data directory (required)")
	cache := flags.String("cache-max-bytes", "4GiB", "bound of the shared page cache; the host gives memory only as it fills")
	logFormat := flags.String("log-format", "text", "text or json, on standard error")
	as := flags.String("as", "", "serve under this version's name, to try an upgrade of one pager by another")
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if *version {
		fmt.Fprintln(stdout, "faultline-pager", Version())
		return 0
	}
	cfg, err := configure(*dataDir, *cache, *logFormat, flags.Args(), stderr)
	if err != nil {
		fmt.Fprintf(stderr, "faultline-pager: %v\nrun faultline-pager --help for the arguments\n", err)
		return 2
	}
	cfg.Version = *as
	if cfg.Manager, err = findManager(os.Getenv); err != nil {
		fmt.Fprintf(stderr, "faultline-pager: the service manager: %v\n", err)
		return 2
	}
	if cfg.Failpoints, err = failpoint.Parse(os.Getenv(failpoint.Env), Failpoints()...); err != nil {
		fmt.Fprintf(stderr, "faultline-pager: %s: %v\n", failpoint.Env, err)
		return 2
	}
	// The fault path makes no garbage. Collecting early what the control API
	// makes keeps the process small.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := Run(ctx, cfg); err != nil {
		fmt.Fprintln(stderr, "faultline-pager:", err)
		return 1
	}
	return 0
}

func configure(dataDir, cache, logFormat string, rest []string, stderr io.Writer) (Config, error) {
	var errs []error
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", rest[0]))
	}
	if dataDir == "" {
		errs = append(errs, errors.New("--data-dir is missing"))
	}
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		errs = append(errs, fmt.Errorf("--data-dir: %w", err))
	}
	size, err := humanize.ParseBytes(cache)
	if err != nil {
		errs = append(errs, fmt.Errorf("--cache-max-bytes %q is not a size such as 512MiB or 4GiB", cache))
	} else if size < MinCacheBytes {
		errs = append(errs, fmt.Errorf("--cache-max-bytes %q is less than 1MiB", cache))
	}
	cfg := Config{DataDir: dir, CacheMaxBytes: size}
	switch logFormat {
	case "text":
		cfg.Log = slog.New(slog.NewTextHandler(stderr, nil))
	case "json":
		cfg.Log = slog.New(slog.NewJSONHandler(stderr, nil))
	default:
		errs = append(errs, fmt.Errorf("--log-format %q is neither text nor json", logFormat))
	}
	return cfg, errors.Join(errs...)
}

// Run serves the control API until the pager is drained. The end of ctx drains it; a
// second signal then has its default effect, the end of the process.
func Run(ctx context.Context, cfg Config) error {
	p, err := New(cfg)
	if err != nil {
		return err
	}
	socket := filepath.Join(p.dir, "control.sock")
	listener, err := listenPrivate(socket)
	if err != nil {
		return errors.Join(fmt.Errorf("control socket: %w", err), p.Close())
	}
	defer os.Remove(socket)
	handovers, err := listenPrivate(handoverSocket(p.dir))
	if err == nil {
		err = p.Adopt()
	}
	if err != nil {
		return errors.Join(err, listener.Close(), p.Close())
	}
	defer handovers.Close()
	go p.acceptHandovers(handovers)
	server := &http.Server{Handler: p.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	go p.watch(watching)
	go p.beat(watching)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	// Every session that could be found is being adopted, and requests are answered.
	p.tell("ready", p.cfg.Manager.Notifier.Ready)
	cfg.Log.Info("pager ready", "version", p.version, "socket", socket, "cache_max_bytes", cfg.CacheMaxBytes)
	select {
	case err = <-served:
		// The guests stay as they are: the next pager adopts them.
		return fmt.Errorf("control API: %w", err)
	case <-p.Drained():
	case <-ctx.Done():
		signal.Reset(syscall.SIGTERM, syscall.SIGINT)
		p.drain()
		cfg.Log.Info("draining", "sessions", p.Health().Sessions)
		<-p.Drained()
	}
	cfg.Log.Info("drained")
	p.tell("stopping", p.cfg.Manager.Notifier.Stopping)
	// Requests in progress, the one that drained among them, get their answer.
	shutdown, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = server.Shutdown(shutdown)
	if errors.Is(err, context.DeadlineExceeded) {
		// Left are connections on which nothing was ever asked: a client may dial
		// one more than it needs. Shutdown waits five seconds for their first request.
		err = server.Close()
	}
	return errors.Join(err, p.Close())
}
