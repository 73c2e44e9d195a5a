package instance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/internal/shortdir"
)

func TestGate(t *testing.T) {
	ctx := within(t)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	var g gate
	if g.share(ctx) != nil || g.share(ctx) != nil || !g.tryShare() {
		t.Fatal("not shared")
	}
	if err := g.lock(canceled); !errors.Is(err, context.Canceled) {
		t.Fatalf("lock: %v", err)
	}
	locked := make(chan error)
	go func() { locked <- g.lock(ctx) }()
	for g.tryShare() { // until the other waits, which comes first then
		g.unshare()
	}
	g.unshare()
	g.unshare()
	g.unshare()
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	if g.tryShare() || g.share(canceled) == nil {
		t.Fatal("shared beside one who is alone")
	}
	g.downgrade()
	if !g.tryShare() {
		t.Fatal("not shared after the downgrade")
	}
	g.unshare()
	g.unshare()
	if err := g.lock(ctx); err != nil {
		t.Fatal(err)
	}
	g.unlock()
	if g.shared != 0 || g.alone || g.waiting != 0 {
		t.Errorf("left: %d %v %d", g.shared, g.alone, g.waiting)
	}
}

func TestSlowSubscriber(t *testing.T) {
	var b broker
	slow, leaver := b.subscribe(), b.subscribe()
	for range subscriberBuffer + 1 {
		b.publish(Event{Kind: EventCreated})
	}
	leaver.Close()
	leaver.Close()
	seq := uint64(0)
	for e := range slow.C {
		if seq++; e.Seq != seq {
			t.Fatalf("event %d follows %d", e.Seq, seq-1)
		}
	}
	if seq != subscriberBuffer {
		t.Errorf("%d events before the end", seq)
	}
	b.close()
	if _, open := <-b.subscribe().C; open {
		t.Error("a closed broker has events")
	}
}

// TestBrokenSnapshot opens a data directory with snapshots that cannot be used. They
// are listed with the reason, nothing can be made of them, and they can be deleted.
func TestBrokenSnapshot(t *testing.T) {
	s := newSite(t)
	m := s.open()
	ctx := within(t)
	standby(s, m)
	for _, name := range []string{"s", "t", "u", "v"} {
		must(s, 0, second(m.CreateSnapshot(ctx, "a", SnapshotRequest{Name: name})))
	}
	ids := map[string]string{}
	for _, snap := range m.Snapshots() {
		ids[snap.Name] = snap.ID
	}
	at := func(name, file string) string { return filepath.Join(m.data.snapshot(ids[name]), file) }
	must(s, 0, m.Close())
	must(s, 0, os.WriteFile(at("s", snapshotRecordName), []byte("{"), 0o600))
	must(s, 0, os.Remove(at("t", capture.StateName)))
	record, err := os.ReadFile(at("u", snapshotRecordName))
	must(s, 0, err)
	twin := strings.Replace(string(record), `"name": "u"`, `"name": "v"`, 1)
	must(s, 0, os.WriteFile(at("u", snapshotRecordName), []byte(twin), 0o600))
	m = s.open()
	// Which of two of the same name is broken depends on their ids.
	double := ids["u"]
	if ids["v"] > ids["u"] {
		double = ids["v"]
	}
	for ref, want := range map[string]string{ids["s"]: "unexpected EOF", "t": capture.StateName, double: "its name v as well", "v": ""} {
		snap, err := m.GetSnapshot(ref)
		if err != nil || !strings.Contains(snap.Broken, want) || (snap.Broken == "") != (want == "") {
			t.Fatalf("%s: %+v, %v, want the reason %q", ref, snap, err, want)
		}
		_, forkErr := m.ForkSnapshot(ctx, ref, ForkRequest{})
		_, restoreErr := m.RestoreSnapshot(ctx, ref, RestoreRequest{})
		for _, err := range []error{forkErr, restoreErr} {
			if (code(err) == CodeBroken) != (want != "") {
				t.Errorf("%s: %v", ref, err)
			}
		}
	}
	if n := len(m.Snapshots()); n != 4 {
		t.Errorf("%d snapshots are listed", n)
	}
	s.empty(m)
}

// TestReconfigureVsock talks to a guest behind Firecracker's hybrid socket.
func TestReconfigureVsock(t *testing.T) {
	rec := sampleRecord()
	for answer, want := range map[string]string{"ok\n": "", "no\n": "answered", "": "EOF"} {
		dir := shortdir.Make(t)
		l, err := net.Listen("unix", filepath.Join(dir, vsockName))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		got := make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			if line, _ := in.ReadString('\n'); line == "CONNECT 52\n" {
				fmt.Fprint(conn, "OK 1073741824\n")
			}
			line, _ := in.ReadString('\n')
			got <- line
			fmt.Fprint(conn, answer)
		}()
		err = Reconfigure{VsockPort: 52}.tell(within(t), dir, rec)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("answer %q: %v", answer, err)
		}
		var message ReconfigureMessage
		if err := json.Unmarshal([]byte(<-got), &message); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ReconfigureMessage{rec.ID, rec.Name, []Tap{{"n", "t"}}}, message); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
}

func TestReconfigureCommand(t *testing.T) {
	rec := sampleRecord()
	tell := func(timeout time.Duration, script string) error {
		return Reconfigure{Command: []string{"/bin/sh", "-c", script}, Timeout: timeout}.tell(within(t), "/i", rec)
	}
	if err := tell(0, `test "$FAULTLINE_INSTANCE_ID $FAULTLINE_INSTANCE_NAME $FAULTLINE_INSTANCE_DIR $FAULTLINE_VSOCK $FAULTLINE_TAP_n" = "0123456789abcdef a /i /i/vsock.sock t"`); err != nil {
		t.Error(err)
	}
	if err := tell(0, "echo nobody home >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "nobody home") || !strings.Contains(err.Error(), "3") {
		t.Errorf("a command that fails: %v", err)
	}
	if err := tell(time.Millisecond, "exec sleep 600"); err == nil || !strings.Contains(err.Error(), "no success within 1ms") {
		t.Errorf("a command that takes too long: %v", err)
	}
}
