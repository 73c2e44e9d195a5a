package syscallfault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Errno is the error that a call fails with, 0 for none.
type Errno = unix.Errno

// calls are those that Run asks about: all by which Go code changes files.
var calls = map[uint32]string{
	unix.SYS_OPENAT: "openat", unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64",
	unix.SYS_COPY_FILE_RANGE: "copy_file_range", unix.SYS_FALLOCATE: "fallocate",
	unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat",
	unix.SYS_FSYNC: "fsync", unix.SYS_LINKAT: "linkat", unix.SYS_RENAMEAT: "renameat",
	unix.SYS_RENAMEAT2: "renameat2", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_MKDIRAT: "mkdirat",
	unix.SYS_IOCTL: "ioctl",
}

// byDescriptor are the calls whose first argument is a descriptor of the file.
var byDescriptor = map[string]bool{
	"write": true, "pwrite64": true, "copy_file_range": true, "fallocate": true, "ftruncate": true,
	"fchmod": true, "fsync": true, "ioctl": true,
}

// notification is the kernel's struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// response is the kernel's struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// Sizes of the structures as the kernel has them.
var (
	_ [80]byte = [unsafe.Sizeof(notification{})]byte{}
	_ [24]byte = [unsafe.Sizeof(response{})]byte{}
)

// Run calls f on a thread of its own and returns when f has. Calls on descriptors
// that are open already do not count: the testing package logs to one of them. Before
// each system call of that thread that changes files it calls decide, on another
// goroutine and one at a time; an errno other than 0 makes the call fail with it, undone. Only
// what f does on its own goroutine counts. The error is [ErrUnsupported] or tells
// that the supervision broke down.
func Run(decide func(Call) Errno, f func()) error {
	exempt, err := runtimeFiles()
	if err != nil {
		return err
	}
	old, err := descriptors()
	if err != nil {
		return err
	}
	listener := make(chan *os.File, 1)
	installed := make(chan error, 1)
	finished := make(chan struct{})
	go func() {
		// Never unlocked: the thread ends with the goroutine, and its filter with it.
		runtime.LockOSThread()
		defer close(finished)
		fd, err := install(exempt)
		installed <- err
		if err != nil {
			return
		}
		listener <- os.NewFile(uintptr(fd), "seccomp listener")
		f()
	}()
	if err := <-installed; err != nil {
		return err
	}
	l := <-listener
	supervised := make(chan error, 1)
	go func() {
		err := supervise(int(l.Fd()), old, decide, finished)
		// Without a listener the kernel answers by itself, with ENOSYS: f ends.
		supervised <- errors.Join(err, l.Close())
	}()
	<-finished
	return <-supervised
}

// runtimeFiles returns the descriptors through which the Go runtime wakes its own
// poller. It writes to them on any thread and keeps its P meanwhile: asked about, it
// would wait for an answer that nobody can give while the world is being stopped.
func runtimeFiles() ([]uint32, error) {
	// The first pipe makes the runtime open its poller, if nothing has yet.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var found []uint32
	for _, e := range entries {
		// A descriptor that is gone by now is not the runtime's.
		link, _ := os.Readlink("/proc/self/fd/" + e.Name())
		fd, err := strconv.ParseUint(e.Name(), 10, 32)
		if err == nil && link == "anon_inode:[eventfd]" {
			found = append(found, uint32(fd))
		}
	}
	return found, nil
}

// install puts the filter on this thread and returns the listener. Writes to the
// exempt descriptors are not asked about.
func install(exempt []uint32) (int, error) {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	// Of struct seccomp_data: the number of the call, and the low half of its first
	// argument, on a little-endian machine.
	const number, argument = 0, 16
	program := []unix.SockFilter{{Code: load, K: argument}}
	for _, fd := range exempt {
		program = append(program,
			unix.SockFilter{Code: equal, Jf: 4, K: fd},
			unix.SockFilter{Code: load, K: number},
			unix.SockFilter{Code: equal, Jf: 1, K: unix.SYS_WRITE},
			unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
			unix.SockFilter{Code: load, K: argument})
	}
	program = append(program, unix.SockFilter{Code: load, K: number})
	left := len(calls)
	for nr := range calls {
		program = append(program, unix.SockFilter{Code: equal, Jt: uint8(left), K: nr})
		left--
	}
	program = append(program,
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF})
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// An ordinary user may install a filter only on a thread that gains no rights.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, fmt.Errorf("%w: %w", ErrUnsupported, errno)
	}
	return int(fd), nil
}

// supervise answers the kernel's questions until finished is closed. It looks at
// that every few milliseconds: a thread that is gone asks no more.
func supervise(fd int, old map[int32]bool, decide func(Call) Errno, finished <-chan struct{}) error {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 5)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll seccomp listener: %w", err)
		case n > 0 && poll[0].Revents&unix.POLLIN != 0:
			if err := answer(fd, old, decide); err != nil {
				return err
			}
			continue
		}
		select {
		case <-finished:
			return nil
		default:
		}
	}
}

// answer takes one question and answers it.
func answer(fd int, old map[int32]bool, decide func(Call) Errno) error {
	var n notification
	if err := ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
		// A signal came first: the thread will ask again.
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			return nil
		}
		return fmt.Errorf("receive seccomp notification: %w", err)
	}
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if call, ok := describe(n, old); ok {
		if errno := decide(call); errno != 0 {
			r.flags, r.err = 0, -int32(errno)
		}
	}
	if err := ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("answer seccomp notification: %w", err)
	}
	return nil
}

// describe returns the call in words, unless it does not change a file: the Go
// runtime writes to descriptors of its own, and would not survive an error.
func describe(n notification, old map[int32]bool) (Call, bool) {
	call := Call{Name: calls[uint32(n.nr)]}
	if !byDescriptor[call.Name] {
		if call.Name == "renameat" || call.Name == "renameat2" || call.Name == "linkat" {
			call.Path = readString(n.args[1])
		}
		// Opening counts only where it makes a file.
		return call, call.Name != "openat" || n.args[2]&unix.O_CREAT != 0
	}
	if call.Name == "ioctl" && uint32(n.args[1]) != unix.FICLONE {
		return call, false
	}
	fd := n.args[0]
	if call.Name == "copy_file_range" {
		fd = n.args[2]
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", int32(fd)))
	if old[int32(fd)] || err != nil || len(path) == 0 || path[0] != '/' {
		return call, false
	}
	call.Path = path
	return call, true
}

// readString reads a string of the caller, which is this process. It lets the kernel
// do that: the address is none that the Go runtime vouches for.
func readString(address uint64) string {
	buf := make([]byte, 4096)
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	remote := []unix.RemoteIovec{{Base: uintptr(address), Len: len(buf)}}
	n, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	if err != nil {
		return ""
	}
	text, _, _ := bytes.Cut(buf[:n], []byte{0})
	return string(text)
}

// descriptors returns those that are open now.
func descriptors() (map[int32]bool, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	open := make(map[int32]bool, len(entries))
	for _, e := range entries {
		fd, err := strconv.ParseInt(e.Name(), 10, 32)
		if err != nil {
			return nil, err
		}
		// The one that read the directory is closed by now, and its number free.
		if _, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open[int32(fd)] = true
		}
	}
	return open, nil
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
