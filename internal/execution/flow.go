package execution

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/activity-core/activity-core/internal/definition"
)

// Limits on one execution of the workflow. Temporal ends a workflow whose history has 51,200 events or 50 MiB, one with more than
// 2,000 Temporal activities in progress, and one that schedules more than 4 MiB at once.
const (
	maxEvents = 20_000
	maxBytes  = 8 << 20
	// ownAtOnce is how many http and publish tasks and items are in progress at a time; definition.MaxUserParallel is for the user's.
	ownAtOnce = 500
	// maxWave is how much one workflow task schedules: beyond it another one goes on.
	maxWave = 2 << 20
	// maxHistory is how much the results of the user's own code may make of a history, each of at most maxResult.
	maxHistory = 46 << 20
	maxResult  = 2 << 20
	// markerSize is about what a call to the ledger, or a Temporal activity without arguments of the user's, adds to it.
	markerSize = 1 << 10
)

// flow is a run that is carried out. All of it is the workflow's own state, which only one coroutine at a time touches.
type flow struct {
	w *workflows
	b begun
	// definitionID and end are passed to the tasks; end is set while the on_failure tasks run.
	definitionID string
	end          *outcome

	own, user workflow.Semaphore
	calling   workflow.Mutex // while arguments for the user's own worker are prepared and sent
	wave      wave
	// reserved is what the calls of the user's code that are in progress may add to the history.
	reserved int

	// These are about the list of tasks in progress.
	began  time.Time
	limit  time.Duration
	stop   workflow.CancelFunc
	late   bool
	broken *outcome // the first failure that the run cannot do without

	decided int       // signals that somebody decided about an approval
	air     int       // what is in progress besides waits
	changes int       // grows with everything that may let the run go on
	ends    []taskEnd // which the ledger does not know yet
	full    bool      // the history is long: nothing begins any more in this execution
}

// carryOut does the tasks, and says how the run ended. The second answer is set when the run goes on as a new execution: it has
// the outcome when the on_failure tasks have begun, and else no status.
func (w *workflows) carryOut(ctx workflow.Context, b begun, definitionID string, before *outcome) (ending, *outcome) {
	f := &flow{
		w: w, b: b, definitionID: definitionID,
		own: workflow.NewSemaphore(ctx, ownAtOnce), user: workflow.NewSemaphore(ctx, definition.MaxUserParallel),
		calling: workflow.NewMutex(ctx), wave: wave{one: workflow.NewMutex(ctx)},
	}
	if hasWaits(b) {
		workflow.Go(ctx, f.listen)
	}
	g := newGraph(b.Tasks)
	f.resume(g, before)
	if before == nil {
		if f.perform(ctx, g, 0, b.Timeout, b.Elapsed) {
			f.flush(ctx)
			return ending{}, &outcome{}
		}
		before = f.outcome(ctx)
	}
	if len(b.OnFailure) > 0 && (before.Status == definition.RunFailed || before.Status == definition.RunTimedOut) {
		if f.afterFailure(ctx, before) {
			f.flush(ctx)
			return ending{}, before
		}
	}
	return ending{RunID: b.RunID, Status: before.Status, Reason: before.Reason, Error: before.Error, Tasks: f.ends}, nil
}

// resume takes over the failure that an earlier execution has seen.
func (f *flow) resume(g *graph, before *outcome) {
	for i, s := range g.steps {
		if before == nil && g.failed && f.broken == nil && !s.Continue {
			switch g.states[i] {
			case definition.TaskFailed, definition.TaskTimedOut:
				f.broken = failedBy(s, reasonBefore(s), s.Error)
			}
		}
	}
}

// reasonBefore is why a task failed in an earlier execution, as far as its row tells.
func reasonBefore(s step) definition.Reason {
	switch {
	case s.Was == definition.TaskTimedOut:
		return definition.ReasonTaskTimedOut
	case s.Type == definition.TaskWait:
		return definition.ReasonRejected
	}
	return definition.ReasonTaskFailed
}

