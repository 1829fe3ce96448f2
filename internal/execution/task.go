package execution

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/activity-core/activity-core/internal/definition"
)

// Pauses within one attempt while the ledger is away. An outage of ours does not use up the user's attempts.
const (
	firstStorePause = 100 * time.Millisecond
	maxStorePause   = 2 * time.Second
	// lastStoreTry bounds the try to write a result after the attempt's own time has ended.
	lastStoreTry = 3 * time.Second
	// storeTimeout bounds one call to the ledger.
	storeTimeout = 10 * time.Second
)

// beatEvery is how often a task that takes long tells Temporal that its worker is alive, which is also how it learns
// that it was canceled.
const beatEvery = 2 * time.Second

// runner does one attempt of a task of one type. The output is JSON, or nil; it is kept whether or not there is an
// error. An error is tried again unless it was made by permanently. Its text is shown to the user: no secret may be in it.
type runner func(ctx context.Context, work *definition.TaskWork) (output []byte, err error)

// permanentError is a failure that another attempt cannot mend.
type permanentError struct{ text string }

func (e *permanentError) Error() string { return e.text }

func permanently(format string, args ...any) error {
	return &permanentError{text: fmt.Sprintf(format, args...)}
}

// undecodable is the failure of a task whose fields this version does not understand.
func undecodable(err error) error {
	return permanently("the task's definition cannot be read by this version of the worker: %s", oneLine(err.Error()))
}

// tasks is the Temporal activity of the task queue.
type tasks struct {
	store     Store
	log       *slog.Logger
	revisions *revisions
	secrets   *Secrets
	runners   map[definition.TaskType]runner
}

// run does one attempt of a task, or of an item of one: it reads the input from the ledger, does the work, and writes the result
// back. Temporal learns only whether it succeeded. An attempt that finds the result written does nothing.
func (t *tasks) run(ctx context.Context, in taskInput) (taskDone, error) {
	stopBeating := beat(ctx)
	defer stopBeating()

	attempt := int(activity.GetInfo(ctx).Attempt)
	var rev *revision
	var p *plan
	err := t.patiently(ctx, func(ctx context.Context) (err error) {
		rev, p, err = t.revisions.plan(ctx, in)
		return err
	})
	if p == nil {
		return taskDone{}, taskError(ctx, err)
	}
	begin := definition.TaskBegin{RunID: in.RunID, Index: in.Index, Item: in.Item - 1, Name: p.task.Name, Type: p.task.Type, Attempt: attempt}
	if err == nil {
		begin.Reads = p.withReads()
		if in.Item > 0 {
			err = t.patiently(ctx, func(ctx context.Context) (err error) {
				begin.Value, err = t.revisions.item(ctx, in, rev, p)
				return err
			})
		} else {
			begin.Reads = union(begin.Reads, p.conditionReads())
		}
	}
	if err != nil && !isPermanent(err) {
		return taskDone{}, taskError(ctx, err)
	}
	fault := err
	var work definition.TaskWork
	err = t.patiently(ctx, func(ctx context.Context) (err error) {
		work, err = t.store.BeginTask(ctx, begin)
		return err
	})
	if err != nil {
		return taskDone{}, taskError(ctx, err)
	}
	if done := work.Done; done != nil {
		if done.Status == definition.TaskSucceeded || done.Status == definition.TaskSkipped {
			return taskDone{Status: done.Status}, nil
		}
		return taskDone{}, temporal.NewNonRetryableApplicationError(done.Error, errorTask, nil)
	}

	result := result{in: in, begin: begin, TaskResult: definition.TaskResult{
		RunID: in.RunID, Index: in.Index, Name: p.task.Name, Type: p.task.Type, Attempts: attempt, Status: definition.TaskSucceeded,
	}}
	failure := fault
	if failure == nil {
		var skip bool
		var output []byte
		if skip, result.Input, failure = t.fill(ctx, &work, rev, p, begin.Value, in.Outcome); skip {
			result.Status, result.Input = definition.TaskSkipped, nil
		} else if failure == nil {
			output, failure = t.attempt(ctx, &work)
		}
		if len(p.with.Secrets()) > 0 {
			output = t.secrets.Redact(output)
			failure = t.redactError(failure)
		}
		result.Output, result.OutputTruncated = bounded(output)
	}
	if failure == nil {
		if err := t.record(ctx, result); err != nil {
			return taskDone{}, taskError(ctx, err)
		}
		return taskDone{Status: result.Status}, nil
	}
	if ctx.Err() != nil && !isPermanent(failure) {
		// Temporal took the attempt away, or the worker is stopping; what comes of the task is not for this attempt to say.
		return taskDone{}, taskError(ctx, failure)
	}
	retry := p.task.Attempts()
	if kind := kindOf(failure); kind != "" && slices.Contains(retry.NonRetryable, kind) {
		failure = withKind(kind, &permanentError{text: failure.Error()})
	}
	result.Status, result.Error = definition.TaskRunning, oneLine(failure.Error())
	if isPermanent(failure) || attempt >= retry.MaxAttempts {
		result.Status = definition.TaskFailed
	}
	if err := t.record(ctx, result); err != nil {
		// The workflow writes a final failure too, so nothing but the output is lost.
		t.log.Warn("could not record the failure of a task", "run_id", in.RunID, "task", result.Name, "error", err)
	}
	return taskDone{}, taskError(ctx, failure)
}

