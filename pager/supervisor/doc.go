// Package supervisor starts pagers, keeps them running, and ends them.
//
// [Start] starts one pager as a child process; its caller watches it. [Supervise]
// keeps the pager of one version and data directory alive: as a unit of systemd
// where faultline-pager@.service is installed for that directory, else as a child
// process. Any number of versions run side by side, each with a Supervisor of its
// own; [Versions] lists them.
//
// A pager outlives whoever started it. It is a process of its own session, so no
// signal to the caller's group and no closed terminal reaches it. The end of a
// Supervisor's context ends the supervision and not the pager; the next Supervisor
// finds the pager by its health and watches it through a pidfd. Guests whose pager
// is dead stand still until the next pager of that version adopts them, so a
// Supervisor reacts to a death and does not poll for it. A child that lives and hangs is
// killed when it has given no sign of life for [Config.Watchdog]; a unit by systemd.
//
// To a child the Supervisor is what systemd is to a unit: it speaks the protocol of
// sd_notify(3), hears the signs of life, and keeps what the pager deposits for the next
// one. See keeper.go.
//
// The package owns the processes that it starts and the log files that it opens
// for them. It knows neither sessions nor guests, and writes nothing below
// {data_dir} but the pager's directory, its log and the socket notify.sock there.
//
// Locks: Supervisor.mu and keeper.mu are leaves, and are not held across I/O.
package supervisor
