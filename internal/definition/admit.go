package definition

import "time"

// Load is how busy a definition is when one more run asks to begin.
type Load struct {
	Running      int // runs that are running
	QueuedBefore int // queued runs that were accepted earlier
	// CaughtUpBefore counts the runs of earlier slots that are caught up with and have not ended.
	CaughtUpBefore int
}

// Applicant is the run that asks to begin.
type Applicant struct {
	Kind TriggerKind
	// CatchUp: a late slot, which runs after the earlier ones and always waits for its place.
	CatchUp bool
	// Live and Enabled describe the definition as it is now.
	Live, Enabled bool
}

// Admit decides what becomes of an accepted or queued run: running, queued, or skipped with a reason.
func Admit(a Applicant, c Concurrency, load Load) (RunStatus, Reason) {
	switch {
	case !a.Live:
		return RunSkipped, ReasonDefinitionGone
	case !a.Enabled && !a.Kind.ByHand():
		return RunSkipped, ReasonDefinitionOff
	case a.CatchUp && load.CaughtUpBefore > 0:
		return RunQueued, ReasonNone
	case c.Limit == 0 || (load.Running < c.Limit && load.QueuedBefore == 0):
		return RunRunning, ReasonNone
	case a.CatchUp || c.OnLimit == OnLimitQueue:
		return RunQueued, ReasonNone
	}
	return RunSkipped, ReasonConcurrencyLimit
}

// Window returns how late a slot may be to be caught up with.
func (t *Trigger) Window() time.Duration {
	if t.MisfireWindow == 0 {
		return DefaultMisfireWindow
	}
	return time.Duration(t.MisfireWindow)
}
