package execution

import (
	"context"

	"github.com/activity-core/activity-core/internal/definition"
)

// runLog writes the user's line to the worker's log, for the runs that old versions began. It has no output.
func (t *tasks) runLog(ctx context.Context, work *definition.TaskWork) ([]byte, error) {
	var with definition.LogTask
	if err := work.Task.Decode(&with); err != nil {
		return nil, undecodable(err)
	}
	t.log.InfoContext(ctx, "log task", "message", with.Message, "task", work.Task.Name, "run_id", work.Run.ID,
		"definition", work.Run.DefinitionName)
	return nil, nil
}

// logTask does a log task, or an item of one. A line is no work for a queue: it is written by the worker that carries the run out, and
// mostly costs one statement. The line comes after the row, so that it is written once.
func (a *activities) logTask(ctx context.Context, in taskInput) (taskDone, error) {
	done, err := a.logOnce(ctx, in)
	if err != nil && isPermanent(err) {
		return taskDone{Status: definition.TaskFailed, Reason: definition.Reason(kindOf(err)), Error: oneLine(err.Error())}, nil
	}
	if err != nil {
		return taskDone{}, ledgerError(err)
	}
	return done, nil
}

func (a *activities) logOnce(ctx context.Context, in taskInput) (taskDone, error) {
	rev, p, err := a.revisions.plan(ctx, in)
	if err != nil {
		return taskDone{}, err
	}
	result := definition.TaskResult{RunID: in.RunID, Index: in.Index, Name: p.task.Name, Type: p.task.Type, Attempts: 1,
		Status: definition.TaskSucceeded}
	if p.fixed() && in.Item == 0 {
		line, err := a.lineOf(in.RunID, &rev.doc, &p.task)
		if err != nil {
			return taskDone{}, err
		}
		result.Input = boundInput(p.task.With)
		added, err := a.store.AddTask(ctx, result)
		if err != nil {
			return taskDone{}, err
		}
		if added {
			line(ctx)
			return taskDone{Status: result.Status}, nil
		}
		// It was done before, or the run is over: the ledger says which.
	}
	begin := lookAt(in, p, union(p.withReads(), p.conditionReads()))
	if in.Item > 0 {
		if begin.Value, err = a.revisions.item(ctx, in, rev, p); err != nil {
			return taskDone{}, err
		}
		begin.Item = in.Item - 1
	}
	work, err := a.store.BeginTask(ctx, begin)
	if err != nil {
		return taskDone{}, err
	}
	if done := work.Done; done != nil {
		return taskDone{Status: done.Status, Error: done.Error}, nil
	}
	if work.Values, err = valuesOf(&rev.doc, &work, in.Outcome); err != nil {
		return taskDone{}, err
	}
	if work.Values.Item = begin.Value; in.Item == 0 {
		ok, err := p.mayRun(ctx, work.Values)
		if err != nil {
			return taskDone{}, err
		}
		if !ok {
			result.Status = definition.TaskSkipped
		}
	}
	line := func(context.Context) {}
	if result.Status == definition.TaskSucceeded {
		if result.Input, err = p.fill(ctx, &work, nil); err != nil {
			return taskDone{}, err
		}
		if line, err = a.lineOf(in.RunID, &rev.doc, &work.Task); err != nil {
			return taskDone{}, err
		}
	}
	if in.Item > 0 {
		err = a.store.FinishItem(ctx, definition.ItemResult{RunID: in.RunID, Index: in.Index, Item: in.Item - 1,
			Status: result.Status, Attempts: 1, Value: begin.Value})
	} else {
		err = a.store.FinishTask(ctx, result)
	}
	if err == nil {
		line(ctx)
	}
	return taskDone{Status: result.Status}, err
}

// lineOf returns what writes the line.
func (a *activities) lineOf(runID string, doc *definition.Document, task *definition.Task) (func(context.Context), error) {
	var with definition.LogTask
	if err := task.Decode(&with); err != nil {
		return nil, undecodable(err)
	}
	return func(ctx context.Context) {
		a.log.InfoContext(ctx, "log task", "message", with.Message, "task", task.Name, "run_id", runID, "definition", doc.Name)
	}, nil
}
