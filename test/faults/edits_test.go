//go:build faults

package faults

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/test/system"
)

// revision is one of the edits: when it was sent, written and answered.
type revision struct {
	number                  int
	sent, written, answered time.Time
	jitter                  string
}

// A hundred edits in five seconds while the definition fires every second.
func TestHundredEditsWhileItFires(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	defer watchObserved(s).neverBackwards()
	s.Start("worker")
	s.Start("worker")
	s.Start("api")
	from := system.NextWhole(time.Second, 5*time.Second)
	// Without a limit: a run that takes longer than a second must not skip the next slot.
	c := system.Cron{Name: "edited", Every: time.Second, From: from, To: from.Add(14 * time.Second), NoLimit: true}
	id := s.Create(c.Document())
	first := s.Synced(id, 10*time.Second)
	revisions := []revision{{number: first.Int("revision"), written: first.Time("updated_at"), answered: time.Now()}}

	s.WaitUntil(from.Add(2*time.Second), "it fires")
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		edits = []func(int) string{
			func(i int) string { return fmt.Sprintf(`{"description": "edit %d"}`, i) },
			func(i int) string {
				return fmt.Sprintf(`{"tasks": [{"name": "say", "type": "log", "with": {"message": "edit %d"}}]}`, i)
			},
			func(i int) string { return fmt.Sprintf(`{"trigger_config": {"jitter": "%dms"}}`, i+1) },
		}
	)
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := range 100 {
		<-tick.C
		wg.Go(func() {
			sent := time.Now()
			status, answer, err := s.TryCall(t.Context(), http.MethodPatch, "/activity-definitions/"+id, edits[i%len(edits)](i))
			mu.Lock()
			defer mu.Unlock()
			if err != nil || status != http.StatusOK {
				t.Errorf("edit %d answered %d %v, %v", i, status, answer, err)
				return
			}
			revisions = append(revisions, revision{number: answer.Int("revision"), sent: sent, written: answer.Time("updated_at"),
				answered: time.Now(), jitter: answer.Object("trigger_config").Str("jitter")})
		})
	}
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("the edits were sent within %s, want 5 s", took)
	}
	wg.Wait()
	slices.SortFunc(revisions, func(a, b revision) int { return a.number - b.number })
	for i, r := range revisions {
		if r.number != i+1 {
			t.Fatalf("place %d of the revisions is that of %d: each edit makes one", i+1, r.number)
		}
	}
	final := s.Synced(id, 30*time.Second)
	if n := final.Int("revision"); n != 101 {
		t.Errorf("the last revision is %d, want 101", n)
	}
	slots := s.Accounted(system.Account{Name: c.Name, Definition: id, Slots: c.Slots(), Within: settled})
	used := map[int]bool{}
	for i, run := range slots {
		used[run.Revision] = true
		if i > 0 && run.Revision < slots[i-1].Revision {
			t.Errorf("%s records revision %d, and the slot before it %d", run.Key, run.Revision, slots[i-1].Revision)
		}
		if run.Revision < 1 || run.Revision > len(revisions) {
			t.Errorf("%s records revision %d, which never was", run.Key, run.Revision)
			continue
		}
		if r := revisions[run.Revision-1]; run.Slot.Before(r.written) {
			t.Errorf("%s records revision %d, which was written at %s", run.Key, r.number, r.written)
		}
		if run.Revision < len(revisions) {
			if next := revisions[run.Revision]; run.Slot.After(next.answered) {
				t.Errorf("%s records revision %d, and %d was answered at %s", run.Key, run.Revision, next.number, next.answered)
			}
		}
	}
	t.Logf("%d revisions were recorded with runs", len(used))
	s.Synced(id, 5*time.Second)
	s.ScheduleIs(id, "the newest revision's", 5*time.Second, func(d *client.ScheduleDescription) bool {
		wanted, err := time.ParseDuration(final.Object("trigger_config").Str("jitter"))
		return err == nil && d != nil && d.Schedule.Spec.Jitter == wanted && !d.Schedule.State.Paused &&
			len(d.Schedule.Spec.Intervals) == 1 && d.Schedule.Spec.Intervals[0].Every == time.Second
	})
}
