package pager

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/faultline-vm/faultline/internal/faulter"
	"github.com/faultline-vm/faultline/pager/control"
)

// TestAgainstAModel lets four threads of a guest read, write and give back pages at
// random, each thread its own share of the pages, while reads from the image take
// random times and the cache is smaller than the image. A plain byte array says what
// each access must see.
func TestAgainstAModel(t *testing.T) {
	const pages, threads, steps = 1024, 4, 150
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			p := newTestPager(t, MinCacheBytes)
			manifest, model := sealed(t, pages, int(seed), func(page int) bool { return page%5 != 0 })
			vmm := startFaulter(t, pagesOf(pages/4), pagesOf(pages*3/4))
			create(t, p, control.SessionRequest{ID: "a", Image: manifest})
			withReader(t, p, "a", func(offset int64) error {
				// Some reads overlap a REMOVE, a retry or each other.
				time.Sleep(time.Duration(offset/4096*2654435761%7) * 50 * time.Microsecond)
				return nil
			})
			s, _ := p.Session("a")
			if err := vmm.Handshake(s.Socket); err != nil {
				t.Fatal(err)
			}
			var threadsDone sync.WaitGroup
			for thread := range threads {
				threadsDone.Go(func() {
					r := rand.New(rand.NewPCG(seed, uint64(thread)))
					for range steps {
						if err := step(r, vmm, model, thread*pages/threads, (thread+1)*pages/threads); err != nil {
							t.Errorf("thread %d: %v", thread, err)
							return
						}
					}
				})
			}
			threadsDone.Wait()
			if !t.Failed() {
				wantMemory(t, vmm, model)
			}
			s, err := p.Session("a")
			if err != nil || s.State != control.Serving {
				t.Errorf("session %+v, %v", s, err)
			}
		})
	}
}

// step does one random thing to pages from..to of a guest and of its model.
func step(r *rand.Rand, vmm *faulter.Process, model []byte, from, to int) error {
	first := from + r.IntN(to-from)
	last := min(to, first+1+r.IntN(8))
	part := model[first*control.PageSize : last*control.PageSize]
	at := uint64(first * control.PageSize)
	switch r.IntN(4) {
	case 0:
		if err := vmm.Remove(at, uint64(len(part))); err != nil {
			return err
		}
		clear(part)
	case 1:
		offset, data := r.IntN(len(part)-64), pageBytes(r.IntN(1000), 3)[:64]
		if err := vmm.Write(at+uint64(offset), data); err != nil {
			return err
		}
		copy(part[offset:], data)
	default:
		got, err := vmm.Read(at, uint64(len(part)))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, part) {
			return fmt.Errorf("pages %d to %d differ from the model", first, last)
		}
	}
	return nil
}

// The fault path must not allocate: what it allocates per fault, the collector pays
// for with every guest's latency.
func TestFaultsDoNotAllocate(t *testing.T) {
	const pages = 16384
	p := newTestPager(t, pages*control.PageSize*2)
	manifest, content := sealed(t, pages, 1, evenPages)
	warm := startFaulter(t, pagesOf(pages))
	attach(t, p, warm, control.SessionRequest{ID: "warm", Image: manifest})
	wantMemory(t, warm, content)
	vmm := startFaulter(t, pagesOf(pages))
	attach(t, p, vmm, control.SessionRequest{ID: "a", Image: manifest})
	offsets := make([]uint64, pages)
	for i := range offsets {
		offsets[i] = uint64(i) * control.PageSize
	}
	call := vmm.StartTouch(0, offsets[:1], false) // starts what starts only once
	if _, err := call.Wait(); err != nil {
		t.Fatal(err)
	}
	before := processStats().HeapObjects
	if _, err := vmm.Touch(0, offsets[1:], false); err != nil {
		t.Fatal(err)
	}
	allocated := processStats().HeapObjects - before
	// The answer of the child, with 16,383 times in it, costs some objects.
	if perFault := float64(allocated) / (pages - 1); perFault > 0.05 {
		t.Errorf("%d objects were allocated for %d faults", allocated, pages-1)
	}
	if st, _ := p.Session("a"); st.Stats.Faults < pages {
		t.Errorf("only %d faults were served", st.Stats.Faults)
	}
}
