//go:build faults

package faults

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

var (
	routingSeed   = flag.Uint64("routing.seed", 1, "seed of the plan of TestRoutersKilled")
	routingEvents = flag.Int("routing.events", 1000, "number of events of TestRoutersKilled")
)

const (
	routingRouters = 3
	routingKills   = 10              // of each router
	routingWindow  = 2 * time.Second // JetStream's duplicate window
)

// routingPlan is all that is random in the test. What happens is told in terms of the messages published before it, so that a seed
// gives the same plan on a machine of any speed.
type routingPlan struct {
	meets  [][2]bool // of each event: whether it meets the first and the second definition
	sends  []int     // the event of each message, in order: first two copies of each event, and then the third
	faults []routingFault
}

// routingFault is the restart of a server, or the kill of a router, before the message number at.
type routingFault struct {
	at   int
	what string // "postgres", "nats" or "router"
	who  int
}

func makeRoutingPlan(seed uint64, events int) routingPlan {
	random := rand.New(rand.NewPCG(seed, 0))
	var p routingPlan
	var third []int
	for i := range events {
		p.meets = append(p.meets, [2]bool{random.IntN(2) == 1, random.IntN(2) == 1})
		p.sends = append(p.sends, i, i)
		third = append(third, i)
	}
	shuffle := func(s []int) { random.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] }) }
	shuffle(p.sends)
	shuffle(third)
	p.sends = append(p.sends, third...)
	for who := range routingRouters {
		for range routingKills {
			p.faults = append(p.faults, routingFault{random.IntN(len(p.sends)), "router", who})
		}
	}
	for _, server := range []string{"postgres", "nats"} {
		p.faults = append(p.faults, routingFault{at: len(p.sends)/4 + random.IntN(len(p.sends)/2), what: server})
	}
	slices.SortStableFunc(p.faults, func(a, b routingFault) int { return a.at - b.at })
	return p
}

// Events come three times each, once past JetStream's own duplicate check, while the routers are killed again and again and
// Postgres and NATS are restarted: each event has one run of each definition that it meets, and one workflow.
func TestRoutersKilled(t *testing.T) {
	t.Parallel()
	plan := makeRoutingPlan(*routingSeed, *routingEvents)
	t.Logf("-routing.seed=%d -routing.events=%d: %d faults", *routingSeed, *routingEvents, len(plan.faults))
	s := system.NewOnOwnStack(t)
	s.MakeStream(routingWindow, 5*time.Second)
	pool := testenv.OpenPool(t, s.Database)
	s.Start("api")
	// The sweeper starts what a killed router left. No worker carries out runs: they would only take time from the routers.
	s.Env["ACTCORE_ORCHESTRATOR_TASK_QUEUE"] += "-idle"
	s.Start("worker")
	s.Env["ACTCORE_ORCHESTRATOR_TASK_QUEUE"] = s.Names.OrchestratorTaskQueue
	var routers [routingRouters]*system.Process
	for i := range routers {
		routers[i] = s.Start("event-router")
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

	begun, twice := time.Now(), 2*len(plan.meets)
	hit := func(f routingFault) {
		switch f.what {
		case "router":
			routers[f.who].Kill()
			routers[f.who].Run()
			routers[f.who].WaitReady()
		case "postgres":
			s.Control("/postgres/stop?mode=immediate")
			s.Control("/postgres/start")
		case "nats":
			s.Control("/nats/stop")
			s.Control("/nats/start")
		}
	}
	duringRouting(s, plan, 0, twice, hit)
	s.Routed(3 * time.Minute)
	// JetStream drops the second copy, so until here each event was delivered for one message alone: what is missing is lost.
	if got, _ := routingRows(t, pool); len(got) != len(want) {
		t.Errorf("%d matches have a row before the third copies, want %d", len(got), len(want))
	}
	s.WaitUntil(time.Now().Add(routingWindow+time.Second), "JetStream's duplicate window has passed")
	duringRouting(s, plan, twice, len(plan.sends), hit)
	t.Logf("published %d messages within %s", len(plan.sends), time.Since(begun).Round(time.Second))

	s.Routed(3 * time.Minute)
	got, dead := routingRows(t, pool)
	for id, n := range got {
		if n != 1 || !want[id] {
			t.Errorf("%s has %d rows, wanted: %v", id, n, want[id])
		}
	}
	if len(got) != len(want) || dead != 0 {
		t.Errorf("%d matches have a row, want %d; %d dead letters, want 0", len(got), len(want), dead)
	}
	var workflows map[string]int
	testenv.Eventually(t, 3*time.Minute, "every run has its workflow", func(ctx context.Context) (bool, error) {
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
	t.Logf("%d rows and %d workflows of %d events within %s", len(got), len(workflows), len(plan.meets),
		time.Since(begun).Round(time.Second))
}

func routingID(i int) string { return fmt.Sprintf("evt-%05d", i) }

// duringRouting publishes the plan's messages [from, to), and lets its faults hit while that goes on and the routers work.
func duringRouting(s *system.System, plan routingPlan, from, to int, hit func(routingFault)) {
	s.T.Helper()
	var sent atomic.Int64
	var sending sync.WaitGroup
	sending.Go(func() { sendRouting(s, plan, from, to, &sent) })
	for _, f := range plan.faults {
		if f.at < from || f.at >= to {
			continue
		}
		testenv.Eventually(s.T, 3*time.Minute, fmt.Sprintf("%d messages are published", f.at), func(context.Context) (bool, error) {
			return from+int(sent.Load()) >= f.at, nil
		})
		hit(f)
	}
	sending.Wait()
}

// sendRouting publishes the plan's messages [from, to), counts them, and returns when JetStream has acknowledged each.
func sendRouting(s *system.System, plan routingPlan, from, to int, sent *atomic.Int64) {
	var group sync.WaitGroup
	work := make(chan int)
	for range 16 {
		group.Go(func() {
			for i := range work {
				id := routingID(i)
				body := fmt.Appendf(nil, `{"event_id": %q, "type": "load.test", "source": "faults", "payload": {"a": %v, "b": %v}}`,
					id, plan.meets[i][0], plan.meets[i][1])
				for s.T.Context().Err() == nil {
					ctx, cancel := context.WithTimeout(s.T.Context(), 5*time.Second)
					_, err := s.JS.Publish(ctx, s.Names.SubjectPrefix+".load.test", body, jetstream.WithMsgID(id))
					cancel()
					if err == nil {
						sent.Add(1)
						break
					}
				}
			}
		})
	}
	for _, i := range plan.sends[from:to] {
		work <- i
	}
	close(work)
	group.Wait()
}

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

// routingWorkflows counts the executions in Temporal by workflow id.
func routingWorkflows(ctx context.Context, s *system.System) (map[string]int, error) {
	found := map[string]int{}
	for token := []byte(nil); ; {
		page, err := s.Temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: s.Namespace, PageSize: 1000, NextPageToken: token, Query: `WorkflowType = "RunActivity"`,
		})
		if err != nil {
			return nil, err
		}
		for _, e := range page.GetExecutions() {
			found[e.GetExecution().GetWorkflowId()]++
		}
		if token = page.GetNextPageToken(); len(token) == 0 {
			return found, nil
		}
	}
}
