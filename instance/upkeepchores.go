package instance

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/memimage"
)

// chore is a stack that something has to be done about.
type chore struct {
	image    keptImage // one that has it
	stack    memimage.Manifest
	spare    uint64 // bytes to leave free
	why      string // to merge it, or empty
	unsummed bool   // a layer has no checksums
}

// stands tells whether the image still has the stack.
func (c chore) stands() bool {
	now, err := memimage.ReadManifest(c.image.manifest)
	return err == nil && now.Stack() == c.stack.Stack()
}

// chores looks at all images and returns what there is to do, the shortest stacks
// first: what is done about them is done for all who went on from them.
func (u *upkeep) chores() []chore {
	settled := map[string]bool{}
	known := map[string]bool{}
	found := map[string]chore{}
	for _, image := range u.list() {
		m, err := memimage.ReadManifest(image.manifest)
		if err != nil {
			continue // it is being removed, or whoever restores it says what is wrong
		}
		stack := m.Stack()
		known[stack] = true
		key := image.manifest + " " + stack
		if u.settled[key] {
			settled[key] = true
			continue
		}
		c := chore{image: image, stack: m, spare: m.Size, why: u.due(image.manifest), unsummed: u.cfg.Checksums && lacksSums(image.manifest, m)}
		switch {
		case c.why == "" && !c.unsummed:
			settled[key] = true
		case time.Now().After(u.failed[stack].at):
			found[stack] = c
		}
	}
	u.settled = settled
	maps.DeleteFunc(u.failed, func(stack string, _ retry) bool { return !known[stack] })
	list := make([]chore, 0, len(found))
	for _, c := range found {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b chore) int {
		return cmp.Or(cmp.Compare(len(a.stack.Layers), len(b.stack.Layers)), cmp.Compare(a.image.manifest, b.image.manifest))
	})
	return list
}

// due returns why an image should be flattened, or "".
func (u *upkeep) due(manifest string) string {
	if u.cfg.Flatten == (memimage.FlattenPolicy{}) {
		return ""
	}
	info, err := memimage.Inspect(manifest)
	if err != nil {
		return ""
	}
	return u.cfg.Flatten.Due(info)
}

// lacksSums tells whether a layer of an image has no checksums.
func lacksSums(manifest string, m memimage.Manifest) bool {
	return slices.ContainsFunc(m.Layers, func(l memimage.LayerEntry) bool {
		_, err := os.Lstat(filepath.Join(filepath.Dir(manifest), filepath.FromSlash(memimage.SumsFile(l.ID))))
		return errors.Is(err, fs.ErrNotExist)
	})
}

// do does a chore, and returns how many owners have something of it. That the image
// has gone or changed meanwhile is no error.
func (u *upkeep) do(ctx context.Context, c chore) (owners int, err error) {
	if !c.stands() {
		return 0, nil
	}
	draft := filepath.Join(u.dir, upkeepDraft)
	if err := errors.Join(os.RemoveAll(draft), os.Mkdir(draft, 0o700)); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(draft)) }()
	if err := u.make(ctx, c, draft); err != nil {
		if !c.stands() {
			return 0, nil
		}
		return 0, err
	}
	var errs []error
	for _, image := range u.list() {
		adopted, err := u.give(ctx, image, c, draft)
		errs = append(errs, err)
		if adopted {
			owners++
		}
	}
	if c.why != "" && owners > 0 {
		u.count(func(s *UpkeepStats) { s.Flattened, s.Superseded = s.Flattened+1, s.Superseded+uint64(owners) })
		u.log.Info("flattened a memory image", "image", filepath.Dir(c.image.manifest), "layers", len(c.stack.Layers), "owners", owners, "why", c.why)
	}
	return owners, errors.Join(errs...)
}

// make makes in the draft what owners are going to get.
func (u *upkeep) make(ctx context.Context, c chore, draft string) error {
	stepAside := func(uint64, uint64) { u.pauses.wait(ctx) }
	if c.why != "" {
		if _, err := memimage.Flatten(ctx, memimage.FlattenOptions{Manifest: c.image.manifest, Dir: draft, Spare: c.spare, Progress: stepAside}); err != nil {
			return err
		}
	} else if _, err := memimage.ShareImage(ctx, c.image.manifest, draft); err != nil {
		return err
	}
	if !u.cfg.Checksums {
		return nil
	}
	written, err := memimage.WriteSums(ctx, filepath.Join(draft, memimage.ManifestName), stepAside)
	u.count(func(s *UpkeepStats) { s.Checksummed += uint64(len(written)) })
	return err
}

// give lets an image have what is in the draft, if it begins with the stack that this
// was made of. It reports whether it did. The end of ctx ends only the waiting: owners
// who do not get it would have it made again, each for itself.
func (u *upkeep) give(ctx context.Context, image keptImage, c chore, draft string) (given bool, err error) {
	if m, err := memimage.ReadManifest(image.manifest); err != nil || !m.BeginsWith(c.stack) {
		return false, nil
	}
	if err := image.gate.lockLast(ctx); err != nil {
		return false, err
	}
	defer image.gate.unlock()
	if !image.still() {
		return false, nil
	}
	shared, err := memimage.Supersede(context.WithoutCancel(ctx), memimage.SupersedeOptions{
		Manifest: image.manifest, Was: c.stack, From: filepath.Join(draft, memimage.ManifestName),
	})
	if errors.Is(err, memimage.ErrMismatch) {
		return false, nil // an operation has flattened it meanwhile
	}
	if err != nil {
		return false, err
	}
	var sharing capture.Sharing
	sharing.AddImage(shared)
	u.shared(sharing)
	if c.why == "" {
		return true, nil
	}
	_, err = memimage.Prune(image.manifest)
	return true, err
}
