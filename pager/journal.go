package pager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/faultline-vm/faultline/internal/pidfd"
	"github.com/faultline-vm/faultline/internal/strictjson"
	"github.com/faultline-vm/faultline/memimage"
	"github.com/faultline-vm/faultline/pager/control"
	"github.com/faultline-vm/faultline/uffd"
	"golang.org/x/sys/unix"
)

// journal is what of a session outlives the pager's process: a directory
// sessions/<id>, whose parts are there each from its moment on.
//
//	image/         names of the session's own for the image's files (hard links)
//	request.json   what the session was created with, before its socket accepts
//	arriving.json  who connected, before the handshake is read
//	pages          page state and the messages being handled, mapped and shared
//	attached.json  the VMM and its memory, before the first fault is answered
//	populated.json nothing, when a detach has brought every page into the guest
//
// A pager that starts adopts a session from it; see adopt.go.
//
// Nothing is synced to disk. The files must outlive a process, for which the page
// cache suffices; when the host goes down, the VMM goes down with it.
type journal struct{ dir string }

// journalFormat is the version of the journal's files. A pager adopts only what it
// can read; another version's sessions are another version's.
const journalFormat = 1

// savedRequest is the content of request.json.
type savedRequest struct {
	Format  int                    `json:"format"`
	Request control.SessionRequest `json:"request"`
}

// savedAttachment is the content of attached.json.
type savedAttachment struct {
	Format    int           `json:"format"`
	PID       int           `json:"pid"`
	StartTime uint64        `json:"start_time"` // of the VMM, in clock ticks since the host's boot
	PageSize  uint64        `json:"page_size"`
	Regions   []savedRegion `json:"regions"`
}

type savedRegion struct {
	Start  uint64 `json:"start"`
	Size   uint64 `json:"size"`
	Offset uint64 `json:"offset"`
}

const (
	requestFile    = "request.json"
	attachmentFile = "attached.json"
	populatedFile  = "populated.json"
	pagesFile      = "pages"
	imageDir       = "image"
)

// begin makes the journal of a new session.
func (j journal) begin(req control.SessionRequest, img *memimage.Image) error {
	if err := os.RemoveAll(j.dir); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := os.Mkdir(j.dir, 0o700); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := j.linkImage(req.Image, img.Manifest()); err != nil {
		return err
	}
	return j.write(requestFile, savedRequest{journalFormat, req})
}

// linkImage gives the session names of its own for the image, so that a later pager
// finds it though its first owner removed his. Where hard links are impossible (the
// image is on another filesystem, or another user's) there is no image here, and a
// later pager needs the path of the request; copying memory for it would cost more
// than a session is worth.
func (j journal) linkImage(manifest string, m memimage.Manifest) error {
	dir := filepath.Join(j.dir, imageDir)
	if err := os.MkdirAll(filepath.Join(dir, memimage.LayersDir), 0o700); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for _, l := range m.Layers {
		for _, name := range []string{l.File, l.Index} {
			if os.Link(filepath.Join(filepath.Dir(manifest), name), filepath.Join(dir, name)) != nil {
				return os.RemoveAll(dir)
			}
		}
	}
	data, err := m.Encode()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, memimage.ManifestName), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// image returns the path of the session's own manifest, or "" if it has none.
