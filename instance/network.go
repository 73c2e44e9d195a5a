package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/faultline-vm/faultline/hypervisor"
)

// ValidateTapTemplate checks a Config.TapTemplate.
func ValidateTapTemplate(template string) error {
	if template == "" {
		return nil
	}
	name := expandTap(template, "0123456789abcdef", maxNetworks-1)
	if !tapPattern.MatchString(name) || !strings.Contains(template, "{id}") || !strings.Contains(template, "{n}") {
		return badRequest(`use "{id}" and "{n}" in it, like "t{id}-{n}"`, "the tap template %.80q makes %.80q, which is no name of at most 15 bytes that differs by instance and interface", template, name)
	}
	return nil
}

func expandTap(template, id string, n int) string {
	return strings.NewReplacer("{id}", id[:8], "{n}", strconv.Itoa(n)).Replace(template)
}

// withTaps returns the specification with a tap for every interface: the one given,
// else, if it has none or it is not to be kept, one by the template. Own are the
// names of those by the template, which are the Manager's to make and to remove.
func (m *Manager) withTaps(spec Spec, id string, given []Tap, keep bool) (out Spec, own []string, err error) {
	spec.Networks = slices.Clone(spec.Networks)
	for _, t := range given {
		i := slices.IndexFunc(spec.Networks, func(n Network) bool { return n.ID == t.ID })
		if i < 0 || !tapPattern.MatchString(t.Tap) {
			return Spec{}, nil, badRequest("name an interface of the instance and a tap of 1 to 15 letters, digits, dots, dashes and underscores", "tap %.80q for the interface %.80q", t.Tap, t.ID)
		}
	}
	for i := range spec.Networks {
		n := &spec.Networks[i]
		at := slices.IndexFunc(given, func(t Tap) bool { return t.ID == n.ID })
		switch {
		case at >= 0:
			n.Tap = given[at].Tap
		case keep && n.Tap != "":
		case m.cfg.TapTemplate != "":
			n.Tap = expandTap(m.cfg.TapTemplate, id, i)
			if m.cfg.Taps != nil {
				own = append(own, n.Tap)
			}
		default:
			return Spec{}, nil, badRequest("name one, or configure a template for taps", "the interface %s needs a tap of its own", n.ID)
		}
	}
	return spec, own, nil
}

// makeTaps makes the taps that are the instance's own. Once made they stay until it
// is deleted: what somebody has configured about them outlives a standby. A reboot of
// the host takes them, so every start and restore looks. The record names them, so
// whoever finds the instance after a crash knows which to remove.
func (r *run) makeTaps(rec record) error {
	if len(rec.Taps) == 0 {
		return nil
	}
	return r.step(stepTaps, func(context.Context) error {
		if r.m.cfg.Taps == nil {
			return fmt.Errorf("the taps %v are to be made, and this manager makes none; run it as the one that created the instance", rec.Taps)
		}
		for _, tap := range rec.Taps {
			made, err := r.m.cfg.Taps.Make(tap)
			if err != nil {
				return err
			}
			if made {
				r.onUndo(func(context.Context) error { return r.m.cfg.Taps.Remove(tap) })
			}
		}
		return nil
	})
}

// removeTaps removes the taps that are an instance's own. Its VMM is gone.
func (m *Manager) removeTaps(rec record) error {
	if m.cfg.Taps == nil {
		return nil
	}
	var errs []error
	for _, tap := range rec.Taps {
		errs = append(errs, m.cfg.Taps.Remove(tap))
	}
	return errors.Join(errs...)
}

// sweepTaps removes the taps that no instance names: those of an instance that was
// deleted while its record could not be read. A record that cannot be read now may
// name any of them.
func (m *Manager) sweepTaps() error {
	if m.cfg.Taps == nil {
		return nil
	}
	named := map[string]bool{}
	for _, e := range m.entries {
		if e.brokenReason() != "" {
			return nil
		}
		for _, tap := range e.record().Taps {
			named[tap] = true
		}
	}
	list, err := m.cfg.Taps.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, tap := range list {
		if !named[tap] {
			m.cfg.Logger.Warn("removing a tap without an instance", "tap", tap)
			errs = append(errs, m.cfg.Taps.Remove(tap))
		}
	}
	return errors.Join(errs...)
}

// overrides are the taps of an instance in the words of a restore. A capture knows
// the taps of the instance that it was taken of.
func overrides(spec Spec) []hypervisor.NetworkOverride {
	var list []hypervisor.NetworkOverride
	for _, n := range spec.Networks {
		list = append(list, hypervisor.NetworkOverride{ID: n.ID, Tap: n.Tap})
	}
	return list
}

func taps(spec Spec) []Tap {
	list := []Tap{}
	for _, n := range spec.Networks {
		list = append(list, Tap{ID: n.ID, Tap: n.Tap})
	}
	return list
}

// tapVariables are the environment of a reconfiguration command.
func tapVariables(spec Spec) []string {
	var list []string
	for _, n := range spec.Networks {
		list = append(list, fmt.Sprintf("FAULTLINE_TAP_%s=%s", n.ID, n.Tap))
	}
	return list
}
