package fcsim

// Versions that the process reports.
const (
	// AppName is what GET / reports as app_name, and the first word of --version.
	AppName = "fcsim"
	// Version is the Firecracker release whose feature level is simulated.
	Version = "1.16.0"
	// SnapshotVersion is printed by --snapshot-version. Its suffix keeps it from
	// ever being equal to a version of Firecracker's own snapshot format.
	SnapshotVersion = "1.0.0+fcsim"
)

// Exit codes, the same as Firecracker's.
const (
	exitOK               = 0
	exitError            = 1
	exitSIGBUS           = 149
	exitBadConfiguration = 152
	exitArguments        = 153
)
