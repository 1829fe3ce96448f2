package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

const eventDefinition = `{"name": "crash-test", "trigger_config": {"trigger_type": "event", "event_type": "load.test"},
	"tasks": [{"name": "say", "type": "log", "with": {"message": "x"}}]}`

// publishMany publishes n events and returns when JetStream has acknowledged each. It goes on through outages.
func publishMany(ctx context.Context, s *system.System, n int, done chan<- error) {
	for i := range n {
		id := fmt.Sprintf("evt-%04d", i)
		body := fmt.Appendf(nil, `{"event_id": %q, "type": "load.test", "payload": {"n": %d}}`, id, i)
		for {
			attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, err := s.JS.Publish(attempt, s.Names.SubjectPrefix+".load.test", body, jetstream.WithMsgID(id))
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
func exactlyOnce(s *system.System, id string, n int, timeout time.Duration) {
	s.T.Helper()
	var last map[string]int
	s.T.Cleanup(func() {
		if s.T.Failed() {
			s.T.Logf("last count of runs by status: %v", last)
		}
	})
	testenv.Eventually(s.T, timeout, fmt.Sprintf("%d runs succeeded", n), func(ctx context.Context) (bool, error) {
		counts, err := s.Counts(ctx, id)
		if err != nil {
			return false, nil // services recover by themselves; the deadline judges
		}
		last = counts
		return counts["succeeded"] >= n, nil
	})
	seen := map[string]int{}
	for _, run := range s.Runs(id) {
		seen[run.Str("occurrence_key")]++
		if run.Str("status") != "succeeded" {
			s.T.Errorf("run %s is %s %s", run.Str("occurrence_key"), run.Str("status"), run.Str("reason"))
		}
	}
	for i := range n {
		if key := fmt.Sprintf("event-evt-%04d", i); seen[key] != 1 {
			s.T.Errorf("%s has %d runs, want 1", key, seen[key])
		}
	}
	if len(seen) != n {
		s.T.Errorf("%d keys, want %d", len(seen), n)
	}
	query := fmt.Sprintf(`%s = "%s"`, definition.SearchAttributeID, id)
	testenv.Eventually(s.T, 30*time.Second, fmt.Sprintf("Temporal has %d completed workflows", n),
		func(ctx context.Context) (bool, error) {
			all, err := s.Workflows(ctx, query)
			if err != nil {
				return false, nil
			}
			if all > int64(n) {
				return false, fmt.Errorf("Temporal has %d workflows, more than %d", all, n)
			}
			completed, err := s.Workflows(ctx, query+` AND ExecutionStatus = "Completed"`)
			return err == nil && completed == int64(n), nil
		})
}

// Two routers and two workers, each killed in turn and started again while 1,000 events come in: 1,000 runs, none twice.
func TestKilledProcessesLoseNothing(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("api")
	victims := []*system.Process{s.Start("event-router"), s.Start("event-router"), s.Start("worker"), s.Start("worker")}
	id := s.Create(eventDefinition)
	const n = 1000
	published := make(chan error, 1)
	go publishMany(t.Context(), s, n, published)
	for round, victim := range []int{0, 2, 1, 3} {
		// A quarter of the events further in the ledger for each kill, so that every kill hits work in flight.
		testenv.Eventually(t, 2*time.Minute, "the ledger grows", func(ctx context.Context) (bool, error) {
			list, err := s.TryRuns(ctx, id)
			return len(list) > round*n/5, err
		})
		victims[victim].Kill()
		victims[victim].Run()
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	for _, v := range victims {
		v.WaitReady()
	}
	exactlyOnce(s, id, n, 4*time.Minute)
}

// Postgres, which is Temporal's storage too, is stopped for 10 s under load: nothing is lost and every service recovers
// by itself.
func TestPostgresStoppedLosesNothing(t *testing.T) {
	t.Parallel()
	s := system.NewOnOwnStack(t)
	services := []*system.Process{s.Start("api"), s.Start("event-router"), s.Start("worker")}
	id := s.Create(eventDefinition)
	const n = 400
	published := make(chan error, 1)
	go publishMany(t.Context(), s, n, published)
	testenv.Eventually(t, time.Minute, "the load has begun", func(ctx context.Context) (bool, error) {
		counts, err := s.Counts(ctx, id)
		return counts["succeeded"] > 5, err
	})
	s.Control("/postgres/stop?mode=immediate")
	stopped := time.Now()
	for _, p := range services {
		testenv.Eventually(t, 8*time.Second, p.Name+" says that it is not ready", func(ctx context.Context) (bool, error) {
			return !system.HTTPOK(ctx, p.Ready), nil
		})
	}
	if status, answer, err := s.TryCall(t.Context(), "GET", "/activity-definitions/", ""); err != nil || status != 503 {
		t.Errorf("the API without Postgres answered %d %v, %v; want 503", status, answer, err)
	}
	testenv.Eventually(t, 30*time.Second, "10 s have passed", func(context.Context) (bool, error) {
		return time.Since(stopped) >= 10*time.Second, nil
	})
	s.Control("/postgres/start")
	for _, p := range services {
		p.WaitReady()
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	exactlyOnce(s, id, n, 4*time.Minute)
	for _, p := range services {
		if p.Ended() {
			t.Errorf("%s did not live through the outage", p.Name)
		}
	}
}
