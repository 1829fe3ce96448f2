//go:build faults

package faults

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

var (
	routingSeed   = flag.Uint64("routing.seed", 1, "seed of the plan of TestRoutersKilled")
	routingEvents = flag.Int("routing.events", 1000, "number of events of TestRoutersKilled, 100 or more")
)

// routingWindow is JetStream's duplicate window.
const routingWindow = 2 * time.Second

// Events come three times each, once past JetStream's own duplicate check, while the routers are killed again and again and
// Postgres and NATS are restarted: each event has one run of each definition that it meets, and one workflow.
func TestRoutersKilled(t *testing.T) {
	t.Parallel()
	plan := makeRoutingPlan(*routingSeed, *routingEvents)
	t.Logf("-routing.seed=%d -routing.events=%d", *routingSeed, *routingEvents)
	s := system.NewOnOwnStack(t)
	s.MakeStream(routingWindow, 5*time.Second)
	s.Start("api")
	// The sweeper starts what a killed router left. No worker carries out what the routers start: it would only take time from them.
	s.Env["ACTCORE_ORCHESTRATOR_TASK_QUEUE"] += "-idle"
	s.Start("worker")
	s.Env["ACTCORE_ORCHESTRATOR_TASK_QUEUE"] = s.Names.OrchestratorTaskQueue
	r := routing{s: s, plan: plan, pool: testenv.OpenPool(t, s.Database)}
	for range routingRouters {
		r.routers = append(r.routers, s.Start("event-router"))
	}
	var ids [2]string
	for i, field := range []string{"a", "b"} {
		ids[i] = s.Create(fmt.Sprintf(`{"name": "killed-%s", "trigger_config": {"trigger_type": "event", "event_type": "load.test",
			"filters": {%q: true}}, "tasks": [{"name": "say", "type": "log", "with": {"message": "x"}}]}`, field, field))
	}
	want := map[string]bool{}
	for i, meets := range plan.meets {
		for d, met := range meets {
			if met {
				want[definition.WorkflowID(ids[d], definition.EventKey(routingID(i)))] = true
			}
		}
	}

	begun, events := time.Now(), len(plan.meets)
	r.publish(0, events, 2)
	s.Routed(5 * time.Minute)
	// JetStream drops a copy that comes at once, so until here there was one message of each event, but for a few while NATS was
	// away: what is missing is lost.
	if got, _ := routingRows(t, r.pool); len(got) != len(want) {
		t.Errorf("%d matches have a row before the third copies, want %d", len(got), len(want))
	}
	s.WaitUntil(time.Now().Add(routingWindow+time.Second), "JetStream's duplicate window has passed")
	r.publish(events, 2*events, 1)
	s.Routed(5 * time.Minute)
	stored, delivered := s.Delivered()
	if stored < 2*events || delivered < stored+routingKills {
		t.Errorf("JetStream kept %d messages of %d events and delivered %d times: the third copies were to be kept, and kills to "+
			"cut deliveries short", stored, events, delivered)
	}
	got, dead := routingRows(t, r.pool)
	for id, n := range got {
		if n != 1 || !want[id] {
			t.Errorf("%s has %d rows, wanted: %v", id, n, want[id])
		}
	}
	if len(got) != len(want) || dead != 0 {
		t.Errorf("%d matches have a row, want %d; %d dead letters, want 0", len(got), len(want), dead)
	}
	var workflows map[string]int
	testenv.Eventually(t, 5*time.Minute, "every run has its workflow", func(ctx context.Context) (bool, error) {
		n, err := s.Workflows(ctx, "")
		if err != nil || n < int64(len(want)) {
			return false, nil // the deadline judges
		}
		workflows, err = routingWorkflows(ctx, s)
		return err == nil && len(workflows) >= len(want), nil
	})
	for id, n := range workflows {
		if n != 1 || !want[id] {
			t.Errorf("%s has %d workflows, wanted: %v", id, n, want[id])
		}
	}
	t.Logf("%d events, %d messages, %d deliveries, %d rows, %d workflows, within %s", events, stored, delivered, len(got),
		len(workflows), time.Since(begun).Round(time.Second))
}

// routing carries a plan out.
type routing struct {
	s       *system.System
	plan    routingPlan
	routers []*system.Process
	pool    *pgxpool.Pool
	hold    pgx.Tx // has the lock of holdCommits
}

