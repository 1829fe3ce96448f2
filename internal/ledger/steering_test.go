package ledger

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

func newStopper(t *testing.T, b *bundle) *Stopper {
	t.Helper()
	s, err := NewStopper(StopperOptions{Store: b.store, Temporal: b.temporal, Every: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// begun makes a run whose workflow, which no worker carries out, has begun; without one when it is not started.
func (b *bundle) begun(t *testing.T, started bool) (runID, workflowID string) {
	t.Helper()
	start := b.record(t)
	id := definition.WorkflowID(start.DefinitionID, start.Key)
	if started {
		if err := b.ledger.Start(t.Context(), start); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.store.BeginRun(t.Context(), definition.Begin{RunID: start.RunID, WorkflowID: id, FirstRunID: id}); err != nil {
		t.Fatal(err)
	}
	return start.RunID, id
}

// TestStopperSeesToIt has rows that are to end wait for a stopper: one is terminated, one was canceled in Temporal meanwhile, one's
// workflow is not known to Temporal, and one whose workflow goes on is told.
func TestStopperSeesToIt(t *testing.T) {
	t.Parallel()
	b := setup(t, testenv.Temporal(t))
	ctx := t.Context()
	harsh, _ := b.begun(t, true)
	gone, goneWorkflow := b.begun(t, true)
	lost, _ := b.begun(t, false)
	soft, softWorkflow := b.begun(t, true)
	if _, err := b.store.BeginTask(ctx, definition.TaskBegin{RunID: harsh, Item: -1, Name: "say", Type: definition.TaskLog, Attempt: 1}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{harsh, gone, lost, soft} {
		how := definition.StopCancel
		if id == harsh {
			how = definition.StopTerminate
		}
		if _, err := b.store.StopRun(ctx, id, definition.StopRequest{How: how, Note: "enough"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.temporal.TerminateWorkflow(ctx, goneWorkflow, "", "by an operator"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.pool.Exec(ctx, `UPDATE runs SET stop_after = now()`); err != nil {
		t.Fatal(err)
	}
	s := newStopper(t, b)
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(running) }()
	for id, want := range map[string]string{harsh: "canceled terminated enough", gone: "canceled cancel_requested enough",
		lost: "failed workflow_ended Temporal does not know its workflow any more"} {
		testenv.Eventually(t, 20*time.Second, "the row is "+want, func(ctx context.Context) (bool, error) {
			run, err := b.store.GetRun(ctx, id)
			return string(run.Status)+" "+string(run.Reason)+" "+run.Error == want, err
		})
	}
	testenv.Eventually(t, 20*time.Second, "the workflow that goes on is told", func(ctx context.Context) (bool, error) {
		described, err := b.temporal.DescribeWorkflowExecution(ctx, softWorkflow, "")
		return err == nil && described.GetWorkflowExtendedInfo().GetCancelRequested(), err
	})
	// Told again, it changes nothing.
	if err := s.StopAll(ctx, []definition.Stopping{{RunID: soft, WorkflowID: softWorkflow, How: definition.StopCancel}}); err != nil {
		t.Errorf("told again: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if run := b.run(t, soft); run.Status != definition.RunRunning {
		t.Errorf("a run that goes on is %s", run.Status)
	}
	if run := b.run(t, harsh); len(run.Tasks) != 1 || run.Tasks[0].Status != definition.TaskCanceled {
		t.Errorf("tasks of the terminated run: %+v", run.Tasks)
	}
	for labels, want := range map[[2]string]float64{{"terminate", "told"}: 1, {"cancel", "ended"}: 1, {"cancel", "failed"}: 0} {
		var m dto.Metric
		if err := s.told.WithLabelValues(labels[0], labels[1]).Write(&m); err != nil || m.GetCounter().GetValue() != want {
			t.Errorf("%v: %v, want %v (%v)", labels, m.GetCounter().GetValue(), want, err)
		}
	}
}

// TestStopperNeeds checks that a missing option is named.
func TestStopperNeeds(t *testing.T) {
	t.Parallel()
	if _, err := NewStopper(StopperOptions{}); err == nil || err.Error() != "stopper: Store is missing" {
		t.Errorf("without a store: %v", err)
	}
}
