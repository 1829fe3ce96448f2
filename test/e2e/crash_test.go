package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

const eventDefinition = `{"name": "crash-test", "trigger_config": {"trigger_type": "event", "event_type": "load.test"},
	"tasks": [{"name": "say", "type": "log", "with": {"message": "x"}}]}`

// publishMany publishes n events and returns when JetStream has acknowledged each. It goes on through outages.
func (s *system) publishMany(ctx context.Context, n int, done chan<- error) {
	for i := range n {
		id := fmt.Sprintf("evt-%04d", i)
		body := fmt.Appendf(nil, `{"event_id": %q, "type": "load.test", "payload": {"n": %d}}`, id, i)
		for {
			attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, err := s.js.Publish(attempt, s.names.SubjectPrefix+".load.test", body, jetstream.WithMsgID(id))
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				done <- fmt.Errorf("publish %s: %w", id, err)
				return
			}
		}
	}
	done <- nil
}

// exactlyOnce waits until every event has one run that succeeded, and holds that there is neither more nor less.
func (s *system) exactlyOnce(id string, n int, timeout time.Duration) {
	s.t.Helper()
	var last map[string]int
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("last count of runs by status: %v", last)
		}
	})
	testenv.Eventually(s.t, timeout, fmt.Sprintf("%d runs succeeded", n), func(ctx context.Context) (bool, error) {
		counts, err := s.counts(ctx, id)
		if err != nil {
			return false, nil // services recover by themselves; the deadline judges
		}
		last = counts
		return counts["succeeded"] >= n, nil
	})
	seen := map[string]int{}
	for _, run := range s.runs(id) {
		seen[run.str("occurrence_key")]++
		if run.str("status") != "succeeded" {
			s.t.Errorf("run %s is %s %s", run.str("occurrence_key"), run.str("status"), run.str("reason"))
		}
	}
	for i := range n {
		if key := fmt.Sprintf("event-evt-%04d", i); seen[key] != 1 {
			s.t.Errorf("%s has %d runs, want 1", key, seen[key])
		}
	}
	if len(seen) != n {
		s.t.Errorf("%d keys, want %d", len(seen), n)
	}
	query := fmt.Sprintf(`%s = "%s"`, definition.SearchAttributeID, id)
	testenv.Eventually(s.t, 30*time.Second, fmt.Sprintf("Temporal has %d completed workflows", n),
		func(ctx context.Context) (bool, error) {
			all, err := s.workflows(ctx, query)
			if err != nil {
				return false, nil
			}
			if all > int64(n) {
				return false, fmt.Errorf("Temporal has %d workflows, more than %d", all, n)
			}
			completed, err := s.workflows(ctx, query+` AND ExecutionStatus = "Completed"`)
			return err == nil && completed == int64(n), nil
		})
}

// Two routers and two workers, each killed in turn and started again while 1,000 events come in: 1,000 runs, none twice.
func TestKilledProcessesLoseNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start("api")
	victims := []*process{s.start("event-router"), s.start("event-router"), s.start("worker"), s.start("worker")}
	id := s.create(eventDefinition)
	const n = 1000
	published := make(chan error, 1)
	go s.publishMany(t.Context(), n, published)
	for round, victim := range []int{0, 2, 1, 3} {
		// A quarter of the events further in the ledger for each kill, so that every kill hits work in flight.
		testenv.Eventually(t, 2*time.Minute, "the ledger grows", func(ctx context.Context) (bool, error) {
			list, err := s.tryRuns(ctx, id)
			return len(list) > round*n/5, err
		})
		victims[victim].kill()
		victims[victim].run()
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	for _, v := range victims {
		v.waitReady()
	}
	s.exactlyOnce(id, n, 4*time.Minute)
}

// Postgres, which is Temporal's storage too, is stopped for 10 s under load: nothing is lost and every service recovers
// by itself.
func TestPostgresStoppedLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSystemOnOwnStack(t)
	services := []*process{s.start("api"), s.start("event-router"), s.start("worker")}
	id := s.create(eventDefinition)
	const n = 400
	published := make(chan error, 1)
	go s.publishMany(t.Context(), n, published)
	testenv.Eventually(t, time.Minute, "the load has begun", func(ctx context.Context) (bool, error) {
		counts, err := s.counts(ctx, id)
		return counts["succeeded"] > 5, err
	})
	s.Control("/postgres/stop?mode=immediate")
	stopped := time.Now()
	for _, p := range services {
		testenv.Eventually(t, 8*time.Second, p.Name+" says that it is not ready", func(ctx context.Context) (bool, error) {
			return !httpOK(ctx, p.Ready), nil
		})
	}
	if status, answer, err := s.tryCall(t.Context(), "GET", "/activity-definitions/", ""); err != nil || status != 503 {
		t.Errorf("the API without Postgres answered %d %v, %v; want 503", status, answer, err)
	}
	testenv.Eventually(t, 30*time.Second, "10 s have passed", func(context.Context) (bool, error) {
		return time.Since(stopped) >= 10*time.Second, nil
	})
	s.Control("/postgres/start")
	for _, p := range services {
		p.waitReady()
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	s.exactlyOnce(id, n, 4*time.Minute)
	for _, p := range services {
		if p.ended() {
			t.Errorf("%s did not live through the outage", p.Name)
		}
	}
}
