package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/memimage"
)

type imageCommand struct {
	List    imageListCommand    `cmd:"" name:"ls" help:"List memory images."`
	Inspect imageInspectCommand `cmd:"" help:"Describe a memory image and its layers."`
	Verify  imageVerifyCommand  `cmd:"" help:"Read a memory image and compare it with its checksums and indexes."`
	Flatten imageFlattenCommand `cmd:"" help:"Merge the layers of a memory image into one."`
	Import  imageImportCommand  `cmd:"" help:"Make a memory image of files that Firecracker wrote elsewhere."`
	Export  imageExportCommand  `cmd:"" help:"Write the memory of an image to one flat file, as Firecracker's File backend restores it."`
}

// imagePath is the directory of an image, or its memory.json.
type imagePath string

func (p imagePath) manifest() string {
	if info, err := os.Stat(string(p)); err == nil && info.IsDir() {
		return filepath.Join(string(p), memimage.ManifestName)
	}
	return string(p)
}

type imageListCommand struct {
	Images  []imagePath `arg:"" optional:"" type:"path" help:"Images to list; default is every one below the data directory."`
	DataDir string      `type:"path" default:"/var/lib/faultline" env:"FAULTLINE_DATA_DIR" help:"The data directory."`
	JSON    bool        `name:"json" help:"Print JSON instead of a table."`
}

func (c imageListCommand) Run(s streams) error {
	manifests, err := c.manifests()
	if err != nil {
		return err
	}
	images := []memimage.Inspection{}
	var errs []error
	for _, path := range manifests {
		found, err := memimage.Inspect(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && len(c.Images) == 0:
			// It was removed while we looked.
		case err != nil:
			errs = append(errs, err)
		default:
			images = append(images, found)
		}
	}
	if c.JSON {
		return errors.Join(append(errs, printJSON(s, struct {
			Images []memimage.Inspection `json:"images"`
		}{images}))...)
	}
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tMEMORY\tLAYERS\tON DISK\tSUPERSEDED\tOWNERS")
	for _, i := range images {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%.0f %%\t%d\n", filepath.Dir(i.Path), humanize.IBytes(i.Size), len(i.Layers),
			humanize.IBytes(i.DiskBytes), 100*i.Superseded, owners(i))
	}
	return errors.Join(append(errs, table.Flush())...)
}

// manifests returns the manifests to list.
func (c imageListCommand) manifests() (found []string, err error) {
	for _, p := range c.Images {
		found = append(found, p.manifest())
	}
	if len(c.Images) > 0 {
		return found, nil
	}
	if _, err := os.Stat(c.DataDir); err != nil {
		return nil, fmt.Errorf("data directory: %w; name another with --data-dir, or name images", err)
	}
	for _, pattern := range []string{"instances/*/captures/*", "snapshots/*"} {
		// What is being made or removed begins with a dot, which * matches here.
		matches, err := filepath.Glob(filepath.Join(c.DataDir, pattern, memimage.ManifestName))
		if err != nil {
			return nil, fmt.Errorf("data directory %s: %w", c.DataDir, err)
		}
		for _, path := range matches {
			if filepath.Base(filepath.Dir(path))[0] != '.' {
				found = append(found, path)
			}
		}
	}
	return found, nil
}

// owners is the number of images that share the oldest layer, this one included.
func owners(i memimage.Inspection) uint64 { return i.Layers[0].Names }

type imageInspectCommand struct {
	Image imagePath `arg:"" type:"path" help:"The image's directory, or its memory.json."`
	SVG   string    `name:"svg" type:"path" placeholder:"FILE" help:"Also draw into FILE which layer each region comes from."`
	JSON  bool      `name:"json" help:"Print JSON instead of a table."`
}

// inspected is the result as JSON.
type inspected struct {
	memimage.Inspection
	// Capture tells the origin of the memory, where it is that of a capture.
	Capture *capture.Record `json:"capture,omitempty"`
}

func (c imageInspectCommand) Run(s streams) error {
	image, err := memimage.Inspect(c.Image.manifest())
	if err != nil {
		return err
	}
	info := inspected{Inspection: image}
	switch of, err := capture.Open(filepath.Dir(info.Path)); {
	case err == nil:
		info.Capture = &of.Record
	case !errors.Is(err, capture.ErrNoCapture):
		warn(s, []string{err.Error()})
	}
	if c.SVG != "" {
		if err := drawMap(info.Path, c.SVG); err != nil {
			return err
		}
	}
	if c.JSON {
		return printJSON(s, info)
	}
	fmt.Fprintf(s.out, "%s of memory in %d layers, %s on disk, %s zero pages, %.1f %% of the data pages superseded\n%s\n",
		humanize.IBytes(info.Size), len(info.Layers), humanize.IBytes(info.DiskBytes), humanize.Comma(int64(info.Zero)), 100*info.Superseded,
		info.origin())
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "LAYER\tKIND\tDATA\tZERO\tABSENT\tON TOP\tON DISK\tNAMES\tDIGEST")
	for _, l := range info.Layers {
		digest := "-"
		if l.Digest != "" {
			digest = string(l.Digest[:min(len(l.Digest), 19)]) + "…"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%d\t%s\n", l.ID, l.Kind, l.Data, l.Zero, l.Absent, l.Contributes,
			humanize.IBytes(l.DiskBytes), l.Names, digest)
	}
	return table.Flush()
}

// origin is a line about the capture, or nothing.
func (i inspected) origin() string {
	if i.Capture == nil {
		return ""
	}
	over := ""
	if i.Capture.Base != "" {
		over = " over " + i.Capture.Base
	}
	return fmt.Sprintf("capture %s, taken %s as a %s layer%s by %s %s\n", i.Capture.ID, i.Capture.Time.Format(time.RFC3339), i.Capture.Kind, over,
		i.Capture.Hypervisor.Name, i.Capture.Hypervisor.Version)
}

// drawMap writes the page map of an image into a file.
func drawMap(manifest, path string) (err error) {
	img, err := memimage.Open(manifest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("draw the page map: %w", err)
	}
	return errors.Join(memimage.MapSVG(file, img), file.Close())
}

// meter reports progress of long work, at most every few seconds.
func meter(s streams, what string) memimage.Progress {
	const interval = 2 * time.Second
	last := time.Now()
	return func(done, total uint64) {
		if total == 0 || time.Since(last) < interval {
			return
		}
		last = time.Now()
		fmt.Fprintf(s.err, "%s: %d %%\n", what, 100*done/total)
	}
}

type imageExportCommand struct {
	Image imagePath `arg:"" type:"path" help:"The image's directory, or its memory.json."`
	File  string    `arg:"" type:"path" help:"The flat file; nothing may be there."`
	JSON  bool      `name:"json" help:"Print JSON."`
}

func (c imageExportCommand) Run(ctx context.Context, s streams) error {
	if err := memimage.Export(ctx, c.Image.manifest(), c.File, meter(s, "export")); err != nil {
		return err
	}
	info, err := os.Stat(c.File)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s, struct {
			File string `json:"file"`
			Size int64  `json:"size"`
		}{c.File, info.Size()})
	}
	_, err = fmt.Fprintf(s.out, "wrote %s of memory to %s\n", humanize.IBytes(uint64(info.Size())), c.File)
	return err
}
