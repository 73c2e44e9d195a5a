package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/faultline-vm/faultline/instance"
)

// key is one key of the file.
type key struct {
	path string // with dots
	// doc is its comment in the sample.
	doc string
	// value points to it in a configuration.
	value func(c *Config) any
}

// keys are all keys in the order of the sample. Those of one section stand together.
var keys = []key{
	{"data_dir", "Absolute. Everything that Faultline keeps is below. One daemon has it at a time.", func(c *Config) any { return &c.DataDir }},
	{"api.socket", `Where the daemon listens, absolute; "" = faultline.sock in the data directory.`, func(c *Config) any { return &c.API.Socket }},
	{"api.socket_group", `Group that may use the socket (its mode is 0660), by name or number; "" = the daemon's own.`, func(c *Config) any { return &c.API.SocketGroup }},
	{"hypervisor.prefer", "auto | firecracker | fcsim. auto takes Firecracker where it can run, else the simulator.", func(c *Config) any { return &c.Hypervisor.Prefer }},
	{"hypervisor.firecracker_binary", `"" = on PATH.`, func(c *Config) any { return &c.Hypervisor.FirecrackerBinary }},
	{"hypervisor.firecracker_arguments", "Added to the arguments of every VMM, such as --no-seccomp.", func(c *Config) any { return &c.Hypervisor.FirecrackerArguments }},
	{"hypervisor.simulator_binary", `"" = beside the daemon's own program, else on PATH.`, func(c *Config) any { return &c.Hypervisor.SimulatorBinary }},
	{BackendKey, "file | uffd | auto. Concerns restores from now on.", func(c *Config) any { return &c.Hypervisor.FirecrackerSnapshotMemoryBackend }},
	{"hypervisor.firecracker_uffd_cache_max_bytes", "Bounds the pager's page cache. With a unit; not more than the host's memory.", func(c *Config) any { return &c.Hypervisor.FirecrackerUffdCacheMaxBytes }},
	{"hypervisor.firecracker_max_concurrent_restores", "How many VMMs are brought up at the same time; the others wait.", func(c *Config) any { return &c.Hypervisor.FirecrackerMaxConcurrentRestores }},
	{"pager.binary", `"" = beside the daemon's own program, else on PATH.`, func(c *Config) any { return &c.Pager.Binary }},
	{"pager.manager", "auto | child | systemd. What keeps the pager running.", func(c *Config) any { return &c.Pager.Manager }},
	{"pager.watchdog", "A child pager that gives no sign of life for this long is killed and started again; 0s = never.", func(c *Config) any { return &c.Pager.Watchdog }},
	{"network.tap_template", `Names of the taps that are made for instances, with {id} and {n}, such as t{id}-{n}; "" = callers name taps that exist.`, func(c *Config) any { return &c.Network.TapTemplate }},
	{"network.reconfigure_command", "Program and arguments that tell a fork's guest its new address; [] = none.", func(c *Config) any { return &c.Network.ReconfigureCommand }},
	{"network.reconfigure_vsock_port", "Or the vsock port on which the guest listens for it; 0 = none.", func(c *Config) any { return &c.Network.ReconfigureVsockPort }},
	{"network.reconfigure_timeout", "Bounds either, like 10s.", func(c *Config) any { return &c.Network.ReconfigureTimeout }},
	{"capture.stage_dir", "On tmpfs, absolute. Captures of running instances go there first.", func(c *Config) any { return &c.Capture.StageDir }},
	{"capture.stage_budget", "What they may take there, all together; 0B = they go straight to disk.", func(c *Config) any { return &c.Capture.StageBudget }},
	{"capture.stage_reserve", "Available memory of the host that they leave alone.", func(c *Config) any { return &c.Capture.StageReserve }},
	{"images.flatten_depth", "Images of more layers than this get them merged in the background; 0 = none do.", func(c *Config) any { return &c.Images.FlattenDepth }},
	{"images.flatten_superseded_percent", "So do images of whose data pages more percent than this are hidden by layers above; 0 = none do.", func(c *Config) any { return &c.Images.FlattenSupersededPercent }},
	{"images.checksums", "true | false. New layers get checksums in the background, for faultline image verify.", func(c *Config) any { return &c.Images.Checksums }},
}

