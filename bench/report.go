package bench

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
)

// Report is what a group found. Its JSON form is a contract: fields are added and
// never renamed.
type Report struct {
	Environment Environment `json:"environment"`
	// Cases has one row per figure, in a fixed order, also for those that could
	// not be measured.
	Cases []Case `json:"cases"`
}

// Case is one figure.
type Case struct {
	// Name is unique among all groups and never changes.
	Name string `json:"name"`
	// Value is nil when the case was skipped.
	Value *float64 `json:"value,omitempty"`
	Unit  string   `json:"unit"`
	// Limit is the largest value that is promised, nil where nothing is.
	Limit *float64 `json:"limit"`
	// Holds says whether the value keeps the limit; nil without either of them.
	Holds *bool `json:"holds,omitempty"`
	// Detail says what the value was made of.
	Detail string `json:"detail"`
	// Skipped says why there is no value.
	Skipped string `json:"skipped,omitempty"`
}

// measured fills in a value.
func (c Case) measured(value float64, detail string, args ...any) Case {
	c.Value, c.Detail = &value, fmt.Sprintf(detail, args...)
	if c.Limit != nil {
		holds := value <= *c.Limit
		c.Holds = &holds
	}
	return c
}

// skip fills in why there is no value.
func (c Case) skip(reason error) Case {
	c.Skipped = reason.Error()
	return c
}

// limited makes a case with a limit.
func limited(name, unit string, limit float64) Case {
	return Case{Name: name, Unit: unit, Limit: &limit}
}

// unlimited makes a case that only informs.
func unlimited(name, unit string) Case {
	return Case{Name: name, Unit: unit}
}

// WriteTable writes the report for a person.
func (r Report) WriteTable(out io.Writer) error {
	e := r.Environment
	fmt.Fprintf(out, "faultline %s, %s, Linux %s, %d CPUs (%s), %d MiB of memory\n\n",
		e.Faultline, e.Go, e.Kernel, e.CPUs, e.CPUModel, e.MemoryBytes>>20)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CASE\tVALUE\tUNIT\tLIMIT\tHOLDS")
	for _, c := range r.Cases {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", c.Name, number(c.Value), c.Unit, number(c.Limit), c.verdict())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, c := range r.Cases {
		text := c.Detail
		if c.Skipped != "" {
			text = "not measured: " + c.Skipped
		}
		if _, err := fmt.Fprintf(out, "\n%s: %s\n", c.Name, text); err != nil {
			return err
		}
	}
	return nil
}

func (c Case) verdict() string {
	switch {
	case c.Skipped != "":
		return "skipped"
	case c.Holds == nil:
		return "-"
	case *c.Holds:
		return "yes"
	default:
		return "NO"
	}
}

func number(value *float64) string {
	if value == nil {
		return "-"
	}
	return strconv.FormatFloat(*value, 'f', -1, 64)
}
