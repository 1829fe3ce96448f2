//go:build faults

package faults

import (
	"encoding/json"
	"net/url"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// Schedules are deleted, paused, edited and made silent behind our back, in the middle of their work.
func TestSchedulesChangedBehindOurBack(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	worker := s.Start("worker")
	s.Start("api")
	worker.Compared()
	from := system.NextWhole(time.Minute, 5*time.Second)
	accounts := map[string]system.Account{}
	for _, name := range []string{"deleted", "paused", "edited", "silent"} {
		// Without a limit: the slot that is recovered 15 s late must not skip another one on a busy machine.
		c := system.Cron{Name: name, Every: time.Minute, From: from, To: from.Add(3 * time.Minute), NoLimit: true}
		id := s.Create(c.Document())
		s.Synced(id, 20*time.Second)
		accounts[name] = system.Account{Name: name, Definition: id, Slots: c.Slots(), Ghosts: name == "edited", Within: settled}
	}
	s.WaitUntil(from.Add(15*time.Second), "the first slot is done")
	s.DeleteSchedule(accounts["deleted"].Definition)
	s.PauseSchedule(accounts["paused"].Definition)
	s.EditSchedule(accounts["edited"].Definition, 7)
	s.SilenceSchedule(accounts["silent"].Definition)
	for _, a := range accounts {
		slots := s.Accounted(a)
		for i, byItself := range []bool{true, false, true, true} {
			if slots[i].Scheduled != byItself {
				t.Errorf("%s: the schedule started %s: %v, want %v", a.Name, slots[i].Key, slots[i].Scheduled, byItself)
			}
		}
		s.Synced(a.Definition, 10*time.Second)
		s.ScheduleIs(a.Definition, "active", 10*time.Second, system.Active)
	}
	if n := worker.Metric("actcore_slots_recovered_total"); n != 4 {
		t.Errorf("actcore_slots_recovered_total = %v, want one for each schedule", n)
	}
}

// A schedule forgets its timer, as Temporal's issue 11869 has it: it is described as it is to be, and starts nothing for ever.
// Its slots are started in its place, and after two minutes of that it is made anew.
func TestScheduleWithoutATimer(t *testing.T) {
	t.Parallel()
	s := system.NewOnOwnStack(t)
	worker := s.Start("worker")
	s.Start("api")
	worker.Compared()
	const every = 10 * time.Second
	from := system.NextWhole(every, 5*time.Second)
	// Without a limit: slots that are started in the schedule's place come in any order.
	c := system.Cron{Name: "forgetful", Every: every, From: from, To: from.Add(3*time.Minute + 30*time.Second), NoLimit: true}
	id := s.Create(c.Document())
	created := scheduleOf(s, id).Info.CreatedAt
	s.WaitUntil(from.Add(4*time.Second), "the first slot is done")
	s.Control("/temporal/stop")
	forgetTimer(s, id)
	s.Control("/temporal/start")
	worker.WaitReady()
	if d := scheduleOf(s, id); d.Schedule.State.Paused || len(d.Info.NextActionTimes) == 0 || !d.Info.CreatedAt.Equal(created) {
		t.Errorf("the silent schedule is to look as if it fired: %+v", d.Info)
	}
	slots := s.Accounted(system.Account{Name: c.Name, Definition: id, Slots: c.Slots(), Within: settled})
	for i, run := range slots {
		silent := i > 0 && run.Slot.Before(from.Add(2*time.Minute))
		if first, last := i == 0, i == len(slots)-1; (first || last) && !run.Scheduled || silent && run.Scheduled {
			t.Errorf("the schedule started %s: %v", run.Key, run.Scheduled)
		}
	}
	if d := scheduleOf(s, id); d.Info.CreatedAt.Equal(created) {
		t.Error("the schedule was not made anew")
	}
}

// forgetTimer takes the timer of a schedule's own workflow out of Temporal's database, while Temporal is stopped.
func forgetTimer(s *system.System, definitionID string) {
	s.T.Helper()
	u, err := url.Parse(s.Stack.PostgresURL)
	if err != nil {
		s.T.Fatal(err)
	}
	u.Path = "/temporal"
	tag, err := testenv.OpenPool(s.T, u.String()).Exec(s.T.Context(),
		`DELETE FROM timer_tasks WHERE position(convert_to($1, 'UTF8') IN data) > 0`,
		"temporal-sys-scheduler:"+definition.ScheduleID(definitionID))
	if err != nil || tag.RowsAffected() == 0 {
		s.T.Fatalf("forget the timer: %d rows, %v", tag.RowsAffected(), err)
	}
}

func scheduleOf(s *system.System, definitionID string) *client.ScheduleDescription {
	s.T.Helper()
	d, err := s.Schedule(definitionID).Describe(s.T.Context())
	if err != nil {
		s.T.Fatal(err)
	}
	return d
}

// A second installation with an empty database works in the same namespace: it takes none of the first one's schedules for
// orphans, and touches none.
func TestSecondInstallationTouchesNothing(t *testing.T) {
	t.Parallel()
	first := system.New(t)
	worker := first.Start("worker")
	first.Start("api")
	worker.Compared()
	from := system.NextWhole(5*time.Second, 10*time.Second)
	c := system.Cron{Name: "first", Every: 5 * time.Second, From: from, To: from.Add(50 * time.Second), NoLimit: true}
	id := first.Create(c.Document())
	paused := first.Create(`{"name": "paused", "enabled": false,
		"trigger_config": {"trigger_type": "cron", "cron_expression": "0 9 * * 1-5"}}`)
	first.Synced(id, 20*time.Second)
	first.Synced(paused, 20*time.Second)
	before := map[string]*client.ScheduleDescription{id: scheduleOf(first, id), paused: scheduleOf(first, paused)}

	second := system.NewOn(t, first.Stack, testenv.DatabaseURL(t), first.Namespace, testenv.Names(t))
	second.Start("api")
	for range 2 {
		stranger := second.Start("worker")
		stranger.Compared()
		var result map[string]any
		if err := json.Unmarshal([]byte(second.Command("sync-schedules", "-o", "json")), &result); err != nil {
			t.Fatal(err)
		}
		for _, count := range []string{"created", "updated", "paused", "unpaused", "deleted", "unchanged", "failed"} {
			if result[count] != 0.0 {
				t.Errorf("sync-schedules of the second installation: %s = %v, want 0", count, result[count])
			}
		}
		for _, result := range []string{"created", "updated", "deleted", "unchanged", "failed"} {
			if n := stranger.Metric("actcore_schedule_sync_total", `result="`+result+`"`); n != 0 {
				t.Errorf("the second installation's worker looked at %v schedules (%s), want none", n, result)
			}
		}
		stranger.Stop()
	}
	slots := first.Accounted(system.Account{Name: c.Name, Definition: id, Slots: c.Slots(), Within: settled})
	for _, run := range slots {
		if !run.Scheduled {
			t.Errorf("the schedule did not start %s", run.Key)
		}
	}
	for id, was := range before {
		is := scheduleOf(first, id)
		if !is.Info.CreatedAt.Equal(was.Info.CreatedAt) || !is.Info.LastUpdateAt.Equal(was.Info.LastUpdateAt) ||
			is.Schedule.State.Paused != was.Schedule.State.Paused {
			t.Errorf("the schedule of %s was touched: %+v", id, is.Info)
		}
	}
}