func failedBy(s step, reason definition.Reason, text string) *outcome {
	return &outcome{Status: definition.RunFailed, Reason: reason, Error: oneLine(fmt.Sprintf("task %q: %s", s.Name, text))}
}

// outcome is how the run ended with its last task.
func (f *flow) outcome(ctx workflow.Context) *outcome {
	switch {
	case ctx.Err() != nil:
		return outcomeOf(stopped(f.b, false))
	case f.broken != nil:
		return f.broken
	case f.late:
		return outcomeOf(stopped(f.b, true))
	}
	return &outcome{Status: definition.RunSucceeded}
}

func outcomeOf(e ending) *outcome {
	return &outcome{Status: e.Status, Reason: e.Reason, Error: e.Error}
}

// afterFailure does the on_failure tasks. What becomes of them changes nothing about the run. It reports whether the run goes on as
// a new execution.
func (f *flow) afterFailure(ctx workflow.Context, end *outcome) bool {
	f.flush(ctx)
	f.end, f.broken, f.late = end, nil, false
	g := newGraph(f.b.OnFailure)
	return f.perform(ctx, g, len(f.b.Tasks), definition.OnFailureLimit, f.b.FailedFor)
}

// perform does the tasks of one list, whose first has the index first in the ledger, for at most a limit of which a part is used up
// already. It reports whether the run goes on as a new execution before all is done.
func (f *flow) perform(parent workflow.Context, g *graph, first int, limit, elapsed time.Duration) bool {
	ctx, cancel := workflow.WithCancel(parent)
	// Whoever is canceled last ends the list: this coroutine waits for the others whatever happens.
	patient, _ := workflow.NewDisconnectedContext(parent)
	f.began, f.limit, f.stop = workflow.Now(ctx), max(limit-elapsed, 0), cancel
	var timer workflow.CancelFunc
	if mayExceed(g.steps, f.limit) {
		var timed workflow.Context
		timed, timer = workflow.WithCancel(ctx)
		workflow.Go(timed, func(ctx workflow.Context) {
			if workflow.Sleep(ctx, f.limit) == nil {
				f.expire()
			}
		})
	}
	waits, endWaits := workflow.WithCancel(ctx)
	for {
		f.look(ctx)
		if ctx.Err() == nil && f.air == 0 && !g.over() && (f.full || workflow.GetInfo(ctx).GetContinueAsNewSuggested()) {
			return true
		}
		for _, i := range g.ready() {
			if !f.mayBegin(ctx) {
				break
			}
			f.launch(ctx, waits, g, first, i)
		}
		if g.failed {
			endWaits()
		}
		switch {
		case g.busy > 0:
			seen := f.changes
			_ = workflow.Await(patient, func() bool { return f.changes != seen })
		case g.over() || ctx.Err() != nil:
			if timer != nil && len(f.b.OnFailure) > 0 {
				timer() // it would be taken for the on_failure tasks' own
			}
			return false
		}
	}
}

// look notes whether the time is used up, which an outage of the ledger may have hidden, and whether the history is long.
func (f *flow) look(ctx workflow.Context) {
	if ctx.Err() == nil && workflow.Now(ctx).Sub(f.began) >= f.limit {
		f.expire()
	}
	events := f.b.MaxEvents
	if events == 0 {
		events = maxEvents
	}
	info := workflow.GetInfo(ctx)
	f.full = f.full || info.GetCurrentHistoryLength() > events || info.GetCurrentHistorySize() > maxBytes
}

// mayBegin reports whether anything may begin in this execution.
func (f *flow) mayBegin(ctx workflow.Context) bool {
	f.look(ctx)
	return !f.full && ctx.Err() == nil
}

func (f *flow) expire() {
	f.late = true
	f.stop()
	f.changes++
}

// listen counts the signals that somebody has decided about an approval.
func (f *flow) listen(ctx workflow.Context) {
	decided := workflow.GetSignalChannel(ctx, definition.SignalDecided)
	for decided.Receive(ctx, nil) {
		f.decided++
	}
}

