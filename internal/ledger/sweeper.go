package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
)

// Defaults of a Sweeper.
const (
	DefaultSweepEvery = 2 * time.Second
	sweepBatch        = 200
	sweepConcurrency  = 16
	// awayPause is how long claimed rows wait when Temporal turned out to be away.
	awayPause = 5 * time.Second
	// defaultRetention is assumed of a namespace that names none.
	defaultRetention = 24 * time.Hour
)

// SweepStore is what the sweeper needs of storage.
type SweepStore interface {
	// ClaimUnstarted claims accepted rows that nobody has started in time.
	ClaimUnstarted(ctx context.Context, limit int) ([]definition.Start, error)
	// ReturnUnstarted gives claimed rows back, to be claimed again after a pause.
	ReturnUnstarted(ctx context.Context, runIDs []string, pause time.Duration) error
	// CloseUnbegun ends a row that is still accepted.
	CloseUnbegun(ctx context.Context, f definition.Finish) (definition.Finished, error)
	// SlotsRecovered notes that slots of these definitions were started by the sweeper and not by their schedules.
	SlotsRecovered(ctx context.Context, definitionIDs []string) error
}

// SweeperOptions are the options of a Sweeper. Every field but Every is required.
type SweeperOptions struct {
	Ledger    *Ledger
	Store     SweepStore
	Temporal  client.Client
	Namespace string
	// Every is the pause between two looks; 0 for DefaultSweepEvery. A look that finds nothing is one indexed statement.
	Every      time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Sweeper starts what was accepted and not started. Any number may run at once.
type Sweeper struct {
	o         SweeperOptions
	swept     *prometheus.CounterVec
	recovered prometheus.Counter

	retentionMu sync.Mutex
	retention   time.Duration // of the namespace; 0 until read
}

// NewSweeper makes a Sweeper.
func NewSweeper(o SweeperOptions) (*Sweeper, error) {
	switch {
	case o.Ledger == nil:
		return nil, errors.New("sweeper: Ledger is missing")
	case o.Store == nil:
		return nil, errors.New("sweeper: Store is missing")
	case o.Temporal == nil:
		return nil, errors.New("sweeper: Temporal is missing")
	case o.Namespace == "":
		return nil, errors.New("sweeper: Namespace is missing")
	case o.Log == nil:
		return nil, errors.New("sweeper: Log is missing")
	case o.Registerer == nil:
		return nil, errors.New("sweeper: Registerer is missing")
	}
	if o.Every == 0 {
		o.Every = DefaultSweepEvery
	}
	s := &Sweeper{o: o, swept: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "actcore_runs_swept_total",
		Help: "Accepted runs that nobody had started in time, by what became of them: started, waiting (its workflow is " +
			"open), closed (its workflow had ended) and lost (too old to be started safely).",
	}, []string{"result"})}
	for _, result := range []string{"started", "waiting", "closed", "lost"} {
		s.swept.WithLabelValues(result)
	}
	s.recovered = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "actcore_slots_recovered_total",
		Help: "Slots that Temporal's schedule had not started in time, and that were started in its place.",
	})
	return s, errors.Join(o.Registerer.Register(s.swept), o.Registerer.Register(s.recovered))
}

// Run sweeps until the context ends.
func (s *Sweeper) Run(ctx context.Context) error {
	tend(ctx, s.o.Log.With("caretaker", "sweeper"), 0, func(ctx context.Context) (time.Duration, error) {
		full, err := s.sweep(ctx)
		switch {
		case err != nil:
			return awayPause, err
		case full:
			return 0, nil
		}
		return s.o.Every, nil
	})
	return nil
}