// fill evaluates the task's condition, and its expressions. An item has no condition of its own.
func (t *tasks) fill(
	ctx context.Context, work *definition.TaskWork, rev *revision, p *plan, item json.RawMessage, end *outcome,
) (skip bool, input []byte, err error) {
	if p.fixed() {
		input, err = p.fill(ctx, work, t.secrets)
		return false, input, err
	}
	if work.Values, err = valuesOf(&rev.doc, work, end); err != nil {
		return false, nil, err
	}
	if work.Values.Item = item; item == nil {
		ok, err := p.mayRun(ctx, work.Values)
		if err != nil || !ok {
			return err == nil, nil, err
		}
	}
	input, err = p.fill(ctx, work, t.secrets)
	return false, input, err
}

// attempt calls the runner. A panic is a failure like others, and its details are for the log alone.
func (t *tasks) attempt(ctx context.Context, work *definition.TaskWork) (output []byte, err error) {
	run, known := t.runners[work.Task.Type]
	if !known {
		return nil, permanently("%q is not a task type that this version of the worker knows", work.Task.Type)
	}
	defer func() {
		if p := recover(); p != nil {
			t.log.Error("a task panicked", "run_id", work.Run.ID, "task", work.Task.Name, "type", work.Task.Type,
				"panic", string(t.secrets.Redact([]byte(fmt.Sprint(p)))), "stack", string(debug.Stack()))
			output, err = nil, errors.New("internal error of the worker; its log has the details")
		}
	}()
	return run(ctx, work)
}

// record writes a result, and goes on trying for as long as the attempt has time. Once the time has ended, it tries
// once more: what was done should be known.
func (t *tasks) record(ctx context.Context, r result) error {
	write := func(ctx context.Context) error { return r.write(ctx, t.store) }
	if ctx.Err() == nil {
		if err := t.patiently(ctx, write); err == nil || ctx.Err() == nil {
			return err
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastStoreTry)
	defer cancel()
	return write(last)
}

// result is what became of an attempt.
type result struct {
	definition.TaskResult
	in    taskInput
	begin definition.TaskBegin
}

func (r *result) write(ctx context.Context, store Store) error {
	if r.in.Item == 0 {
		return store.FinishTask(ctx, r.TaskResult)
	}
	return store.FinishItem(ctx, definition.ItemResult{
		RunID: r.RunID, Index: r.Index, Item: r.in.Item - 1, Status: r.Status, Error: r.Error, Attempts: r.Attempts,
		Value: r.begin.Value, Output: r.Output, OutputTruncated: r.OutputTruncated,
	})
}

// patiently repeats a call to the ledger until it succeeds, cannot succeed, or the context ends.
func (t *tasks) patiently(ctx context.Context, call func(context.Context) error) error {
	for pause := firstStorePause; ; pause = min(2*pause, maxStorePause) {
		try, cancel := context.WithTimeout(ctx, storeTimeout)
		err := call(try)
		cancel()
		if err == nil || isLedgerPermanent(err) || isPermanent(err) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// taskError is what Temporal is told of a failed attempt.
func taskError(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		select {
		case <-activity.GetWorkerStopChannel(ctx):
			return temporal.NewApplicationError("the worker was stopped during the attempt", errorTask)
		default:
			return cause
		}
	}
	kind := kindOf(err)
	if kind == "" {
		kind = errorTask
	}
	if isPermanent(err) || isLedgerPermanent(err) {
		return temporal.NewNonRetryableApplicationError(oneLine(err.Error()), kind, nil)
	}
	return temporal.NewApplicationErrorWithOptions(oneLine(err.Error()), kind, temporal.ApplicationErrorOptions{NextRetryDelay: delayOf(err)})
}

// redactError removes secrets from an error's text, and keeps what else it says.
func (t *tasks) redactError(err error) error {
	if err == nil {
		return nil
	}
	text := string(t.secrets.Redact([]byte(err.Error())))
	if text == err.Error() {
		return err
	}
	clean := errors.New(text)
	if isPermanent(err) {
		clean = &permanentError{text: text}
	}
	if kind := kindOf(err); kind != "" {
		clean = withKind(kind, clean)
	}
	return withDelay(delayOf(err), clean)
}

func isPermanent(err error) bool {
	var permanent *permanentError
	return errors.As(err, &permanent)
}

// beat tells Temporal every two seconds that the worker is alive; a task that takes less costs nothing. The returned
// function ends it and waits.
func beat(ctx context.Context) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(beatEvery)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-ticker.C:
				activity.RecordHeartbeat(ctx)
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// contextJSON is what a task sends when its definition gives nothing to send.
func contextJSON(run *definition.Run) (json.RawMessage, error) {
	data, err := json.Marshal(run.Context())
	if err != nil {
		return nil, permanently("the run's input cannot be written as JSON: %s", err)
	}
	return data, nil
}

// idempotencyKey is the same for all attempts of a task, or of one item of a for_each, and for nothing else.
func idempotencyKey(work *definition.TaskWork) string {
	key := work.Run.ID + ":" + work.Task.Name
	if work.Item >= 0 {
		key += ":" + strconv.Itoa(work.Item)
	}
	return key
}
