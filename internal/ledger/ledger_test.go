package ledger

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/postgres"
	"github.com/activity-core/activity-core/internal/testenv"
)

type bundle struct {
	store    *postgres.Store
	pool     *pgxpool.Pool
	temporal client.Client
	ledger   *Ledger
	sweeper  *Sweeper
	id       string
}

func setup(t *testing.T, c client.Client) *bundle {
	t.Helper()
	b := &bundle{pool: testenv.Pool(t), temporal: c}
	b.store = postgres.New(b.pool)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	registry := prometheus.NewRegistry()
	var err error
	b.ledger, err = New(Options{Store: b.store, Temporal: c, TaskQueue: testenv.Names(t).OrchestratorTaskQueue, Log: log,
		Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	b.sweeper, err = NewSweeper(SweeperOptions{Ledger: b.ledger, Store: b.store, Temporal: c, Namespace: testenv.Namespace(t),
		Every: 50 * time.Millisecond, Log: log, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := definition.ParseDocument([]byte(`{"name": "x", "trigger_config": {"trigger_type": "manual"}}`))
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.store.CreateDefinition(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	b.id = d.ID
	return b
}

func (b *bundle) record(t *testing.T) definition.Start {
	t.Helper()
	starts, err := b.ledger.Record(t.Context(), []definition.Occurrence{
		{DefinitionID: b.id, Kind: definition.KindManual, Key: definition.ManualKey()}})
	if err != nil || len(starts) != 1 {
		t.Fatal(starts, err)
	}
	return starts[0]
}

// due makes every accepted row one that the sweeper may take now.
func (b *bundle) due(t *testing.T) {
	t.Helper()
	if _, err := b.pool.Exec(t.Context(), `UPDATE runs SET start_after = now() WHERE status = 'accepted'`); err != nil {
		t.Fatal(err)
	}
}

func (b *bundle) run(t *testing.T, id string) definition.Run {
	t.Helper()
	run, err := b.store.GetRun(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func TestStartTwiceIsOneWorkflow(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	start := b.record(t)
	for range 2 {
		if err := b.ledger.Start(t.Context(), start); err != nil {
			t.Fatal(err)
		}
	}
	id := definition.WorkflowID(start.DefinitionID, start.Key)
	described, err := b.temporal.DescribeWorkflowExecution(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	attributes := described.GetWorkflowExecutionInfo().GetSearchAttributes().GetIndexedFields()
	if got := string(attributes[definition.SearchAttributeID].GetData()); got != `"`+b.id+`"` {
		t.Errorf("ActivityId = %s", got)
	}
	if got := string(attributes[definition.SearchAttributeName].GetData()); got != `"x"` {
		t.Errorf("ActivityName = %s", got)
	}
	if got, want := described.GetExecutionConfig().GetWorkflowRunTimeout().AsDuration(), definition.DefaultTimeout+backstop; got != want {
		t.Errorf("run timeout = %s, want %s", got, want)
	}
}

func TestSweeperStartsWhatWasLeft(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	left, started := b.record(t), b.record(t)
	if err := b.ledger.Start(t.Context(), started); err != nil {
		t.Fatal(err)
	}
	b.due(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.sweeper.Run(ctx) }()
	testenv.Eventually(t, 20*time.Second, "the left row is started", func(ctx context.Context) (bool, error) {
		_, err := b.temporal.DescribeWorkflowExecution(ctx, definition.WorkflowID(left.DefinitionID, left.Key), "")
		return err == nil, nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, s := range []definition.Start{left, started} {
		if run := b.run(t, s.RunID); run.Status != definition.RunAccepted {
			t.Errorf("run with an open workflow is %s %s, want accepted", run.Status, run.Reason)
		}
	}
}

func TestSweeperClosesWhatWasTerminated(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	start := b.record(t)
	if err := b.ledger.Start(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	id := definition.WorkflowID(start.DefinitionID, start.Key)
	if err := b.temporal.TerminateWorkflow(t.Context(), id, "", "by an operator"); err != nil {
		t.Fatal(err)
	}
	b.due(t)
	if _, err := b.sweeper.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if run := b.run(t, start.RunID); run.Status != definition.RunCanceled || run.Reason != definition.ReasonTerminated {
		t.Errorf("run is %s %s, want canceled terminated", run.Status, run.Reason)
	}
}

func TestTooOldIsNeverStarted(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	start := b.record(t)
	_, err := b.pool.Exec(t.Context(), `UPDATE runs SET start_after = now(), start_attempts = 9, first_tried_at = now() - interval '24 hours'`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.sweeper.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if run := b.run(t, start.RunID); run.Status != definition.RunFailed || run.Reason != definition.ReasonStartLost {
		t.Errorf("run is %s %s, want failed start_lost", run.Status, run.Reason)
	}
	if _, err := b.temporal.DescribeWorkflowExecution(t.Context(), definition.WorkflowID(start.DefinitionID, start.Key), ""); err == nil {
		t.Error("its workflow was started")
	}
}

func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	start := b.record(t)
	start.Key = strings.Repeat("x", 2000) // a workflow id that Temporal refuses
	if err := b.ledger.Start(t.Context(), start); err != nil {
		t.Fatalf("a refusal for good is reported as transient: %v", err)
	}
	run := b.run(t, start.RunID)
	if run.Status != definition.RunFailed || run.Reason != definition.ReasonStartRefused || run.Error == "" {
		t.Errorf("run is %s %s %q, want failed start_refused with Temporal's words", run.Status, run.Reason, run.Error)
	}
}

func TestTemporalAwayLosesNothing(t *testing.T) {
	t.Parallel()
	away, err := client.NewLazyClient(client.Options{HostPort: "127.0.0.1:1", Namespace: "none"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(away.Close)
	b := setup(t, away)
	start := b.record(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := b.ledger.Start(ctx, start); err == nil {
		t.Fatal("a start without a Temporal server succeeded")
	}
	b.due(t)
	ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := b.sweeper.sweep(ctx); err == nil {
		t.Fatal("a sweep without a Temporal server succeeded")
	}
	var attempts int
	var first *time.Time
	err = b.pool.QueryRow(t.Context(), `SELECT start_attempts, first_tried_at FROM runs WHERE status = 'accepted'`).Scan(&attempts, &first)
	if err != nil || attempts != 0 || first != nil {
		t.Errorf("after an outage the row has %d attempts since %v, %v; want none", attempts, first, err)
	}
}

// An operator terminates the workflow of a running run: the reaper ends its row and its task, and the queued one behind it
// takes the place and is told.
func TestReaperEndsWhatWasTerminated(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	doc, err := definition.ParseDocument([]byte(`{"name": "one-by-one", "trigger_config": {"trigger_type": "manual"},
		"tasks": [{"name": "a", "type": "log", "with": {"message": "x"}}], "concurrency": {"limit": 1, "on_limit": "queue"}}`))
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.store.CreateDefinition(t.Context(), doc)
	if err != nil {
		t.Fatal(err)
	}
	b.id = d.ID
	reaper, err := NewReaper(ReaperOptions{Store: b.store, Temporal: b.temporal, Namespace: testenv.Namespace(t),
		Every: 100 * time.Millisecond, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	var starts []definition.Start
	for i, want := range []definition.RunStatus{definition.RunRunning, definition.RunQueued} {
		start := b.record(t)
		if err := b.ledger.Start(t.Context(), start); err != nil {
			t.Fatal(err)
		}
		id := definition.WorkflowID(start.DefinitionID, start.Key)
		adm, err := b.store.BeginRun(t.Context(), definition.Begin{RunID: start.RunID, DefinitionID: d.ID, WorkflowID: id, FirstRunID: id})
		if err != nil || adm.Run.Status != want {
			t.Fatalf("run %d is %s, %v; want %s", i, adm.Run.Status, err, want)
		}
		starts = append(starts, start)
	}
	if _, err := b.store.BeginTask(t.Context(), definition.TaskBegin{RunID: starts[0].RunID, Item: -1, Name: "say", Type: definition.TaskLog, Attempt: 1}); err != nil {
		t.Fatal(err)
	}
	// Both workflows are open: nothing to do.
	if err := reaper.reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if run := b.run(t, starts[0].RunID); run.Status != definition.RunRunning {
		t.Fatalf("a run with an open workflow was ended: %s %s", run.Status, run.Reason)
	}
	if err := b.temporal.TerminateWorkflow(t.Context(), definition.WorkflowID(d.ID, starts[0].Key), "", "by an operator"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- reaper.Run(ctx) }()
	testenv.Eventually(t, 20*time.Second, "the row is ended", func(ctx context.Context) (bool, error) {
		run, err := b.store.GetRun(ctx, starts[0].RunID)
		return run.Status.Final(), err
	})
	// The reaper tells the next one after it has ended the row.
	testenv.Eventually(t, 20*time.Second, "the queued run's workflow is told that it may run", func(ctx context.Context) (bool, error) {
		history := b.temporal.GetWorkflowHistory(ctx, definition.WorkflowID(d.ID, starts[1].Key), "", false,
			enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for history.HasNext() {
			e, err := history.Next()
			if err != nil {
				return false, err
			}
			if e.GetWorkflowExecutionSignaledEventAttributes().GetSignalName() == definition.SignalAdmitted {
				return true, nil
			}
		}
		return false, nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	run := b.run(t, starts[0].RunID)
	if run.Status != definition.RunCanceled || run.Reason != definition.ReasonTerminated || len(run.Tasks) != 1 ||
		run.Tasks[0].Status != definition.TaskCanceled {
		t.Errorf("run is %s %s with tasks %+v, want canceled terminated with a canceled task", run.Status, run.Reason, run.Tasks)
	}
	if next := b.run(t, starts[1].RunID); next.Status != definition.RunRunning {
		t.Errorf("the queued run is %s, want running", next.Status)
	}
}

// A running row whose workflow Temporal never heard of, as after its data was lost, ends when it is overdue.
func TestReaperAsksAboutOverdueRuns(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	reaper, err := NewReaper(ReaperOptions{Store: b.store, Temporal: b.temporal, Namespace: testenv.Namespace(t),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	lost := b.record(t)
	id := definition.WorkflowID(lost.DefinitionID, lost.Key)
	if _, err := b.store.BeginRun(t.Context(), definition.Begin{RunID: lost.RunID, WorkflowID: id, FirstRunID: id}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		age  string
		want definition.RunStatus
	}{{"25 hours", definition.RunRunning}, {"27 hours", definition.RunFailed}} {
		if _, err := b.pool.Exec(t.Context(), `UPDATE runs SET started_at = now() - $1::text::interval`, step.age); err != nil {
			t.Fatal(err)
		}
		if err := reaper.reap(t.Context()); err != nil {
			t.Fatal(err)
		}
		if run := b.run(t, lost.RunID); run.Status != step.want {
			t.Errorf("running for %s: %s %s, want %s", step.age, run.Status, run.Reason, step.want)
		}
	}
}