// variable returns the name of a key's environment variable.
func (k key) variable() string {
	return "FAULTLINE_" + strings.ToUpper(strings.ReplaceAll(k.path, ".", "_"))
}

// set gives the key the value of a node.
func (k key) set(c *Config, n *yaml.Node) error {
	if list, ok := k.value(c).(*[]string); ok {
		return setList(list, n)
	}
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("wants one value, not a list or a section")
	}
	if n.ShortTag() == "!!null" {
		return fmt.Errorf("has no value: give one, or leave the key out")
	}
	switch v := k.value(c).(type) {
	case *string:
		if n.ShortTag() != "!!str" {
			return fmt.Errorf("wants a text: put %.40q in quotes", n.Value)
		}
		*v = n.Value
	case *instance.Backend:
		*v = instance.Backend(n.Value)
	case *int:
		number, err := strconv.Atoi(n.Value)
		if err != nil {
			return fmt.Errorf("wants a number, not %.40q", n.Value)
		}
		*v = number
	case *bool:
		if n.Value != "true" && n.Value != "false" {
			return fmt.Errorf("wants true or false, not %.40q", n.Value)
		}
		*v = n.Value == "true"
	case *Size:
		size, err := parseSize(n.Value)
		if err != nil {
			return err
		}
		*v = size
	case *time.Duration:
		d, err := time.ParseDuration(n.Value)
		if err != nil {
			return fmt.Errorf("wants a time like 10s, not %.40q", n.Value)
		}
		*v = d
	default:
		return fmt.Errorf("has no reader for %T", v)
	}
	return nil
}

func setList(list *[]string, n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return fmt.Errorf("wants a list like [one, two]")
	}
	out := make([]string, 0, len(n.Content))
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode || item.ShortTag() != "!!str" {
			return fmt.Errorf("wants a list of texts: put %.40q in quotes", item.Value)
		}
		out = append(out, item.Value)
	}
	*list = out
	return nil
}

// text returns the key's value as it would stand in the file.
func (k key) text(c *Config) string {
	switch v := k.value(c).(type) {
	case *string:
		return quote(*v)
	case *instance.Backend:
		return quote(string(*v))
	case *time.Duration:
		return v.String()
	case *[]string:
		items := make([]string, len(*v))
		for i, item := range *v {
			items[i] = quote(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case *Size:
		return v.String()
	case *int:
		return strconv.Itoa(*v)
	case *bool:
		return strconv.FormatBool(*v)
	default:
		return ""
	}
}

// quote writes a text bare where that is read as the same text.
func quote(s string) string {
	bare := s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/.") == ""
	if bare {
		var n yaml.Node
		if yaml.Unmarshal([]byte(s), &n) == nil && len(n.Content) == 1 && n.Content[0].ShortTag() == "!!str" {
			return s
		}
	}
	return strconv.Quote(s)
}

// Encode returns the configuration as a file that is read as the same.
func (c Config) Encode() []byte { return encode(&c, false) }

// Sample returns a file with every key, its default and what it means.
func Sample() []byte {
	c := Default()
	return encode(&c, true)
}

func encode(c *Config, comments bool) []byte {
	var b strings.Builder
	section := ""
	for _, k := range keys {
		indent, name := "", k.path
		if head, rest, nested := strings.Cut(k.path, "."); nested {
			if head != section {
				fmt.Fprintf(&b, "%s:\n", head)
				section = head
			}
			indent, name = "  ", rest
		}
		if comments {
			fmt.Fprintf(&b, "%s# %s\n", indent, k.doc)
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, name, k.text(c))
	}
	return []byte(b.String())
}
