package pager

import (
	"sync"
	"sync/atomic"

	"github.com/faultline-vm/faultline/pager/control"
)

// pageCache is the page cache that all sessions share. It holds 4 KiB pages of
// layers, keyed by the layer's id and the page's offset in it, so two sessions
// share a page exactly if it is the same layer's.
//
// Why a second cache beside the kernel's: a hit needs no read call and no second
// copy, and it stays right when the layer's file is damaged later. Pages are read
// into it once and then copied from it into any number of guests.
//
// Pages lie in one anonymous mapping outside the Go heap, cut into slots; indexes
// are pointer-free, so the collector never looks at them. Memory is bounded by the
// number of slots and is taken from the host only as slots are used. A page that
// somebody copies from, or reads into, is pinned and is not evicted. Eviction is
// CLOCK: a hand goes round, spares a slot that was used since its last visit once.
//
// The life of a slot:
//
//	free ──acquire──▶ loading ──commit──▶ valid ──evict──▶ loading (another page)
//	  ▲──────────abandon──┘
//
// Lock order: a shard's lock is a leaf; it is never held across a read, an ioctl
// or another lock.
type pageCache struct {
	shards    []cacheShard
	maxBytes  uint64
	hits      atomic.Uint64
	misses    atomic.Uint64
	evictions atomic.Uint64
}

// cacheKey names a page by content identity.
type cacheKey struct {
	layer [16]byte
	page  uint64
}

// hash spreads keys over shards and buckets. Layer ids are random already.
func (k *cacheKey) hash() uint64 {
	h := k.page*0x9e3779b97f4a7c15 ^ uint64(k.layer[0]) ^ uint64(k.layer[5])<<8 ^ uint64(k.layer[10])<<16 ^ uint64(k.layer[15])<<24
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}

// slotState is the state of a slot; see pageCache.
type slotState uint8

const (
	slotFree slotState = iota
	slotLoading
	slotValid
)

// slotMeta describes one slot. Slots of one bucket are chained by next, which
// holds the number of a slot plus one; 0 ends the chain.
type slotMeta struct {
	key   cacheKey
	next  uint32
	pins  uint16
	state slotState
	used  bool // since the hand's last visit
}

type cacheShard struct {
	mu      sync.Mutex
	loaded  sync.Cond  // a load of this shard ended
	meta    []slotMeta // protected by mu
	buckets []uint32   // protected by mu; power of two
	hand    uint32     // protected by mu; next slot to look at for eviction
	fresh   uint32     // protected by mu; slots from here on were never used
	pages   []byte     // slot i is pages[i*PageSize:]; content protected by pins

	_ [64]byte // shards are locked by different threads
}

// Number of shards of a cache that is large enough to be divided.
const cacheShards = 16

