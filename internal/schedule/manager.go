package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/activity-core/activity-core/internal/cron"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/failpoint"
)

const (
	// callTimeout bounds one call to Temporal, with the retries that its client makes.
	callTimeout = 2 * time.Second
	// holdTimeout is how long an accepted update may take to show before it counts as lost and is sent again.
	holdTimeout = time.Second
	// The pauses between two looks at an update that does not show yet.
	firstLook, lastLook = 20 * time.Millisecond, 200 * time.Millisecond
)

var (
	keyID   = temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeID)
	keyName = temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeName)
	keyMark = temporal.NewSearchAttributeKeyKeyword(definition.SearchAttributeSpecHash)
)

// manager reads and writes single schedules. Whoever calls reach holds the lease of the definition.
type manager struct {
	schedules    client.ScheduleClient
	installation string
}

// look compares the schedule of a definition with the one wanted and changes nothing.
func (m manager) look(ctx context.Context, definitionID string, want *Spec) (Change, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d, err := m.schedules.GetHandle(ctx, definition.ScheduleID(definitionID)).Describe(ctx)
	if isNotFound(err) {
		return Plan(m.installation, want, nil)
	}
	if err != nil {
		return Change{}, fmt.Errorf("describe schedule: %w", err)
	}
	failpoint.Hit("sync-described")
	have := found(d)
	return Plan(m.installation, want, &have)
}

// remake makes the schedule of a definition anew, one that looks right but starts nothing.
func (m manager) remake(ctx context.Context, definitionID string, want *Spec) (Change, error) {
	plan, err := m.look(ctx, definitionID, want)
	if err != nil {
		return Change{}, err
	}
	if plan.Op != OpCreate {
		if _, err := m.apply(ctx, definitionID, OpDelete, nil); err != nil {
			return Change{}, err
		}
	}
	change, err := m.reach(ctx, definitionID, want, true)
	change.Reasons = []string{"did not start its last slots"}
	return change, err
}

// reach makes the schedule of a definition as wanted and returns the change that this took, once it has been seen to
// hold. absent is a hint that there is no schedule yet; a wrong hint costs a call. The context bounds the whole.
func (m manager) reach(ctx context.Context, definitionID string, want *Spec, absent bool) (Change, error) {
	var (
		made  = Change{Op: OpNone} // the first change that was made, which is the one to be told
		sent  time.Time            // when the update was sent that is awaited; zero when none is
		pause = firstLook
	)
	for {
		var plan Change
		var err error
		if absent && want != nil {
			plan, err = Plan(m.installation, want, nil)
		} else {
			plan, err = m.look(ctx, definitionID, want)
		}
		absent = false
		if err != nil || plan.Op == OpNone {
			return made, err
		}
		if plan.Op == OpUpdate && !sent.IsZero() && time.Since(sent) < holdTimeout {
			if sleep(ctx, pause) != nil {
				return made, errors.New("temporal accepted an update of the schedule, but it does not show yet")
			}
			pause = min(2*pause, lastLook)
			continue
		}
		acted, err := m.apply(ctx, definitionID, plan.Op, want)
		if err != nil {
			return made, err
		}
		failpoint.Hit("sync-written")
		if acted && made.Op == OpNone {
			made = plan
		}
		if acted && plan.Op == OpCreate {
			return made, nil // unlike an update, a create is stored whole before it is answered
		}
		if acted && plan.Op == OpUpdate {
			sent, pause = time.Now(), firstLook
		}
	}
}

