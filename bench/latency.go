package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// pace is the time between two events of the latency measurement: a system with little to do.
const pace = 25 * time.Millisecond

// measureLatency: from publishing an event to the beginning of the first task, beside a bare consumer that starts a workflow
// whose first activity notes the time. Both take one event every pace.
func measureLatency(ctx context.Context, b *bench, o options) ([]figure, error) {
	bare, err := b.bareLatency(ctx, o.latency)
	if err != nil {
		return nil, fmt.Errorf("bare: %w", err)
	}
	s, err := b.newSystem(ctx)
	if err != nil {
		return nil, err
	}
	ours, err := s.latency(ctx, o.latency)
	if err = errors.Join(err, s.end()); err != nil {
		return nil, fmt.Errorf("ours: %w", err)
	}
	figures := []figure{}
	for _, p := range []int{50, 99} {
		raw, our := percentile(bare, p), percentile(ours, p)
		figures = append(figures,
			figure{fmt.Sprintf("publish to first activity, bare, p%d", p), ms(raw), "ms", ""},
			figure{fmt.Sprintf("publish to first task, p%d", p), ms(our), "ms", ""},
			figure{fmt.Sprintf("publish to first task, p%d, ratio to bare", p), float64(our) / float64(raw), "×", ""})
	}
	return figures, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func percentile(values []time.Duration, p int) time.Duration {
	values = slices.Sorted(slices.Values(values))
	return values[(len(values)-1)*p/100]
}

// paced publishes n events, one every pace, and returns when each was published, by its id.
func (b *bench) paced(ctx context.Context, n int, subject string) (map[string]time.Time, error) {
	published := make(map[string]time.Time, n)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for i := range n {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		id := fmt.Sprintf("l-%d", i)
		body := fmt.Sprintf(`{"event_id": %q, "type": "bench.event", "payload": {"tier": "pro"}}`, id)
		published[id] = time.Now()
		if _, err := b.js.Publish(ctx, subject, []byte(body), jetstream.WithMsgID(id)); err != nil {
			return nil, err
		}
	}
	return published, nil
}

func (s *system) latency(ctx context.Context, n int) ([]time.Duration, error) {
	if _, err := s.create(ctx, eventDefinition); err != nil {
		return nil, err
	}
	if err := s.publish(ctx, 0, "bench.event", jetstream.FileStorage); err != nil {
		return nil, err
	}
	for _, name := range []string{"worker", "event-router"} {
		p, err := s.start(name)
		if err != nil {
			return nil, err
		}
		if err := wait(ctx, time.Minute, func() (bool, error) { return p.ready(ctx), nil }); err != nil {
			return nil, fmt.Errorf("%s is ready: %w", name, err)
		}
	}
	published, err := s.b.paced(ctx, n, s.prefix()+".bench.event")
	if err != nil {
		return nil, err
	}
	var latencies []time.Duration
	err = wait(ctx, time.Minute, func() (bool, error) {
		// The task's beginning by Postgres' clock, which is this machine's.
		rows, err := s.pool.Query(ctx, `SELECT r.event_id, t.started_at FROM runs r JOIN task_results t ON t.run_id = r.id`)
		if err != nil {
			return false, err
		}
		defer rows.Close()
		latencies = latencies[:0]
		for rows.Next() {
			var id string
			var began time.Time
			if err := rows.Scan(&id, &began); err != nil {
				return false, err
			}
			latencies = append(latencies, began.Sub(published[id]))
		}
		return len(latencies) == n, rows.Err()
	})
	return latencies, err
}

// bareLatency is what somebody would write without us: a consumer that starts a workflow for each message and then acknowledges it.
func (b *bench) bareLatency(ctx context.Context, n int) ([]time.Duration, error) {
	id := uuid.NewString()
	_, err := b.js.CreateStream(ctx, jetstream.StreamConfig{Name: "BARE_" + id, Subjects: []string{"bare-" + id + ".>"}})
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.js.DeleteStream(context.WithoutCancel(ctx), "BARE_"+id) }()
	var mu sync.Mutex
	began := map[string]time.Time{}
	w := worker.New(b.temporal, id, worker.Options{MaxConcurrentWorkflowTaskPollers: pollers, MaxConcurrentActivityTaskPollers: pollers})
	w.RegisterActivityWithOptions(func(_ context.Context, id string) error {
		mu.Lock()
		defer mu.Unlock()
		if began[id].IsZero() {
			began[id] = time.Now()
		}
		return nil
	}, activity.RegisterOptions{Name: "Note"})
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context, id string) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{ScheduleToCloseTimeout: time.Minute})
		return workflow.ExecuteActivity(ctx, "Note", id).Get(ctx, nil)
	}, workflow.RegisterOptions{Name: "BareLatency"})
	if err := w.Start(); err != nil {
		return nil, err
	}
	defer w.Stop()
	consumer, err := b.js.CreateConsumer(ctx, "BARE_"+id, jetstream.ConsumerConfig{Durable: "bare", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		return nil, err
	}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		event := msg.Headers().Get(jetstream.MsgIDHeader)
		_, err := b.temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id + event, TaskQueue: id}, "BareLatency", event)
		if err == nil {
			_ = msg.Ack()
		}
	}, jetstream.PullMaxMessages(500))
	if err != nil {
		return nil, err
	}
	defer consuming.Stop()
	published, err := b.paced(ctx, n, "bare-"+id+".bench.event")
	if err != nil {
		return nil, err
	}
	err = wait(ctx, time.Minute, func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return len(began) == n, nil
	})
	if err != nil {
		return nil, err
	}
	var latencies []time.Duration
	for event, at := range began {
		latencies = append(latencies, at.Sub(published[event]))
	}
	return latencies, nil
}
