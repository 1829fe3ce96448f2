package schedule

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/activity-core/activity-core/internal/cron"
	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// CatchupWindow is how late Temporal may start a slot itself, after an outage of its own. It says who starts, never
	// whether the slot counts as missed.
	CatchupWindow = 10 * time.Minute
	// Overlap lets every slot start its workflow: the ledger decides which of them run.
	Overlap = enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL
	// BackstopMargin is what Temporal's own run timeout adds to the timeout that the workflow keeps by itself.
	BackstopMargin = time.Hour

	// NoteActive is the note that a schedule shows in Temporal.
	NoteActive = "managed by activity-core; changes made here are undone"
	// NotePaused is the note of a disabled definition's schedule.
	NotePaused = "disabled in activity-core"

	// specVersion is raised when the same definition has to have another schedule than before, so that the first full
	// reconcile of the new version looks at all of them.
	specVersion = "2"

	// hashAbsent stands in the table of schedules for the hash of a definition that rightly has no schedule.
	hashAbsent = "absent"
)

// Place is where an installation's schedules live.
type Place struct {
	// Installation is the id that the database gave itself.
	Installation string
	// TaskQueue is the queue on which the run workflows are started.
	TaskQueue string
}

// Spec is everything that a definition's schedule is made of.
type Spec struct {
	// Calendars, or else Every, say when: the union of the calendars in Zone, or the whole multiples of Every since 1970.
	Calendars []cron.Calendar
	Every     time.Duration
	Zone      string
	Jitter    time.Duration
	// StartAt and EndAt bound the slots, both inclusive; zero for none.
	StartAt, EndAt time.Time

	Overlap       enumspb.ScheduleOverlapPolicy
	CatchupWindow time.Duration

	Paused bool
	Note   string

	// The action: the workflow to start, its id before Temporal appends the slot, and its only argument.
	WorkflowID string
	Workflow   string
	TaskQueue  string
	Input      definition.RunInput
	// RunTimeout is Temporal's own bound on a run; 0 for none.
	RunTimeout time.Duration
	// DefinitionID and DefinitionName are the search attributes of each run.
	DefinitionID, DefinitionName string

	// Mark is the schedule's own search attribute.
	Mark string
}

// Found is a schedule as Temporal describes it.
type Found struct {
	Spec
	// Extra names what is set on it and is never part of a Spec.
	Extra []string
}

// Want returns the schedule that a definition has to have at the time now, or nil when it has to have none: because it is
// deleted (nil), not a cron definition, or has no slot to come. It fails only for a stored expression or time zone that
// this process cannot read.
func Want(def *definition.Definition, at Place, now time.Time) (*Spec, error) {
	if def == nil || !def.Trigger.FollowsClock() {
		return nil, nil
	}
	t := &def.Trigger
	slots, err := t.Slots()
	if err != nil {
		return nil, fmt.Errorf("definition %s revision %d: %w", def.ID, def.Revision, err)
	}
	// A slot counts as to come for as long as Temporal may still start it.
	if _, ok := slots.Next(now.Add(-CatchupWindow - time.Duration(t.Jitter))); !ok {
		return nil, nil
	}
	s := &Spec{
		Jitter:         time.Duration(t.Jitter),
		Overlap:        Overlap,
		CatchupWindow:  CatchupWindow,
		Note:           NoteActive,
		WorkflowID:     definition.ScheduleActionID(def.ID),
		Workflow:       definition.RunWorkflow,
		TaskQueue:      at.TaskQueue,
		Input:          definition.RunInput{DefinitionID: def.ID},
		DefinitionID:   def.ID,
		DefinitionName: def.Name,
	}
	if err := s.times(t); err != nil {
		return nil, fmt.Errorf("definition %s revision %d: %w", def.ID, def.Revision, err)
	}
	if !def.Enabled {
		s.Paused, s.Note = true, NotePaused
		if def.PauseReason != "" {
			s.Note += ": " + def.PauseReason
		}
	}
	if limit := def.Backstop(definition.KindCron); limit > 0 {
		s.RunTimeout = limit + BackstopMargin
	}
	s.Mark = Mark(at.Installation, s.hash(at))
	return s, nil
}

