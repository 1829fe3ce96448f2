package execution

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
)

// Pauses between two questions whether somebody has decided. The signal makes them needless; they are for a lost one.
const (
	firstDecisionPause = time.Minute
	maxDecisionPause   = time.Hour
)

// waitLeft is what is left of a wait, by the clock of Postgres.
type waitLeft struct {
	// Approval: it ends by somebody's decision; Left means nothing then.
	Approval bool          `json:"approval,omitempty"`
	Left     time.Duration `json:"left,omitempty"`
	// Limit is what is left of the task's timeout.
	Limit time.Duration `json:"limit,omitempty"`
}

// wait pauses the run for a time, or until somebody has decided. Until when is in the ledger, so that it stays the same however often
// the workflow is carried out.
func (f *flow) wait(ctx workflow.Context, in taskInput, s step) (definition.TaskStatus, error) {
	for pause := firstDecisionPause; ; pause = min(2*pause, maxDecisionPause) {
		seen := f.decided
		var p prepared
		f.air++
		err := f.ledgerStep(ctx, activityPrepareTask, in, &p, markerSize)
		f.air--
		f.changes++
		switch {
		case err != nil:
			return "", err
		case p.Done != "":
			return p.Done, p.failure()
		case p.Wait.Limit <= 0:
			return "", tooLate(s, p.Wait.Approval)
		case !p.Wait.Approval:
			return f.pause(ctx, in, s, *p.Wait)
		}
		_, err = workflow.AwaitWithTimeout(ctx, min(pause, p.Wait.Limit), func() bool { return f.decided != seen })
		if err != nil {
			return "", err
		}
	}
}

// pause waits by the clock.
func (f *flow) pause(ctx workflow.Context, in taskInput, s step, left waitLeft) (definition.TaskStatus, error) {
	if d := min(left.Left, left.Limit); d > 0 {
		if err := workflow.Sleep(ctx, d); err != nil {
			return "", err
		}
	}
	if left.Left > left.Limit {
		return "", tooLate(s, false)
	}
	f.air++
	err := f.ledgerStep(ctx, activityRecordTask, recordInput{RunID: in.RunID, Task: taskEnd{
		Index: in.Index, Name: s.Name, Type: s.Type, Status: definition.TaskSucceeded, Attempts: 1,
	}}, nil, markerSize)
	f.air--
	f.changes++
	return definition.TaskSucceeded, err
}

func tooLate(s step, approval bool) error {
	text := fmt.Sprintf("not finished within its timeout of %s", s.Limit)
	if approval {
		text = fmt.Sprintf("nobody decided within its timeout of %s", s.Limit)
	}
	return temporal.NewNonRetryableApplicationError(text, string(definition.ReasonTaskTimedOut), nil)
}

// prepareWait stores until when a task waits.
func (a *activities) prepareWait(ctx context.Context, in taskInput, work *definition.TaskWork, shown []byte) (prepared, error) {
	var with definition.WaitTask
	if err := work.Task.Decode(&with); err != nil {
		return prepared{}, undecodable(err)
	}
	plan := definition.WaitPlan{Limit: work.Task.Limit(), Input: shown}
	var err error
	switch {
	case with.Duration != "":
		if plan.Duration, err = time.ParseDuration(with.Duration); err != nil || plan.Duration < 0 {
			return prepared{}, permanently("%q is not a duration: it must be as in 90s or 10m, and not negative", with.Duration)
		}
	case with.Until != "":
		if plan.Until, err = time.Parse(time.RFC3339, with.Until); err != nil {
			return prepared{}, permanently("%q is not a time: it must be as in 2026-01-31T09:00:00Z", with.Until)
		}
	}
	left, err := a.store.PlanWait(ctx, in.RunID, in.Index, plan)
	if err != nil {
		return prepared{}, err
	}
	return prepared{Wait: &waitLeft{Approval: with.Approval != nil, Left: left.Left, Limit: left.Limit}}, nil
}
