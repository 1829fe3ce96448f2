package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
)

// Defaults of a Reaper.
const (
	DefaultReapEvery = time.Minute
	// reapFirstLook is how far back the first look goes: the workers may have been away for a while.
	reapFirstLook = 24 * time.Hour
	// reapOverlap is how much each look repeats of the one before: Temporal's lists lag behind its workflows.
	reapOverlap = 2 * time.Minute
	// reapGrace is how long after its own timeout a run is asked about for which no closed workflow was listed.
	reapGrace = 2 * time.Hour
	reapPage  = 500
	// reapOverdue bounds how many overdue runs one look asks about.
	reapOverdue = 50
)

// ReapStore is what the reaper needs of storage.
type ReapStore interface {
	// OpenRuns returns which of these workflows have a row that is queued or running.
	OpenRuns(ctx context.Context, workflowIDs []string) ([]definition.Open, error)
	// OverdueRuns returns running rows that should have ended longer ago than the grace.
	OverdueRuns(ctx context.Context, grace time.Duration, limit int) ([]definition.Open, error)
	// FinishRun ends a run, and says which queued ones take its place.
	FinishRun(ctx context.Context, f definition.Finish) (definition.Finished, error)
	// CancelOpenTasks ends the tasks that are still shown as running.
	CancelOpenTasks(ctx context.Context, runID, why string) error
}

// ReaperOptions are the options of a Reaper. Every field but Every is required.
type ReaperOptions struct {
	Store     ReapStore
	Temporal  client.Client
	Namespace string
	// Every is the pause between two looks; 0 for DefaultReapEvery. A look is one list call to Temporal.
	Every      time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Reaper ends the rows whose workflows ended without saying so: terminated, timed out, failed or canceled from outside. A
// list of closed workflows nominates; what is done is decided from the description of the one workflow. It asks, and
// never guesses. Any number may run at once.
type Reaper struct {
	o      ReaperOptions
	reaped *prometheus.CounterVec
	// since is the close time from which the next look lists.
	since time.Time
}

// NewReaper makes a Reaper.
func NewReaper(o ReaperOptions) (*Reaper, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("reaper: Store is missing")
	case o.Temporal == nil:
		return nil, errors.New("reaper: Temporal is missing")
	case o.Namespace == "":
		return nil, errors.New("reaper: Namespace is missing")
	case o.Log == nil:
		return nil, errors.New("reaper: Log is missing")
	case o.Registerer == nil:
		return nil, errors.New("reaper: Registerer is missing")
	}
	if o.Every == 0 {
		o.Every = DefaultReapEvery
	}
	r := &Reaper{o: o, since: time.Now().Add(-reapFirstLook), reaped: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "actcore_runs_reaped_total",
		Help: "Queued and running runs whose workflow had ended without ending them, by the status that they were given.",
	}, []string{"status"})}
	for _, status := range []definition.RunStatus{definition.RunCanceled, definition.RunFailed, definition.RunTimedOut} {
		r.reaped.WithLabelValues(string(status))
	}
	return r, o.Registerer.Register(r.reaped)
}

// Run reaps until the context ends. Workers that start together do not all ask at once.
func (r *Reaper) Run(ctx context.Context) error {
	tend(ctx, r.o.Log.With("caretaker", "reaper"), rand.N(r.o.Every), func(ctx context.Context) (time.Duration, error) {
		return r.o.Every + rand.N(r.o.Every/4+1), r.reap(ctx)
	})
	return nil
}

// reap is one look.
func (r *Reaper) reap(ctx context.Context) error {
	began := time.Now()
	query := fmt.Sprintf(`WorkflowType = '%s' AND ExecutionStatus IN ('Terminated', 'TimedOut', 'Failed', 'Canceled') `+
		`AND CloseTime > '%s'`, definition.RunWorkflow, r.since.UTC().Format(time.RFC3339))
	for page := []byte(nil); ; {
		closed, next, err := r.list(ctx, query, page)
		if err != nil {
			return err
		}
		open, err := r.o.Store.OpenRuns(ctx, closed)
		if err != nil {
			return err
		}
		if err := r.askAll(ctx, open); err != nil {
			return err
		}
		if page = next; len(page) == 0 {
			break
		}
	}
	overdue, err := r.o.Store.OverdueRuns(ctx, reapGrace, reapOverdue)
	if err != nil {
		return err
	}
	if err := r.askAll(ctx, overdue); err != nil {
		return err
	}
	r.since = began.Add(-reapOverlap - r.o.Every)
	return nil
}

func (r *Reaper) list(ctx context.Context, query string, page []byte) (ids []string, next []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	answer, err := r.o.Temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: r.o.Namespace, PageSize: reapPage, NextPageToken: page, Query: query,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list closed workflows: %w", err)
	}
	for _, e := range answer.GetExecutions() {
		ids = append(ids, e.GetExecution().GetWorkflowId())
	}
	return ids, answer.GetNextPageToken(), nil
}

func (r *Reaper) askAll(ctx context.Context, open []definition.Open) error {
	for _, o := range open {
		if err := r.ask(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// ask ends a row if Temporal says that its workflow has ended, or that there is none.
func (r *Reaper) ask(ctx context.Context, o definition.Open) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	end, open, err := closedEnd(ctx, r.o.Temporal, o.WorkflowID)
	if err != nil || open {
		return err
	}
	end.RunID = o.RunID
	finished, err := closeRow(ctx, r.o.Store, r.o.Temporal, r.o.Log, end)
	if err == nil && !finished.Repeated {
		r.reaped.WithLabelValues(string(end.Status)).Inc()
		r.o.Log.Warn("ended a run whose workflow had ended without it", "run_id", o.RunID, "definition", o.Name,
			"status", end.Status, "reason", finished.Run.Reason)
	}
	return err
}
