package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"github.com/faultline-vm/faultline/memimage"
)

type imageVerifyCommand struct {
	Image  imagePath `arg:"" type:"path" help:"The image's directory, or its memory.json."`
	Record bool      `help:"Record checksums of layers that have none, from what they hold now."`
	JSON   bool      `name:"json" help:"Print JSON instead of a table."`
}

// verification is the result as JSON.
type verification struct {
	Image  string       `json:"image"`
	OK     bool         `json:"ok"`
	Layers []layerCheck `json:"layers"`
}

type layerCheck struct {
	ID   memimage.LayerID `json:"id"`
	Path string           `json:"path"`
	OK   bool             `json:"ok"`
	// Checksums is false for a layer that has none: then only its zero pages
	// could be checked.
	Checksums bool            `json:"checksums"`
	Digest    memimage.Digest `json:"digest,omitempty"`
	Damaged   uint64          `json:"damaged_pages"`
	// Faults are at most the first hundred.
	Faults []pageFault `json:"faults,omitempty"`
	Error  string      `json:"error,omitempty"`
}

type pageFault struct {
	Page    uint64 `json:"page"`
	Problem string `json:"problem"`
}

// Run fails when something is damaged. That a layer has no checksums is said and is
// no failure.
func (c imageVerifyCommand) Run(ctx context.Context, s streams) error {
	manifest := c.Image.manifest()
	if c.Record {
		if _, err := memimage.WriteSums(ctx, manifest, meter(s, "checksums")); err != nil {
			return err
		}
	}
	found, err := memimage.Verify(ctx, manifest, meter(s, "verify"))
	if err != nil {
		return err
	}
	out := verification{Image: manifest, OK: found.Err() == nil}
	for _, l := range found.Layers {
		check := layerCheck{ID: l.ID, Path: l.Path, OK: l.Err == nil && l.Damaged == 0, Checksums: !l.NoSums, Digest: l.Digest, Damaged: l.Damaged}
		if l.Err != nil {
			check.Error = l.Err.Error()
		}
		for _, f := range l.Faults {
			check.Faults = append(check.Faults, pageFault{f.Page, f.Problem})
		}
		out.Layers = append(out.Layers, check)
	}
	if c.JSON {
		err = printJSON(s, out)
	} else {
		err = out.writeTable(s)
	}
	return errors.Join(err, found.Err())
}

func (v verification) writeTable(s streams) error {
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "LAYER\tRESULT\tDIGEST")
	for _, l := range v.Layers {
		result := "good"
		switch {
		case l.Error != "":
			result = "unusable"
		case l.Damaged > 0:
			result = fmt.Sprintf("damaged pages: %d", l.Damaged)
		case !l.Checksums:
			result = "no checksums; --record makes them"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", l.ID, result, l.Digest)
		for _, f := range l.Faults {
			fmt.Fprintf(table, "\tpage %d\t%s\n", f.Page, f.Problem)
		}
	}
	return table.Flush()
}

type imageFlattenCommand struct {
	Image         imagePath `arg:"" type:"path" help:"The image's directory, or its memory.json."`
	To            string    `type:"path" placeholder:"DIR" help:"Make a new image in DIR and leave this one as it is."`
	Prune         bool      `help:"Remove this image's names of the layers that were merged."`
	MaxDepth      int       `help:"Do it only if the image has more layers than this."`
	MaxSuperseded float64   `help:"Do it only if more than this share, from 0 to 1, of the data pages is hidden by layers above."`
	JSON          bool      `name:"json" help:"Print JSON."`
}

// Validate is called by the parser.
func (c imageFlattenCommand) Validate() error {
	if c.To != "" && c.Prune {
		return errors.New("--prune is about the image that --to leaves alone: use one of them")
	}
	return nil
}

// flattened is the result as JSON.
type flattened struct {
	Image string `json:"image"`
	// Merged tells whether there was anything to do, and Why what.
	Merged  bool             `json:"merged"`
	Why     string           `json:"why"`
	Layer   memimage.LayerID `json:"layer,omitempty"`
	Removed []string         `json:"removed,omitempty"`
}

