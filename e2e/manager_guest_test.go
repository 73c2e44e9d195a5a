package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/faultline-vm/faultline/guest"
	"github.com/faultline-vm/faultline/guest/linux"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/instance"
)

// managedGuest is what runs in the instances of a test.
type managedGuest interface {
	// create makes an instance that boots it.
	create(m *managed, name string)
	// booted waits until it has filled its memory.
	booted(m *managed, name string)
	// check has the guests of some instances check all of their memory from now on,
	// and fails the test if anything was wrong.
	check(m *managed, names ...string)
}

// lines returns the console of an instance, without a line that is not whole yet.
func (m *managed) lines(name string) []string {
	m.t.Helper()
	text := m.must("logs", name).stdout
	return strings.SplitAfter(text, "\n")
}

// until looks again and again until done says so.
func (m *managed) until(what string, done func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s did not happen", what)
		}
	}
}

// testGuest is the built-in guest, which finds its identity on a page.
type testGuest struct {
	kernel, bootArgs string
	identity         uint64
}

const managedPages = 1024

// newTestGuest writes the guest's kernel with the command for it.
func newTestGuest(m *managed, words int) *testGuest {
	m.t.Helper()
	var written struct {
		Kernel          string `json:"kernel"`
		BootArgs        string `json:"boot_args"`
		IdentityAddress uint64 `json:"identity_address"`
	}
	decode(m.t, m.must("guest", "kernel", "-o", filepath.Join(m.dir, "guest"), "--mem", "32MiB",
		"--pages", fmt.Sprint(managedPages), "--words", fmt.Sprint(words), "--json"), &written)
	return &testGuest{kernel: written.Kernel, bootArgs: written.BootArgs, identity: written.IdentityAddress}
}

func (g *testGuest) create(m *managed, name string) {
	m.must("create", name, "--kernel", g.kernel, "--mem", "32MiB", "--boot-args", g.bootArgs, "--identity-address", fmt.Sprint(g.identity))
}

// reports returns the reports of a kind.
func (g *testGuest) reports(m *managed, name string, kind guest.Kind) (found []guest.Report) {
	m.t.Helper()
	for _, line := range m.lines(name) {
		if !strings.HasSuffix(line, "\n") {
			continue
		}
		report, ours, err := guest.ParseReport(line)
		if err != nil {
			m.t.Fatal(err)
		}
		if ours && report.Kind == kind {
			found = append(found, report)
		}
	}
	return found
}

func (g *testGuest) booted(m *managed, name string) {
	m.until(name+" fills its memory", func() bool { return len(g.reports(m, name, guest.Ready)) > 0 })
}

func (g *testGuest) check(m *managed, names ...string) {
	m.t.Helper()
	for _, name := range names {
		g.checkOne(m, name)
	}
}

func (g *testGuest) checkOne(m *managed, name string) {
	m.t.Helper()
	for _, command := range []struct {
		text string
		kind guest.Kind
	}{{"c", guest.Check}, {"w", guest.Write}, {"c", guest.Check}} {
		before := len(g.reports(m, name, command.kind))
		m.must("send", name, command.text, "--no-enter")
		var all []guest.Report
		m.until(name+" answers", func() bool { all = g.reports(m, name, command.kind); return len(all) > before })
		last := all[len(all)-1]
		if command.kind == guest.Check && (last.Bad != 0 || last.Pages != managedPages) {
			m.t.Errorf("%s: %d of %d pages are wrong, page %d first", name, last.Bad, last.Pages, last.First)
		}
		i := m.inspect(name, instance.Running)
		if id := identityOf(i); i.Origin != nil && last.ID != id {
			m.t.Errorf("%s finds the identity %x, want %x", name, last.ID, id)
		}
	}
}

// identityOf is the number that a fork finds first on its identity page.
func identityOf(i instance.Instance) uint64 {
	var number [8]byte
	_, _ = hex.Decode(number[:], []byte(i.ID)[:min(16, len(i.ID))])
	return binary.LittleEndian.Uint64(number[:])
}

// linuxGuest is a Linux that beats, with a disk and a vsock that echoes.
type linuxGuest struct {
	guest linux.Guest
	// seen is the number of the last beat of each instance.
	seen map[string]uint64
}

// diskMark is at the beginning of the disk.
const diskMark = "faultblk"

// echoPort is where the guest echoes what it gets over vsock.
const echoPort = 52

func (g *linuxGuest) create(m *managed, name string) {
	disk := filepath.Join(m.dir, "guest")
	content := make([]byte, 4<<20)
	copy(content, diskMark)
	if err := os.WriteFile(disk, content, 0o600); err != nil {
		m.t.Fatal(err)
	}
	args := []string{"create", name, "--kernel", g.guest.Kernel, "--boot-args", g.guest.BootArgs, "--mem", "64MiB",
		"--drive", "disk=" + disk, "--vsock-cid", "3"}
	if g.guest.Initrd != "" {
		args = append(args, "--initrd", g.guest.Initrd)
	}
	m.must(args...)
}

// last returns the newest beat.
func (g *linuxGuest) last(m *managed, name string) (newest linux.Beat) {
	m.t.Helper()
	for _, line := range m.lines(name) {
		if !strings.HasSuffix(line, "\n") {
			continue
		}
		beat, ours, err := linux.ParseBeat(line)
		if err != nil {
			continue // the kernel's own lines and a capture can cut one in two
		}
		if ours {
			if !beat.Right() || beat.Disk == nil || beat.Disk.Mark != diskMark {
				m.t.Errorf("%s: %s", name, line)
			}
			newest = beat
		}
	}
	return newest
}

func (g *linuxGuest) booted(m *managed, name string) {
	m.until(name+" beats", func() bool { return g.last(m, name).Number > 0 })
}

// check waits for two beats more of each, of which the second began after the call,
// and for an echo. All of them beat meanwhile.
func (g *linuxGuest) check(m *managed, names ...string) {
	m.t.Helper()
	before := map[string]uint64{}
	for _, name := range names {
		before[name] = g.last(m, name).Number
	}
	for _, name := range names {
		var now uint64
		m.until(name+" goes on beating", func() bool {
			now = g.last(m, name).Number
			return now >= before[name]+2 && now >= 3
		})
		if now < g.seen[name] {
			m.t.Errorf("%s: beat %d after beat %d", name, now, g.seen[name])
		}
		g.seen[name] = now
		i := m.inspect(name, instance.Running)
		if err := echo(m, filepath.Join(i.Dir, "vsock.sock"), "hello "+name+"\n"); err != nil {
			m.t.Errorf("%s: %v", name, err)
		}
	}
}

// echo sends a line over vsock and compares what comes back.
func echo(m *managed, socket, line string) error {
	conn, err := firecracker.DialSocket(m.t.Context(), socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", echoPort); err != nil {
		return err
	}
	reader := bufio.NewReader(conn)
	if answer, err := reader.ReadString('\n'); err != nil || !strings.HasPrefix(answer, "OK ") {
		return fmt.Errorf("vsock answered %q: %w", answer, err)
	}
	if _, err := io.WriteString(conn, line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(reader, got); err != nil || string(got) != line {
		return fmt.Errorf("the echo of %q is %q: %w", line, got, err)
	}
	return nil
}
