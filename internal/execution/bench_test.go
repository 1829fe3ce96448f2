package execution

import (
	"context"
	"testing"

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

// benchConcurrency is how many runs are open at one time.
const benchConcurrency = 64

// BenchmarkRun compares complete runs of one log task with a workflow written by hand that calls one Temporal activity:
// from the start, through the same kind of workers, to the result.
func BenchmarkRun(b *testing.B) {
	temporal := testenv.Temporal(b)
	b.Run("by_hand", func(b *testing.B) {
		queue := "bench-" + uuid.NewString()
		options := worker.Options{MaxConcurrentWorkflowTaskPollers: workflowPollers}
		flows := worker.New(temporal, queue, options)
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
		complete(b, func(ctx context.Context) (client.WorkflowRun, error) {
			return temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: uuid.NewString(), TaskQueue: queue}, "ByHand", "x")
		})
	})
	b.Run("run", func(b *testing.B) {
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
		complete(b, func(ctx context.Context) (client.WorkflowRun, error) {
			starts, err := starter.Record(ctx, []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual,
				Key: definition.ManualKey()}})
			if err != nil {
				return nil, err
			}
			if err := starter.Start(ctx, starts[0]); err != nil {
				return nil, err
			}
			return temporal.GetWorkflow(ctx, definition.WorkflowID(d.ID, starts[0].Key), ""), nil
		})
	})
}

// benchWarmUp is how many runs go before the measured ones: Temporal needs seconds to settle on a new task queue.
const benchWarmUp = 200

// complete starts b.N workflows, so many at one time, and waits for the result of each.
func complete(b *testing.B, start func(context.Context) (client.WorkflowRun, error)) {
	b.Helper()
	batch(b, benchWarmUp, start)
	b.ResetTimer()
	batch(b, b.N, start)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "runs/s")
}

func batch(b *testing.B, n int, start func(context.Context) (client.WorkflowRun, error)) {
	b.Helper()
	group, ctx := errgroup.WithContext(b.Context())
	group.SetLimit(benchConcurrency)
	for range n {
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
}
