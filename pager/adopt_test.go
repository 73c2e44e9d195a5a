package pager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/failpoint"
	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/internal/hugepages"
	"github.com/faultline-vm/faultline/internal/procstat"
	"github.com/faultline-vm/faultline/internal/shortdir"
	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/control"
)

// pagerProcess is the program faultline-pager in a process of its own, which can die.
type pagerProcess struct {
	*client.Client
	cmd    *exec.Cmd
	exited chan struct{}
	log    *bytes.Buffer // read it after exited is closed
}

// startPager starts a pager in dir, with failpoints.
func startPager(t *testing.T, dir, failpoints string) *pagerProcess {
	t.Helper()
	p := &pagerProcess{Client: client.New(ControlSocket(dir, Version())), exited: make(chan struct{}), log: new(bytes.Buffer)}
	p.cmd = exec.Command(os.Args[0], "--data-dir", dir, "--cache-max-bytes", "1MiB")
	p.cmd.Env = append(os.Environ(), asPager+"=1", failpoint.Env+"="+failpoints)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(p.kill)
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		h, err := p.Health(context.Background())
		if err == nil && h.PID == p.cmd.Process.Pid {
			return p
		}
		select {
		case <-p.exited:
			// A crash may be what the test wants.
			return p
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the pager does not answer: %v", err)
		}
	}
}

// kill ends the pager as kill -9 does.
func (p *pagerProcess) kill() {
	p.cmd.Process.Kill()
	<-p.exited
	p.Client.Close()
}

// session waits until a session is in the state.
func (p *pagerProcess) session(t *testing.T, id string, want control.State) control.Session {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s, err := p.Session(context.Background(), id)
		if err == nil && s.State == want {
			return s
		}
		if time.Now().After(deadline) || err == nil && !s.State.Active() {
			t.Fatalf("session %q is %q (%s) instead of %q: %v", id, s.State, s.Reason, want, err)
		}
	}
}

// TestCrashAtEveryFailpoint lets the pager die at each point of a session's life, lets
// another one take over, and looks at every page of the guest.
func TestCrashAtEveryFailpoint(t *testing.T) {
	for _, pageSize := range []uint64{pageSize4K, pageSize2M} {
		for _, point := range []string{
			pointAccepted, pointHandshakeRead, pointJournalWritten, pointMessageRead,
			pointRemoveRead, pointRemoveMarked, pointBeforeCopy, pointAfterCopy,
		} {
			t.Run(fmt.Sprint(point, " ", pageSize>>10, "KiB"), func(t *testing.T) {
				if pageSize == pageSize2M {
					hugepages.Reserve(t, 4)
				}
				crashAndAdopt(t, pageSize, point)
			})
		}
	}
}