// flush writes the ends that the ledger does not know.
func (f *flow) flush(ctx workflow.Context) {
	ledger, _ := workflow.NewDisconnectedContext(ctx)
	for _, end := range f.ends {
		f.record(ledger, end)
	}
	f.ends = nil
}

// record writes the end of a task. It cannot fail but for good, when the run is not this workflow's any more.
func (f *flow) record(ledger workflow.Context, end taskEnd) {
	in := recordInput{RunID: f.b.RunID, Task: end}
	if err := f.ledgerStep(ledger, activityRecordTask, in, nil, markerSize); err != nil {
		workflow.GetLogger(ledger).Warn("could not record the end of a task", "task", end.Name, "error", err)
	}
}

// launch begins a task, in a coroutine of its own.
func (f *flow) launch(ctx, waits workflow.Context, g *graph, first, i int) {
	s := g.steps[i]
	pauses := s.Type == definition.TaskWait
	if pauses {
		ctx = waits
	} else {
		f.air++
	}
	g.begin(i)
	workflow.Go(ctx, func(ctx workflow.Context) {
		status, parked := f.do(ctx, first+i, s)
		if !pauses {
			f.air--
		}
		f.changes++
		if parked {
			patient, _ := workflow.NewDisconnectedContext(ctx)
			_ = workflow.Await(patient, func() bool { return ctx.Err() != nil })
			status = f.canceled(first+i, s)
			f.changes++
		}
		g.settle(i, status)
	})
}

// do carries out one task and says what became of it, or that it goes on in a new execution.
func (f *flow) do(ctx workflow.Context, index int, s step) (status definition.TaskStatus, parked bool) {
	in := taskInput{RunID: f.b.RunID, Index: index, Definition: f.definitionID, Revision: f.b.Revision, Outcome: f.end}
	var err error
	switch {
	case s.Parallel > 0:
		status, parked, err = f.items(ctx, in, s)
	case s.Type == definition.TaskWait:
		status, err = f.wait(ctx, in, s)
	default:
		status, err = f.once(ctx, in, s)
	}
	switch {
	case err == nil:
		return status, parked
	case ctx.Err() != nil:
		return f.canceled(index, s), false
	}
	end := taskEnd{Index: index, Name: s.Name, Type: s.Type, Attempts: attemptsMade(s, err), Items: s.Parallel > 0}
	var reason definition.Reason
	reason, end.Status, end.Error = failureOf(s, err)
	if s.Continue {
		// Those that need it may read what became of it.
		f.record(ctx, end)
		return end.Status, false
	}
	if f.broken == nil {
		f.broken = failedBy(s, reason, end.Error)
	}
	f.ends = append(f.ends, end)
	return end.Status, false
}

// canceled notes a task that ends with the run.
func (f *flow) canceled(index int, s step) definition.TaskStatus {
	end := taskEnd{Index: index, Name: s.Name, Type: s.Type, Status: definition.TaskCanceled, Items: s.Parallel > 0}
	switch {
	case f.end != nil && f.late:
		end.Error = fmt.Sprintf("the on_failure tasks used up their %s", definition.OnFailureLimit)
	case f.late:
		end.Error = "stopped with the run: " + stopped(f.b, true).Error
	case f.broken != nil:
		end.Error = oneLine("stopped with the run: " + f.broken.Error)
	default:
		end.Error = "stopped with the run: " + stopped(f.b, false).Error
	}
	f.ends = append(f.ends, end)
	return end.Status
}

// once does a task, or an item of one, that is neither a wait nor a list. An error is final: the retries are over.
func (f *flow) once(ctx workflow.Context, in taskInput, s step) (definition.TaskStatus, error) {
	switch s.Type {
	case definition.TaskLog:
		// A line is written in milliseconds, whatever happens to the run meanwhile.
		ledger, _ := workflow.NewDisconnectedContext(ctx)
		var done taskDone
		if err := f.ledgerStep(ledger, activityLogTask, in, &done, markerSize); err != nil {
			return "", err
		}
		return done.Status, done.failure()
	case definition.TaskHTTP, definition.TaskPublish:
		return f.onTaskQueue(ctx, in, s)
	case definition.TaskActivity, definition.TaskWorkflow:
		return f.users(ctx, in, s)
	}
	return "", temporal.NewNonRetryableApplicationError(
		fmt.Sprintf("%q is not a task type that this version of the worker knows", s.Type),
		string(definition.ReasonUnknownTaskType), nil)
}

