package router

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// batch is what one fetch brought.
type batch struct {
	items     []item
	fetchedAt time.Time
	unsettled atomic.Int64
}

// item is one delivery on its way. It is settled when open reaches zero. Only the routing goroutine writes the fields
// below open, and only before it takes its own share of it away.
type item struct {
	definition.Delivery
	batch *batch
	// open counts what has to happen before the item is settled: routing it, and trying each start.
	open atomic.Int64

	outcome  definition.Outcome
	reject   *definition.Reject
	eventID  string
	matches  int // how many definitions it met
	attempts int // of a suspect
}

// newBatch counts what came and keeps it alive from now on.
func (r *Router) newBatch(deliveries []definition.Delivery) *batch {
	b := &batch{items: make([]item, len(deliveries)), fetchedAt: time.Now()}
	redelivered := 0.0
	for i, d := range deliveries {
		b.items[i].Delivery = d
		if d.Deliveries > 1 {
			redelivered++
		}
	}
	r.metrics.received.Add(float64(len(deliveries)))
	r.metrics.redelivered.Add(redelivered)
	r.metrics.pending.Set(float64(deliveries[len(deliveries)-1].Pending))
	r.hold(b)
	return b
}

// hold keeps the items of a batch alive until each of them is done.
func (r *Router) hold(b *batch) {
	b.unsettled.Store(int64(len(b.items)))
	for i := range b.items {
		b.items[i].batch = b
		b.items[i].open.Store(1)
	}
	r.held.add(b)
}

// done takes one share of an item away, and settles it when it was the last.
func (r *Router) done(it *item, now time.Time) {
	if it.open.Add(-1) > 0 {
		return
	}
	detail := ""
	if it.reject != nil {
		detail = it.reject.Reason
	}
	if err := it.Handle.Settle(it.outcome, detail); err != nil {
		// It will be delivered again, and finds its rows.
		r.metrics.settleErrors.Inc()
	}
	r.metrics.seconds.Observe(now.Sub(it.batch.fetchedAt).Seconds())
	if it.batch.unsettled.Add(-1) == 0 {
		r.held.remove(it.batch)
	}
}

// holds are the batches with deliveries that are not settled. The zero value is ready for use.
type holds struct {
	mu      sync.Mutex
	batches map[*batch]struct{}
}

func (h *holds) add(b *batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.batches == nil {
		h.batches = map[*batch]struct{}{}
	}
	h.batches[b] = struct{}{}
}

func (h *holds) remove(b *batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.batches, b)
}

// count returns how many deliveries are not settled.
func (h *holds) count() (n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for b := range h.batches {
		n += b.unsettled.Load()
	}
	return n
}

// renew tells the stream that the deliveries of batches fetched before a time are still being worked on. One that is
// settled at the same moment is told both, which the server takes in either order.
func (h *holds) renew(fetchedBefore time.Time) {
	h.mu.Lock()
	old := make([]*batch, 0, len(h.batches))
	for b := range h.batches {
		if b.fetchedAt.Before(fetchedBefore) {
			old = append(old, b)
		}
	}
	h.mu.Unlock()
	for _, b := range old {
		for i := range b.items {
			if it := &b.items[i]; it.open.Load() > 0 {
				// Nothing is lost with an error: the connection is away, and so are the deliveries.
				_ = it.Handle.Settle(definition.OutcomeHeld, "")
			}
		}
	}
}