func (j journal) image() string {
	path := filepath.Join(j.dir, imageDir, memimage.ManifestName)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// attach records the VMM. Behind it everything is there that adoption needs.
func (j journal) attach(vmm *pidfd.Process, m *mapping) (*pageJournal, error) {
	// A pager that died here has served nothing yet.
	if err := os.Remove(filepath.Join(j.dir, pagesFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("journal: %w", err)
	}
	pages, err := j.openPages(m, true)
	if err != nil {
		return nil, err
	}
	a := savedAttachment{Format: journalFormat, PID: vmm.PID(), StartTime: vmm.StartTime(), PageSize: m.pageSize}
	for _, r := range m.regions {
		a.Regions = append(a.Regions, savedRegion{Start: r.start, Size: r.size, Offset: r.offset})
	}
	if err := j.write(attachmentFile, a); err != nil {
		pages.close()
		return nil, err
	}
	return pages, nil
}

// end removes the journal.
func (j journal) end() error { return os.RemoveAll(j.dir) }

// write makes a file whole or not at all, as seen after the death of this process.
func (j journal) write(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("journal: %s: %w", name, err)
	}
	path := filepath.Join(j.dir, name)
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// saved is a journal as a later pager finds it.
type saved struct {
	request  control.SessionRequest
	attached bool
	pid      int
	start    uint64
	mapping  *mapping
	// populated tells that all that is left to do is to unregister the memory.
	populated bool
}

// maxJournalFile bounds what is read of a journal's JSON.
const maxJournalFile = control.MaxBody + 64<<10

// load reads a journal. Everything in it is checked as if a stranger had sent it. The
// VMM is told along with an error where it is known, so that it can be ended.
func (j journal) load() (saved, error) {
	data, err := readBounded(filepath.Join(j.dir, requestFile))
	if err != nil {
		return saved{}, err
	}
	s, err := decodeRequest(data)
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Join(j.dir, requestFile), err)
	}
	data, attachErr := readBounded(filepath.Join(j.dir, attachmentFile))
	if errors.Is(attachErr, fs.ErrNotExist) {
		return s, errors.Join(err, s.loadArrival(j))
	}
	if attachErr == nil {
		attachErr = s.decodeAttachment(data)
	}
	if _, statErr := os.Stat(filepath.Join(j.dir, populatedFile)); statErr == nil {
		s.populated = true
	}
	return s, errors.Join(err, attachErr)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxJournalFile+1))
	if err == nil && len(data) > maxJournalFile {
		err = fmt.Errorf("longer than %d bytes", maxJournalFile)
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %s: %w", path, err)
	}
	return data, nil
}

func decodeRequest(data []byte) (saved, error) {
	var r savedRequest
	if err := strictjson.Unmarshal(data, &r); err != nil {
		return saved{}, err
	}
	if r.Format != journalFormat {
		return saved{}, fmt.Errorf("journal format %d is not %d, which this pager reads; start the pager that wrote it: %w", r.Format, journalFormat, errStranded)
	}
	return saved{request: r.Request}, r.Request.Validate()
}

func (s *saved) decodeAttachment(data []byte) error {
	var a savedAttachment
	if err := strictjson.Unmarshal(data, &a); err != nil {
		return fmt.Errorf("%s: %w", attachmentFile, err)
	}
	if a.Format != journalFormat || a.PID <= 0 {
		return fmt.Errorf("%s: format %d and pid %d are not of this pager's making", attachmentFile, a.Format, a.PID)
	}
	elements := make([]wireRegion, len(a.Regions))
	for i := range a.Regions {
		r := &a.Regions[i]
		elements[i] = wireRegion{Address: &r.Start, Size: &r.Size, Offset: &r.Offset, PageSize: &a.PageSize}
	}
	m, err := newMapping(elements)
	if err != nil {
		return fmt.Errorf("%s: %w", attachmentFile, err)
	}
	s.attached, s.pid, s.start, s.mapping = true, a.PID, a.StartTime, m
	return nil
}

// pageJournal is the mapped file pages: the messages that were read last, and the
// map of removed pages.
//
// The kernel writes messages right into the mapping. A REMOVE therefore is never
// lost: it is either still in the kernel's queue, or here, even if the process is
// killed between reading it and marking its pages. Whoever adopts the session
// marks the pages of all REMOVE messages that it finds; marking twice is harmless,
// since a page that was removed once never shows the image's content again.
type pageJournal struct {
	mem      []byte
	messages []uffd.Message
	removed  removedPages
}

// The file begins with a page of messages; the map follows.
const messageBytes = control.PageSize

// openPages maps the file, which create makes. Its blocks are allocated at once,
// so that a full disk is an error here and not a fatal signal later.
func (j journal) openPages(m *mapping, create bool) (*pageJournal, error) {
	words := (m.end()/m.pageSize + 63) / 64
	size := int64(messageBytes + words*8)
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(filepath.Join(j.dir, pagesFile), flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	if create {
		if err := allocate(f, size); err != nil {
			return nil, fmt.Errorf("journal: allocating %d bytes for %s: %w", size, f.Name(), err)
		}
	} else if info, err := f.Stat(); err != nil || info.Size() != size {
		return nil, fmt.Errorf("journal: %s is not of the %d bytes that the guest's memory needs: %w", f.Name(), size, errors.Join(err, io.ErrUnexpectedEOF))
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("journal: mapping %s: %w", f.Name(), err)
	}
	return &pageJournal{
		mem:      mem,
		messages: viewOf[uffd.Message](mem[:messageBytes])[:batch],
		removed:  removedPages{words: viewOf[atomic.Uint64](mem[messageBytes:])},
	}, nil
}

// allocate gives f its size and its blocks.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.WriteAt(make([]byte, size), 0)
	}
	return err
}

func (p *pageJournal) close() { _ = unix.Munmap(p.mem) }
