package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds the file; a real one has a few dozen lines.
const maxFile = 1 << 20

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	// Line is the line in the file, from 1; 0 where it has none: a key that was left
	// out, or a variable.
	Line int
	// Key is the key with dots, or empty for a fault of the file as a whole.
	Key string
	// Variable is the environment variable that the value came from, or empty.
	Variable string
	// Message says what is wrong and what to do.
	Message string
}

func (f Fault) String() string {
	where := ""
	switch {
	case f.Variable != "":
		where = f.Variable + ": "
	case f.Line > 0 && f.Key != "":
		where = fmt.Sprintf("line %d: %s: ", f.Line, f.Key)
	case f.Line > 0:
		where = fmt.Sprintf("line %d: ", f.Line)
	case f.Key != "":
		where = f.Key + ": "
	}
	return where + f.Message
}

// Error is all that is wrong with a configuration.
type Error struct {
	// File is the path, or what stands for it.
	File   string
	Faults []Fault // at least one, by line
}

// Error lists all faults, one a line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = e.File + ": " + f.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the file at path and the environment, as os.Environ gives it. An empty
// path reads the environment alone. Errors of the content are an *Error.
func Load(path string, environ []string) (Config, error) {
	if path == "" {
		return Parse("environment", nil, environ)
	}
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, data, environ)
}

// Parse is Load for the content of a file. Name stands for the path in errors.
func Parse(name string, data []byte, environ []string) (Config, error) {
	p := parser{config: Default(), seen: map[string]Fault{}}
	p.file(data)
	p.environment(environ)
	for _, f := range p.config.faults() {
		where, set := p.seen[f.Key]
		if set && where.Message != "" {
			continue // the value was not even read
		}
		f.Line, f.Variable = where.Line, where.Variable
		p.faults = append(p.faults, f)
	}
	if len(p.faults) > 0 {
		slices.SortStableFunc(p.faults, func(a, b Fault) int { return a.Line - b.Line })
		return Config{}, &Error{File: name, Faults: p.faults}
	}
	return p.config, nil
}

type parser struct {
	config Config
	faults []Fault
	// seen says where each key's value came from, and with a message that it could
	// not be read.
	seen map[string]Fault
}

func (p *parser) fault(line int, key, format string, args ...any) {
	p.faults = append(p.faults, Fault{Line: line, Key: key, Message: fmt.Sprintf(format, args...)})
}

func (p *parser) file(data []byte) {
	if len(data) > maxFile {
		p.fault(0, "", "it is longer than %d bytes", maxFile)
		return
	}
	d := yaml.NewDecoder(strings.NewReader(string(data)))
	var document yaml.Node
	switch err := d.Decode(&document); {
	case errors.Is(err, io.EOF):
		return // an empty file
	case err != nil:
		p.fault(lineOf(err), "", "it is not YAML: %v", err)
		return
	}
	var second yaml.Node
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		p.fault(second.Line, "", "a second document follows: use one")
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return // comments alone
	}
	p.section("", root)
}

// lineOf finds the line in an error of the YAML library, which tells it in its text
// alone.
func lineOf(err error) int {
	_, rest, _ := strings.Cut(err.Error(), "line ")
	line := 0
	_, _ = fmt.Sscanf(rest, "%d", &line)
	return line
}

// section reads the keys below prefix, which is empty or ends in a dot.
func (p *parser) section(prefix string, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		p.fault(n.Line, strings.TrimSuffix(prefix, "."), "wants keys and values")
		return
	}
	before := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		path := prefix + name.Value
		if line, twice := before[path]; twice {
			p.fault(name.Line, path, "is there twice, first in line %d", line)
			continue
		}
		before[path] = name.Line
		if value.Kind == yaml.AliasNode || name.Kind != yaml.ScalarNode {
			p.fault(name.Line, path, "use plain keys and values, no aliases")
			continue
		}
		if at := slices.IndexFunc(keys, func(k key) bool { return k.path == path }); at >= 0 {
			p.read(keys[at], value, Fault{Line: name.Line, Key: path})
			continue
		}
		if slices.ContainsFunc(keys, func(k key) bool { return strings.HasPrefix(k.path, path+".") }) {
			if value.ShortTag() != "!!null" {
				p.section(path+".", value)
			}
			continue
		}
		p.fault(name.Line, path, "unknown key%s", similar(path))
	}
}

func (p *parser) read(k key, value *yaml.Node, where Fault) {
	if err := k.set(&p.config, value); err != nil {
		where.Message = err.Error()
		p.faults = append(p.faults, where)
	}
	p.seen[k.path] = where
}

// similar proposes the key that has the same name in another section.
func similar(path string) string {
	last := path[strings.LastIndexByte(path, '.')+1:]
	for _, k := range keys {
		if k.path[strings.LastIndexByte(k.path, '.')+1:] == last {
			return ": is " + k.path + " meant?"
		}
	}
	return ""
}

func (p *parser) environment(environ []string) {
	for _, k := range keys {
		for _, entry := range environ {
			name, text, _ := strings.Cut(entry, "=")
			if name != k.variable() || text == "" {
				continue
			}
			where := Fault{Key: k.path, Variable: name}
			// A variable is right whatever the file says.
			p.faults = slices.DeleteFunc(p.faults, func(f Fault) bool { return f.Key == k.path })
			p.read(k, variableNode(k, text), where)
		}
	}
}

// variableNode returns the value of a variable. Texts are taken as they are: nobody
// puts quotes into a variable.
func variableNode(k key, text string) *yaml.Node {
	var c Config
	if _, list := k.value(&c).(*[]string); !list {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil || len(document.Content) != 1 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	}
	return document.Content[0]
}
