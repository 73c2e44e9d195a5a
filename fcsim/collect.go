package fcsim

import (
	"runtime"
	"runtime/debug"
	rtmetrics "runtime/metrics"
)

const (
	// memoryLimit is where the runtime would collect on its own, in bytes. A
	// collection may then hang, and running out of memory would be no better.
	memoryLimit = 1 << 30
	// collectAbove is the size of the heap, in bytes, that makes a safe point
	// collect.
	collectAbove = 6 << 20
	// vmmThreads is how many goroutines other than vCPUs may be in a page fault,
	// or busy, at once: the VMM, the API's connections, the console.
	vmmThreads = 6
)

// tameRuntime keeps the collector from running where it could meet a goroutine in
// a page fault. It stops the world and must run before guest memory exists.
func tameRuntime() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
}

// raiseProcs gives every thread that may wait in a page fault a P to wait with.
// Like tameRuntime it must run before guest memory exists.
func raiseProcs(vcpus int) {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), vcpus+vmmThreads))
}

// collect runs the collector if the heap is worth it and nobody is in guest
// memory. It is called with c.mu held, so that no vCPU can enter, by a vCPU's step
// that is out of guest memory (self 1) or by the VMM (self 0).
func (c *cpus) collect(self int) {
	if c.inside <= self && heapSize() > collectAbove {
		runtime.GC()
	}
}

// tidy is the safe point after each request. A machine whose VMM is busy may be
// in guest memory; another request will come.
func (m *machine) tidy() {
	if !m.mu.TryLock() {
		return
	}
	defer m.mu.Unlock()
	if m.cpus != nil {
		m.cpus.mu.Lock()
		defer m.cpus.mu.Unlock()
		m.cpus.collect(0)
	}
}

// heapSize does not stop the world, as runtime.ReadMemStats would.
func heapSize() uint64 {
	sample := []rtmetrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	rtmetrics.Read(sample)
	return sample[0].Value.Uint64()
}
