//go:build faults

package faults

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/activity-core/activity-core/test/system"
)

// Temporal is away for three minutes: nobody judges a slot until it is back, and then each definition's policy does.
func TestTemporalAwayForThreeMinutes(t *testing.T) {
	t.Parallel()
	s := system.NewOnOwnStack(t)
	s.Start("worker")
	s.Start("worker")
	outage{
		s:    s,
		stop: func() { s.Control("/temporal/stop") },
		start: func() {
			s.Control("/temporal/start")
		},
	}.test()
}

// All workers are away for three minutes. Temporal starts the slots' workflows meanwhile, and the backlog comes in any order.
func TestWorkersAwayForThreeMinutes(t *testing.T) {
	t.Parallel()
	s := system.New(t)
	workers := []*system.Process{s.Start("worker"), s.Start("worker")}
	outage{
		s: s,
		stop: func() {
			for _, w := range workers {
				w.Kill()
			}
		},
		start: func() {
			for _, w := range workers {
				w.Run()
			}
		},
	}.test()
}

// outage is three minutes without something that runs need, over an every-minute definition under each misfire policy.
type outage struct {
	s           *system.System
	stop, start func()
}

func (o outage) test() {
	t, s := o.s.T, o.s
	t.Helper()
	s.Start("api")
	work := newWork(t, time.Second)
	from := system.NextWhole(time.Minute, 5*time.Second)
	stopped, back := from.Add(30*time.Second), from.Add(3*time.Minute+30*time.Second)
	var accounts []system.Account
	policies := []string{"skip", "compress", "catchup"}
	for _, policy := range policies {
		c := system.Cron{Name: policy, Every: time.Minute, From: from, To: from.Add(5 * time.Minute), Policy: policy}
		// What is caught up with has to run in its place although the default limit of one run at a time says skip. Its runs
		// take a second, so that two at a time would show. The others' slots are not to be skipped for a run before them that
		// Temporal was slow to carry out just after its return.
		if c.NoLimit = policy != "catchup"; !c.NoLimit {
			c.Tasks = work.task()
		}
		accounts = append(accounts, system.Account{Name: policy, Definition: s.Create(c.Document()), Slots: c.Slots(),
			Within: settled})
	}
	for _, a := range accounts {
		s.Synced(a.Definition, 20*time.Second)
	}
	s.WaitUntil(stopped, "the first slot is done")
	o.stop()
	s.WaitUntil(back, "three minutes have passed")
	o.start()
	for i, policy := range policies {
		accounts[i].Outcome = func(r system.Run) string { return verdict(policy, r, stopped, back) }
		slots := s.Accounted(accounts[i])
		if policy != "catchup" {
			continue
		}
		for i, run := range slots[1:] {
			if run.Started.Before(slots[i].Finished) {
				t.Errorf("%s began at %s, before %s had ended at %s", run.Key, run.Started, slots[i].Key, slots[i].Finished)
			}
		}
		work.doneOnce(t, slots)
	}
}

// verdict is the outcome of a slot of an every-minute definition after an outage, from what the test knows: a slot of the
// outage is not judged before its end, whatever its row says, and one that is due after it is judged in time.
func verdict(policy string, r system.Run, stopped, back time.Time) string {
	judged := r.Accepted
	switch {
	case r.Slot.Before(stopped), r.Slot.After(back.Add(15 * time.Second)):
		judged = r.Slot
	case judged.Before(back):
		judged = back
	}
	switch {
	case judged.Sub(r.Slot) <= time.Minute, policy == "catchup":
		return "succeeded"
	case policy == "skip":
		return "missed/misfire_window"
	case r.Slot.Add(time.Minute).After(judged):
		return "succeeded" // the newest one
	}
	return "skipped/coalesced"
}

// work is a server whose requests take a while, and that remembers for which slots it was asked.
type work struct {
	url string
	mu  sync.Mutex
	due []time.Time
}

func newWork(t *testing.T, takes time.Duration) *work {
	w := &work{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var run struct {
			DueAt time.Time `json:"due_at"`
		}
		data, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(data, &run)
		w.mu.Lock()
		w.due = append(w.due, run.DueAt)
		w.mu.Unlock()
		<-time.After(takes)
	}))
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

func (w *work) task() string {
	return `[{"name": "work", "type": "http", "with": {"url": "` + w.url + `"}}]`
}

// doneOnce holds the requests to one for each slot, in their order.
func (w *work) doneOnce(t *testing.T, slots []system.Run) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.EqualFunc(w.due, slots, func(due time.Time, run system.Run) bool { return due.Equal(run.Slot) }) {
		t.Errorf("the work was done for %v", w.due)
	}
}
