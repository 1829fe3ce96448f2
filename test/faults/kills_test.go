//go:build faults

package faults

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// The API dies between the commit of a change and the write of the schedule, at a create, an edit and a delete.
func TestAPIKilledBetweenCommitAndScheduleWrite(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("worker").Compared()
	api := s.Launch("api")
	dies := func(method, path, body string) {
		t.Helper()
		api.Env["ACTCORE_FAIL"] = "api-committed:kill"
		api.Kill()
		api.Run()
		api.WaitReady()
		if status, answer, err := s.TryCall(t.Context(), method, path, body); err == nil {
			t.Fatalf("the API was to die in %s, and answered %d: %v", method, status, answer)
		}
		api.WaitKilled(5 * time.Second)
		delete(api.Env, "ACTCORE_FAIL")
		api.Run()
		api.WaitReady()
	}
	from := system.NextWhole(5*time.Second, 10*time.Second)
	// Without a limit: a slot that begins late must not skip the next one.
	c := system.Cron{Name: "killed", Every: 5 * time.Second, From: from, To: from.Add(time.Hour), NoLimit: true}
	dies(http.MethodPost, "/activity-definitions/", c.Document())
	id := s.Named(c.Name)
	s.Synced(id, 10*time.Second)
	s.ScheduleIs(id, "there", 5*time.Second, system.Active)

	s.WaitUntil(from.Add(11*time.Second), "three slots are due")
	sent := time.Now()
	dies(http.MethodPatch, "/activity-definitions/"+id, `{"trigger_config": {"cron_expression": "@every 10s"}}`)
	committed := revisedAt(s, id)
	s.Synced(id, 10*time.Second)
	s.ScheduleIs(id, "every 10 s", 5*time.Second, func(d *client.ScheduleDescription) bool {
		return d != nil && len(d.Schedule.Spec.Intervals) == 1 && d.Schedule.Spec.Intervals[0].Every == 10*time.Second
	})

	s.WaitUntil(committed.Add(21*time.Second), "two more slots are due")
	dies(http.MethodDelete, "/activity-definitions/"+id, "")
	s.ScheduleIs(id, "deleted", 10*time.Second, system.Gone)
	deleted := time.Now()
	if committed.Before(sent) {
		t.Fatalf("the edit was sent at %s and committed at %s", sent, committed)
	}

	slots := append(system.Slots(from, committed, 5*time.Second), system.Slots(committed, committed.Add(21*time.Second), 10*time.Second)...)
	s.Accounted(system.Account{
		Name: c.Name, Definition: id, Slots: slots, Perhaps: system.Slots(committed.Add(21*time.Second), deleted, 10*time.Second),
		// What had not begun when the definition went does not run.
		Outcome: func(r system.Run) string {
			if r.Slot.After(committed.Add(15 * time.Second)) {
				return "succeeded|skipped/definition_deleted"
			}
			return "succeeded"
		},
		Within: settled,
	})
}

// revisedAt is when the newest revision was written.
func revisedAt(s *system.System, id string) time.Time {
	s.T.Helper()
	_, d := s.Call(http.MethodGet, "/activity-definitions/"+id, "")
	return d.Time("updated_at")
}

// A worker dies at each step of bringing a schedule up to date, when it is to be made, changed and deleted. The next one
// finishes the work as soon as the lease is over.
func TestWorkerKilledAtEachStepOfTheReconcile(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	startAPIAlone(s)
	from := system.NextWhole(5*time.Second, 15*time.Second)
	// Without a limit: what a killed worker held goes on 10 s later, and must not skip the next slots.
	long := system.Cron{Name: "long", Every: 5 * time.Second, From: from, To: from.Add(time.Hour), NoLimit: true}
	longID := s.Create(long.Document())
	worker := s.Start("worker")
	s.Synced(longID, 10*time.Second)
	worker.Kill()

	killedAt := func(point string, change func()) {
		t.Helper()
		change()
		victim := s.Launch("worker", "ACTCORE_FAIL="+point+":kill")
		victim.WaitKilled(30 * time.Second)
		worker.Run()
		worker.WaitReady()
	}
	jitter := 0
	var short []system.Account
	for _, point := range []string{"sync-leased", "sync-described", "sync-written", "sync-read-back", "sync-settled"} {
		// The long one is edited while it fires.
		jitter += 10
		killedAt(point, func() { setJitter(s, longID, jitter) })
		s.Synced(longID, 20*time.Second)
		s.ScheduleIs(longID, "edited", 5*time.Second, jitters(jitter))
		worker.Kill()
		if point == "sync-described" {
			continue // nothing is described when there is nothing, and a delete is decided as an edit is
		}
		start := system.NextWhole(5*time.Second, 5*time.Second)
		c := system.Cron{Name: point, Every: 5 * time.Second, From: start, To: start.Add(10 * time.Second), NoLimit: true}
		var id string
		killedAt(point, func() { id = s.Create(c.Document()) })
		s.Synced(id, 20*time.Second)
		s.ScheduleIs(id, "there", 5*time.Second, system.Active)
		a := system.Account{Name: "made, " + point, Definition: id, Slots: c.Slots(), Within: settled}
		s.Accounted(a)
		short = append(short, a)
		worker.Kill()

		killedAt(point, func() { remove(s, id) })
		s.ScheduleIs(id, "deleted", 20*time.Second, system.Gone)
		worker.Kill()
	}
	worker.Run()
	worker.WaitReady()
	// The long one ends.
	end := system.NextWhole(5*time.Second, 5*time.Second).Add(time.Second)
	s.Change(http.MethodPatch, longID, fmt.Sprintf(`{"trigger_config": {"end_at": %q}}`, end.Format(time.RFC3339)))
	long.To = end
	s.Accounted(system.Account{Name: long.Name, Definition: longID, Slots: long.Slots(), Within: settled})
	for _, a := range short { // a delete takes nothing away from what was done before
		s.Accounted(a)
	}
}