// publish publishes the plan's sends [from, to), so many copies of each, and returns when JetStream has acknowledged them. The
// faults hit in between, when the routers work on what was just published.
func (r *routing) publish(from, to, copies int) {
	r.s.T.Helper()
	var group sync.WaitGroup
	work := make(chan int)
	for range 16 {
		group.Go(func() {
			for i := range work {
				for range copies {
					r.publishOne(i)
				}
			}
		})
	}
	for at := from; at < to; at++ {
		for _, f := range r.plan.faults {
			if f.at == at {
				r.hit(f)
			}
		}
		work <- r.plan.sends[at]
	}
	close(work)
	group.Wait()
}

// publishOne publishes an event as a good publisher does: again and again until JetStream has acknowledged it.
func (r *routing) publishOne(i int) {
	id := routingID(i)
	body := fmt.Appendf(nil, `{"event_id": %q, "type": "load.test", "source": "faults", "payload": {"a": %v, "b": %v}}`,
		id, r.plan.meets[i][0], r.plan.meets[i][1])
	for r.s.T.Context().Err() == nil {
		ctx, cancel := context.WithTimeout(r.s.T.Context(), 5*time.Second)
		_, err := r.s.JS.Publish(ctx, r.s.Names.SubjectPrefix+".load.test", body, jetstream.WithMsgID(id))
		cancel()
		if err == nil {
			return
		}
	}
}

// hit makes a fault happen, and returns when what it stopped is there again.
func (r *routing) hit(f routingFault) {
	r.s.T.Helper()
	switch f.what {
	case killRouter:
		router := r.routers[f.who]
		router.Kill()
		router.Run()
		router.WaitReady()
	case holdCommits:
		var err error
		if r.hold, err = r.pool.Begin(r.s.T.Context()); err == nil {
			_, err = r.hold.Exec(r.s.T.Context(), `LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE`)
		}
		if err != nil {
			r.s.T.Fatal(err)
		}
	case restartPostgres:
		testenv.Eventually(r.s.T, time.Minute, "a router waits to commit", func(ctx context.Context) (bool, error) {
			var n int
			err := r.pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
				WHERE application_name = 'activity-core-event-router' AND wait_event_type = 'Lock'`).Scan(&n)
			return n > 0, err
		})
		r.s.Control("/postgres/stop?mode=immediate")
		_ = r.hold.Rollback(r.s.T.Context()) // its connection is gone
		// What they hold is not committed anywhere: whoever acknowledged it lost it.
		for _, router := range r.routers {
			router.Kill()
		}
		r.s.Control("/postgres/start")
		for _, router := range r.routers {
			router.Run()
			router.WaitReady()
		}
	case restartNATS:
		r.s.Control("/nats/stop")
		r.s.Control("/nats/start")
	}
}

func routingID(i int) string { return fmt.Sprintf("evt-%05d", i) }

// routingRows counts the rows of each run, by its workflow's id, and the dead letters.
func routingRows(t *testing.T, pool *pgxpool.Pool) (rows map[string]int, dead int) {
	t.Helper()
	rows = map[string]int{}
	list, err := pool.Query(t.Context(), `SELECT definition_id::text, occurrence_key FROM runs`)
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	for list.Next() {
		var id, key string
		if err := list.Scan(&id, &key); err != nil {
			t.Fatal(err)
		}
		rows[definition.WorkflowID(id, key)]++
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM dead_letters`).Scan(&dead); err != nil {
		t.Fatal(err)
	}
	return rows, dead
}

// routingWorkflows counts the executions in Temporal by workflow id. One that closes while the pages are read moves to the end of
// the list, and is there a second time.
func routingWorkflows(ctx context.Context, s *system.System) (map[string]int, error) {
	found, seen := map[string]int{}, map[string]bool{}
	for token := []byte(nil); ; {
		page, err := s.Temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: s.Namespace, PageSize: 1000, NextPageToken: token, Query: `WorkflowType = "RunActivity"`,
		})
		if err != nil {
			return nil, err
		}
		for _, info := range page.GetExecutions() {
			if e := info.GetExecution(); !seen[e.GetRunId()] {
				seen[e.GetRunId()] = true
				found[e.GetWorkflowId()]++
			}
		}
		if token = page.GetNextPageToken(); len(token) == 0 {
			return found, nil
		}
	}
}
