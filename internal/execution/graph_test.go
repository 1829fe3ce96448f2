package execution

import (
	"slices"
	"testing"

	"github.com/activity-core/activity-core/internal/definition"
)

func TestGraph(t *testing.T) {
	t.Parallel()
	const (
		ok, failed, late = definition.TaskSucceeded, definition.TaskFailed, definition.TaskTimedOut
		skipped, running = definition.TaskSkipped, definition.TaskRunning
	)
	// A diamond: a → b, c → d.
	diamond := []step{{Name: "a"}, {Name: "b", Needs: []int{0}}, {Name: "c", Needs: []int{0}}, {Name: "d", Needs: []int{1, 2}}}
	type settle struct {
		task   int
		status definition.TaskStatus
	}
	for name, c := range map[string]struct {
		steps  []step
		events []settle // in order; what is ready is begun before each
		ready  []int    // at the end
		over   bool
		failed bool
	}{
		"nothing":                     {steps: nil, over: true},
		"all at once":                 {steps: []step{{}, {}, {}}, ready: []int{0, 1, 2}},
		"the first of the diamond":    {steps: diamond, ready: []int{0}},
		"both sides of the diamond":   {steps: diamond, events: []settle{{0, ok}}, ready: []int{1, 2}},
		"one side is done":            {steps: diamond, events: []settle{{0, ok}, {1, ok}}},
		"both sides are done":         {steps: diamond, events: []settle{{0, ok}, {2, ok}, {1, ok}}, ready: []int{3}},
		"done":                        {steps: diamond, events: []settle{{0, ok}, {2, ok}, {1, ok}, {3, ok}}, over: true},
		"skipped counts as settled":   {steps: diamond, events: []settle{{0, skipped}}, ready: []int{1, 2}},
		"a failure ends it":           {steps: diamond, events: []settle{{0, failed}}, over: true, failed: true},
		"a failure lets others end":   {steps: diamond, events: []settle{{0, ok}, {1, failed}}, failed: true},
		"the others have ended":       {steps: diamond, events: []settle{{0, ok}, {1, late}, {2, ok}}, over: true, failed: true},
		"canceled ends it":            {steps: diamond, events: []settle{{0, definition.TaskCanceled}}, over: true, failed: true},
		"the run goes on without it":  {steps: []step{{Continue: true}, {Needs: []int{0}}}, events: []settle{{0, failed}}, ready: []int{1}},
		"and without a late one":      {steps: []step{{Continue: true}, {Needs: []int{0}}}, events: []settle{{0, late}}, ready: []int{1}},
		"done before":                 {steps: []step{{Was: ok}, {Needs: []int{0}}, {Was: skipped}}, ready: []int{1}},
		"begun before":                {steps: []step{{Was: running}, {Needs: []int{0}}}, ready: []int{0}},
		"failed before":               {steps: []step{{Was: failed}, {}}, over: true, failed: true},
		"failed before, one goes on":  {steps: []step{{Was: failed}, {Was: running}, {}}, ready: []int{1}, failed: true},
		"needs are not of list order": {steps: []step{{Needs: []int{1}}, {}}, ready: []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGraph(c.steps)
			for _, e := range c.events {
				for _, i := range g.ready() {
					g.begin(i)
				}
				if g.states[e.task] != running {
					t.Fatalf("task %d was not begun", e.task)
				}
				g.settle(e.task, e.status)
			}
			if got := g.ready(); !slices.Equal(got, c.ready) || g.over() != c.over || g.failed != c.failed {
				t.Errorf("ready %v, over %v, failed %v; want %v, %v, %v", got, g.over(), g.failed, c.ready, c.over, c.failed)
			}
		})
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	v := newWindow("s.f..")
	var taken []int
	for {
		i, ok := v.take()
		if !ok {
			break
		}
		taken = append(taken, i)
		v.progress[i] = itemSucceeded
	}
	if !slices.Equal(taken, []int{1, 3, 4}) || !v.failed || !v.settled() {
		t.Errorf("took %v, failed %v, settled %v", taken, v.failed, v.settled())
	}
	if v = newWindow(""); !v.settled() || v.failed {
		t.Errorf("an empty list: %+v", v)
	}
	if got := progressOf([]definition.TaskStatus{"succeeded", "", "running", "failed", "timed_out", "canceled"}); got != "s..ff." {
		t.Errorf("progress %q", got)
	}
}

func TestBegunResumes(t *testing.T) {
	t.Parallel()
	doc := definition.Document{
		Tasks: []definition.Task{{Name: "a", Type: "http"}, {Name: "b", Type: "activity", Needs: []string{"a"}, ForEach: "[1]", MaxParallel: 50,
			OnError: definition.OnErrorContinue}},
		OnFailure: []definition.Task{{Name: "c", Type: "log"}},
	}
	b := begun{Tasks: stepsOf(doc.Tasks), OnFailure: stepsOf(doc.OnFailure)}
	if s := b.Tasks[1]; !slices.Equal(s.Needs, []int{0}) || s.Parallel != definition.MaxUserParallel || !s.Continue {
		t.Errorf("step %+v", s)
	}
	b.resume([]definition.TaskProgress{
		{Index: 0, Status: "failed", Error: "no", Since: 90}, {Index: 1, Status: "succeeded", Since: 60}, {Index: 2, Status: "running"},
	})
	if b.Tasks[0].Was != "failed" || b.Tasks[0].Error != "no" || b.OnFailure[0].Was != "running" || b.FailedFor != 60 {
		t.Errorf("%+v", b)
	}
}