// setJitter makes a revision whose schedule differs from every other's.
func setJitter(s *system.System, id string, milliseconds int) {
	s.T.Helper()
	s.Change(http.MethodPatch, id, fmt.Sprintf(`{"trigger_config": {"jitter": "%dms"}}`, milliseconds))
}

func jitters(milliseconds int) func(*client.ScheduleDescription) bool {
	return func(d *client.ScheduleDescription) bool {
		return d != nil && d.Schedule.Spec.Jitter == time.Duration(milliseconds)*time.Millisecond
	}
}

// Two workers reconcile at once, and one of them is stopped at a step for longer than its lease; then it goes on with what it
// knew. The observed revision never moves backwards, and in the end there is one schedule, that of the newest revision.
func TestWorkerStoppedPastItsLease(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stack := testenv.Stack(t)
	namespace, err := testenv.MakeNamespace(ctx, stack.TemporalAddress) // its list shows this test's schedules alone
	if err != nil {
		t.Fatal(err)
	}
	s := system.NewOn(t, stack, testenv.DatabaseURL(t), namespace, testenv.Names(t))
	observed := watchObserved(s)
	defer observed.neverBackwards()
	startAPIAlone(s)
	from := system.NextWhole(5*time.Second, 15*time.Second)
	// Without a limit: a stopped worker takes tasks with it, which are given to the other one 10 s later.
	c := system.Cron{Name: "fenced", Every: 5 * time.Second, From: from, To: from.Add(time.Hour), NoLimit: true}
	id := s.Create(c.Document())
	other := s.Start("worker")
	s.Synced(id, 10*time.Second)

	jitter := 0
	for _, point := range []string{"sync-leased", "sync-described", "sync-written", "sync-read-back"} {
		other.Stop()
		// Both have compared all schedules before it matters: their comparison would undo what the stopped one writes too late.
		stopped := s.Start("worker", "ACTCORE_FAIL="+point+":stop")
		stopped.Compared()
		jitter += 10
		setJitter(s, id, jitter)
		testenv.Eventually(t, 30*time.Second, point+": a worker is stopped past its lease", observed.leaseIsOver)
		jitter += 10
		setJitter(s, id, jitter)
		other.Run()
		other.WaitReady()
		other.Compared()
		s.Synced(id, 20*time.Second)
		s.ScheduleIs(id, "the newest revision's", 5*time.Second, jitters(jitter))
		stopped.Continue()
		testenv.Eventually(t, 20*time.Second, point+": the stopped worker finds its lease gone", func(context.Context) (bool, error) {
			return stopped.Metric("actcore_schedule_sync_total", `result="failed"`) >= 1, nil
		})
		// What it wrote too late is undone, if it wrote anything.
		newest := s.Synced(id, 20*time.Second)
		s.ScheduleIs(id, "the newest revision's again", 20*time.Second, jitters(jitter))
		if last := observed.last(id); last != newest.Int("revision") {
			t.Errorf("%s: revision %d was observed last, want %d", point, last, newest.Int("revision"))
		}
		stopped.Stop()
	}
	end := system.NextWhole(5*time.Second, 5*time.Second).Add(time.Second)
	s.Change(http.MethodPatch, id, fmt.Sprintf(`{"trigger_config": {"end_at": %q}}`, end.Format(time.RFC3339)))
	c.To = end
	s.Accounted(system.Account{Name: c.Name, Definition: id, Slots: c.Slots(), Within: settled})
	s.Synced(id, 10*time.Second)
	s.ScheduleIs(id, "the newest revision's in the end", 5*time.Second, jitters(jitter))
	onlySchedule(s, id)
}
