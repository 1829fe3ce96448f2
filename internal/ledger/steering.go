package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
)

// Defaults of a Stopper.
const (
	DefaultStopEvery = 5 * time.Second
	stopBatch        = 200
)

// StopStore is what the stopper needs of storage.
type StopStore interface {
	// ClaimStops claims runs whose workflows are to be told that they are to end.
	ClaimStops(ctx context.Context, limit int) ([]definition.Stopping, error)
	// ClaimWakes claims runs that were given their places, or may get them, and whose workflows have not heard of it.
	ClaimWakes(ctx context.Context, limit int) (workflowIDs []string, err error)
	// FinishRun ends a run, and says which queued ones take its place.
	FinishRun(ctx context.Context, f definition.Finish) (definition.Finished, error)
	// CancelOpenTasks ends the tasks that are still shown as running.
	CancelOpenTasks(ctx context.Context, runID, why string) error
}

// StopperOptions are the options of a Stopper. Every field but Every is required.
type StopperOptions struct {
	Store    StopStore
	Temporal client.Client
	// Every is the pause between two looks that find nothing; 0 for DefaultStopEvery. Such a look is two indexed statements.
	Every      time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Stopper tells the workflows of runs that are to end, and tells them again until the ledger says that they have ended. It also tells
// those of queued runs again that may run and have not heard of it: whoever should have told them may have died. Any number may run at
// once.
type Stopper struct {
	o     StopperOptions
	nudge chan struct{}
	told  *prometheus.CounterVec
}

// NewStopper makes a Stopper.
func NewStopper(o StopperOptions) (*Stopper, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("stopper: Store is missing")
	case o.Temporal == nil:
		return nil, errors.New("stopper: Temporal is missing")
	case o.Log == nil:
		return nil, errors.New("stopper: Log is missing")
	case o.Registerer == nil:
		return nil, errors.New("stopper: Registerer is missing")
	}
	if o.Every == 0 {
		o.Every = DefaultStopEvery
	}
	s := &Stopper{o: o, nudge: make(chan struct{}, 1), told: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "actcore_run_stops_total",
		Help: "Tries to tell the workflow of a run that it is to end, by how (cancel, terminate) and result: told, ended (there was " +
			"none any more) and failed (to be tried again).",
	}, []string{"how", "result"})}
	for _, how := range []definition.StopHow{definition.StopCancel, definition.StopTerminate} {
		for _, result := range []string{"told", "ended", "failed"} {
			s.told.WithLabelValues(string(how), result)
		}
	}
	return s, o.Registerer.Register(s.told)
}

// Nudge says that there are runs to stop now. It never waits.
func (s *Stopper) Nudge() {
	select {
	case s.nudge <- struct{}{}:
	default: // it looks in any case
	}
}

// Run works until the context ends.
func (s *Stopper) Run(ctx context.Context) error {
	tendNudged(ctx, s.o.Log.With("caretaker", "stopper"), 0, s.nudge, func(ctx context.Context) (time.Duration, error) {
		waking, err := s.o.Store.ClaimWakes(ctx, stopBatch)
		if err != nil {
			return s.o.Every, err
		}
		s.Wake(ctx, waking)
		stopping, err := s.o.Store.ClaimStops(ctx, stopBatch)
		if err != nil {
			return s.o.Every, err
		}
		if err := s.stopAll(ctx, stopping, true); err != nil || max(len(waking), len(stopping)) < stopBatch {
			return s.o.Every, err
		}
		return 0, nil
	})
	return nil
}

// StopAll tells the workflows of runs that they are to end. The error is one of those that occurred: such a run is told again by Run,
// in any process.
func (s *Stopper) StopAll(ctx context.Context, runs []definition.Stopping) error {
	return s.stopAll(ctx, runs, false)
}

// stopAll also asks, if it is to, whether the workflows of runs that were to be canceled have ended without ending their rows.
func (s *Stopper) stopAll(ctx context.Context, runs []definition.Stopping, ask bool) error {
	group := errgroup.Group{}
	group.SetLimit(sweepConcurrency)
	for i := range runs {
		group.Go(func() error {
			err := s.stop(ctx, &runs[i], ask)
			if err != nil {
				s.told.WithLabelValues(string(runs[i].How), "failed").Inc()
			}
			return err
		})
	}
	return group.Wait()
}

