package instance

import (
	"fmt"
	"slices"
	"strings"
)

// Operation is something that can be asked of an instance.
type Operation string

// The operations. Create is not among them: it needs no instance.
const (
	OpStart           Operation = "start"
	OpStop            Operation = "stop"
	OpForceStop       Operation = "stop --force"
	OpPause           Operation = "pause"
	OpResume          Operation = "resume"
	OpStandby         Operation = "standby"
	OpRestore         Operation = "restore"
	OpFork            Operation = "fork"
	OpSnapshot        Operation = "snapshot create"
	OpRestoreSnapshot Operation = "snapshot restore"
	OpDelete          Operation = "delete"
)

// Operations lists all operations in the order of the documentation.
func Operations() []Operation {
	return []Operation{OpStart, OpStop, OpForceStop, OpPause, OpResume, OpStandby, OpRestore, OpFork, OpSnapshot, OpRestoreSnapshot, OpDelete}
}

// SettledStates lists the states in which no operation is under way. In Starting
// and Stopping an operation waits for the one that is.
func SettledStates() []State { return []State{Stopped, Running, Paused, Standby, Failed, Unknown} }

// transitions is the table of state × operation. An operation that is missing in a
// state is refused there with the code wrong_state. "" is an instance that no
// longer exists.
var transitions = map[State]map[Operation]State{
	Stopped: {
		OpStart: Running, OpStop: Stopped, OpForceStop: Stopped, OpRestoreSnapshot: Running, OpDelete: "",
	},
	Running: {
		OpStop: Stopped, OpForceStop: Stopped, OpPause: Paused, OpResume: Running, OpStandby: Standby,
		OpFork: Running, OpSnapshot: Running, OpDelete: "",
	},
	Paused: {
		OpStop: Stopped, OpForceStop: Stopped, OpPause: Paused, OpResume: Running, OpStandby: Standby,
		OpFork: Paused, OpSnapshot: Paused, OpDelete: "",
	},
	Standby: {
		OpForceStop: Stopped, OpStandby: Standby, OpRestore: Running, OpFork: Standby, OpSnapshot: Standby,
		OpRestoreSnapshot: Running, OpDelete: "",
	},
	Failed: {
		OpStart: Running, OpStop: Stopped, OpForceStop: Stopped, OpRestore: Running, OpRestoreSnapshot: Running, OpDelete: "",
	},
	Unknown: {OpForceStop: Stopped, OpDelete: ""},
}

// Allowed returns the operations that are possible in a settled state.
func Allowed(s State) []Operation {
	return slices.DeleteFunc(Operations(), func(op Operation) bool { _, ok := transitions[s][op]; return !ok })
}

// Outcome returns the state that an operation leads to, empty for an instance that
// no longer exists, and whether it is allowed. A restore with Paused leads to
// Paused instead of Running.
func Outcome(s State, op Operation) (State, bool) {
	next, ok := transitions[s][op]
	return next, ok
}

// Table returns the table of states and operations as Markdown.
func Table() string {
	var b strings.Builder
	b.WriteString("| operation |")
	for _, s := range SettledStates() {
		fmt.Fprintf(&b, " %s |", s)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(SettledStates())) + "\n")
	for _, op := range Operations() {
		fmt.Fprintf(&b, "| %s |", op)
		for _, s := range SettledStates() {
			next, allowed := Outcome(s, op)
			switch {
			case !allowed:
				b.WriteString(" – |")
			case next == "":
				b.WriteString(" (gone) |")
			default:
				fmt.Fprintf(&b, " %s |", next)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
