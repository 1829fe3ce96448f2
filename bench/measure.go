package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
)

// concurrency is that of the router's starts, and so of the bare loop's.
const concurrency = 64

const eventDefinition = `{"name": "bench", "trigger_config": {"trigger_type": "event", "event_type": "bench.event",
	"filters": {"tier": "pro"}}, "tasks": [{"name": "say", "type": "log", "with": {"message": "x"}}]}`

// measureStarts: events matched to runs started, against a bare loop of ExecuteWorkflow with the same concurrency.
func measureStarts(ctx context.Context, b *bench, o options) ([]figure, error) {
	raw := func(ctx context.Context) (float64, error) {
		return b.startLoop(ctx, o.starts, "bare-"+uuid.NewString(), "Bare")
	}
	ours := func(ctx context.Context) (float64, error) {
		s, err := b.newSystem(ctx)
		if err != nil {
			return 0, err
		}
		rate, err := s.routed(ctx, o.starts)
		return rate, errors.Join(err, s.end())
	}
	r, bare, routed, err := ratio(ctx, o.rounds, raw, ours)
	return []figure{
		{"bare ExecuteWorkflow loop", bare, "starts/s", ""},
		{"events matched to runs started", routed, "starts/s", ""},
		{"matched to started, ratio to bare", r, "×", "0.95 or more"},
	}, err
}

// routed publishes n matching events and measures how fast a router starts their runs.
func (s *system) routed(ctx context.Context, n int) (float64, error) {
	return s.routedTo(ctx, n, eventDefinition)
}

// routedTo is routed with a definition of the same trigger.
func (s *system) routedTo(ctx context.Context, n int, document string) (float64, error) {
	if _, err := s.create(ctx, document); err != nil {
		return 0, err
	}
	if err := s.publish(ctx, n, "bench.event", jetstream.FileStorage); err != nil {
		return 0, err
	}
	router, err := s.start("event-router")
	if err != nil {
		return 0, err
	}
	return router.rate(ctx, n, "actcore_run_starts_total", `result="started"`)
}

// startLoop starts n workflows as the ledger does, and nothing else.
func (b *bench) startLoop(ctx context.Context, n int, queue, workflowType string) (float64, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	began := time.Now()
	for i := range n {
		group.Go(func() error { return b.startBare(ctx, fmt.Sprintf("%s-%d", queue, i), queue, workflowType) })
	}
	err := group.Wait()
	return float64(n) / time.Since(began).Seconds(), err
}

// startBare starts one workflow as the ledger does.
func (b *bench) startBare(ctx context.Context, id, queue, workflowType string) error {
	_, err := b.temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: queue, WorkflowRunTimeout: time.Hour,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		TypedSearchAttributes: temporal.NewSearchAttributes(
			temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeID).ValueSet(definition.NewID()),
			temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeName).ValueSet("bench")),
	}, workflowType, definition.RunInput{DefinitionID: "x"})
	return err
}

// measureUnmatched: events that match nothing, against bare fetch + ack of the same messages.
func measureUnmatched(ctx context.Context, b *bench, o options) ([]figure, error) {
	s, err := b.newSystem(ctx)
	if err != nil {
		return nil, err
	}
	figures, err := s.unmatched(ctx, o)
	return figures, errors.Join(err, s.end())
}

func (s *system) unmatched(ctx context.Context, o options) ([]figure, error) {
	// A hundred definitions want this very type, with a value that no event has.
	for i := range 100 {
		text := fmt.Sprintf(`{"name": "other-%d", "trigger_config": {"trigger_type": "event", "event_type": "bench.event",
			"filters": {"tier": "tier-%d"}}}`, i, i)
		if _, err := s.create(ctx, text); err != nil {
			return nil, err
		}
	}
	// In memory, for both sides: it is the router that is measured, not the disk.
	if err := s.publish(ctx, o.unmatched, "bench.event", jetstream.MemoryStorage); err != nil {
		return nil, err
	}
	raw := func(ctx context.Context) (float64, error) { return s.consume(ctx, o.unmatched) }
	ours := func(ctx context.Context) (float64, error) {
		// Without its consumer the router begins at the first message again.
		err := s.b.js.DeleteConsumer(ctx, s.stream(), "router")
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return 0, err
		}
		router, err := s.start("event-router")
		if err != nil {
			return 0, err
		}
		rate, err := router.rate(ctx, o.unmatched, "actcore_events_unmatched_total", "")
		s.procs = s.procs[:len(s.procs)-1]
		return rate, errors.Join(err, router.stop())
	}
	r, bare, routed, err := ratio(ctx, o.rounds, raw, ours)
	return []figure{
		{"bare fetch + ack", bare, "events/s", ""},
		{"events that match nothing", routed, "events/s", ""},
		{"unmatched events, ratio to bare", r, "×", "0.8 or more"},
	}, err
}

