package uffd

import (
	"errors"
	"fmt"
	"strings"
)

// featureNames lists the features in the order of their bits, each with the
// first kernel that has it.
var featureNames = [...]struct {
	feature Features
	name    string
	minimum string
}{
	{UFFD_FEATURE_PAGEFAULT_FLAG_WP, "UFFD_FEATURE_PAGEFAULT_FLAG_WP", "5.7"},
	{UFFD_FEATURE_EVENT_FORK, "UFFD_FEATURE_EVENT_FORK", "4.11"},
	{UFFD_FEATURE_EVENT_REMAP, "UFFD_FEATURE_EVENT_REMAP", "4.11"},
	{UFFD_FEATURE_EVENT_REMOVE, "UFFD_FEATURE_EVENT_REMOVE", "4.11"},
	{UFFD_FEATURE_MISSING_HUGETLBFS, "UFFD_FEATURE_MISSING_HUGETLBFS", "4.11"},
	{UFFD_FEATURE_MISSING_SHMEM, "UFFD_FEATURE_MISSING_SHMEM", "4.11"},
	{UFFD_FEATURE_EVENT_UNMAP, "UFFD_FEATURE_EVENT_UNMAP", "4.11"},
	{UFFD_FEATURE_SIGBUS, "UFFD_FEATURE_SIGBUS", "4.14"},
	{UFFD_FEATURE_THREAD_ID, "UFFD_FEATURE_THREAD_ID", "4.14"},
	{UFFD_FEATURE_MINOR_HUGETLBFS, "UFFD_FEATURE_MINOR_HUGETLBFS", "5.13"},
	{UFFD_FEATURE_MINOR_SHMEM, "UFFD_FEATURE_MINOR_SHMEM", "5.14"},
	{UFFD_FEATURE_EXACT_ADDRESS, "UFFD_FEATURE_EXACT_ADDRESS", "5.18"},
	{UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "UFFD_FEATURE_WP_HUGETLBFS_SHMEM", "5.19"},
	{UFFD_FEATURE_WP_UNPOPULATED, "UFFD_FEATURE_WP_UNPOPULATED", "6.4"},
	{UFFD_FEATURE_POISON, "UFFD_FEATURE_POISON", "6.6"},
	{UFFD_FEATURE_WP_ASYNC, "UFFD_FEATURE_WP_ASYNC", "6.7"},
	{UFFD_FEATURE_MOVE, "UFFD_FEATURE_MOVE", "6.8"},
}

// String lists the names of the features, separated by "|".
func (f Features) String() string {
	var names []string
	for _, n := range featureNames {
		if f&n.feature != 0 {
			names = append(names, n.name)
			f &^= n.feature
		}
	}
	if f != 0 || len(names) == 0 {
		names = append(names, fmt.Sprintf("%#x", uint64(f)))
	}
	return strings.Join(names, "|")
}

// UnsupportedError says that the running kernel lacks an ability.
type UnsupportedError struct {
	// Feature is the kernel's name of the ability.
	Feature string
	// MinimumVersion is the first kernel that has it, such as "6.6", or empty
	// where that is not known. A kernel built without it can be newer.
	MinimumVersion string
}

// Error implements error.
func (e *UnsupportedError) Error() string {
	if e.MinimumVersion == "" {
		return fmt.Sprintf("kernel does not know %s", e.Feature)
	}
	return fmt.Sprintf("kernel lacks %s: use Linux %s or later, built with it", e.Feature, e.MinimumVersion)
}

// Is makes an UnsupportedError match errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool {
	return target == errors.ErrUnsupported
}

// Supports asks the kernel whether it has all of the features. It returns nil, or
// an *[UnsupportedError] for the first that is missing, or the error that kept it
// from asking. It makes a userfaultfd of its own and closes it again.
func Supports(features Features) error {
	probe, _, err := OpenBest()
	if err != nil {
		return fmt.Errorf("probe userfaultfd features: %w", err)
	}
	api, err := probe.API(0)
	if err := errors.Join(err, probe.Close()); err != nil {
		return fmt.Errorf("probe userfaultfd features: %w", err)
	}
	return missing(features, api.Features)
}

// missing compares what is wanted with what there is.
func missing(wanted, available Features) error {
	lacking := wanted &^ available
	if lacking == 0 {
		return nil
	}
	for _, n := range featureNames {
		if lacking&n.feature != 0 {
			return &UnsupportedError{Feature: n.name, MinimumVersion: n.minimum}
		}
	}
	return &UnsupportedError{Feature: fmt.Sprintf("userfaultfd feature bits %#x", uint64(lacking))}
}
