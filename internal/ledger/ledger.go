// Package ledger is the one path of every occurrence: record it, committed, then start its workflow. What a process
// recorded and did not start, because it died or because Temporal was away, the sweeper starts later; both use the same
// workflow id, so a second start is refused by Temporal and costs nothing.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
)

// backstop is added to a run's own timeout for Temporal's run timeout, which ends what the run itself failed to end.
const backstop = time.Hour

// startTimeout bounds one call to Temporal.
const startTimeout = 10 * time.Second

var (
	attributeID   = temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeID)
	attributeName = temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeName)
)

// Store is what the ledger needs of storage.
type Store interface {
	// AcceptRuns commits rows and returns those that are new.
	AcceptRuns(ctx context.Context, occurrences []definition.Occurrence) ([]definition.Start, error)
	// AcceptEvents commits events and rows, and returns the rows that are new and the ids of events that are others than those which
	// are recorded with these ids.
	AcceptEvents(ctx context.Context, events []definition.EventRecord, occurrences []definition.Occurrence) (
		starts []definition.Start, reused []string, err error)
	// CloseUnbegun ends a row that is still accepted; one that is not stays as it is, and is Repeated.
	CloseUnbegun(ctx context.Context, f definition.Finish) (definition.Finished, error)
}

// Options of a Ledger. Every field is required.
type Options struct {
	Store Store
	// Temporal is the client of the namespace in which runs live.
	Temporal client.Client
	// TaskQueue is where RunActivity workflows wait for a worker.
	TaskQueue  string
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Ledger records occurrences and starts their workflows. It is safe for concurrent use.
type Ledger struct {
	o      Options
	starts *prometheus.CounterVec
}

// New makes a Ledger.
func New(o Options) (*Ledger, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("ledger: Store is missing")
	case o.Temporal == nil:
		return nil, errors.New("ledger: Temporal is missing")
	case o.TaskQueue == "":
		return nil, errors.New("ledger: TaskQueue is missing")
	case o.Log == nil:
		return nil, errors.New("ledger: Log is missing")
	case o.Registerer == nil:
		return nil, errors.New("ledger: Registerer is missing")
	}
	l := &Ledger{o: o, starts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "actcore_run_starts_total",
		Help: "Tries to start the workflow of an accepted run, by result: started, duplicate (it was started before), " +
			"refused (for good) and failed (to be tried again).",
	}, []string{"result"})}
	for _, result := range []string{"started", "duplicate", "refused", "failed"} {
		l.starts.WithLabelValues(result)
	}
	return l, o.Registerer.Register(l.starts)
}

// Record commits one row for each occurrence that has none, and returns what is needed to start the new ones.
func (l *Ledger) Record(ctx context.Context, occurrences []definition.Occurrence) ([]definition.Start, error) {
	return l.o.Store.AcceptRuns(ctx, occurrences)
}

// RecordEvents records events, and commits one row for each of their occurrences that has none. It returns what is needed to start
// the new ones, and the ids of events that are others than those which were recorded with these ids before; they have no rows.
func (l *Ledger) RecordEvents(ctx context.Context, events []definition.EventRecord, occurrences []definition.Occurrence) (
	starts []definition.Start, reused []string, err error) {
	return l.o.Store.AcceptEvents(ctx, events, occurrences)
}

// Start starts the workflow of an accepted row. Nil means that it is started, by this call or an earlier one, or that
// Temporal refused it for good, in which case the row is closed with the reason. An error is transient: the sweeper will
// start it.
func (l *Ledger) Start(ctx context.Context, s definition.Start) error {
	err := l.execute(ctx, s)
	if errors.Is(err, errDuplicate) {
		return nil
	}
	return err
}

// errDuplicate tells the sweeper that the workflow exists already.
var errDuplicate = errors.New("workflow was started before")

func (l *Ledger) execute(ctx context.Context, s definition.Start) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	options := client.StartWorkflowOptions{
		ID:                                       definition.WorkflowID(s.DefinitionID, s.Key),
		TaskQueue:                                l.o.TaskQueue,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		TypedSearchAttributes: temporal.NewSearchAttributes(
			attributeID.ValueSet(s.DefinitionID), attributeName.ValueSet(s.DefinitionName)),
	}
	if s.Timeout > 0 {
		options.WorkflowRunTimeout = s.Timeout + backstop
	}
	_, err := l.o.Temporal.ExecuteWorkflow(ctx, options, definition.RunWorkflow,
		definition.RunInput{RunID: s.RunID, DefinitionID: s.DefinitionID})
	var duplicate *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case err == nil:
		l.starts.WithLabelValues("started").Inc()
		return nil
	case errors.As(err, &duplicate):
		l.starts.WithLabelValues("duplicate").Inc()
		return errDuplicate
	case refusedForGood(err):
		l.starts.WithLabelValues("refused").Inc()
		return l.refuse(ctx, s, err)
	}
	l.starts.WithLabelValues("failed").Inc()
	return fmt.Errorf("start run %s: %w", s.RunID, err)
}

// Notify starts the workflow that sends the notifications of a run's end. Nil means that it is started, by this call or an earlier
// one, or that Temporal refused it for good, which is logged. An error is transient.
func (l *Ledger) Notify(ctx context.Context, in definition.NotifyInput) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_, err := l.o.Temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       definition.NotifyWorkflowID(in.RunID),
		TaskQueue:                                l.o.TaskQueue,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		WorkflowRunTimeout:                       definition.NotifyTimeout + backstop,
	}, definition.NotifyWorkflow, in)
	var duplicate *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case err == nil, errors.As(err, &duplicate):
		return nil
	case refusedForGood(err):
		l.o.Log.Warn("temporal refused the notifications of a run for good", "run_id", in.RunID, "error", err)
		return nil
	}
	return fmt.Errorf("start the notifications of run %s: %w", in.RunID, err)
}

// refuse closes the row with Temporal's words.
func (l *Ledger) refuse(ctx context.Context, s definition.Start, cause error) error {
	closed, err := l.o.Store.CloseUnbegun(ctx, definition.Finish{
		RunID: s.RunID, Status: definition.RunFailed, Reason: definition.ReasonStartRefused, Error: cause.Error(),
	})
	if err != nil {
		return err
	}
	wake(ctx, l.o.Temporal, l.o.Log, closed.Wake)
	if !closed.Repeated {
		l.o.Log.Warn("temporal refused a run for good", "run_id", s.RunID, "definition", s.DefinitionName, "error", cause)
	}
	return nil
}

// wake tells the workflows of queued runs that something was decided about them. They also ask by themselves, so a lost signal costs
// time only.
func wake(ctx context.Context, c client.Client, log *slog.Logger, workflowIDs []string) {
	group := errgroup.Group{}
	group.SetLimit(sweepConcurrency)
	for _, id := range workflowIDs {
		group.Go(func() error {
			if err := c.SignalWorkflow(ctx, id, "", definition.SignalAdmitted, nil); err != nil {
				log.Debug("a queued run was not told that it may go on", "workflow_id", id, "error", err)
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
}

// refusedForGood reports whether trying again is useless. Search attributes that were registered a moment ago are
// refused with "no mapping defined" until every cache has seen them, so that one is not.
func refusedForGood(err error) bool {
	var invalid *serviceerror.InvalidArgument
	return errors.As(err, &invalid) && !strings.Contains(invalid.Message, "no mapping defined") &&
		!strings.Contains(invalid.Message, "search attribute")
}
