package execution

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/ledger"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
)

// benchConcurrency is how many runs are open at one time, benchBatch how many make a round.
const (
	benchConcurrency = 64
	benchBatch       = 200
)

// BenchmarkRun compares complete runs of one log task with a workflow written by hand that calls one Temporal activity,
// from the start, through the same kind of workers, to the result. Rounds of the two alternate, so that a machine whose
// speed varies is as fast for the one as for the other.
func BenchmarkRun(b *testing.B) {
	temporal := testenv.Temporal(b)
	byHand, run := startByHand(b, temporal), startRuns(b, temporal)
	// Temporal needs seconds to settle on a new task queue.
	round(b, byHand)
	round(b, run)
	var byHandTime, runTime time.Duration
	for b.Loop() {
		byHandTime += round(b, byHand)
		runTime += round(b, run)
	}
	n := float64(b.N * benchBatch)
	b.ReportMetric(n/byHandTime.Seconds(), "by_hand/s")
	b.ReportMetric(n/runTime.Seconds(), "runs/s")
	b.ReportMetric(byHandTime.Seconds()/runTime.Seconds(), "ratio")
}

type startFunc func(context.Context) (client.WorkflowRun, error)

func startByHand(b *testing.B, temporal client.Client) startFunc {
	b.Helper()
	queue := "bench-" + uuid.NewString()
	flows := worker.New(temporal, queue, worker.Options{MaxConcurrentWorkflowTaskPollers: workflowPollers})
	flows.RegisterWorkflowWithOptions(func(ctx workflow.Context, name string) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			TaskQueue: queue + "-tasks", StartToCloseTimeout: heartbeatTimeout,
		})
		return workflow.ExecuteActivity(ctx, "Hello", name).Get(ctx, nil)
	}, workflow.RegisterOptions{Name: "ByHand"})
	tasks := worker.New(temporal, queue+"-tasks", worker.Options{
		DisableWorkflowWorker: true, MaxConcurrentActivityTaskPollers: taskPollers,
	})
	tasks.RegisterActivityWithOptions(func(context.Context, string) error { return nil }, activity.RegisterOptions{Name: "Hello"})
	for _, w := range []worker.Worker{tasks, flows} {
		if err := w.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(w.Stop)
	}
	return func(ctx context.Context) (client.WorkflowRun, error) {
		return temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: uuid.NewString(), TaskQueue: queue}, "ByHand", "x")
	}
}

func startRuns(b *testing.B, temporal client.Client) startFunc {
	b.Helper()
	store, names := postgres.New(testenv.Pool(b)), testenv.Names(b)
	w, err := NewWorker(Options{
		Temporal: temporal, Store: store, Publisher: silentStream{}, Log: discard(), Registerer: prometheus.NewRegistry(),
		OrchestratorTaskQueue: names.OrchestratorTaskQueue, TaskTaskQueue: names.TaskTaskQueue, PerDefinition: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-ended
	})
	starter, err := ledger.New(ledger.Options{Store: store, Temporal: temporal, Log: discard(),
		TaskQueue: names.OrchestratorTaskQueue, Registerer: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	doc, err := definition.ParseDocument([]byte(`{"name": "bench", "trigger_config": {"trigger_type": "manual"}, ` + oneLog + `}`))
	if err != nil {
		b.Fatal(err)
	}
	d, err := store.CreateDefinition(b.Context(), doc)
	if err != nil {
		b.Fatal(err)
	}
	return func(ctx context.Context) (client.WorkflowRun, error) {
		starts, err := starter.Record(ctx, []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual,
			Key: definition.ManualKey()}})
		if err != nil {
			return nil, err
		}
		if err := starter.Start(ctx, starts[0]); err != nil {
			return nil, err
		}
		return temporal.GetWorkflow(ctx, definition.WorkflowID(d.ID, starts[0].Key), ""), nil
	}
}

// round starts a batch, so many at one time, and waits for the result of each.
func round(b *testing.B, start startFunc) time.Duration {
	b.Helper()
	began := time.Now()
	group, ctx := errgroup.WithContext(b.Context())
	group.SetLimit(benchConcurrency)
	for range benchBatch {
		group.Go(func() error {
			run, err := start(ctx)
			if err != nil {
				return err
			}
			return run.Get(ctx, nil)
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}
