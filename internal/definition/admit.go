package definition

import "time"

// Load is how busy a definition, or one value of its concurrency key, is when one more run asks to begin. A run waits while it is
// queued, and before that while it is accepted and about to begin: not the runs that a backfill holds back, and no slots, which
// jitter may hold back.
type Load struct {
	Running int // runs that are running, those that are being stopped too
	// WaitingBefore counts the runs that were accepted earlier and wait, QueuedBefore those of them that are queued. Both may be
	// counted no further than the limit.
	WaitingBefore, QueuedBefore int
	// StayingBefore counts the runs that were accepted earlier and run, unless they are being stopped.
	StayingBefore int
	// BegunAfter counts the runs that were accepted later and are queued, or run and are not being stopped.
	BegunAfter int
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
	case c.Limit == 0:
		return RunRunning, ReasonNone
	case a.CatchUp || c.OnLimit == OnLimitQueue:
		// In the order of acceptance, also before those whose workflows have yet to begin.
		if load.Running < c.Limit && load.WaitingBefore == 0 {
			return RunRunning, ReasonNone
		}
		return RunQueued, ReasonNone
	case c.OnLimit == OnLimitReplace:
		return replace(c.Limit, load)
	case load.Running+load.QueuedBefore < c.Limit:
		return RunRunning, ReasonNone
	}
	return RunSkipped, ReasonConcurrencyLimit
}

// replace decides for a run that takes the place of earlier ones: the newest ones stay, as many as the limit allows.
func replace(limit int, load Load) (RunStatus, Reason) {
	staying := Staying(limit, load)
	switch {
	case staying < 0:
		return RunSkipped, ReasonReplaced
	case load.Running+min(load.WaitingBefore, staying) < limit:
		return RunRunning, ReasonNone
	}
	return RunQueued, ReasonNone
}

// Staying returns how many of the runs that were accepted before one that replaces others may stay, the newest of them; the others
// have to go. Negative: it is itself one that has to go, because as many later ones have begun as the limit allows.
func Staying(limit int, load Load) int { return limit - 1 - load.BegunAfter }

// Window returns how late a slot may be to be caught up with.
func (t *Trigger) Window() time.Duration {
	if t.MisfireWindow == 0 {
		return DefaultMisfireWindow
	}
	return time.Duration(t.MisfireWindow)
}
