package definition

import (
	"errors"
	"time"

	"github.com/activity-core/activity-core/internal/cron"
)

const (
	// LateAfter is how late a slot may be judged and still count as on time; the definition's jitter comes on top.
	LateAfter = 60 * time.Second
	// MaxCatchUp is how many late slots are caught up with at one time: the newest ones.
	MaxCatchUp = 100
)

// Slots are the due times of a trigger that follows the clock.
type Slots struct {
	schedule *cron.Schedule // nil for a single time
	once     time.Time
	trigger  *Trigger
}

// FollowsClock reports whether the trigger has due times of its own: cron and scheduled.
func (t *Trigger) FollowsClock() bool { return t.Type == TriggerCron || t.Type == TriggerScheduled }

// errNoSlots is the answer to a question about the due times of a trigger that has none.
var errNoSlots = errors.New("the trigger does not follow the clock")

// Slots returns the due times. It fails for a trigger that does not follow the clock, and for a stored one that this
// version cannot read.
func (t *Trigger) Slots() (Slots, error) {
	switch t.Type {
	case TriggerCron:
		schedule, err := t.Schedule()
		return Slots{schedule: schedule, trigger: t}, err
	case TriggerScheduled:
		once, err := t.RunTime()
		return Slots{once: once, trigger: t}, err
	}
	return Slots{}, errNoSlots
}

// Next returns the first slot strictly after the given time, within start_at and end_at.
func (s Slots) Next(after time.Time) (time.Time, bool) {
	if s.schedule == nil {
		return s.once, s.once.After(after)
	}
	if start := s.trigger.StartAt; start != nil && start.After(after) {
		after = start.Add(-1) // a slot at start_at counts
	}
	slot, ok := s.schedule.Next(after)
	return slot, ok && s.trigger.InWindow(slot)
}

// Between returns the slots in [from, to], at most limit of them.
func (s Slots) Between(from, to time.Time, limit int) []time.Time {
	var out []time.Time
	for slot, ok := s.Next(from.Add(-1)); ok && !slot.After(to) && len(out) < limit; slot, ok = s.Next(slot) {
		out = append(out, slot)
	}
	return out
}

// Unsettled is what the verdict on a definition's slots depends on.
type Unsettled struct {
	// Document is the revision in force since the cursor. A disabled one has no slots.
	Document *Document
	// The slots in (Cursor, Now] are to be judged.
	Cursor, Now time.Time
	// CatchingUp: late slots that were accepted earlier have not all ended.
	CatchingUp bool
	// Limit is the most slots to judge in one go. A few more are judged when they are caught up with, so that these are
	// counted at one time.
	Limit int
}

// Verdict is what becomes of one slot.
type Verdict struct {
	Slot   time.Time
	Status RunStatus // RunAccepted, RunSkipped or RunMissed
	Reason Reason
	// CatchUp: it runs in its place in the line of slots that are caught up with, whatever on_limit says.
	CatchUp bool
}

// Judged is a verdict that was committed.
type Judged struct {
	DefinitionName string
	Status         RunStatus
	Reason         Reason
	CatchUp        bool
}

// Settlement is the verdict on a definition's slots.
type Settlement struct {
	Verdicts []Verdict // in the order of slots
	// Cursor is how far the verdicts go: to Now, or to the last slot that was judged.
	Cursor time.Time
	// Next is the first slot after the cursor; zero when none will come.
	Next time.Time
}

// Settle judges the slots that have become due since the cursor. It is the only judge of lateness: whoever starts a run
// asks what this has decided. A slot is on time up to LateAfter after its time, jitter aside; what is later is for the
// misfire policy.
//
// While a definition catches up, its slots that are on time join the end of the line instead of being refused a place.
func Settle(u Unsettled) (Settlement, error) {
	out := Settlement{Cursor: u.Now}
	if !u.Document.Enabled || !u.Document.Trigger.FollowsClock() {
		return out, nil
	}
	t := &u.Document.Trigger
	slots, err := t.Slots()
	if err != nil {
		return Settlement{}, err
	}
	lateBefore := u.Now.Add(-LateAfter - time.Duration(t.Jitter)) // slots before it are late
	oldest := time.Time{}                                         // the oldest slot that is caught up with
	if t.MisfirePolicy == MisfireCatchup {
		oldest = oldestCaughtUp(slots, u.Cursor, u.Now.Add(-t.Window()-time.Duration(t.Jitter)), lateBefore)
	}
	catchingUp := u.CatchingUp
	slot, ok := slots.Next(u.Cursor)
	for ok && !slot.After(u.Now) {
		v := Verdict{Slot: slot, Status: RunAccepted}
		next, more := slots.Next(slot)
		late := slot.Before(lateBefore)
		if len(out.Verdicts) >= u.Limit && (!late || slot.Before(oldest) || oldest.IsZero()) {
			out.Cursor = out.Verdicts[len(out.Verdicts)-1].Slot
			break
		}
		switch {
		case !late:
			v.CatchUp = t.MisfirePolicy == MisfireCatchup && catchingUp
		case t.MisfirePolicy == MisfireCatchup && !oldest.IsZero() && !slot.Before(oldest):
			v.CatchUp, catchingUp = true, true
		case t.MisfirePolicy == MisfireCompress && more && !next.After(u.Now):
			v.Status, v.Reason = RunSkipped, ReasonCoalesced
		case t.MisfirePolicy == MisfireCompress:
		default:
			v.Status, v.Reason = RunMissed, ReasonMisfireWindow
		}
		out.Verdicts = append(out.Verdicts, v)
		slot, ok = next, more
	}
	if ok {
		out.Next = slot
	}
	return out, nil
}

// oldestCaughtUp returns the oldest late slot that is caught up with: after the cursor, not older than the window allows,
// and one of the MaxCatchUp newest; zero for none.
func oldestCaughtUp(slots Slots, cursor, oldest, lateBefore time.Time) time.Time {
	if !cursor.Before(oldest) {
		oldest = cursor.Add(1)
	}
	// Longer and longer spans, so that a long outage of a frequent definition is not walked through whole.
	for span := MaxCatchUp * time.Second; ; span *= 2 {
		from := lateBefore.Add(-span)
		whole := !from.After(oldest)
		if whole {
			from = oldest
		}
		var newest []time.Time
		for slot, ok := slots.Next(from.Add(-1)); ok && slot.Before(lateBefore); slot, ok = slots.Next(slot) {
			newest = append(newest, slot)
		}
		switch {
		case len(newest) >= MaxCatchUp:
			return newest[len(newest)-MaxCatchUp]
		case whole && len(newest) > 0:
			return newest[0]
		case whole:
			return time.Time{}
		}
	}
}

// GhostFacts is what the verdict on a workflow depends on that Temporal started for a time that is no slot.
type GhostFacts struct {
	// Deleted and Enabled describe the definition as it is now.
	Deleted, Enabled bool
	// InForce is the revision in force at that time; nil when there was none yet.
	InForce *Document
}

// GhostReason says why a time is no slot for which Temporal started a workflow.
func GhostReason(f GhostFacts) Reason {
	switch {
	case f.Deleted:
		return ReasonDefinitionGone
	case !f.Enabled || (f.InForce != nil && !f.InForce.Enabled):
		return ReasonDefinitionOff
	}
	return ReasonNotDue
}