// apply carries out one operation. False means that the schedule was found otherwise than the operation supposes, so that
// nothing was done and another look is needed.
func (m manager) apply(ctx context.Context, definitionID string, op Op, want *Spec) (acted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id := definition.ScheduleID(definitionID)
	switch op {
	case OpCreate:
		_, err = m.schedules.Create(ctx, want.options(id))
		if errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
			return false, nil
		}
	case OpUpdate:
		err = m.schedules.GetHandle(ctx, id).Update(ctx, client.ScheduleUpdateOptions{
			DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
				// What was decided on may not be what is there now.
				have := found(&in.Description)
				plan, err := Plan(m.installation, want, &have)
				if err != nil {
					return nil, err
				}
				if acted = plan.Op == OpUpdate; !acted {
					return nil, temporal.ErrSkipScheduleUpdate
				}
				return want.update(), nil
			}})
		if isNotFound(err) {
			return false, nil
		}
		if err == nil {
			return acted, nil
		}
	default:
		err = m.schedules.GetHandle(ctx, id).Delete(ctx)
		if isNotFound(err) {
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("%s schedule: %w", op, err)
	}
	return true, nil
}

func isNotFound(err error) bool {
	var notFound *serviceerror.NotFound
	return errors.As(err, &notFound)
}

// isOutage reports whether an error says that Temporal did not answer or had no capacity, rather than that it refused.
func isOutage(err error) bool {
	var (
		unavailable *serviceerror.Unavailable
		deadline    *serviceerror.DeadlineExceeded
		exhausted   *serviceerror.ResourceExhausted
	)
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &unavailable) || errors.As(err, &deadline) ||
		errors.As(err, &exhausted)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// The rest translates between Spec and the client's types.

func (s *Spec) options(id string) client.ScheduleOptions {
	return client.ScheduleOptions{
		ID:                    id,
		Spec:                  s.spec(),
		Action:                s.action(),
		Overlap:               s.Overlap,
		CatchupWindow:         s.CatchupWindow,
		Note:                  s.Note,
		Paused:                s.Paused,
		TypedSearchAttributes: temporal.NewSearchAttributes(keyMark.ValueSet(s.Mark)),
	}
}

func (s *Spec) update() *client.ScheduleUpdate {
	spec, mark := s.spec(), temporal.NewSearchAttributes(keyMark.ValueSet(s.Mark))
	return &client.ScheduleUpdate{
		Schedule: &client.Schedule{
			Action: s.action(),
			Spec:   &spec,
			Policy: &client.SchedulePolicies{Overlap: s.Overlap, CatchupWindow: s.CatchupWindow},
			State:  &client.ScheduleState{Note: s.Note, Paused: s.Paused},
		},
		TypedSearchAttributes: &mark,
	}
}

func (s *Spec) spec() client.ScheduleSpec {
	out := client.ScheduleSpec{TimeZoneName: s.Zone, Jitter: s.Jitter, StartAt: s.StartAt, EndAt: s.EndAt}
	for _, c := range s.Calendars {
		out.Calendars = append(out.Calendars, client.ScheduleCalendarSpec{
			Second: written(c.Second), Minute: written(c.Minute), Hour: written(c.Hour),
			DayOfMonth: written(c.DayOfMonth), Month: written(c.Month), DayOfWeek: written(c.DayOfWeek),
		})
	}
	if s.Every > 0 {
		out.Intervals = []client.ScheduleIntervalSpec{{Every: s.Every}}
	}
	return out
}

func (s *Spec) action() *client.ScheduleWorkflowAction {
	return &client.ScheduleWorkflowAction{
		ID:                 s.WorkflowID,
		Workflow:           s.Workflow,
		Args:               []any{s.Input},
		TaskQueue:          s.TaskQueue,
		WorkflowRunTimeout: s.RunTimeout,
		TypedSearchAttributes: temporal.NewSearchAttributes(
			keyID.ValueSet(s.DefinitionID), keyName.ValueSet(s.DefinitionName)),
	}
}

