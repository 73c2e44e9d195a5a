package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/procstat"
)

// findVMMs returns the VMMs that run below the directory of instances, by the name
// of their directory there. A VMM is a process that works in such a directory and
// was given the socket that VMMs get here: an operator's shell there is none. It is
// how a VMM is found that was started and not recorded.
func findVMMs(instances string) (map[string][]hypervisor.ProcessRef, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find VMMs: %w", err)
	}
	found := make(map[string][]hypervisor.ProcessRef)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		dir, err := os.Readlink(filepath.Join("/proc", entry.Name(), "cwd"))
		if err != nil {
			continue // it has ended, is a kernel thread, or another user's
		}
		dir = strings.TrimSuffix(dir, " (deleted)")
		name, inside := strings.CutPrefix(dir, instances+"/")
		if !inside || strings.Contains(name, "/") {
			continue
		}
		ref, ok, err := vmmOf(pid, dir)
		if err != nil {
			return nil, fmt.Errorf("find VMMs: %w", err)
		}
		if ok {
			found[name] = append(found[name], ref)
		}
	}
	return found, nil
}

// vmmOf tells whether a process is a VMM.
func vmmOf(pid int, dir string) (hypervisor.ProcessRef, bool, error) {
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && !strings.Contains(string(command), "\x00--api-sock\x00"+firecracker.SocketName+"\x00") {
		return hypervisor.ProcessRef{}, false, nil
	}
	var stat procstat.Stat
	if err == nil {
		stat, err = procstat.Read(pid)
	}
	// ESRCH comes from files that were opened before the process ended.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, os.ErrProcessDone) {
		return hypervisor.ProcessRef{}, false, nil
	}
	return hypervisor.ProcessRef{Dir: dir, PID: pid, StartTime: stat.StartTime}, err == nil, err
}

// kill ends a VMM that nobody holds.
func (m *Manager) kill(ctx context.Context, ref hypervisor.ProcessRef) error {
	vmm, err := m.cfg.Hypervisor.Attach(ctx, ref)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	return vmm.Kill(ctx)
}

// killAll ends every VMM of an instance, recorded or not.
func (m *Manager) killAll(ctx context.Context, e *entry) error {
	if err := e.killVMM(ctx); err != nil {
		return err
	}
	if vmm := e.process(); vmm != nil && e.brokenReason() == "" {
		return clearSockets(e.dir) // it was the one
	}
	found, err := findVMMs(m.data.instances)
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range found[filepath.Base(e.dir)] {
		errs = append(errs, m.kill(ctx, ref))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return clearSockets(e.dir)
}

// endStarted ends a VMM that an operation has started and that is not the instance's.
func endStarted(ctx context.Context, vmm hypervisor.VMM) error {
	if err := vmm.Kill(ctx); err != nil {
		return err
	}
	return clearSockets(vmm.Ref().Dir)
}

// clearSockets removes the sockets of an instance's last VMM, which has ended.
func clearSockets(dir string) error {
	return errors.Join(clearSocket(dir, firecracker.SocketName), clearSocket(dir, vsockName))
}

func clearSocket(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
