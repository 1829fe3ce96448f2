package router

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/failpoint"
	"github.com/activity-core/activity-core/internal/match"
)

const (
	// replayStep is how many messages of the stream one step of a replay reads, and commits.
	replayStep = 256
	// replayStarts is how many runs of a replay are started at once; the others of the router are for what is due now.
	replayStarts = 16
	// replayPause follows a step that failed.
	replayPause = 5 * time.Second
)

// replays works on replays whenever it is told that there are some.
func (r *Router) replays(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.replayWanted:
		}
		for ctx.Err() == nil {
			replay, ok, err := r.o.Store.ClaimReplay(ctx)
			if err != nil {
				r.o.Log.Warn("replays cannot be looked for", "error", err)
			}
			if err != nil || !ok {
				break
			}
			r.replay(ctx, &replay)
		}
	}
}

// replay works on one replay until it ends, is canceled, or fails at something that may be over later: then it is taken up again
// after its lease, here or elsewhere, at the step that failed.
func (r *Router) replay(ctx context.Context, c *definition.ClaimedReplay) {
	log := r.o.Log.With("replay_id", c.ID)
	err := r.replayAll(ctx, c)
	switch {
	case err == nil:
		log.Info("replay ended", "status", c.Status, "matched", c.Counted.Matched, "new", c.Done.New, "rerun", c.Done.Rerun)
	case errors.Is(err, definition.ErrLeaseLost):
		log.Info("replay was canceled, or is another router's")
	case ctx.Err() != nil: // shutting down; another router goes on
	case errors.Is(err, definition.ErrNotStorable):
		log.Warn("replay failed for good", "error", err)
		c.Status, c.Error = definition.ReplayFailed, err.Error()
		r.note(ctx, log, c)
	default:
		log.Warn("replay failed, trying again later", "error", err)
		c.Error = err.Error()
		r.note(ctx, log, c)
		pause(ctx, replayPause)
	}
}

// note writes a failure, where that is possible: otherwise it happens again, and is written then.
func (r *Router) note(ctx context.Context, log *slog.Logger, c *definition.ClaimedReplay) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := r.o.Store.UpdateReplay(ctx, *c); err != nil && !errors.Is(err, definition.ErrLeaseLost) {
		log.Warn("the failure of a replay could not be noted", "error", err)
	}
}

func (r *Router) replayAll(ctx context.Context, c *definition.ClaimedReplay) error {
	if c.ToStreamSeq == 0 {
		from, err := r.o.Source.SeqAt(ctx, c.From)
		if err != nil {
			return err
		}
		to, err := r.o.Source.SeqAt(ctx, c.To)
		if err != nil {
			return err
		}
		c.FromStreamSeq, c.ToStreamSeq, c.NextStreamSeq = from, to, from
	}
	c.Error = ""
	found, err := r.o.Store.ReplayDefinitions(ctx, c.DefinitionIDs)
	if err != nil {
		return err
	}
	table, err := (&match.Table{}).Apply(found)
	if err != nil {
		c.Status, c.Error = definition.ReplayFailed, err.Error()
		return r.o.Store.UpdateReplay(ctx, *c)
	}
	for c.Status.Active() {
		for c.NextStreamSeq < c.ToStreamSeq {
			if err := r.replayStep(ctx, c, table); err != nil {
				return err
			}
		}
		if c.Status == definition.ReplayCounting && !c.DryRun {
			c.Status, c.NextStreamSeq = definition.ReplayRunning, c.FromStreamSeq
		} else {
			c.Status = definition.ReplayCompleted
		}
		if err := r.o.Store.UpdateReplay(ctx, *c); err != nil {
			return err
		}
	}
	return nil
}

// replayStep reads some messages again, and counts or commits what comes of them. After an error c is as it was.
func (r *Router) replayStep(ctx context.Context, c *definition.ClaimedReplay, table *match.Table) error {
	next := *c
	next.NextStreamSeq = min(c.NextStreamSeq+replayStep, c.ToStreamSeq)
	deliveries, err := r.o.Source.Read(ctx, c.NextStreamSeq, next.NextStreamSeq)
	if err != nil {
		return err
	}
	events, occurrences := r.replayed(c, table, deliveries)
	storing, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if c.Status == definition.ReplayCounting {
		counts, err := r.o.Store.CountReplayed(storing, occurrences)
		if err != nil {
			return err
		}
		counts.Read = int64(len(deliveries))
		next.Counted.Add(counts)
		if err := r.o.Store.UpdateReplay(storing, next); err != nil {
			return err
		}
		*c = next
		return nil
	}
	next.Done.Read += int64(len(deliveries))
	starts, err := r.o.Store.AcceptReplayed(storing, &next, events, occurrences)
	if err != nil {
		return err
	}
	failpoint.Hit("replay-committed")
	*c = next
	group := errgroup.Group{}
	group.SetLimit(replayStarts)
	for _, st := range starts {
		group.Go(func() error {
			if !r.breaker.allow(time.Now()) {
				return nil // the sweeper's
			}
			ctx, cancel := context.WithTimeout(ctx, startTimeout)
			defer cancel()
			err := r.o.Ledger.Start(ctx, st)
			r.breaker.report(time.Now(), err)
			return nil
		})
	}
	return group.Wait()
}

// replayed returns what the messages mean for the definitions of a replay. An event that comes twice counts once, and one that was
// a dead letter is one still.
func (r *Router) replayed(c *definition.ClaimedReplay, table *match.Table, deliveries []definition.Delivery) (
	[]definition.EventRecord, []definition.Occurrence) {
	events := map[string]definition.EventRecord{}
	var occurrences []definition.Occurrence
	for i := range deliveries {
		d := &deliveries[i]
		verdict := r.decideSafely(table, d)
		if verdict.reject != nil || len(verdict.occurrences) == 0 || !wantedType(c.EventTypes, verdict.event.Type) {
			continue
		}
		known, err := record(d, &verdict.event, len(verdict.occurrences))
		if _, twice := events[known.ID]; twice || err != nil {
			continue
		}
		events[known.ID] = known
		occurrences = append(occurrences, verdict.occurrences...)
	}
	return slices.Collect(maps.Values(events)), occurrences
}

func wantedType(patterns []string, eventType string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return match.TypeMeets(p, eventType) })
}
