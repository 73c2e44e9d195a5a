package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/faultline-vm/faultline/api/client"
	"github.com/faultline-vm/faultline/instance"
)

type logsCommand struct {
	daemonAddress
	Instance string `arg:"" complete:"instance" help:"The instance: its name, its id, or the beginning of the id."`
	Follow   bool   `short:"f" help:"Go on with what is added until the VMM ends."`
	Tail     int    `short:"n" help:"The number of lines to begin with; default is all."`
	Source   string `enum:"console,vmm" default:"console" help:"What to print: console (what the guest writes) or vmm (what its VMM logs)."`
	JSON     bool   `name:"json" help:"Print one JSON object per line."`
}

func (c logsCommand) Run(ctx context.Context, s streams) error {
	// No progress: it would be drawn into the guest's output.
	d := client.New(c.socket())
	defer d.Close()
	out := s.out
	if c.JSON {
		lines := &jsonLines{s: s}
		defer lines.end()
		out = lines
	}
	return explain(interrupted(ctx, d.Logs(ctx, c.Instance, client.LogOptions{Source: c.Source, Tail: c.Tail, Follow: c.Follow}, out)))
}

// jsonLines prints each line that is written to it as a JSON object.
type jsonLines struct {
	s    streams
	rest []byte // a line that is not whole yet
}

func (j *jsonLines) Write(text []byte) (int, error) {
	j.rest = append(j.rest, text...)
	for {
		line, rest, whole := bytes.Cut(j.rest, []byte("\n"))
		if !whole {
			return len(text), nil
		}
		if err := j.print(line); err != nil {
			return 0, err
		}
		j.rest = rest
	}
}

func (j *jsonLines) print(line []byte) error {
	return printJSON(j.s, map[string]string{"line": strings.TrimSuffix(string(line), "\r")})
}

// end prints what stands behind the last line feed.
func (j *jsonLines) end() {
	if len(j.rest) > 0 {
		_ = j.print(j.rest) // the reader is gone
	}
}

type sendCommand struct {
	daemonAddress
	Instance string `arg:"" complete:"instance" help:"The instance: its name, its id, or the beginning of the id."`
	Text     string `arg:"" help:"What to type into its serial console."`
	Enter    bool   `default:"true" negatable:"" help:"Press Enter behind it."`
	JSON     bool   `name:"json" help:"Print JSON."`
}

func (c sendCommand) Run(ctx context.Context, s streams) error {
	text := c.Text
	if c.Enter {
		text += "\n"
	}
	return c.ask(s, "send", func(d *client.Client) error {
		err := d.Send(ctx, c.Instance, []byte(text))
		if err == nil && c.JSON {
			err = printJSON(s, map[string]int{"sent": len(text)})
		}
		return err
	})
}

type eventsCommand struct {
	daemonAddress
	Instance string `help:"Only the events of this instance."`
	JSON     bool   `name:"json" help:"Print one JSON object per event."`
}

func (c eventsCommand) Run(ctx context.Context, s streams) error {
	d := client.New(c.socket())
	defer d.Close()
	err := d.Events(ctx, c.Instance, nil, func(e instance.Event) error {
		if c.JSON {
			return printJSON(s, e)
		}
		_, err := fmt.Fprintln(s.out, eventLine(e))
		return err
	})
	return explain(interrupted(ctx, err))
}

// interrupted takes an interrupt for the way to end what never ends by itself.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func eventLine(e instance.Event) string {
	words := []string{e.Time.Local().Format("15:04:05.000"), string(e.Kind)}
	for _, word := range []string{e.Name, e.Snapshot, string(e.State), string(e.Operation), e.Step} {
		if word != "" {
			words = append(words, word)
		}
	}
	line := strings.Join(words, " ")
	for _, why := range []string{e.Reason, e.Error} {
		if why != "" {
			line += ": " + why
		}
	}
	return line
}