// consume fetches and acknowledges n messages on a consumer with the router's settings, and does nothing with them.
func (s *system) consume(ctx context.Context, n int) (float64, error) {
	const name = "bare"
	consumer, err := s.b.js.CreateConsumer(ctx, s.stream(), jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
		MaxAckPending: 2000, AckWait: time.Minute, MaxDeliver: -1,
	})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for got := 0; got < n; {
		batch, err := consumer.Fetch(500, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return 0, err
		}
		for msg := range batch.Messages() {
			if err := msg.Ack(); err != nil {
				return 0, err
			}
			got++
		}
		if err := batch.Error(); err != nil {
			return 0, err
		}
	}
	rate := float64(n) / time.Since(began).Seconds()
	return rate, s.b.js.DeleteConsumer(ctx, s.stream(), name)
}

// growth is process.rate for a counter of this process.
func growth(ctx context.Context, n int, value func() float64) (float64, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var first float64
	var since time.Time
	for {
		v, now := value(), time.Now()
		if since.IsZero() && v > 0 {
			first, since = v, now
		}
		if v >= float64(n) {
			return (v - first) / now.Sub(since).Seconds(), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}

// measureIdle counts the statements that a quiet system of all services sends to Postgres.
func measureIdle(ctx context.Context, b *bench, o options) ([]figure, error) {
	s, err := b.newSystem(ctx)
	if err != nil {
		return nil, err
	}
	figures, err := s.idle(ctx, o)
	return figures, errors.Join(err, s.end())
}

func (s *system) idle(ctx context.Context, o options) ([]figure, error) {
	// One in ten is a cron definition that is not due for months, and so has a schedule.
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range o.idle {
		trigger := fmt.Sprintf(`"trigger_type": "event", "event_type": "idle.t%d", "filters": {"k": %d}`, i%50, i)
		if i%10 == 0 {
			trigger = fmt.Sprintf(`"trigger_type": "cron", "cron_expression": "%d 3 1 6 *"`, i/10%60)
		}
		group.Go(func() error {
			_, err := s.create(gctx, fmt.Sprintf(`{"name": "idle-%d", "trigger_config": {%s}}`, i, trigger))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var services []*process
	for _, name := range []string{"worker", "event-router", "api"} {
		p, err := s.start(name)
		if err != nil {
			return nil, err
		}
		services = append(services, p)
	}
	// Quiet begins when every service is ready and every schedule is made.
	if err := wait(ctx, 5*time.Minute, func() (bool, error) {
		for _, p := range services {
			if !p.ready(ctx) {
				return false, nil
			}
		}
		var dirty int
		err := s.pool.QueryRow(ctx, `SELECT count(*) FROM schedule_sync WHERE dirty`).Scan(&dirty)
		return dirty == 0, err
	}); err != nil {
		return nil, fmt.Errorf("wait for quiet: %w", err)
	}
	// An idle connection hands in its counts up to ten seconds later.
	_ = wait(ctx, settleTime, func() (bool, error) { return false, nil })
	before, err := s.statements(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	_ = wait(ctx, time.Duration(o.idleFor)*time.Second, func() (bool, error) { return false, nil })
	after, err := s.statements(ctx)
	if err != nil {
		return nil, err
	}
	// The first question was itself counted between the two.
	rate := float64(after-before-1) / time.Since(began).Seconds()
	return []figure{{fmt.Sprintf("idle statements with %d definitions", o.idle), rate, "statements/s", "5 or fewer"}}, ctx.Err()
}

// settleTime is longer than Postgres lets an idle connection keep its counts to itself.
const settleTime = 15 * time.Second

// statements counts what this system's database was ever asked. A quiet system's statements are transactions of their
// own, which Postgres counts for each database.
func (s *system) statements(ctx context.Context) (int64, error) {
	var n int64
	err := s.pool.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()`).Scan(&n)
	return n, err
}

// wait polls until the condition holds or the time is over.
func wait(ctx context.Context, timeout time.Duration, condition func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := condition(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
