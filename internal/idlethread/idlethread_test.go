package idlethread

import (
	"testing"

	"golang.org/x/sys/unix"
)

// priorities returns what the kernel says of the calling thread. The system call's nice
// value counts from 20 down to 1 for 19 (getpriority(2)).
func priorities(t *testing.T) (nice, io int) {
	t.Helper()
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Error(err)
	}
	value, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, 0, 0)
	if errno != 0 {
		t.Error(errno)
	}
	return 20 - nice, int(value)
}

func TestOnlyTheCallerMakesWay(t *testing.T) {
	niceBefore, ioBefore := priorities(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Enter(); err != nil {
			t.Error(err)
		}
		if nice, io := priorities(t); nice != lowestNice || io != ioprioClassBE<<ioprioClassShift|ioprioLowest {
			t.Errorf("inside: nice %d, I/O %#x", nice, io)
		}
		child := make(chan struct{})
		go func() {
			defer close(child)
			if nice, _ := priorities(t); nice != niceBefore {
				t.Errorf("a goroutine that it started has nice %d", nice)
			}
		}()
		<-child
	}()
	<-done
	if nice, io := priorities(t); nice != niceBefore || io != ioBefore {
		t.Errorf("afterwards: nice %d, I/O %#x; before: %d, %#x", nice, io, niceBefore, ioBefore)
	}
}
