package instance

import (
	"context"
	"fmt"
	"net/http"

	"github.com/faultline-vm/faultline/capture"
	"github.com/faultline-vm/faultline/internal/problem"
	"github.com/faultline-vm/faultline/memimage"
)

func (b Backend) validate() error {
	switch b {
	case File, Uffd, Auto:
		return nil
	default:
		return badRequest(fmt.Sprintf("use %s, %s or %s", File, Uffd, Auto), "backend %.80q", string(b))
	}
}

// plan is how a capture is going to be restored.
type plan struct {
	choice Choice
	// flatten tells that the image has to become flat first.
	flatten bool
}

// wants are the facts that decide on a backend.
type wants struct {
	asked    Backend // of the request; empty: none
	standard Backend // of the configuration
	huge     bool    // 2 MiB pages
	identity bool    // an overlay page
	layers   int     // of the image
	pager    bool    // there is one to ask
}

// choose decides on a backend. A backend that was asked for is binding; one that is
// configured gives way to what is possible.
func (w wants) choose() (plan, error) {
	only := ""
	switch {
	case w.huge:
		only = "2 MiB pages can only be restored through the pager"
	case w.identity:
		only = "an identity page can only be served by the pager"
	}
	stack := fmt.Sprintf("the image is a stack of %d layers", w.layers)
	use := func(b Backend, flatten bool, why string) (plan, error) {
		if b == Uffd && !w.pager {
			return plan{}, problem.New(http.StatusConflict, CodeNoBackend, "configure a pager", "the backend uffd is needed (%s), and there is no pager", why)
		}
		return plan{choice: Choice{Backend: b, Why: why}, flatten: flatten}, nil
	}
	switch backend := firstOf(w.asked, w.standard); {
	case only != "" && w.asked == File:
		return plan{}, problem.New(http.StatusConflict, CodeNoBackend, "use the backend uffd or auto", "the backend file was asked for, but %s", only)
	case only != "":
		return use(Uffd, false, only)
	case backend == Uffd:
		return use(Uffd, false, "uffd is "+w.origin())
	case backend == File && w.layers > 1:
		return use(File, true, fmt.Sprintf("file is %s; %s, which was flattened", w.origin(), stack))
	case backend == File:
		return use(File, false, "file is "+w.origin())
	case w.layers > 1 && w.pager:
		return use(Uffd, false, "auto: "+stack+", which the VMM cannot map as it is")
	case w.layers > 1:
		return use(File, true, "auto: "+stack+" and there is no pager, so it was flattened")
	default:
		return use(File, false, "auto: the image is flat, and the kernel shares its clean pages among all who map it")
	}
}

func (w wants) origin() string {
	if w.asked != "" {
		return "what was asked for"
	}
	return "what is configured"
}

func firstOf(a, b Backend) Backend {
	if a != "" {
		return a
	}
	return b
}

// plan decides how to restore a capture for an instance.
func (m *Manager) plan(asked Backend, spec Spec, fork bool, c capture.Capture) (plan, error) {
	if asked != "" {
		if err := asked.validate(); err != nil {
			return plan{}, err
		}
	}
	image, err := memimage.ReadManifest(c.ManifestPath())
	if err != nil {
		return plan{}, err
	}
	return wants{
		asked: asked, standard: m.defaultBackend(), huge: spec.HugePages,
		identity: fork && spec.IdentityAddress != 0, layers: len(image.Layers), pager: m.pagers.available(),
	}.choose()
}

// flatten makes the image of a capture flat, in its owner's directory. Those who
// have it open keep the stack. Both before and after, the capture is whole: there is
// nothing to undo.
func flatten(ctx context.Context, c capture.Capture) error {
	if _, err := memimage.Flatten(ctx, memimage.FlattenOptions{Manifest: c.ManifestPath()}); err != nil {
		return err
	}
	_, err := memimage.Prune(c.ManifestPath())
	return err
}
