package router

import (
	"context"
	"fmt"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// retriedAtOnce is how many dead letters are taken up at a time, between two batches.
const retriedAtOnce = 20

// retryLetters routes dead letters again that somebody asked to. What became of one is written by the same code as for a delivery:
// a message that is a dead letter again is open again, with the reason of this time.
func (r *Router) retryLetters(ctx context.Context) error {
	storing, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	letters, err := r.o.Store.ClaimDeadLetters(storing, retriedAtOnce)
	if err != nil || len(letters) == 0 {
		return err
	}
	if err := r.refresh(ctx); err != nil {
		return err // they are claimed again a little later
	}
	b := &batch{items: make([]item, len(letters)), fetchedAt: time.Now()}
	items := make([]*item, len(letters))
	for i := range letters {
		it := &b.items[i]
		it.Delivery, it.reject = r.whole(ctx, &letters[i])
		it.eventID = letters[i].EventID // of one that cannot be read whole
		items[i] = it
	}
	r.hold(b)
	if err := r.routeItems(ctx, items); err != nil {
		return err
	}
	var ids []string
	var runs []int
	for i, it := range items {
		if it.reject == nil {
			ids, runs = append(ids, letters[i].ID), append(runs, it.matches)
		}
	}
	r.metrics.retried.WithLabelValues("routed").Add(float64(len(ids)))
	r.metrics.retried.WithLabelValues("dead").Add(float64(len(items) - len(ids)))
	return r.o.Store.DeadLettersRouted(ctx, ids, runs)
}

// whole returns a dead letter as the delivery that it was: as the stream still holds it, or else as it was kept, which is not all
// of a large one, nor all of many headers.
func (r *Router) whole(ctx context.Context, l *definition.StoredDeadLetter) (definition.Delivery, *definition.Reject) {
	d := definition.Delivery{
		Subject: l.Subject, Header: l.Header, Data: l.Data, Stream: l.Stream, StreamSeq: l.StreamSeq, PublishedAt: l.PublishedAt,
		Deliveries: 1, Handle: nobody{},
	}
	again, found, err := r.o.Source.Get(ctx, l.StreamSeq)
	switch {
	case err == nil && found && again.Stream == l.Stream && again.PublishedAt.Truncate(time.Microsecond).Equal(l.PublishedAt):
		d.Data, d.Header = again.Data, again.Header
		return d, nil
	case len(d.Data) == l.DataSize:
		return d, nil
	}
	why := "the stream does not hold it any more"
	if err != nil {
		why = err.Error()
	}
	return d, &definition.Reject{Reason: l.Reason,
		Detail: fmt.Sprintf("only the first %d of %d bytes are kept, and the rest cannot be read: %s", len(d.Data), l.DataSize, why)}
}

// nobody is the handle of a message that no stream waits for.
type nobody struct{}

func (nobody) Settle(definition.Outcome, string) error { return nil }
