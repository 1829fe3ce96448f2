package system

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// Cron is a cron definition whose slots are the whole multiples of Every in [From, To].
type Cron struct {
	Name     string
	Every    time.Duration
	From, To time.Time
	Policy   string // misfire_policy; empty for the default
	// Tasks is the JSON of its tasks; empty for one that writes a line.
	Tasks string
	// NoLimit lets its runs overlap: where the start of a slot may be late, the default limit of one run at a time would skip
	// the next slot, which is right and would blur the picture.
	NoLimit bool
}

// Document is the definition's JSON.
func (c Cron) Document() string {
	var b strings.Builder
	expression := fmt.Sprintf("@every %s", c.Every)
	if c.Every == time.Minute {
		expression = "* * * * *"
	}
	fmt.Fprintf(&b, `{"name": %q, "trigger_config": {"trigger_type": "cron", "cron_expression": %q, "start_at": %q, "end_at": %q`,
		c.Name, expression, c.From.UTC().Format(time.RFC3339), c.To.UTC().Format(time.RFC3339))
	if c.Policy != "" {
		fmt.Fprintf(&b, `, "misfire_policy": %q`, c.Policy)
	}
	b.WriteString("}")
	if c.NoLimit {
		b.WriteString(`, "concurrency": {"limit": 0}`)
	}
	if c.Tasks == "" {
		c.Tasks = `[{"name": "say", "type": "log", "with": {"message": "tick"}}]`
	}
	return b.String() + `, "tasks": ` + c.Tasks + "}"
}

// Slots are its due times.
func (c Cron) Slots() []time.Time { return Slots(c.From, c.To, c.Every) }

// Named returns the id of the one definition with a name.
func (s *System) Named(name string) string {
	s.T.Helper()
	status, page := s.Call(http.MethodGet, "/activity-definitions?name="+name, "")
	items, _ := page["items"].([]any)
	if status != http.StatusOK || len(items) != 1 {
		s.T.Fatalf("the list of definitions named %s answered %d: %v", name, status, page)
	}
	d, _ := items[0].(map[string]any)
	return Object(d).Str("id")
}

// Change sends a PATCH or a PUT that has to succeed.
func (s *System) Change(method, definitionID, body string) Object {
	s.T.Helper()
	status, answer := s.Call(method, "/activity-definitions/"+definitionID, body)
	if status != http.StatusOK {
		s.T.Fatalf("%s %s answered %d: %v", method, body, status, answer)
	}
	return answer
}

// Synced waits until the API says that the schedule is that of the newest revision, and returns the definition.
func (s *System) Synced(definitionID string, timeout time.Duration) Object {
	s.T.Helper()
	var answer Object
	testenv.Eventually(s.T, timeout, "the schedule of "+definitionID+" is synced", func(ctx context.Context) (bool, error) {
		var err error
		_, answer, err = s.TryCall(ctx, http.MethodGet, "/activity-definitions/"+definitionID, "")
		if err != nil {
			return false, nil // the deadline judges
		}
		sync, revision := answer.Object("sync"), answer.Int("revision")
		return sync.Str("state") == "synced" && revision > 0 && sync.Int("desired") == revision &&
			sync.Int("observed") == revision, nil
	})
	return answer
}

// Schedule is the schedule that belongs to a definition, reached past activity-core.
func (s *System) Schedule(definitionID string) client.ScheduleHandle {
	return s.Temporal.ScheduleClient().GetHandle(s.T.Context(), definition.ScheduleID(definitionID))
}

// ScheduleIs waits until the schedule is described as the condition wants it. The description is nil when there is none.
func (s *System) ScheduleIs(definitionID, what string, timeout time.Duration, is func(*client.ScheduleDescription) bool) {
	s.T.Helper()
	testenv.Eventually(s.T, timeout, "the schedule of "+definitionID+" is "+what, func(ctx context.Context) (bool, error) {
		d, err := s.Schedule(definitionID).Describe(ctx)
		var none *serviceerror.NotFound
		if errors.As(err, &none) {
			return is(nil), nil
		}
		return err == nil && is(d), nil
	})
}

// Active is a condition of ScheduleIs: it is there, and it fires.
func Active(d *client.ScheduleDescription) bool { return d != nil && !d.Schedule.State.Paused }

// Gone is a condition of ScheduleIs: there is none.
func Gone(d *client.ScheduleDescription) bool { return d == nil }

// DeleteSchedule deletes a definition's schedule behind our back.
func (s *System) DeleteSchedule(definitionID string) {
	s.T.Helper()
	if err := s.Schedule(definitionID).Delete(s.T.Context()); err != nil {
		s.T.Fatal(err)
	}
	s.ScheduleIs(definitionID, "deleted", 10*time.Second, Gone)
}

// PauseSchedule pauses a definition's schedule behind our back.
func (s *System) PauseSchedule(definitionID string) {
	s.T.Helper()
	if err := s.Schedule(definitionID).Pause(s.T.Context(), client.SchedulePauseOptions{Note: "by somebody"}); err != nil {
		s.T.Fatal(err)
	}
	s.ScheduleIs(definitionID, "paused", 10*time.Second, func(d *client.ScheduleDescription) bool {
		return d != nil && d.Schedule.State.Paused
	})
}

// SilenceSchedule makes a definition's schedule start nothing more: the workflow is terminated that Temporal carries it out by.
func (s *System) SilenceSchedule(definitionID string) {
	s.T.Helper()
	id := "temporal-sys-scheduler:" + definition.ScheduleID(definitionID)
	if err := s.Temporal.TerminateWorkflow(s.T.Context(), id, "", "by somebody"); err != nil {
		s.T.Fatal(err)
	}
}

// EditSchedule has a definition's schedule fire at the given second of every minute, behind our back.
func (s *System) EditSchedule(definitionID string, second int) {
	s.T.Helper()
	all := func(from, to int) []client.ScheduleRange {
		return []client.ScheduleRange{{Start: from, End: to, Step: 1}}
	}
	err := s.Schedule(definitionID).Update(s.T.Context(), client.ScheduleUpdateOptions{
		DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			edited := in.Description.Schedule
			edited.Spec = &client.ScheduleSpec{Calendars: []client.ScheduleCalendarSpec{{
				Second: all(second, second), Minute: all(0, 59), Hour: all(0, 23),
				DayOfMonth: all(1, 31), Month: all(1, 12), DayOfWeek: all(0, 6),
			}}}
			return &client.ScheduleUpdate{Schedule: &edited}, nil
		}})
	if err != nil {
		s.T.Fatal(err)
	}
	s.ScheduleIs(definitionID, "edited", 10*time.Second, func(d *client.ScheduleDescription) bool {
		return d != nil && len(d.Schedule.Spec.Calendars) == 1 && d.Schedule.Spec.Calendars[0].Second[0].Start == second
	})
}

// WaitUntil waits for a moment.
func (s *System) WaitUntil(at time.Time, what string) {
	s.T.Helper()
	testenv.Eventually(s.T, time.Until(at)+5*time.Second, what, func(context.Context) (bool, error) {
		return !time.Now().Before(at), nil
	})
}

// NextWhole is the first whole multiple of a duration since 1970 that is at least this far ahead.
func NextWhole(every, ahead time.Duration) time.Time {
	return time.Now().Add(ahead + every - 1).Truncate(every).UTC()
}