// newPageCache makes a cache of at most maxBytes of pages. The mapping is only
// reserved; Close gives it back.
func newPageCache(maxBytes uint64) (*pageCache, error) {
	slots := maxBytes / control.PageSize
	n := uint64(cacheShards)
	if slots < cacheShards*64 {
		n = 1
	}
	c := &pageCache{shards: make([]cacheShard, n), maxBytes: slots / n * n * control.PageSize}
	for i := range c.shards {
		if err := c.shards[i].init(uint32(slots / n)); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

func (s *cacheShard) init(slots uint32) (err error) {
	s.loaded.L = &s.mu
	buckets := uint32(1)
	for buckets < slots {
		buckets *= 2
	}
	if s.pages, err = offHeap[byte](int(slots) * control.PageSize); err != nil {
		return err
	}
	if s.meta, err = offHeap[slotMeta](int(slots)); err != nil {
		return err
	}
	s.buckets, err = offHeap[uint32](int(buckets))
	return err
}

// Close gives the memory back. No page may be pinned any more.
func (c *pageCache) Close() {
	for i := range c.shards {
		s := &c.shards[i]
		freeOffHeap(s.pages)
		freeOffHeap(s.meta)
		freeOffHeap(s.buckets)
		s.pages, s.meta, s.buckets = nil, nil, nil
	}
}

// acquired is what acquire found.
type acquired uint8

const (
	cacheHit  acquired = iota // the page is there, pinned: release it
	cacheLoad                 // the caller must read the page into the slot: commit or abandon it
	cacheBusy                 // somebody else is reading it, and the caller would not wait
	cacheFull                 // every slot is pinned: read into a buffer of your own
)

// pin is a slot that its holder may read (hit) or must fill (load).
type pin struct {
	shard *cacheShard
	slot  uint32
	data  []byte // PageSize bytes
}

// acquire looks a page up. Of several who miss it at once, one gets cacheLoad and
// the others wait for it, or get cacheBusy when wait is false; when the load is
// abandoned, one of the waiters takes it over.
func (c *pageCache) acquire(key cacheKey, wait bool) (pin, acquired) {
	hash := key.hash()
	s := &c.shards[hash%uint64(len(c.shards))]
	bucket := uint32(hash>>32) & uint32(len(s.buckets)-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		slot, found := s.find(bucket, key)
		if !found {
			break
		}
		m := &s.meta[slot]
		if m.state == slotValid {
			m.pins++
			m.used = true
			c.hits.Add(1)
			return s.pin(slot), cacheHit
		}
		if !wait {
			return pin{}, cacheBusy
		}
		s.loaded.Wait()
	}
	slot, ok := s.take(c)
	if !ok {
		return pin{}, cacheFull
	}
	c.misses.Add(1)
	s.meta[slot] = slotMeta{key: key, next: s.buckets[bucket], pins: 1, state: slotLoading}
	s.buckets[bucket] = slot + 1
	return s.pin(slot), cacheLoad
}

func (s *cacheShard) pin(slot uint32) pin {
	at := int(slot) * control.PageSize
	return pin{shard: s, slot: slot, data: s.pages[at : at+control.PageSize : at+control.PageSize]}
}

func (s *cacheShard) find(bucket uint32, key cacheKey) (slot uint32, ok bool) {
	for next := s.buckets[bucket]; next != 0; next = s.meta[next-1].next {
		if s.meta[next-1].key == key {
			return next - 1, true
		}
	}
	return 0, false
}

// take returns a slot that holds nothing and stands in no chain, evicting a page
// if need be.
func (s *cacheShard) take(c *pageCache) (uint32, bool) {
	if int(s.fresh) < len(s.meta) {
		s.fresh++
		return s.fresh - 1, true
	}
	for range 2 * len(s.meta) {
		slot := s.hand
		if s.hand++; int(s.hand) == len(s.meta) {
			s.hand = 0
		}
		m := &s.meta[slot]
		switch {
		case m.pins > 0:
		case m.state == slotFree:
			return slot, true
		case m.used:
			m.used = false
		default:
			s.unchain(slot)
			c.evictions.Add(1)
			return slot, true
		}
	}
	return 0, false
}

// unchain takes a slot out of its bucket's chain and marks it free.
func (s *cacheShard) unchain(slot uint32) {
	m := &s.meta[slot]
	link := &s.buckets[uint32(m.key.hash()>>32)&uint32(len(s.buckets)-1)]
	for *link != slot+1 {
		link = &s.meta[*link-1].next
	}
	*link = m.next
	*m = slotMeta{}
}

// commit publishes a page that was loaded. The pin stays: release it after use.
func (p pin) commit() {
	p.shard.mu.Lock()
	p.shard.meta[p.slot].state = slotValid
	p.shard.mu.Unlock()
	p.shard.loaded.Broadcast()
}

// abandon gives a slot back whose page could not be loaded.
func (p pin) abandon() {
	p.shard.mu.Lock()
	p.shard.unchain(p.slot)
	p.shard.mu.Unlock()
	p.shard.loaded.Broadcast()
}

// release unpins a page. The zero pin needs none.
func (p pin) release() {
	if p.shard == nil {
		return
	}
	p.shard.mu.Lock()
	p.shard.meta[p.slot].pins--
	p.shard.mu.Unlock()
}

// stats describes the cache.
func (c *pageCache) stats() control.CacheStats {
	st := control.CacheStats{MaxBytes: c.maxBytes, Hits: c.hits.Load(), Misses: c.misses.Load(), Evictions: c.evictions.Load()}
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		st.UsedBytes += uint64(s.fresh) * control.PageSize
		s.mu.Unlock()
	}
	return st
}