// sweep starts one batch; full reports that there may be more.
func (s *Sweeper) sweep(ctx context.Context) (full bool, err error) {
	claimed, err := s.o.Store.ClaimUnstarted(ctx, sweepBatch)
	if err != nil || len(claimed) == 0 {
		return false, err
	}
	var (
		temporal fuse
		mu       sync.Mutex
		back     []string
		found    []string // definitions whose slots were recovered
		cause    error
	)
	group := errgroup.Group{}
	group.SetLimit(sweepConcurrency)
	for _, start := range claimed {
		group.Go(func() error {
			started := false
			err := temporal.try(func() (err error) {
				started, err = s.start(ctx, start)
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				back, cause = append(back, start.RunID), err
			case started && start.Kind == definition.KindCron:
				found = append(found, start.DefinitionID)
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
	s.recovered.Add(float64(len(found)))
	// Also when the context has ended: the rows would otherwise wait out their whole pause.
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	if len(found) > 0 {
		slices.Sort(found)
		cause = errors.Join(cause, s.o.Store.SlotsRecovered(noting, slices.Compact(found)))
	}
	if len(back) > 0 {
		cause = errors.Join(cause, s.o.Store.ReturnUnstarted(noting, back, awayPause))
	}
	return cause == nil && len(claimed) == sweepBatch, cause
}

// start does what a claimed row needs, and reports whether its workflow was started by that. An error is transient.
func (s *Sweeper) start(ctx context.Context, start definition.Start) (started bool, err error) {
	retention, err := s.readRetention(ctx)
	if err != nil {
		return false, err
	}
	// Temporal forgets closed workflows after the retention, and with them that a workflow id was used. Beyond it a start
	// could be a second one.
	if !start.FirstTriedAt.IsZero() && time.Since(start.FirstTriedAt) > retention-min(time.Hour, retention/2) {
		return false, s.close(ctx, start, "lost", definition.Finish{
			Status: definition.RunFailed, Reason: definition.ReasonStartLost,
			Error: fmt.Sprintf("its workflow could not be started for %s, which is as long as the namespace remembers workflows",
				time.Since(start.FirstTriedAt).Round(time.Minute)),
		})
	}
	err = s.o.Ledger.execute(ctx, start)
	if err == nil {
		s.swept.WithLabelValues("started").Inc()
		return true, nil
	}
	if !errors.Is(err, errDuplicate) {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	id := definition.WorkflowID(start.DefinitionID, start.Key)
	described, err := s.o.Temporal.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		var gone *serviceerror.NotFound
		if errors.As(err, &gone) {
			return false, nil // removed between the two calls; the next sweep starts it
		}
		return false, fmt.Errorf("describe workflow %s: %w", id, err)
	}
	status := described.GetWorkflowExecutionInfo().GetStatus()
	if status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		s.swept.WithLabelValues("waiting").Inc()
		return false, nil
	}
	return false, s.close(ctx, start, "closed", closedFinish(status, "began"))
}

func (s *Sweeper) close(ctx context.Context, start definition.Start, result string, f definition.Finish) error {
	f.RunID = start.RunID
	closed, err := s.o.Store.CloseUnbegun(ctx, f)
	if err != nil {
		return err
	}
	wake(ctx, s.o.Temporal, s.o.Log, closed.Wake)
	if !closed.Repeated {
		s.swept.WithLabelValues(result).Inc()
		s.o.Log.Warn("closed a run that never began", "run_id", start.RunID, "definition", start.DefinitionName,
			"status", f.Status, "reason", f.Reason)
	}
	return nil
}

// closedFinish says how a row ends whose workflow ended before the run itself did what the verb says.
func closedFinish(status enumspb.WorkflowExecutionStatus, verb string) definition.Finish {
	end := func(status definition.RunStatus, reason definition.Reason, how string) definition.Finish {
		return definition.Finish{Status: status, Reason: reason, Error: "its workflow " + how + " before the run " + verb}
	}
	switch status {
	case enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED:
		return end(definition.RunCanceled, definition.ReasonTerminated, "was terminated")
	case enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:
		return end(definition.RunCanceled, definition.ReasonCancelRequested, "was canceled")
	case enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		return end(definition.RunTimedOut, definition.ReasonRunTimeout, "timed out")
	}
	f := end(definition.RunFailed, definition.ReasonWorkflowEnded, "ended")
	f.Error += "; the workflow's history in Temporal says why"
	return f
}

// readRetention asks for the namespace's retention until it is known.
func (s *Sweeper) readRetention(ctx context.Context) (time.Duration, error) {
	s.retentionMu.Lock()
	defer s.retentionMu.Unlock()
	if s.retention > 0 {
		return s.retention, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	answer, err := s.o.Temporal.WorkflowService().DescribeNamespace(ctx,
		&workflowservice.DescribeNamespaceRequest{Namespace: s.o.Namespace})
	if err != nil {
		return 0, fmt.Errorf("describe namespace %s: %w", s.o.Namespace, err)
	}
	s.retention = answer.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration()
	if s.retention <= 0 {
		s.retention = defaultRetention
	}
	return s.retention, nil
}
