// Package systemd runs the pager as make install leaves it behind, under a real
// systemd: a container of systemd-nspawn with a file system of its own that goes
// away with it.
//
// The test binary is in the container as well. There it is the test that runs as a
// unit of that systemd, the microVM whose memory faults, and a service that keeps
// descriptors in the service manager's store.
//
// The package has no code of its own. It needs root, systemd-nspawn and a root file
// system that make test-systemd prepares.
package systemd
