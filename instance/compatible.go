package instance

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/hypervisor"
	"github.com/faultline-vm/faultline/hypervisor/firecracker"
	"github.com/faultline-vm/faultline/internal/problem"
)

// host is what a VM state depends on beside the hypervisor.
type host struct{ cpuModel, kernel string }

// compatible refuses a restore that cannot work, before a VMM is started, and
// warns of one that is not known to work.
//
// A VM state loads into a program of the same name whose snapshot format has the
// same major version and at least the same minor one (Firecracker,
// docs/snapshotting/versioning.md). A Firecracker guest has seen its CPU and needs
// the same model; the simulator's guest is no CPU. Another kernel of the host is
// supported by Firecracker for some pairs only.
func compatible(record capture.Record, d hypervisor.Description, h host) (warnings []string, err error) {
	refuse := func(remedy, detail string, args ...any) error {
		return problem.New(http.StatusConflict, CodeIncompatible, remedy, "capture %s cannot be restored here: %s", record.ID, fmt.Sprintf(detail, args...))
	}
	made := record.Hypervisor
	if made.Name != d.Name {
		return nil, refuse("use the hypervisor that made it", "%s %s made it, and this host runs %s %s", made.Name, made.Version, d.Name, d.Version)
	}
	old, oldErr := firecracker.ParseVersion(made.SnapshotVersion)
	now, nowErr := firecracker.ParseVersion(d.SnapshotVersion)
	switch {
	case made.SnapshotVersion == "" || d.SnapshotVersion == "":
		if made.Version != d.Version {
			warnings = append(warnings, fmt.Sprintf("capture %s was made by %s %s, this is %s, and one of them does not tell its snapshot version", record.ID, made.Name, made.Version, d.Version))
		}
	case oldErr != nil || nowErr != nil:
		return nil, refuse("use the hypervisor that made it", "its snapshot version %q cannot be compared with %q", made.SnapshotVersion, d.SnapshotVersion)
	case old.Major != now.Major || old.Minor > now.Minor:
		return nil, refuse("use a hypervisor of its snapshot version", "it has snapshot version %s (%s %s), and %s %s reads %s",
			made.SnapshotVersion, made.Name, made.Version, d.Name, d.Version, d.SnapshotVersion)
	}
	if d.Name == firecracker.Real && record.CPUModel != "" && h.cpuModel != "" && record.CPUModel != h.cpuModel {
		return nil, refuse("restore it on such a host", "it was made on a %q, and this host has a %q", record.CPUModel, h.cpuModel)
	}
	if d.Name == firecracker.Real && release(record.HostKernel) != release(h.kernel) {
		warnings = append(warnings, fmt.Sprintf("capture %s was made on the kernel %s, this is %s", record.ID, record.HostKernel, h.kernel))
	}
	return warnings, nil
}

// release returns the first two numbers of a kernel's version.
func release(kernel string) string {
	parts := strings.SplitN(kernel, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
