package fcsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// defaultSocket is where Firecracker listens unless told otherwise.
const defaultSocket = "/run/firecracker.socket"

// Main is the whole process: it reads the command line without the program's
// name, serves the API and returns the exit code, once the process has to end.
// Stdin and stdout are the guest's serial console; stdout also takes the log
// until it is sent elsewhere. It changes settings of the Go runtime (see the
// package documentation), so nothing else should run in its process.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	target := &logTarget{out: stdout, level: slog.LevelInfo}
	given, err := parseArguments(args)
	if err != nil {
		return complain(stderr, exitArguments, faultf("Arguments parsing error: %w \n\nFor more information try --help.", err))
	}
	switch {
	case given.has("help"):
		fmt.Fprint(stdout, usage())
		return exitOK
	case given.has("version"):
		fmt.Fprintf(stdout, "%s v%s\n\n", AppName, Version)
		return exitOK
	case given.has("snapshot-version"):
		fmt.Fprintf(stdout, "v%s\n", SnapshotVersion)
		return exitOK
	case given.has("describe-snapshot"):
		if err := describeSnapshot(given["describe-snapshot"], stdout); err != nil {
			return complain(stderr, exitError, err)
		}
		return exitOK
	}
	id := given.or("id", "anonymous-instance")
	if err := validateInstanceID(id); err != nil {
		return complain(stderr, exitError, err)
	}
	if err := target.configure(logConfigOf(given)); err != nil {
		return complain(stderr, exitBadConfiguration, err)
	}
	limit, err := strconv.ParseInt(given.or("http-api-max-payload-size", strconv.Itoa(maxPayload)), 10, 64)
	if err != nil {
		return complain(stderr, exitError, faultf("'http-api-max-payload-size' parameter expected to be a number: %w", err))
	}

	tameRuntime()
	// A reader of the console that goes away must not take the guest with it.
	signal.Ignore(syscall.SIGPIPE)
	log := slog.New(&logHandler{target: target, id: id})
	m := newMachine(id, log, target, stdin, stdout)
	if path, ok := given["metrics-path"]; ok {
		if err := m.metrics.configure(path); err != nil {
			return complain(stderr, exitError, err)
		}
	}
	log.Info("Running " + AppName + " v" + Version)
	code, err := serve(m, given.or("api-sock", defaultSocket), limit)
	if err != nil {
		log.Error("RunWithApiError error: " + err.Error())
		return complain(stderr, exitError, err)
	}
	log.Info(fmt.Sprintf("%s exiting. exit_code=%d", AppName, code))
	return code
}

func complain(stderr io.Writer, code int, err error) int {
	fmt.Fprintln(stderr, "Error:", err)
	return code
}

func logConfigOf(given arguments) logConfig {
	var c logConfig
	if path, ok := given["log-path"]; ok {
		c.path = &path
	}
	if level, ok := given["level"]; ok {
		c.level = &level
	}
	if given.has("show-level") {
		yes := true
		c.showLevel = &yes
	}
	return c
}

// lastWords is how long the answer to the request that ended the process may
// take to be sent.
const lastWords = time.Second

// serve answers requests until the machine wants the process to exit. The socket
// must not exist; like Firecracker's it is left behind.
func serve(m *machine, socket string, limit int64) (int, error) {
	listener, err := listenUnix(socket)
	if errors.Is(err, syscall.EADDRINUSE) {
		return 0, faultf("Failed to open the API socket at: %s. Check that it is not already used.", socket)
	}
	if err != nil {
		return 0, faultf("Failed to bind and run the HTTP server: IO error: %w", osFault(err))
	}
	m.log.Info("Listening on API socket (\"" + socket + "\").")
	server := &http.Server{
		Handler:  &api{machine: m, maxPayload: limit},
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return 0, faultf("Failed to bind and run the HTTP server: %w", err)
	case code := <-m.exit.code:
		if code == exitSIGBUS {
			return code, nil // as from a signal handler: no answer, no farewell
		}
		ctx, cancel := context.WithTimeout(context.Background(), lastWords)
		defer cancel()
		// What is not sent by then is not sent.
		_ = server.Shutdown(ctx)
		return code, nil
	}
}

func describeSnapshot(path string, stdout io.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return faultf("Unable to open snapshot state file: %w", osFault(err))
	}
	defer func() { _ = file.Close() }() // only read from
	data, err := readState(file)
	if err != nil {
		return err
	}
	version, err := stateVersion(data)
	if err != nil {
		return faultf("Invalid data format version of snapshot file: %w", err)
	}
	_, err = fmt.Fprintf(stdout, "v%d.%d.%d+fcsim\n", version[0], version[1], version[2])
	return err
}
