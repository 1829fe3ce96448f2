package router

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/match"
)

const (
	// suspectDeliveries is how many deliveries make a message suspect of killing the routers: the ones before ended with no answer.
	suspectDeliveries = 3
	// maxAttempts is how often a router begins with a suspect alone before the message is given up.
	maxAttempts = 3
)

// routeSuspects routes messages that were delivered again and again, each alone. That a router begins with one is committed first,
// so that a message at which routers die is known by its attempts. Those with the fewest come first: what merely was near such a
// message is done before that is tried again.
func (r *Router) routeSuspects(ctx context.Context, items []*item) error {
	messages := make([]definition.Delivery, len(items))
	for i, it := range items {
		messages[i] = it.Delivery
	}
	var counts []int
	err := r.retry(ctx, "count attempts", &r.fault, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		counts, err = r.o.Store.CountAttempts(ctx, messages)
		return err
	})
	if err != nil {
		return err
	}
	for i, it := range items {
		it.attempts = counts[i]
	}
	slices.SortStableFunc(items, func(a, b *item) int { return cmp.Compare(a.attempts, b.attempts) })
	for _, it := range items {
		err := r.retry(ctx, "note an attempt", &r.fault, func(ctx context.Context) (err error) {
			ctx, cancel := context.WithTimeout(ctx, storeTimeout)
			defer cancel()
			it.attempts, err = r.o.Store.AddAttempt(ctx, &it.Delivery)
			return err
		})
		if err != nil {
			return err
		}
		if it.attempts > maxAttempts {
			it.reject = &definition.Reject{Reason: definition.RejectCrashLoop,
				Detail: fmt.Sprintf("routers ended %d times while they routed this message alone", maxAttempts)}
			if it.attempts == maxAttempts+1 { // once: it may be reading it that they die of
				it.eventID = r.decideSafely(&match.Table{}, &it.Delivery).event.ID
			}
		}
		if err := r.routeItems(ctx, []*item{it}); err != nil {
			return err
		}
		r.forget(ctx, it) // before the next one, at which this router may die
	}
	return nil
}

func (r *Router) forget(ctx context.Context, it *item) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := r.o.Store.ForgetAttempts(ctx, []definition.Delivery{it.Delivery}); err != nil {
		r.o.Log.Warn("attempts at a message that is done could not be forgotten; nothing comes of it", "error", err)
	}
}