func (c imageFlattenCommand) Run(ctx context.Context, s streams) error {
	manifest := c.Image.manifest()
	before, err := memimage.Inspect(manifest)
	if err != nil {
		return err
	}
	out := flattened{Image: manifest, Why: "it was asked for"}
	if c.MaxDepth > 0 || c.MaxSuperseded > 0 {
		out.Why = memimage.FlattenPolicy{MaxDepth: c.MaxDepth, MaxSuperseded: c.MaxSuperseded}.Due(before)
	}
	if len(before.Layers) == 1 && c.To == "" {
		out.Why = ""
	}
	if out.Merged = out.Why != ""; out.Merged {
		if err := c.flatten(ctx, s, &out); err != nil {
			return err
		}
	} else {
		out.Why = "it is as flat as it has to be"
	}
	if c.JSON {
		return printJSON(s, out)
	}
	if !out.Merged {
		_, err = fmt.Fprintf(s.out, "%s is left as it is: %s\n", out.Image, out.Why)
	} else {
		_, err = fmt.Fprintf(s.out, "merged %d layers of %s into layer %s of %s\n", len(before.Layers), manifest, out.Layer, out.Image)
	}
	return err
}

func (c imageFlattenCommand) flatten(ctx context.Context, s streams, out *flattened) error {
	o := memimage.FlattenOptions{Manifest: out.Image, Dir: c.To, Progress: meter(s, "flatten")}
	undo, err := makeImageDir(c.To)
	if err != nil {
		return err
	}
	done, err := memimage.Flatten(ctx, o)
	if err != nil {
		return errors.Join(err, undo())
	}
	out.Layer = done.Manifest.Layers[0].ID
	if c.To != "" {
		out.Image = imagePath(c.To).manifest()
	}
	if _, err := memimage.WriteSums(ctx, out.Image, meter(s, "checksums")); err != nil {
		return err
	}
	if c.Prune {
		out.Removed, err = memimage.Prune(out.Image)
	}
	return err
}

// makeImageDir makes the directory of a new image unless it exists, and returns
// what removes it again; that fails where something is in it by then.
func makeImageDir(dir string) (undo func() error, err error) {
	nothing := func() error { return nil }
	if dir == "" {
		return nothing, nil
	}
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		return func() error { return os.Remove(dir) }, nil
	case errors.Is(err, fs.ErrExist):
		return nothing, nil
	default:
		return nil, fmt.Errorf("make the image's directory: %w", err)
	}
}

type imageImportCommand struct {
	Memory  string   `required:"" type:"existingfile" help:"The memory file of a Full snapshot, sparse or dense."`
	Diff    []string `sep:"none" type:"existingfile" placeholder:"FILE" help:"The memory file of a Diff snapshot over it, with its holes; may be repeated, oldest first."`
	VMState string   `name:"vmstate" type:"existingfile" help:"The VM state that goes with the newest of these files."`
	To      string   `required:"" type:"path" placeholder:"DIR" help:"The image's directory; it is made unless it exists, and must hold no image."`
	JSON    bool     `name:"json" help:"Print JSON."`
}

func (c imageImportCommand) Run(ctx context.Context, s streams) error {
	undo, err := makeImageDir(c.To)
	if err != nil {
		return err
	}
	if _, err = memimage.Import(ctx, memimage.ImportOptions{Memory: c.Memory, Diffs: c.Diff, VMState: c.VMState, Dir: c.To}); err != nil {
		return errors.Join(err, undo())
	}
	manifest := imagePath(c.To).manifest()
	if _, err := memimage.WriteSums(ctx, manifest, meter(s, "checksums")); err != nil {
		return err
	}
	if c.JSON {
		info, err := memimage.Inspect(manifest)
		if err != nil {
			return err
		}
		return printJSON(s, info)
	}
	info, err := memimage.Inspect(manifest)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "imported %s of memory in %d layers to %s\n", humanize.IBytes(info.Size), len(info.Layers), c.To)
	return err
}