// found reads a description. Whatever it holds that a Spec cannot say is named in Extra.
func found(d *client.ScheduleDescription) Found {
	var f Found
	extra := func(name string, present bool) {
		if present {
			f.Extra = append(f.Extra, name)
		}
	}
	extra("unusual times", !f.readTimes(d.Schedule.Spec))
	if p := d.Schedule.Policy; p != nil {
		f.Overlap, f.CatchupWindow = p.Overlap, p.CatchupWindow
		extra("pause on failure", p.PauseOnFailure)
	}
	if s := d.Schedule.State; s != nil {
		f.Paused, f.Note = s.Paused, s.Note
		extra("limited actions", s.LimitedActions)
	}
	if a, ok := d.Schedule.Action.(*client.ScheduleWorkflowAction); ok {
		f.WorkflowID, f.TaskQueue, f.RunTimeout = a.ID, a.TaskQueue, a.WorkflowRunTimeout
		f.Workflow, _ = a.Workflow.(string)
		var readable bool
		f.Input, readable = readInput(a.Args)
		extra("unusual argument", !readable)
		f.DefinitionID, _ = a.TypedSearchAttributes.GetKeyword(keyID)
		f.DefinitionName, _ = a.TypedSearchAttributes.GetKeyword(keyName)
		extra("more search attributes", a.TypedSearchAttributes.Size() > 2 || len(a.UntypedSearchAttributes) > 0)
		extra("retry policy", a.RetryPolicy != nil)
		extra("execution timeout", a.WorkflowExecutionTimeout != 0)
		extra("task timeout", a.WorkflowTaskTimeout != 0)
		extra("memo", len(a.Memo) > 0)
		extra("versioning override", a.VersioningOverride != nil)
		extra("summary", a.StaticSummary != "" || a.StaticDetails != "")
		extra("priority", a.Priority != temporal.Priority{})
	}
	f.Mark, _ = d.TypedSearchAttributes.GetKeyword(keyMark)
	return f
}

// listed reads what the list of schedules shows: enough for visible. False means that it shows something unusual.
func listed(e *client.ScheduleListEntry) (s Spec, ok bool) {
	ok = s.readTimes(e.Spec)
	s.Paused, s.Note, s.Workflow = e.Paused, e.Note, e.WorkflowType.Name
	var mark string
	p := e.SearchAttributes.GetIndexedFields()[definition.SearchAttributeSpecHash]
	if p == nil || converter.GetDefaultDataConverter().FromPayload(p, &mark) != nil {
		return s, false
	}
	s.Mark = mark
	return s, ok
}

// readTimes reads when a schedule acts; false when it holds what a Spec cannot say.
func (s *Spec) readTimes(spec *client.ScheduleSpec) bool {
	if spec == nil {
		return false
	}
	ok := len(spec.Skip) == 0 && len(spec.CronExpressions) == 0 && len(spec.Intervals) <= 1
	s.Zone, s.Jitter, s.StartAt, s.EndAt = spec.TimeZoneName, spec.Jitter, spec.StartAt, spec.EndAt
	for _, i := range spec.Intervals {
		s.Every = i.Every
		ok = ok && i.Offset == 0
	}
	for _, c := range spec.Calendars {
		ok = ok && len(c.Year) == 0 && c.Comment == ""
		s.Calendars = append(s.Calendars, cron.Calendar{
			Second: read(c.Second), Minute: read(c.Minute), Hour: read(c.Hour),
			DayOfMonth: read(c.DayOfMonth), Month: read(c.Month), DayOfWeek: read(c.DayOfWeek),
		})
	}
	return ok
}

func readInput(args []any) (in definition.RunInput, ok bool) {
	if len(args) != 1 {
		return in, false
	}
	p, ok := args[0].(*commonpb.Payload)
	return in, ok && converter.GetDefaultDataConverter().FromPayload(p, &in) == nil
}

func written(ranges []cron.Range) []client.ScheduleRange {
	out := make([]client.ScheduleRange, len(ranges))
	for i, r := range ranges {
		out[i] = client.ScheduleRange{Start: r.Start, End: r.End, Step: r.Step}
	}
	return out
}

func read(ranges []client.ScheduleRange) []cron.Range {
	out := make([]cron.Range, len(ranges))
	for i, r := range ranges {
		out[i] = cron.Range{Start: r.Start, End: r.End, Step: r.Step}
	}
	return out
}