// Wake tells the workflows of queued runs that something was decided about them.
func (s *Stopper) Wake(ctx context.Context, workflowIDs []string) {
	wake(ctx, s.o.Temporal, s.o.Log, workflowIDs)
}

// Decided tells the workflow of a run that somebody decided about an approval. It also asks by itself, so an error costs time only.
func (s *Stopper) Decided(ctx context.Context, workflowID string) error {
	if err := s.o.Temporal.SignalWorkflow(ctx, workflowID, "", definition.SignalDecided, nil); err != nil {
		return fmt.Errorf("signal workflow %s: %w", workflowID, err)
	}
	return nil
}

func (s *Stopper) stop(ctx context.Context, st *definition.Stopping, ask bool) error {
	if st.WorkflowID == "" {
		return nil // it had none that has begun
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	if st.How == definition.StopTerminate {
		err = s.o.Temporal.TerminateWorkflow(ctx, st.WorkflowID, "", st.Note)
	} else {
		err = s.o.Temporal.CancelWorkflow(ctx, st.WorkflowID, "")
	}
	var gone *serviceerror.NotFound
	var asked *serviceerror.CancellationAlreadyRequested
	switch {
	case errors.As(err, &gone):
		s.told.WithLabelValues(string(st.How), "ended").Inc()
		if st.Ended {
			return nil
		}
		return s.end(ctx, st, true)
	case err != nil && !errors.As(err, &asked):
		return fmt.Errorf("%s workflow %s: %w", st.How, st.WorkflowID, err)
	}
	s.told.WithLabelValues(string(st.How), "told").Inc()
	switch {
	case st.Ended:
		return nil
	case st.How == definition.StopTerminate:
		return s.end(ctx, st, false)
	case ask:
		return s.end(ctx, st, true) // Temporal takes the cancellation of a workflow that has ended for a success
	}
	return nil // the workflow ends its row
}

// end ends the row of a run whose workflow has ended without doing so. That of one that was terminated by us ends as such; of
// another, Temporal is asked.
func (s *Stopper) end(ctx context.Context, st *definition.Stopping, ask bool) error {
	end := definition.Finish{RunID: st.RunID, Status: definition.RunCanceled, Reason: definition.ReasonTerminated, Error: st.Note}
	if ask {
		var open bool
		var err error
		if end, open, err = closedEnd(ctx, s.o.Temporal, st.WorkflowID); err != nil || open {
			return err
		}
		end.RunID = st.RunID
	}
	finished, err := closeRow(ctx, s.o.Store, s.o.Temporal, s.o.Log, end)
	if err == nil && !finished.Repeated {
		s.o.Log.Info("ended a run that was to stop", "run_id", st.RunID, "definition", st.Definition, "status", finished.Run.Status,
			"reason", finished.Run.Reason)
	}
	return err
}

// closedEnd asks Temporal how a workflow ended; open tells that it has not. It names no run id, so that a workflow that was reset is
// described as what it is now: running.
func closedEnd(ctx context.Context, temporal client.Client, workflowID string) (end definition.Finish, open bool, err error) {
	described, err := temporal.DescribeWorkflowExecution(ctx, workflowID, "")
	var gone *serviceerror.NotFound
	switch {
	case errors.As(err, &gone):
		return definition.Finish{Status: definition.RunFailed, Reason: definition.ReasonWorkflowEnded,
			Error: "Temporal does not know its workflow any more"}, false, nil
	case err != nil:
		return end, false, fmt.Errorf("describe workflow %s: %w", workflowID, err)
	}
	status := described.GetWorkflowExecutionInfo().GetStatus()
	return closedFinish(status, "ended"), status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, nil
}

// closer ends rows whose workflows are gone.
type closer interface {
	FinishRun(ctx context.Context, f definition.Finish) (definition.Finished, error)
	CancelOpenTasks(ctx context.Context, runID, why string) error
}

// closeRow ends a row and its tasks, and tells those who may run now.
func closeRow(ctx context.Context, store closer, c client.Client, log *slog.Logger, end definition.Finish) (definition.Finished, error) {
	// The tasks first: a row that is found ended has none left open.
	if err := store.CancelOpenTasks(ctx, end.RunID, end.Error); err != nil {
		return definition.Finished{}, err
	}
	finished, err := store.FinishRun(ctx, end)
	if err == nil {
		wake(ctx, c, log, finished.Wake)
	}
	return finished, err
}
