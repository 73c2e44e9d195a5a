package instance

// CreateRequest asks for a new instance. It is Stopped afterwards.
type CreateRequest struct {
	// Name is 1 to 63 lower-case letters, digits and dashes, the first a letter.
	// It must not be taken. Empty makes one of the id.
	Name string `json:"name,omitempty"`
	Spec Spec   `json:"spec"`
}

// RestoreRequest says how to restore. The zero value restores as configured and
// lets the guest run.
type RestoreRequest struct {
	// Backend overrides the configured one. File and Uffd are then binding: where
	// the one asked for is impossible the restore fails.
	Backend Backend `json:"backend,omitempty"`
	// Paused leaves the guest paused.
	Paused bool `json:"paused,omitempty"`
}

// Tap gives an interface of a fork another tap.
type Tap struct {
	ID  string `json:"id"`  // of the interface
	Tap string `json:"tap"` // of the host
}

// ForkRequest asks for new instances made from a capture.
type ForkRequest struct {
	// Source is the instance to fork: one in Standby, or one that is Running or
	// Paused, which is captured first and goes on. Ignored by ForkSnapshot. In the
	// HTTP API the path names it.
	Source string `json:"-"`
	// Count is the number of forks, 1 to 1000; 0 means 1, or as many as Names.
	Count int `json:"count,omitempty"`
	// Names are the forks' names; empty makes them. Otherwise there are Count, or
	// one, to which "-1" and so on is added when Count is above 1.
	Names []string `json:"names,omitempty"`
	// Target is the state to reach: Running, Standby or Stopped; empty means
	// Running. A stopped fork has the disks of the capture and boots afresh.
	Target State `json:"target,omitempty"`
	// Backend is as in RestoreRequest.
	Backend Backend `json:"backend,omitempty"`
	// Taps name the taps of the fork; only with a Count of 1. Interfaces without
	// one get theirs from the configured template.
	Taps []Tap `json:"taps,omitempty"`
	// Identity is put on the identity page, see [IdentityPage]; at most
	// [MaxIdentity] bytes. It needs Spec.IdentityAddress.
	Identity []byte `json:"identity,omitempty"`
}

// Forked is one fork of a request.
type Forked struct {
	// Name is the fork's.
	Name string
	// Instance describes it if Err is nil.
	Instance Instance
	// Err says why it does not exist. It is a *problem.Problem.
	Err error
}

// StopRequest says how to stop.
type StopRequest struct {
	// Force also stops an instance that is Unknown, and gives up the capture of
	// one in Standby.
	Force bool `json:"force,omitempty"`
}

// SnapshotRequest asks for a snapshot.
type SnapshotRequest struct {
	// Name is as in CreateRequest, among snapshots.
	Name string `json:"name,omitempty"`
}
