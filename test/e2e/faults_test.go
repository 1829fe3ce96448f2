package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/test/system"
)

// The short forms of the faults in test/faults, which take minutes.

// Schedules that are deleted, made silent and paused behind our back: every slot gets its row and runs once, in the sweeper's
// hands until the schedule is repaired.
func TestBrokenSchedules(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	worker := s.Start("worker")
	s.Start("api")
	worker.Compared()
	from := system.NextWhole(10*time.Second, 10*time.Second)
	var accounts []system.Account
	for name, breakIt := range map[string]func(string){
		"deleted": s.DeleteSchedule, "silent": s.SilenceSchedule, "paused": s.PauseSchedule,
	} {
		c := system.Cron{Name: name, Every: 10 * time.Second, From: from, To: from.Add(time.Minute), NoLimit: true}
		id := s.Create(c.Document())
		s.Synced(id, 20*time.Second)
		breakIt(id)
		accounts = append(accounts, system.Account{Name: name, Definition: id, Slots: c.Slots(), Within: 25 * time.Second})
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
		s.ScheduleIs(a.Definition, "active", 10*time.Second, system.Active)
	}
	if n := worker.Metric("actcore_slots_recovered_total"); n < 3 {
		t.Errorf("actcore_slots_recovered_total = %v, want at least 3", n)
	}
}

// The API dies between the commit of a new definition and the write of its schedule: a worker writes it.
func TestAPIKilledAfterCommit(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	s.Start("worker")
	api := s.Start("api", "ACTCORE_FAIL=api-committed:kill")
	from := system.NextWhole(5*time.Second, 10*time.Second)
	c := system.Cron{Name: "orphan", Every: 5 * time.Second, From: from, To: from.Add(10 * time.Second), NoLimit: true}
	if status, answer, err := s.TryCall(t.Context(), http.MethodPost, "/activity-definitions/", c.Document()); err == nil {
		t.Fatalf("the API was to die, and answered %d: %v", status, answer)
	}
	api.WaitKilled(5 * time.Second)
	delete(api.Env, "ACTCORE_FAIL")
	api.Run()
	api.WaitReady()
	id := s.Named(c.Name)
	s.Synced(id, 10*time.Second)
	slots := s.Accounted(system.Account{Name: c.Name, Definition: id, Slots: c.Slots(), Within: 25 * time.Second})
	if last := slots[len(slots)-1]; !last.Scheduled {
		t.Errorf("the schedule did not start %s", last.Key)
	}
}

// A worker dies when it has written a schedule and nobody knows: another one finds it as it is to be.
func TestWorkerKilledAfterScheduleWrite(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	// This API's Temporal is away, so that only the workers can write schedules.
	s.Launch("api", "TEMPORAL_HOST=127.0.0.1:1")
	testenv.Eventually(t, 30*time.Second, "the API answers", func(ctx context.Context) (bool, error) {
		return system.HTTPOK(ctx, "http://"+s.APIAddr+"/healthz"), nil
	})
	victim := s.Launch("worker", "ACTCORE_FAIL=sync-written:kill")
	from := system.NextWhole(5*time.Second, 10*time.Second)
	c := system.Cron{Name: "written", Every: 5 * time.Second, From: from, To: from.Add(15 * time.Second), NoLimit: true}
	id := s.Create(c.Document())
	victim.WaitKilled(20 * time.Second)
	s.ScheduleIs(id, "written", 5*time.Second, system.Active)
	s.Start("worker")
	s.Synced(id, 20*time.Second)
	s.Accounted(system.Account{Name: c.Name, Definition: id, Slots: c.Slots(), Within: 25 * time.Second})
}