// times fills in when the schedule acts.
func (s *Spec) times(t *definition.Trigger) error {
	if t.Type == definition.TriggerScheduled {
		at, err := t.RunTime()
		if err != nil {
			return err
		}
		// The one instant that is both the first and the last, in a zone whose clocks do not change.
		s.Zone, s.StartAt, s.EndAt = "UTC", at, at
		s.Calendars = []cron.Calendar{cron.At(at)}
		return nil
	}
	sched, err := t.Schedule()
	if err != nil {
		return err
	}
	s.Calendars, s.Zone = sched.Calendars(), sched.Zone()
	s.Every, _ = sched.Every()
	if t.StartAt != nil {
		s.StartAt = t.StartAt.UTC()
	}
	if t.EndAt != nil {
		s.EndAt = t.EndAt.UTC()
	}
	return nil
}

// Mark is the value of the search attribute ActivitySpecHash: about 80 characters, where 255 are allowed.
func Mark(installation, hash string) string {
	return installation + "/" + hash
}

// ParseMark is the inverse of Mark. A text that is no mark has the empty installation.
func ParseMark(mark string) (installation, hash string) {
	installation, hash, ok := strings.Cut(mark, "/")
	if !ok {
		return "", mark
	}
	return installation, hash
}

// hash identifies the schedule in three parts: the generation that made it, what the list of schedules shows of it, and
// the rest.
func (s *Spec) hash(at Place) string {
	rest := digest(s.Overlap, s.CatchupWindow, s.WorkflowID, s.TaskQueue, s.Input.RunID, s.Input.DefinitionID, s.RunTimeout,
		s.DefinitionID, s.DefinitionName)
	return generation(at) + "." + s.visible() + "." + rest
}

// generation identifies what a schedule depends on besides its definition: this program and its configuration.
func generation(at Place) string {
	return digest(specVersion, at.TaskQueue)[:8]
}

// visible identifies what the list of schedules shows of a schedule.
func (s *Spec) visible() string {
	return digest(canonical(s.Calendars), s.Every, zone(s.Zone), s.Jitter, instant(s.StartAt), instant(s.EndAt), s.Paused,
		s.Note, s.Workflow)
}

// visibleOf is the part of a hash that visible made.
func visibleOf(hash string) string {
	parts := strings.Split(hash, ".")
	if len(parts) != 3 {
		return ""
	}
	return parts[1]
}

func digest(values ...any) string {
	h := sha256.New()
	for _, v := range values {
		fmt.Fprintf(h, "%q\n", fmt.Sprint(v))
	}
	return hex.EncodeToString(h.Sum(nil)[:10])
}

// Op is what has to be done to a schedule.
type Op string

// The operations.
const (
	OpNone   Op = "none"
	OpCreate Op = "create"
	OpUpdate Op = "update"
	OpDelete Op = "delete"
)

// Change is the way from the schedule found to the schedule wanted.
type Change struct {
	Op Op
	// Pauses and Unpauses tell that an update changes whether the schedule is paused.
	Pauses, Unpauses bool
	// Reasons names what differs, for a person.
	Reasons []string
}

// Outcome returns the one word under which a change is counted. An update that also pauses or unpauses counts as that.
func (c Change) Outcome() Outcome {
	switch {
	case c.Op == OpCreate:
		return Created
	case c.Op == OpDelete:
		return Deleted
	case c.Pauses:
		return Paused
	case c.Unpauses:
		return Unpaused
	case c.Op == OpUpdate:
		return Updated
	}
	return Unchanged
}

