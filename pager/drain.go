package pager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A pager that was asked to drain says so in its directory, so that its successor goes on
// with it: if it is killed, what starts it again does not know that it was on its way out.
// One that drains because of a signal is not: it is stopped, and who starts it later wants
// it to serve. The file names the host's boot. What was left by an earlier one is of VMMs that are gone,
// and nobody waits for the end of their pager any more.
const drainFile = "draining"

// bootID tells this boot of the host from every other.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// rememberDrain has a successor drain as well.
func (p *Pager) rememberDrain() error {
	id, err := bootID()
	if err == nil {
		err = os.WriteFile(filepath.Join(p.dir, drainFile), []byte(id+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("a successor of this pager would not drain: %w", err)
	}
	return nil
}

// wasDraining reports whether the pager before this one was draining when it died.
func (p *Pager) wasDraining() (bool, error) {
	text, err := os.ReadFile(filepath.Join(p.dir, drainFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	id, idErr := bootID()
	return strings.TrimSpace(string(text)) == id, errors.Join(err, idErr)
}

// resumeDrain drains what a draining pager has left, if it has left anything. A disk that
// fails here is no reason to leave guests without a pager.
func (p *Pager) resumeDrain() {
	was, err := p.wasDraining()
	if was && p.Health().Sessions > 0 {
		p.log.Info("draining, as the pager before this one", "sessions", p.Health().Sessions)
		p.Drain()
		return
	}
	if err = errors.Join(err, p.forgetDrain()); err != nil {
		p.log.Warn("it is not known whether the pager before this one was draining; if it was, drain this one again", "error", err)
	}
}

// forgetDrain is for a pager that is drained, or begins anew.
func (p *Pager) forgetDrain() error {
	err := os.Remove(filepath.Join(p.dir, drainFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
