package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/faultline-vm/faultline/uffd"
)

// Preference says which program shall run the microVMs.
type Preference string

// The preferences.
const (
	Auto            Preference = "auto"        // Firecracker where it can run, else the simulator
	PreferReal      Preference = "firecracker" // Firecracker or an error
	PreferSimulator Preference = "fcsim"       // the simulator or an error
)

// Selection is what [Choose] chooses among.
type Selection struct {
	// Prefer is the preference; empty means Auto.
	Prefer Preference
	// Firecracker is the configured path of Firecracker; empty means the one on
	// PATH. A configured one that does not exist is an error, also with Auto.
	Firecracker string
	// Simulator is the configured path of fcsim; empty means the one beside the
	// running program, then the one on PATH.
	Simulator string
}

// Choice is the program that runs the microVMs.
type Choice struct {
	Binary Binary
	// Why is a sentence for people: what was chosen and for what reason.
	Why string
}

// Choose finds the program that this host can run. Firecracker needs /dev/kvm and,
// for guests whose memory is paged in lazily, a userfaultfd that traps the
// kernel's accesses too. With Auto, a host that lacks one of them gets the
// simulator; with PreferReal it gets an error with the remedy.
func Choose(ctx context.Context, s Selection) (Choice, error) {
	switch s.Prefer {
	case PreferSimulator:
		return chooseSimulator(ctx, s, "it was asked for")
	case PreferReal, Auto, "":
	default:
		return Choice{}, fmt.Errorf("hypervisor %q: use %s, %s or %s", s.Prefer, Auto, PreferReal, PreferSimulator)
	}
	path, err := findReal(s)
	if err != nil && s.Firecracker != "" {
		return Choice{}, err
	}
	if err == nil {
		err = checkHost()
	}
	if err == nil {
		var b Binary
		if b, err = Probe(ctx, path); err == nil && b.Name != Real && s.Prefer == PreferReal {
			err = fmt.Errorf("%s is %s: configure the path of Firecracker itself", path, b.Name)
		}
		if err == nil {
			return Choice{Binary: b, Why: fmt.Sprintf("%s %s (%s), because %s", b.Name, b.Version, path, realReason(s))}, nil
		}
	}
	if s.Prefer == PreferReal || ctx.Err() != nil {
		return Choice{}, fmt.Errorf("firecracker cannot run here: %w", err)
	}
	return chooseSimulator(ctx, s, "firecracker cannot run here: "+err.Error())
}

func realReason(s Selection) string {
	if s.Prefer == PreferReal {
		return "it was asked for and /dev/kvm and userfaultfd work"
	}
	return "it is installed and /dev/kvm and userfaultfd work"
}

func chooseSimulator(ctx context.Context, s Selection, because string) (Choice, error) {
	path, err := findSimulator(s)
	if err != nil {
		return Choice{}, fmt.Errorf("no hypervisor (%s): %w", because, err)
	}
	b, err := Probe(ctx, path)
	if err != nil {
		return Choice{}, err
	}
	if b.Name != Simulator {
		return Choice{}, fmt.Errorf("%s is %s, not the simulator: configure the path of fcsim", path, b.Name)
	}
	return Choice{Binary: b, Why: fmt.Sprintf("%s %s (%s), the simulator, because %s", b.Name, b.Version, path, because)}, nil
}

func findReal(s Selection) (string, error) {
	if s.Firecracker != "" {
		if _, err := os.Stat(s.Firecracker); err != nil {
			return "", fmt.Errorf("configured firecracker binary: %w", err)
		}
		return filepath.Abs(s.Firecracker)
	}
	path, err := exec.LookPath(Real)
	if err != nil {
		return "", errors.New("no firecracker on PATH: install it or configure its path")
	}
	return filepath.Abs(path)
}

func findSimulator(s Selection) (string, error) {
	if s.Simulator != "" {
		if _, err := os.Stat(s.Simulator); err != nil {
			return "", fmt.Errorf("configured fcsim binary: %w", err)
		}
		return filepath.Abs(s.Simulator)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), Simulator)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(Simulator)
	if err != nil {
		return "", errors.New("no fcsim beside this program or on PATH: run make build, or configure its path")
	}
	return filepath.Abs(path)
}

// checkHost reports everything that Firecracker lacks on this host, in one line.
func checkHost() error {
	kvm, traps := checkKVM(), checkUserfaultfd()
	switch {
	case kvm == nil:
		return traps
	case traps == nil:
		return kvm
	default:
		return fmt.Errorf("%w; and it cannot %w", kvm, traps)
	}
}

func checkKVM() error {
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	switch {
	case err == nil:
		return file.Close()
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no /dev/kvm: load the module kvm_intel or kvm_amd, or turn on virtualisation")
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: add the user to the group of /dev/kvm", err)
	default:
		return err
	}
}

// checkUserfaultfd opens a userfaultfd of the kind that Firecracker needs, one
// that sees faults of the kernel too: KVM's are such.
func checkUserfaultfd() error {
	fd, err := uffd.Open(uffd.Options{})
	if err != nil {
		return err // it begins with "make a userfaultfd" and names the remedies
	}
	return fd.Close()
}
