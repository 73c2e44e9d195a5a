package demo

import (
	"context"
	"errors"
	"fmt"

	"github.com/faultline-vm/faultline/pager/client"
	"github.com/faultline-vm/faultline/pager/supervisor"
)

// startPager starts the pager and returns what stops it. With the backend file
// there is none.
func (d *demo) startPager(ctx context.Context) (*client.Client, func() error, error) {
	if d.cfg.Backend == File {
		return nil, func() error { return nil }, nil
	}
	binary, err := FindPager(d.cfg.PagerBinary)
	if err != nil {
		return nil, nil, err
	}
	var process interface {
		Stop(context.Context) error
	}
	var pager *client.Client
	options := supervisor.Options{Binary: binary, DataDir: d.dir}
	if d.cfg.KillPager > 0 {
		s, startErr := d.superviseAndKill(ctx, options)
		if err = startErr; err == nil {
			process, pager = s, s.Client
		}
	} else {
		p, startErr := supervisor.Start(ctx, options)
		if err = startErr; err == nil {
			process, pager = p, p.Client
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("start the pager: %w", err)
	}
	endWatch := d.watch(ctx, pager)
	stop := func() error {
		endWatch()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		return errors.Join(d.killer.end(ctx, pager), process.Stop(ctx))
	}
	return pager, stop, nil
}

// watch starts the configuration's watcher of the pager and returns what ends it.
func (d *demo) watch(ctx context.Context, pager *client.Client) (end func()) {
	if d.cfg.WatchPager == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.cfg.WatchPager(ctx, pager)
	}()
	return func() {
		cancel()
		<-done
	}
}

// FindPager returns the path of the pager: the configured one, else where a build
// or an installation puts it, which is beside this program or on PATH.
func FindPager(configured string) (string, error) { return supervisor.FindBinary(configured) }