func crashAndAdopt(t *testing.T, pageSize uint64, point string) {
	dir, ctx := shortdir.Make(t), context.Background()
	pages := int(4 * pageSize / control.PageSize)
	if pageSize == pageSize4K {
		pages = 64
	}
	manifest, model := sealed(t, pages, 1, func(page int) bool { return page%3 > 0 })
	crashing := startPager(t, dir, point+"=crash")
	overlay := []byte("identity")
	s, err := crashing.CreateSession(ctx, control.SessionRequest{ID: "a", Image: manifest, Overlays: []control.Overlay{{Offset: 3 * 4096, Data: overlay}}})
	if err != nil {
		t.Fatal(err)
	}
	clear(model[3*4096 : 4*4096])
	copy(model[3*4096:], overlay)
	vmm := startFaulter(t, faulter.Region{Size: uint64(pages) * control.PageSize / 2, PageSize: pageSize}, faulter.Region{Size: uint64(pages) * control.PageSize / 2, PageSize: pageSize})
	_ = vmm.Handshake(s.Socket) // fails where the pager dies before

	// A removal and some reads meet the failpoint, or what comes after the crash.
	removed := uint64(len(model)) - pageSize
	removal := vmm.StartRemove(removed, pageSize)
	clear(model[removed:])
	reads := []*faulter.Call[[]byte]{vmm.StartRead(0, 4096), vmm.StartRead(uint64(len(model)/2), 4096)}

	select {
	case <-crashing.exited:
	case <-time.After(patience):
		t.Fatalf("the pager did not die at %q", point)
	}
	next := startPager(t, dir, "")
	if point == pointHandshakeRead {
		// Its handshake is lost: whoever restores it is told at once.
		wantExit(t, vmm)
		if s := next.over(t, "a"); s.State != control.Failed || !strings.Contains(s.Reason, "restore again") {
			t.Errorf("the session is %s: %s", s.State, s.Reason)
		}
		if _, err := next.CloseSession(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		wantNothingLeft(t, dir)
		return
	}
	if point == pointAccepted {
		// Nothing of the VMM is known yet: whoever restores it does so again.
		next.session(t, "a", control.Waiting)
		if err := vmm.Handshake(s.Socket); err != nil {
			t.Fatal(err)
		}
	}
	got := next.session(t, "a", control.Serving)
	if got.VMMPID != vmm.Pid() || got.PageSize != pageSize || got.Regions != 2 {
		t.Errorf("the adopted session is %+v", got)
	}
	if _, err := removal.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, read := range reads {
		if _, err := read.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	wantMemory(t, vmm, model)
	if _, err := next.CloseSession(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	wantExit(t, vmm)
	wantNothingLeft(t, dir)
}

func wantNothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(Dir(dir, Version()), "sessions", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A probe that connected when the pager died is no VMM: it is left alone, and the
// session waits on.
func TestProbeWhileThePagerDies(t *testing.T) {
	dir := shortdir.Make(t)
	manifest, model := sealed(t, 16, 1, everyPage)
	p := startPager(t, dir, "")
	s, err := p.CreateSession(context.Background(), control.SessionRequest{ID: "a", Image: manifest})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", s.Socket) // this process has no userfaultfd
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	arrived := filepath.Join(Dir(dir, Version()), "sessions", "a", arrivalFile)
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(arrived); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("who connected is not in the journal")
		}
	}
	p.kill()
	p = startPager(t, dir, "")
	p.session(t, "a", control.Waiting)
	vmm := startFaulter(t, pagesOf(16))
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	wantMemory(t, vmm, model)
}

// TestManyKills kills pager after pager while guests read, write and give pages back.
func TestManyKills(t *testing.T) {
	const guests, pages, kills = 3, 256, 8
	dir := shortdir.Make(t)
	p := startPager(t, dir, "")
	vmms, models := make([]*faulter.Process, guests), make([][]byte, guests)
	for i := range guests {
		manifest, model := sealed(t, pages, i, func(page int) bool { return page%4 > 0 })
		models[i], vmms[i] = model, startFaulter(t, pagesOf(pages))
		s, err := p.CreateSession(context.Background(), control.SessionRequest{ID: fmt.Sprint("g", i), Image: manifest})
		if err != nil {
			t.Fatal(err)
		}
		if err := vmms[i].Handshake(s.Socket); err != nil {
			t.Fatal(err)
		}
		p.session(t, s.ID, control.Serving)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for i := range guests {
		running.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := step(r, vmms[i], models[i], 0, pages); err != nil {
					t.Errorf("guest %d: %v", i, err)
					return
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(7, 7))
	for range kills {
		time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
		p.kill()
		p = startPager(t, dir, "")
	}
	close(stop)
	running.Wait()
	for i := range guests {
		p.session(t, fmt.Sprint("g", i), control.Serving)
		wantMemory(t, vmms[i], models[i])
	}
}

// Each spoilt journal must be reported with its reason, must not keep others from
// being adopted, and must not leave a guest frozen for ever.
func TestSpoiltJournals(t *testing.T) {
	edit := func(name string, fn func(map[string]any)) func(string) error {
		return func(dir string) error {
			var v map[string]any
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			d := json.NewDecoder(bytes.NewReader(data))
			d.UseNumber()
			if err := d.Decode(&v); err != nil {
				return err
			}
			fn(v)
			data, err = json.Marshal(v)
			return errors.Join(err, os.WriteFile(path, data, 0o600))
		}
	}
	truncate := func(name string, size int64) func(string) error {
		return func(dir string) error { return os.Truncate(filepath.Join(dir, name), size) }
	}
	for _, test := range []struct {
		name   string
		spoil  func(dir string) error
		state  control.State
		says   string
		killed bool
	}{
		{"request truncated", truncate(requestFile, 10), control.Failed, requestFile, true},
		{"attachment truncated", truncate(attachmentFile, 10), control.Failed, attachmentFile, false},
		{"pages truncated", truncate(pagesFile, messageBytes), control.Failed, pagesFile, true},
		{"pages gone", func(dir string) error { return os.Remove(filepath.Join(dir, pagesFile)) }, control.Failed, pagesFile, true},
		{"another format", edit(requestFile, func(v map[string]any) { v["format"] = 99 }), control.Failed, "format 99", false},
		{"reused pid", edit(attachmentFile, func(v map[string]any) { v["start_time"] = 12345 }), control.Ended, "same number", false},
		{"another program of that process", func(dir string) error {
			// As after execve(2): the number and the start time are right.
			sleep := exec.Command("sleep", "1000")
			if err := sleep.Start(); err != nil {
				return err
			}
			t.Cleanup(func() {
				if err := sleep.Process.Kill(); err != nil {
					t.Errorf("the process that is no VMM was ended: %v", err)
				}
				sleep.Wait()
			})
			stat, err := procstat.Read(sleep.Process.Pid)
			return errors.Join(err, edit(attachmentFile, func(v map[string]any) {
				v["pid"], v["start_time"] = sleep.Process.Pid, stat.StartTime
			})(dir))
		}, control.Failed, "another program", false},
		{"more memory than the image", edit(attachmentFile, func(v map[string]any) {
			v["regions"].([]any)[0].(map[string]any)["size"] = 17 * control.PageSize
		}), control.Failed, "needs 69632 bytes", true},
		{"no such process", edit(attachmentFile, func(v map[string]any) { v["pid"] = 1 << 22 }), control.Ended, "exited", false},
		{"image gone", func(dir string) error {
			gone := func(v map[string]any) { v["request"].(map[string]any)["image"] = "/nowhere/memory.json" }
			return errors.Join(edit(requestFile, gone)(dir), os.RemoveAll(filepath.Join(dir, imageDir)))
		}, control.Failed, "/nowhere/memory.json", true},
		{"overlapping regions", edit(attachmentFile, func(v map[string]any) {
			regions := v["regions"].([]any)
			v["regions"] = append(regions, regions[0])
		}), control.Failed, "overlap", false},
		{"another session's", edit(requestFile, func(v map[string]any) { v["request"].(map[string]any)["id"] = "b" }), control.Failed, `"b"`, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, ctx := shortdir.Make(t), context.Background()
			manifest, model := sealed(t, 16, 1, everyPage)
			p := startPager(t, dir, "")
			vmms := map[string]*faulter.Process{}
			for _, id := range []string{"bad", "good"} {
				s, err := p.CreateSession(ctx, control.SessionRequest{ID: id, Image: manifest})
				if err != nil {
					t.Fatal(err)
				}
				vmms[id] = startFaulter(t, pagesOf(16))
				if err := vmms[id].Handshake(s.Socket); err != nil {
					t.Fatal(err)
				}
				p.session(t, id, control.Serving)
			}
			p.kill()
			if err := test.spoil(filepath.Join(Dir(dir, Version()), "sessions", "bad")); err != nil {
				t.Fatal(err)
			}
			p = startPager(t, dir, "")
			if s := p.session(t, "good", control.Serving); s.VMMPID != vmms["good"].Pid() {
				t.Errorf("the good session is %+v", s)
			}
			wantMemory(t, vmms["good"], model)
			s := p.over(t, "bad")
			if s.State != test.state || !strings.Contains(s.Reason, test.says) {
				t.Errorf("the session is %s: %s", s.State, s.Reason)
			}
			if test.killed {
				wantExit(t, vmms["bad"])
			}
			if _, err := p.CloseSession(ctx, "bad"); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(Dir(dir, Version()), "sessions", "bad")); !os.IsNotExist(err) {
				t.Errorf("the journal is left: %v", err)
			}
		})
	}
}

// A VMM that lies in its handshake to the pager that adopted its session ends with that
// session, and nobody else's.
func TestLyingHandshakeAfterAdoption(t *testing.T) {
	dir, ctx := shortdir.Make(t), context.Background()
	manifest, model := sealed(t, 16, 1, everyPage)
	p := startPager(t, dir, "")
	sockets := map[string]string{}
	for _, id := range []string{"bad", "good"} {
		s, err := p.CreateSession(ctx, control.SessionRequest{ID: id, Image: manifest})
		if err != nil {
			t.Fatal(err)
		}
		sockets[id] = s.Socket
	}
	p.kill()
	p = startPager(t, dir, "")
	good, liar := startFaulter(t, pagesOf(16)), startFaulter(t, pagesOf(17))
	p.session(t, "bad", control.Waiting)
	p.session(t, "good", control.Waiting)
	if err := good.Handshake(sockets["good"]); err != nil {
		t.Fatal(err)
	}
	_ = liar.Handshake(sockets["bad"]) // fails where it is ended before it can say that it has sent it
	wantExit(t, liar)
	if s := p.over(t, "bad"); s.State != control.Failed || !strings.Contains(s.Reason, "needs 69632 bytes") {
		t.Errorf("the session is %s: %s", s.State, s.Reason)
	}
	wantMemory(t, good, model)
}

// Of pagers that are started at once in one directory one serves, and the others say
// why they do not.
func TestPagersStartedAtOnce(t *testing.T) {
	dir := shortdir.Make(t)
	type end struct {
		err error
		log string
	}
	const pagers = 4
	ends := make(chan end, pagers)
	var processes []*exec.Cmd
	for range pagers {
		cmd := exec.Command(os.Args[0], "--data-dir", dir, "--cache-max-bytes", "1MiB")
		cmd.Env = append(os.Environ(), asPager+"=1")
		log := new(bytes.Buffer)
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		processes = append(processes, cmd)
		go func() {
			err := cmd.Wait()
			ends <- end{err, log.String()}
		}()
	}
	defer func() {
		for _, cmd := range processes {
			cmd.Process.Kill()
		}
		<-ends
	}()
	for range pagers - 1 {
		select {
		case e := <-ends:
			if e.err == nil || !strings.Contains(e.log, "serves "+dir+" already") {
				t.Errorf("a pager too many ended with %v: %s", e.err, e.log)
			}
		case <-time.After(patience):
			t.Fatal("several pagers run in one directory")
		}
	}
	c := client.New(ControlSocket(dir, Version()))
	defer c.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := c.Health(context.Background()); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("none of the pagers serves")
		}
	}
}

