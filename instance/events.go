package instance

import (
	"context"
	"sync"
	"time"
)

// EventKind says what an event is about.
type EventKind string

// The kinds of events.
const (
	EventCreated         EventKind = "created"          // an instance exists
	EventDeleted         EventKind = "deleted"          // an instance exists no longer
	EventState           EventKind = "state"            // an instance's state has changed
	EventStep            EventKind = "step"             // an operation begins its next step
	EventDone            EventKind = "done"             // an operation has ended; Error tells how
	EventSnapshotCreated EventKind = "snapshot-created" // Snapshot exists
	EventSnapshotDeleted EventKind = "snapshot-deleted" // Snapshot exists no longer
)

// Event is something that happened to an instance or a snapshot.
type Event struct {
	// Seq numbers the events of one Manager without gaps, from 1.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Kind EventKind `json:"kind"`
	// Instance is the id, and Name the name; empty where only a snapshot is meant.
	Instance string `json:"instance,omitempty"`
	Name     string `json:"name,omitempty"`
	// Snapshot is a snapshot's id.
	Snapshot string `json:"snapshot,omitempty"`
	// State and Reason are set for EventState.
	State  State  `json:"state,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Operation is set for EventStep and EventDone, Step for EventStep.
	Operation Operation `json:"operation,omitempty"`
	Step      string    `json:"step,omitempty"`
	// Request names the request that a step or the end of an operation belongs to,
	// see [WithRequest]; empty where nobody has named it.
	Request string `json:"request,omitempty"`
	// Error is what an operation that is done failed with.
	Error string `json:"error,omitempty"`
}

type requestKey struct{}

// WithRequest returns a context for operations whose steps and ends are to be told
// from those of others: their events have this name.
func WithRequest(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, requestKey{}, name)
}

// RequestOf returns what WithRequest has put into a context, or "".
func RequestOf(ctx context.Context) string {
	name, _ := ctx.Value(requestKey{}).(string)
	return name
}

// subscriberBuffer is how many events a subscriber may be behind.
const subscriberBuffer = 1024

// Subscription is a stream of events. Close it.
type Subscription struct {
	// C gets the events in order. It is closed by Close, by the end of the Manager,
	// and when the subscriber is more than a thousand events behind: events are
	// never left out silently.
	C      <-chan Event
	broker *broker
	send   chan Event
}

// Close ends the stream. It may be called more than once.
func (s *Subscription) Close() { s.broker.remove(s) }

// broker hands events to subscribers. Its lock is a leaf.
type broker struct {
	mu     sync.Mutex
	seq    uint64                     // protected by mu
	subs   map[*Subscription]struct{} // protected by mu
	closed bool                       // protected by mu
}

func (b *broker) publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seq++
	e.Seq, e.Time = b.seq, time.Now().UTC()
	for s := range b.subs {
		select {
		case s.send <- e:
		default:
			delete(b.subs, s)
			close(s.send)
		}
	}
}

func (b *broker) subscribe() *Subscription {
	send := make(chan Event, subscriberBuffer)
	s := &Subscription{C: send, broker: b, send: send}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(send)
		return s
	}
	if b.subs == nil {
		b.subs = make(map[*Subscription]struct{})
	}
	b.subs[s] = struct{}{}
	return s
}

func (b *broker) remove(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.subs[s]; ok {
		delete(b.subs, s)
		close(s.send)
	}
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subs {
		delete(b.subs, s)
		close(s.send)
	}
}
