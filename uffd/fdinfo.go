package uffd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Info is what the kernel tells about a userfaultfd in /proc/<pid>/fdinfo. It can
// be had without the cooperation of whoever serves it.
type Info struct {
	// Pending is the number of faulting threads whose message is unread.
	Pending uint64
	// Total is the number of all threads that wait in a fault, those whose
	// message was read included.
	Total uint64
	// Features are those that were asked for in the API handshake.
	Features Features
}

// featureInitialized is a bit with which the kernel marks a completed handshake.
const featureInitialized Features = 1 << 31

// Info returns the descriptor's entry in /proc.
func (f *FD) Info() (Info, error) {
	var info Info
	err := f.Use(func(raw int) (err error) {
		info, err = readInfo("/proc/self/fdinfo/" + strconv.Itoa(raw))
		return err
	})
	return info, err
}

// InfoOf returns what the kernel tells about descriptor fd of process pid. It
// needs the permission to trace the process.
func InfoOf(pid, fd int) (Info, error) {
	return readInfo(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
}

func readInfo(path string) (Info, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Info{}, fmt.Errorf("read userfaultfd info: %w", err)
	}
	info, err := parseInfo(string(text))
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

// parseInfo reads lines of the form "pending:\t1", "total:\t2" and
// "API:\taa:8:7fffdf", the last one being version, features and ioctls in
// hexadecimal. Other lines are common to all descriptors and passed over.
func parseInfo(text string) (Info, error) {
	var info Info
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		var err error
		switch name {
		case "pending":
			info.Pending, err = strconv.ParseUint(value, 10, 64)
		case "total":
			info.Total, err = strconv.ParseUint(value, 10, 64)
		case "API":
			info.Features, err = parseAPI(value)
		default:
			continue
		}
		if err != nil {
			return Info{}, fmt.Errorf("userfaultfd info line %q: %w", strings.TrimSpace(line), err)
		}
		if seen[name] {
			return Info{}, fmt.Errorf("userfaultfd info has two lines %q", name)
		}
		seen[name] = true
	}
	if len(seen) != 3 {
		return Info{}, fmt.Errorf("userfaultfd info lacks one of pending, total, API: %w", ErrNotUserfaultfd)
	}
	return info, nil
}

func parseAPI(value string) (Features, error) {
	fields := strings.Split(value, ":")
	if len(fields) != 3 {
		return 0, fmt.Errorf("%d fields instead of version:features:ioctls", len(fields))
	}
	features, err := strconv.ParseUint(fields[1], 16, 64)
	if err != nil {
		return 0, err
	}
	return Features(features) &^ featureInitialized, nil
}
