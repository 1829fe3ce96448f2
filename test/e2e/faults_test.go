package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
	harness "github.com/activity-core/activity-core/test/system"
)

// The short forms of the faults in test/faults, which take minutes.

// Schedules that are deleted, made silent and paused behind our back: every slot gets its row and runs once, in the sweeper's
// hands until the schedule is repaired.
func TestBrokenSchedules(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	worker := s.start("worker")
	s.start("api")
	worker.Compared()
	from := harness.NextWhole(10*time.Second, 5*time.Second)
	var accounts []harness.Account
	for name, breakIt := range map[string]func(string){
		"deleted": s.DeleteSchedule, "silent": s.SilenceSchedule, "paused": s.PauseSchedule,
	} {
		c := harness.Cron{Name: name, Every: 10 * time.Second, From: from, To: from.Add(30 * time.Second), NoLimit: true}
		id := s.create(c.Document())
		s.Synced(id, 20*time.Second)
		breakIt(id)
		accounts = append(accounts, harness.Account{Name: name, Definition: id, Slots: c.Slots(), Within: 25 * time.Second})
	}
	if late := time.Since(from); late > 0 {
		t.Fatalf("the schedules were broken %s after the first slot", late)
	}
	for _, a := range accounts {
		slots := s.Accounted(a)
		if slots[0].Scheduled {
			t.Errorf("%s: the broken schedule started the slot %s", a.Name, slots[0].Key)
		}
		if last := slots[len(slots)-1]; !last.Scheduled {
			t.Errorf("%s: the schedule does not start its slots again: %s was started in its place", a.Name, last.Key)
		}
		s.Synced(a.Definition, 10*time.Second)
		s.ScheduleIs(a.Definition, "active", 10*time.Second, harness.Active)
	}
	if n := worker.metric("actcore_slots_recovered_total"); n < 3 {
		t.Errorf("actcore_slots_recovered_total = %v, want at least 3", n)
	}
}

// The API dies between the commit of a new definition and the write of its schedule: a worker writes it.
func TestAPIKilledAfterCommit(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start("worker")
	api := s.start("api", "ACTCORE_FAIL=api-committed:kill")
	from := harness.NextWhole(5*time.Second, 10*time.Second)
	c := harness.Cron{Name: "orphan", Every: 5 * time.Second, From: from, To: from.Add(10 * time.Second), NoLimit: true}
	if status, answer, err := s.tryCall(t.Context(), http.MethodPost, "/activity-definitions/", c.Document()); err == nil {
		t.Fatalf("the API was to die, and answered %d: %v", status, answer)
	}
	api.WaitKilled(5 * time.Second)
	delete(api.Env, "ACTCORE_FAIL")
	api.run()
	api.waitReady()
	id := s.Named(c.Name)
	s.Synced(id, 10*time.Second)
	slots := s.Accounted(harness.Account{Name: c.Name, Definition: id, Slots: c.Slots(), Within: 25 * time.Second})
	if last := slots[len(slots)-1]; !last.Scheduled {
		t.Errorf("the schedule did not start %s", last.Key)
	}
}

// A worker dies when it has written a schedule and nobody knows: another one finds it as it is to be.
func TestWorkerKilledAfterScheduleWrite(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	// This API's Temporal is away, so that only the workers can write schedules.
	s.launch("api", "TEMPORAL_HOST=127.0.0.1:1")
	testenv.Eventually(t, 30*time.Second, "the API answers", func(ctx context.Context) (bool, error) {
		return httpOK(ctx, "http://"+s.apiAddr+"/healthz"), nil
	})
	victim := s.launch("worker", "ACTCORE_FAIL=sync-written:kill")
	from := harness.NextWhole(5*time.Second, 10*time.Second)
	c := harness.Cron{Name: "written", Every: 5 * time.Second, From: from, To: from.Add(15 * time.Second), NoLimit: true}
	id := s.create(c.Document())
	victim.WaitKilled(20 * time.Second)
	s.ScheduleIs(id, "written", 5*time.Second, harness.Active)
	s.start("worker")
	s.Synced(id, 20*time.Second)
	s.Accounted(harness.Account{Name: c.Name, Definition: id, Slots: c.Slots(), Within: 25 * time.Second})
}