// ForeignError tells that a schedule belongs to another installation, so that it was not touched.
type ForeignError struct {
	Installation string // the owner
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("the schedule belongs to another installation (%s) in this Temporal namespace and was not touched; "+
		"give each installation a namespace or a database of its own, or delete the schedule if that installation is gone",
		e.Installation)
}

// Plan compares the schedule wanted (nil for none) with the one found (nil for none), field by field and by meaning, so
// that an edit from outside is found whatever the mark says. A *ForeignError means that it must not be touched.
func Plan(installation string, want *Spec, have *Found) (Change, error) {
	if have == nil {
		if want == nil {
			return Change{Op: OpNone}, nil
		}
		return Change{Op: OpCreate, Reasons: []string{"missing"}}, nil
	}
	if owner, _ := ParseMark(have.Mark); owner != "" && owner != installation {
		return Change{Op: OpNone}, &ForeignError{Installation: owner}
	}
	if want == nil {
		return Change{Op: OpDelete, Reasons: []string{"not wanted"}}, nil
	}
	reasons := differences(want, have)
	if len(reasons) == 0 {
		return Change{Op: OpNone}, nil
	}
	return Change{
		Op:       OpUpdate,
		Pauses:   want.Paused && !have.Paused,
		Unpauses: !want.Paused && have.Paused,
		Reasons:  reasons,
	}, nil
}

func differences(want *Spec, have *Found) []string {
	var out []string
	check := func(name string, same bool) {
		if !same {
			out = append(out, name)
		}
	}
	check("times", slices.Equal(canonical(want.Calendars), canonical(have.Calendars)) && want.Every == have.Every)
	check("time zone", zone(want.Zone) == zone(have.Zone))
	check("jitter", want.Jitter == have.Jitter)
	check("start", want.StartAt.Equal(have.StartAt))
	check("end", want.EndAt.Equal(have.EndAt))
	check("overlap policy", want.Overlap == have.Overlap)
	check("catch-up window", want.CatchupWindow == have.CatchupWindow)
	check("paused", want.Paused == have.Paused)
	check("note", want.Note == have.Note)
	check("workflow id", want.WorkflowID == have.WorkflowID)
	check("workflow", want.Workflow == have.Workflow)
	check("task queue", want.TaskQueue == have.TaskQueue)
	check("argument", want.Input == have.Input)
	check("run timeout", want.RunTimeout == have.RunTimeout)
	check("search attributes", want.DefinitionID == have.DefinitionID && want.DefinitionName == have.DefinitionName)
	check("mark", want.Mark == have.Mark)
	return append(out, have.Extra...)
}

func zone(name string) string {
	if name == "" {
		return "UTC"
	}
	return name
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// times is a calendar as six sets of small numbers, one bit for each: however ranges are written, equal times are equal.
type times struct {
	second, minute, hour, dayOfMonth, month, dayOfWeek uint64
}

// canonical returns the calendars' sets, sorted and without duplicates.
func canonical(calendars []cron.Calendar) []times {
	out := make([]times, 0, len(calendars))
	for _, c := range calendars {
		out = append(out, times{
			second: bits(c.Second), minute: bits(c.Minute), hour: bits(c.Hour),
			dayOfMonth: bits(c.DayOfMonth), month: bits(c.Month), dayOfWeek: bits(c.DayOfWeek),
		})
	}
	slices.SortFunc(out, func(a, b times) int {
		return slices.Compare(
			[]uint64{a.second, a.minute, a.hour, a.dayOfMonth, a.month, a.dayOfWeek},
			[]uint64{b.second, b.minute, b.hour, b.dayOfMonth, b.month, b.dayOfWeek})
	})
	return slices.Compact(out)
}

// bits reads a range as Temporal does: no end means the start alone, no step means 1.
func bits(ranges []cron.Range) uint64 {
	var set uint64
	for _, r := range ranges {
		for v := r.Start; v >= 0 && v < 64; v += max(r.Step, 1) {
			if v > r.Start && v > r.End {
				break
			}
			set |= 1 << v
		}
	}
	return set
}
