package instance

import "strings"

// opCreate makes an instance. It is no entry of the table of states.
const opCreate Operation = "create"

// opDeleteSnapshot removes a snapshot.
const opDeleteSnapshot Operation = "snapshot delete"

// The steps of operations. Each is a noun or verb that an error message can name.
const (
	stepAdmit     = "wait for admission"
	stepIntent    = "record the intent"
	stepFiles     = "take over files"
	stepPublish   = "publish"
	stepFlatten   = "flatten the memory image"
	stepLink      = "link the capture"
	stepDisks     = "place the disks"
	stepTaps      = "make the taps"
	stepSession   = "open a session"
	stepBoot      = "boot"
	stepLoad      = "load the capture"
	stepPause     = "pause"
	stepResume    = "resume"
	stepAnnounce  = "reconfigure the guest"
	stepCapture   = "capture"
	stepRecord    = "record"
	stepKill      = "end the VMM"
	stepClose     = "close the session"
	stepForget    = "remove captures"
	stepSettle    = "record the end"
	stepRemove    = "remove the directory"
	stepFork      = "make the directory"
	stepSnapshot  = "record the snapshot"
	stepSupersede = "remove the capture before"
)

// operationSteps lists, in order, the steps of each operation that it may meet. It
// is what failpoints and the tests that break every step go by. Fork and snapshot
// create of an instance that runs begin with the steps of its capture.
var operationSteps = map[Operation][]string{
	opCreate:          {stepFiles, stepRecord, stepPublish},
	OpStart:           {stepAdmit, stepIntent, stepTaps, stepBoot, stepRecord, stepForget},
	OpStop:            {stepIntent, stepKill, stepClose, stepForget, stepSettle},
	OpForceStop:       {stepIntent, stepKill, stepClose, stepForget, stepSettle},
	OpPause:           {stepPause},
	OpResume:          {stepResume, stepAnnounce, stepRecord},
	OpStandby:         {stepIntent, stepPause, stepCapture, stepRecord, stepKill, stepClose, stepSettle, stepSupersede},
	OpRestore:         {stepAdmit, stepIntent, stepFlatten, stepDisks, stepTaps, stepSession, stepLoad, stepResume, stepAnnounce, stepRecord},
	OpFork:            {stepIntent, stepCapture, stepRecord, stepSupersede, stepFlatten, stepAdmit, stepFork, stepTaps, stepSession, stepLoad, stepResume, stepAnnounce, stepSettle},
	OpSnapshot:        {stepIntent, stepCapture, stepRecord, stepSupersede, stepLink, stepSnapshot, stepPublish},
	OpRestoreSnapshot: {stepAdmit, stepIntent, stepLink, stepFlatten, stepDisks, stepTaps, stepSession, stepLoad, stepResume, stepAnnounce, stepRecord, stepSupersede},
	OpDelete:          {stepIntent, stepKill, stepClose, stepRemove},
	opDeleteSnapshot:  {stepRemove},
}

// point returns the failpoint in front of a step.
func point(op Operation, step string) string {
	return strings.ReplaceAll(strings.ReplaceAll(string(op)+"/"+step, " --", "-"), " ", "-")
}

// behind is added to a step's failpoint for the one behind it.
const behind = "/done"

// Failpoints returns the names of all failpoints of this package, for
// failpoint.Parse: two for each step of each operation, in front of it and, with
// "/done" added, behind it.
func Failpoints() []string {
	var names []string
	for _, op := range append([]Operation{opCreate, opDeleteSnapshot}, Operations()...) {
		for _, step := range operationSteps[op] {
			names = append(names, point(op, step), point(op, step)+behind)
		}
	}
	return names
}
