package execution

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
)

// item returns the item that an activity is about. The list is evaluated once for each task and worker.
func (r *revisions) item(ctx context.Context, in taskInput, rev *revision, p *plan) (json.RawMessage, error) {
	if p.list == nil {
		return nil, permanently("the task has no for_each")
	}
	key := listKey{in.RunID, in.Index}
	items := r.list(key)
	if items == nil {
		work, err := r.store.BeginTask(ctx, lookAt(in, p, p.listReads()))
		if err != nil {
			return nil, err
		}
		if items, err = listOf(ctx, &rev.doc, &work, p, in.Outcome); err != nil {
			return nil, err
		}
		r.putList(key, items)
	}
	if in.Item > len(items) {
		return nil, permanently("the list has %d items; there is no item %d", len(items), in.Item-1)
	}
	return items[in.Item-1], nil
}

// lookAt asks what a task as a whole may read.
func lookAt(in taskInput, p *plan, reads []string) definition.TaskBegin {
	return definition.TaskBegin{RunID: in.RunID, Index: in.Index, Item: -1, Name: p.task.Name, Type: p.task.Type, Attempt: 1,
		Reads: reads, Look: true}
}

// listOf evaluates a task's for_each.
func listOf(ctx context.Context, doc *definition.Document, work *definition.TaskWork, p *plan, end *outcome) ([]json.RawMessage, error) {
	values, err := valuesOf(doc, work, end)
	if err != nil {
		return nil, err
	}
	items, err := p.list.List(ctx, values, definition.MaxItems)
	if err != nil {
		return nil, expressionFailure(err)
	}
	if items == nil {
		items = []json.RawMessage{}
	}
	return items, nil
}

// prepareItems evaluates the list, and finds out which items are done.
func (a *activities) prepareItems(
	ctx context.Context, in taskInput, work *definition.TaskWork, rev *revision, p *plan,
) (prepared, error) {
	items, err := listOf(ctx, &rev.doc, work, p, in.Outcome)
	if err != nil {
		return prepared{}, err
	}
	a.revisions.putList(listKey{in.RunID, in.Index}, items)
	statuses, left, err := a.store.PlanItems(ctx, in.RunID, in.Index, len(items), p.task.Limit())
	if err != nil {
		return prepared{}, err
	}
	return prepared{Progress: progressOf(statuses), Wait: &waitLeft{Limit: left}}, nil
}

// The progress of a for_each task is written as a text with a letter for each item.
const (
	itemToDo      = '.'
	itemSucceeded = 's'
	itemFailed    = 'f'
)

func progressOf(statuses []definition.TaskStatus) string {
	var b strings.Builder
	for _, s := range statuses {
		switch s {
		case definition.TaskSucceeded:
			b.WriteByte(itemSucceeded)
		case definition.TaskFailed, definition.TaskTimedOut:
			b.WriteByte(itemFailed)
		default:
			b.WriteByte(itemToDo)
		}
	}
	return b.String()
}

// window is how far the items of a for_each task have come.
type window struct {
	progress []byte
	next     int
	failed   bool
	reason   definition.Reason // of the first failure in this execution
}

func newWindow(progress string) *window {
	return &window{progress: []byte(progress), failed: strings.Contains(progress, string(itemFailed))}
}

// take returns the next item to do; false when there is none.
func (v *window) take() (int, bool) {
	for ; v.next < len(v.progress); v.next++ {
		if v.progress[v.next] == itemToDo {
			v.next++
			return v.next - 1, true
		}
	}
	return 0, false
}

func (v *window) settled() bool { return strings.IndexByte(string(v.progress), itemToDo) < 0 }

// items does a task once for each item of its list, with as many at a time as it allows. An item that fails for good ends it: no
// other item begins, unless the run goes on without the task. Parked tells that the run continues as a new execution
// before all is done.
func (f *flow) items(ctx workflow.Context, in taskInput, s step) (status definition.TaskStatus, parked bool, err error) {
	var p prepared
	if err := f.ledgerStep(ctx, activityPrepareTask, in, &p, markerSize); err != nil {
		return "", false, err
	}
	if p.Done != "" {
		return p.Done, false, p.failure()
	}
	v := newWindow(p.Progress)
	bounded, stop := workflow.WithCancel(ctx)
	defer stop() // the timer too
	late := p.Wait.Limit <= 0
	if !late && len(v.progress) > 0 {
		workflow.Go(bounded, func(ctx workflow.Context) {
			if workflow.Sleep(ctx, p.Wait.Limit) == nil {
				late = true
				stop()
			}
		})
	}
	workers := workflow.NewWaitGroup(ctx)
	for range min(s.Parallel, len(v.progress)) {
		workers.Add(1)
		workflow.Go(bounded, func(ctx workflow.Context) {
			defer workers.Done()
			for !late && f.mayBegin(ctx) && (!v.failed || s.Continue) {
				i, ok := v.take()
				if !ok {
					return
				}
				f.item(ctx, in, s, v, i)
			}
		})
	}
	waits, _ := workflow.NewDisconnectedContext(ctx)
	workers.Wait(waits)
	switch {
	case ctx.Err() != nil:
		return "", false, ctx.Err()
	case late && !v.settled():
		return "", false, tooLate(s, false)
	case !v.settled() && (!v.failed || s.Continue):
		return "", true, nil
	}
	var done taskDone
	err = f.ledgerStep(waits, activityRecordTask, recordInput{RunID: in.RunID, Task: taskEnd{
		Index: in.Index, Name: s.Name, Type: s.Type, Attempts: 1, Items: true,
	}}, &done, markerSize)
	if err != nil || done.Status == definition.TaskSucceeded {
		return done.Status, false, err
	}
	reason := definition.ReasonTaskFailed
	if v.reason == definition.ReasonExpression {
		reason = v.reason
	}
	return "", false, temporal.NewNonRetryableApplicationError(done.Error, string(reason), nil)
}

// item does one item and notes what became of it.
func (f *flow) item(ctx workflow.Context, in taskInput, s step, v *window, i int) {
	in.Item = i + 1
	_, err := f.once(ctx, in, s)
	if err == nil {
		v.progress[i] = itemSucceeded
		return
	}
	if ctx.Err() != nil {
		return // it is canceled with the task
	}
	end := taskEnd{Index: in.Index, Item: in.Item, Name: s.Name, Type: s.Type, Attempts: attemptsMade(s, err)}
	var reason definition.Reason
	reason, end.Status, end.Error = failureOf(s, err)
	v.progress[i] = itemFailed
	if !v.failed {
		v.failed, v.reason = true, reason
	}
	ledger, _ := workflow.NewDisconnectedContext(ctx)
	if err := f.ledgerStep(ledger, activityRecordTask, recordInput{RunID: in.RunID, Task: end}, nil, markerSize); err != nil {
		workflow.GetLogger(ctx).Warn("could not record the failure of an item", "item", i, "error", err)
	}
}

// itemID names an item's child workflow.
func itemID(s step, in taskInput) string {
	if in.Item == 0 {
		return s.Name
	}
	return fmt.Sprintf("%s:%d", s.Name, in.Item-1)
}
