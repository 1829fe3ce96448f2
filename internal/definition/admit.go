package definition

import "time"

// Load is how busy a definition is when one more run asks to begin.
type Load struct {
	Running      int // runs that are running
	QueuedBefore int // queued runs that were accepted earlier
}

// Admit decides what becomes of an accepted or queued run: running, queued, or skipped with a reason. live and enabled
// describe the definition as it is now.
func Admit(kind TriggerKind, live, enabled bool, c Concurrency, load Load) (RunStatus, Reason) {
	switch {
	case !live:
		return RunSkipped, ReasonDefinitionGone
	case !enabled && kind != KindManual:
		return RunSkipped, ReasonDefinitionOff
	case c.Limit == 0 || (load.Running < c.Limit && load.QueuedBefore == 0):
		return RunRunning, ReasonNone
	case c.OnLimit == OnLimitQueue:
		return RunQueued, ReasonNone
	}
	return RunSkipped, ReasonConcurrencyLimit
}

// SlotFacts is what the verdict on a slot depends on.
type SlotFacts struct {
	Slot, Now time.Time
	// Document is the revision in force at the slot when InForce is set, else the first one.
	Document Document
	InForce  bool
	// Deleted and Enabled describe the definition as it is now.
	Deleted, Enabled bool
}

// JudgeSlot decides what becomes of a slot for which Temporal started a workflow: accepted, or not and why.
func JudgeSlot(f SlotFacts) (RunStatus, Reason) {
	t := &f.Document.Trigger
	switch {
	case f.Deleted:
		return RunSkipped, ReasonDefinitionGone
	case !f.Enabled || (f.InForce && !f.Document.Enabled):
		return RunSkipped, ReasonDefinitionOff
	case !f.InForce || t.Type != TriggerCron:
		return RunSkipped, ReasonNotDue
	}
	schedule, err := t.Schedule()
	if err != nil || !schedule.IsSlot(f.Slot) || !t.InWindow(f.Slot) {
		return RunSkipped, ReasonNotDue
	}
	late := f.Now.Sub(f.Slot) - time.Duration(t.Jitter)
	if late <= LateAfter {
		return RunAccepted, ReasonNone
	}
	switch t.MisfirePolicy {
	case MisfireCompress:
		if next, ok := schedule.Next(f.Slot); ok && !next.After(f.Now) && t.InWindow(next) {
			return RunSkipped, ReasonCoalesced
		}
		return RunAccepted, ReasonNone
	case MisfireCatchup:
		if late <= t.Window() {
			return RunAccepted, ReasonNone
		}
	}
	return RunMissed, ReasonMisfireWindow
}

// Window returns how late a slot may be to be caught up with.
func (t *Trigger) Window() time.Duration {
	if t.MisfireWindow == 0 {
		return DefaultMisfireWindow
	}
	return time.Duration(t.MisfireWindow)
}