// The owner of an image may remove his names while a session uses it; the session has
// names of its own, and so has the pager that adopts it.
func TestAdoptionWithoutTheImagesOwner(t *testing.T) {
	dir := shortdir.Make(t)
	manifest, model := sealed(t, 64, 1, everyPage)
	p := startPager(t, dir, "")
	s, err := p.CreateSession(context.Background(), control.SessionRequest{ID: "a", Image: manifest})
	if err != nil {
		t.Fatal(err)
	}
	vmm := startFaulter(t, pagesOf(64))
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	p.session(t, "a", control.Serving)
	p.kill()
	if err := os.RemoveAll(filepath.Dir(manifest)); err != nil {
		t.Fatal(err)
	}
	p = startPager(t, dir, "")
	p.session(t, "a", control.Serving)
	wantMemory(t, vmm, model)
}

// over waits for the end of a session.
func (p *pagerProcess) over(t *testing.T, id string) control.Session {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s, err := p.Session(context.Background(), id)
		if err == nil && !s.State.Active() {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("session %q is %q: %v", id, s.State, err)
		}
	}
}

// A process that holds no userfaultfd any more is no guest: it is reported, and left alone.
func TestVMMWithoutUserfaultfd(t *testing.T) {
	dir, ctx := shortdir.Make(t), context.Background()
	manifest, _ := sealed(t, 16, 1, everyPage)
	p := startPager(t, dir, "")
	s, err := p.CreateSession(ctx, control.SessionRequest{ID: "a", Image: manifest})
	if err != nil {
		t.Fatal(err)
	}
	vmm := startFaulter(t, pagesOf(16))
	if err := vmm.Handshake(s.Socket); err != nil {
		t.Fatal(err)
	}
	p.session(t, "a", control.Serving)
	p.kill()
	if err := vmm.CloseFD(); err != nil {
		t.Fatal(err)
	}
	p = startPager(t, dir, "")
	if s := p.over(t, "a"); s.State != control.Failed || !strings.Contains(s.Reason, "no userfaultfd") {
		t.Errorf("the session is %s: %s", s.State, s.Reason)
	}
	if _, err := vmm.Payload(); err != nil {
		t.Errorf("the process was ended: %v", err)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"format":1,"request":{"id":"a","image":"/x"}}`), []byte(`{"format":1,"pid":5,"start_time":7,"page_size":4096,"regions":[{"start":8192,"size":4096,"offset":0}]}`))
	f.Add([]byte(`{}`), []byte(`{"format":1,"pid":5,"start_time":7,"page_size":0,"regions":[]}`))
	f.Add([]byte(`{"format":1,"request":{"id":"a","image":"/x"}}`), []byte(`{"format":1,"pid":5,"start_time":7}`))
	f.Fuzz(func(t *testing.T, request, attachment []byte) {
		s, err := decodeRequest(request)
		if err != nil {
			return
		}
		if !control.ValidID(s.request.ID) {
			t.Fatalf("accepted id %q", s.request.ID)
		}
		var arrived saved
		if arrived.decodeArrival(attachment) == nil && arrived.pid <= 0 {
			t.Fatalf("accepted %+v", arrived)
		}
		if s.decodeAttachment(attachment) == nil && (!s.attached || s.pid <= 0 || len(s.mapping.regions) == 0) {
			t.Fatalf("accepted %+v", s)
		}
	})
}
