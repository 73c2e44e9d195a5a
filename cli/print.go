package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/instance"
	"github.com/faultline-vm/faultline/internal/problem"
)

// printInstance prints what an operation led to. Warnings go to standard error.
func printInstance(s streams, i instance.Instance, asJSON bool) error {
	warn(s, i.Warnings)
	if asJSON {
		return printJSON(s, i)
	}
	line := fmt.Sprintf("%s (%s) is %s", i.Name, i.ID, i.State)
	if i.Backend != nil {
		line += fmt.Sprintf(", memory by %s: %s", i.Backend.Backend, i.Backend.Why)
	}
	_, err := fmt.Fprintln(s.out, line)
	return err
}

func warn(s streams, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(s.err, "faultline: warning: %s\n", w)
	}
}

// listFlags are those of a command that lists what the daemon knows.
type listFlags struct {
	daemonAddress
	Quiet bool `short:"q" help:"Print names only."`
	JSON  bool `name:"json" help:"Print JSON."`
}

// print prints a list that was asked for: value as JSON, or a table of which the
// first row is the heading and the first column the name.
func (f listFlags) print(s streams, value any, err error, rows [][]string) error {
	switch {
	case err != nil:
		return err
	case f.JSON:
		return printJSON(s, value)
	case f.Quiet:
		for _, row := range rows[1:] {
			fmt.Fprintln(s.out, row[0])
		}
		return nil
	}
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}

func instanceTable(list []instance.Instance) [][]string {
	table := [][]string{{"NAME", "ID", "STATE", "VCPUS", "MEMORY", "BACKEND", "PID", "AGE", "REASON"}}
	for _, i := range list {
		pid := "-"
		if i.PID != 0 {
			pid = fmt.Sprint(i.PID)
		}
		table = append(table, []string{i.Name, i.ID, string(i.State), fmt.Sprint(i.Spec.VCPUs),
			humanize.IBytes(i.Spec.MemoryBytes), backend(i), pid, age(i.Created), i.Reason})
	}
	return table
}

// backend is where an instance has its memory from.
func backend(i instance.Instance) string {
	if i.Backend == nil {
		return "-"
	}
	return string(i.Backend.Backend)
}

// age is how long something exists.
func age(since time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return strings.TrimSpace(humanize.RelTime(since, time.Now(), "", ""))
}

// describe prints rows of a name and a value. Empty values are left out.
func describe(s streams, rows [][2]string) error {
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if row[1] != "" {
			fmt.Fprintf(table, "%s\t%s\n", row[0], row[1])
		}
	}
	return table.Flush()
}

// printFound prints one thing that was asked for.
func printFound[T any](s streams, asJSON bool, found T, err error, rows func(T) [][2]string) error {
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(s, found)
	}
	return describe(s, rows(found))
}

func instanceRows(i instance.Instance) [][2]string {
	rows := [][2]string{
		{"name", i.Name}, {"id", i.ID}, {"state", string(i.State)}, {"reason", i.Reason},
		{"operation", string(i.Operation)}, {"created", i.Created.Format(time.RFC3339)}, {"directory", i.Dir},
	}
	if i.PID != 0 {
		rows = append(rows, [2]string{"process", fmt.Sprint(i.PID)})
	}
	if i.Backend != nil {
		rows = append(rows, [2]string{"backend", fmt.Sprintf("%s: %s", i.Backend.Backend, i.Backend.Why)})
	}
	rows = append(rows, [2]string{"session", i.Session})
	if o := i.Origin; o != nil {
		from := "capture " + o.Capture
		if o.Instance != "" {
			from += " of instance " + o.Instance
		}
		if o.Snapshot != "" {
			from += " in snapshot " + o.Snapshot
		}
		rows = append(rows, [2]string{"fork of", from})
	}
	rows = append(rows, specRows(i.Spec)...)
	rows = append(rows, captureRows(i.Capture)...)
	for _, w := range i.Warnings {
		rows = append(rows, [2]string{"warning", w})
	}
	return rows
}

func specRows(spec instance.Spec) [][2]string {
	memory := humanize.IBytes(spec.MemoryBytes)
	if spec.HugePages {
		memory += " in pages of 2 MiB"
	}
	rows := [][2]string{
		{"vcpus", fmt.Sprint(spec.VCPUs)}, {"memory", memory},
		{"kernel", spec.Kernel}, {"initrd", spec.Initrd}, {"boot args", spec.BootArgs},
	}
	for _, d := range spec.Drives {
		text := d.ID + " from " + d.Source
		if d.ReadOnly {
			text += ", read-only"
		}
		if d.Root {
			text += ", root"
		}
		rows = append(rows, [2]string{"drive", text})
	}
	for _, n := range spec.Networks {
		text := n.ID + " on " + n.Tap
		if n.MAC != "" {
			text += ", " + n.MAC
		}
		rows = append(rows, [2]string{"network", text})
	}
	if spec.VsockCID != 0 {
		rows = append(rows, [2]string{"vsock", fmt.Sprintf("context id %d", spec.VsockCID)})
	}
	if spec.Balloon {
		rows = append(rows, [2]string{"balloon", "yes"})
	}
	if spec.IdentityAddress != 0 {
		rows = append(rows, [2]string{"identity page", fmt.Sprintf("%#x", spec.IdentityAddress)})
	}
	return rows
}

func captureRows(c *capture.Record) [][2]string {
	if c == nil {
		return nil
	}
	return [][2]string{
		{"capture", fmt.Sprintf("%s, %s, of %s", c.ID, c.Kind, c.Time.Format(time.RFC3339))},
		{"paused for", fmt.Sprintf("%.1f ms", c.PauseMS)},
		{"taken with", strings.TrimSpace(fmt.Sprintf("%s %s %s", c.Hypervisor.Name, c.Hypervisor.Version, c.Hypervisor.SnapshotVersion))},
		{"taken on", c.CPUModel + ", Linux " + c.HostKernel},
	}
}

// missing is the error of a deletion that found nothing.
func missing(kind, ref string) error {
	return problem.New(404, instance.CodeNotFound, "list them to see names and ids, or use --if-exists", "no %s %q", kind, ref)
}