// onTaskQueue does a task of ours on the task queue.
func (f *flow) onTaskQueue(ctx workflow.Context, in taskInput, s step) (definition.TaskStatus, error) {
	if err := f.own.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer f.own.Release(1)
	f.wave.add(ctx, markerSize)
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:              f.w.taskQueue,
		ScheduleToCloseTimeout: s.Limit,
		HeartbeatTimeout:       heartbeatTimeout,
		RetryPolicy:            retryPolicy(s.Retry),
		Summary:                s.Name,
	})
	var done taskDone
	if err := workflow.ExecuteActivity(ctx, activityRunTask, in).Get(ctx, &done); err != nil {
		return "", err
	}
	if done.Status == "" {
		done.Status = definition.TaskSucceeded // as old versions answer
	}
	return done.Status, done.failure()
}

// failure is the error of a task that has failed, as an activity tells it that has recorded it.
func (d taskDone) failure() error {
	switch d.Status {
	case definition.TaskFailed, definition.TaskTimedOut, definition.TaskCanceled:
		reason := string(d.Reason)
		if reason == "" {
			reason = errorTask
		}
		return temporal.NewNonRetryableApplicationError(d.Error, reason, nil)
	}
	return nil
}

// ledgerStep calls one of the ledger's activities. Size is about that of its arguments, which do not travel as long as the call is
// made locally. While the ledger is away a small one is left to Temporal; one that would make much of the history is tried again.
func (f *flow) ledgerStep(ctx workflow.Context, activity string, in, out any, size int) error {
	for pause := firstLargePause; ; pause = min(2*pause, maxLargePause) {
		f.wave.add(ctx, markerSize)
		err := ledgerLocal(ctx, activity, in, out)
		if !worthPatience(ctx, err) {
			return err
		}
		if size <= maxTravelling {
			f.wave.add(ctx, size)
			return ledgerPatient(ctx, activity, in, out)
		}
		if err := workflow.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// What is larger than maxTravelling waits for the ledger in the workflow, and asks after these pauses.
const (
	maxTravelling   = 32 << 10
	firstLargePause = 2 * time.Second
	maxLargePause   = time.Minute
)

// wave keeps what one workflow task schedules under what Temporal takes in one message.
type wave struct {
	one            workflow.Mutex // one timer is enough
	history, bytes int
}

// add waits for a new workflow task when the one in progress schedules much already, and adds to what it schedules.
func (v *wave) add(ctx workflow.Context, bytes int) {
	if v.scheduled(ctx) >= maxWave {
		patient, _ := workflow.NewDisconnectedContext(ctx)
		if v.one.Lock(patient) == nil {
			for v.scheduled(ctx) >= maxWave {
				_ = workflow.Sleep(patient, time.Millisecond)
			}
			v.one.Unlock()
		}
	}
	v.bytes += bytes
}

// scheduled returns how much the workflow task in progress schedules. The history grows between two of them, and only then.
func (v *wave) scheduled(ctx workflow.Context) int {
	if now := workflow.GetInfo(ctx).GetCurrentHistoryLength(); now != v.history {
		v.history, v.bytes = now, 0
	}
	return v.bytes
}

// mayExceed reports whether the tasks, each within its own timeout, may together take longer than a limit. Only then does it need
// a timer.
func mayExceed(steps []step, limit time.Duration) bool {
	var sum time.Duration
	for _, s := range steps {
		sum += s.Limit
	}
	return sum > limit
}

func hasWaits(b begun) bool {
	for _, list := range [][]step{b.Tasks, b.OnFailure} {
		for _, s := range list {
			if s.Type == definition.TaskWait {
				return true
			}
		}
	}
	return false
}
