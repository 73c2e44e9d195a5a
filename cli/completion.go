package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// completionTime bounds how long a shell waits for the daemon at a press of Tab.
const completionTime = 2 * time.Second

// completionScripts ask this program for the candidates: they know nothing of its
// commands, and names of instances come from the daemon. An empty answer means file
// names.
var completionScripts = map[string]string{
	"bash": `_faultline() {
  local IFS=$'\n'
  COMPREPLY=($(faultline complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _faultline faultline
`,
	"zsh": `#compdef faultline
_faultline() {
  local -a candidates
  candidates=("${(@f)$(faultline complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "${candidates[1]}" ]]; then compadd -- "${candidates[@]}"; else _files; fi
}
compdef _faultline faultline
`,
	"fish": `function __faultline_complete
  set -l words (commandline -opc) (commandline -ct)
  faultline complete -- $words[2..-1] 2>/dev/null
end
complete -c faultline -a '(__faultline_complete)'
`,
}

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: ${enum}."`
}

func (c completionCommand) Run(s streams) error {
	_, err := fmt.Fprint(s.out, completionScripts[c.Shell])
	return err
}

// completeCommand is what the scripts call: it prints what the last word may become.
type completeCommand struct {
	Words []string `arg:"" optional:"" passthrough:"" help:"The words after the program's name, the last one unfinished."`
}

func (c completeCommand) Run(ctx context.Context, app *kong.Context, s streams) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	for _, candidate := range candidates(app.Model.Node, words, func(kind string) []string { return daemonNames(ctx, words, kind) }) {
		if _, err := fmt.Fprintln(s.out, candidate); err != nil {
			return err
		}
	}
	return nil
}

// candidates returns what the last of the words may become. Names returns the names
// of a kind that a positional argument is tagged with.
func candidates(node *kong.Node, words []string, names func(kind string) []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	position := 0 // among the arguments of the command
	var pending *kong.Flag
	for _, word := range words[:len(words)-1] {
		switch {
		case pending != nil:
			pending = nil
		case strings.HasPrefix(word, "-"):
			pending = valueFlag(node, word)
		default:
			if child := child(node, word); child != nil {
				node = child
			} else {
				position++
			}
		}
	}
	last := words[len(words)-1]
	var all []string
	switch {
	case pending != nil:
		all = enum(pending.Value)
	case strings.HasPrefix(last, "-"):
		for n := node; n != nil; n = n.Parent {
			for _, f := range n.Flags {
				if !f.Hidden {
					all = append(all, "--"+f.Name)
				}
			}
		}
	case len(node.Children) > 0:
		for _, c := range node.Children {
			if !c.Hidden {
				all = append(all, c.Name)
			}
		}
	case len(node.Positional) > 0:
		value := node.Positional[min(position, len(node.Positional)-1)]
		if all = enum(value); all == nil {
			if kind := value.Tag.Get("complete"); kind != "" {
				all = names(kind)
			}
		}
	}
	all = slices.DeleteFunc(all, func(c string) bool { return !strings.HasPrefix(c, last) })
	slices.Sort(all)
	return slices.Compact(all)
}

// valueFlag returns the flag that takes the next word as its value, if word is one.
func valueFlag(node *kong.Node, word string) *kong.Flag {
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if (word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short)) && !f.IsBool() && !f.IsCounter() {
				return f
			}
		}
	}
	return nil
}

func child(node *kong.Node, name string) *kong.Node {
	for _, c := range node.Children {
		if c.Name == name || slices.Contains(c.Aliases, name) {
			return c
		}
	}
	return nil
}

// enum returns the values that are allowed, nil where any is.
func enum(value *kong.Value) []string {
	if value.Enum == "" {
		return nil
	}
	return value.EnumSlice()
}
