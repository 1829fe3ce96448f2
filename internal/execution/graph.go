package execution

import "github.com/activity-core/activity-core/internal/definition"

// graph is how far one list of tasks has come. It decides which tasks may begin, and knows nothing of Temporal.
type graph struct {
	steps  []step
	states []definition.TaskStatus // "" for a task that has not begun in this execution of the workflow
	// failed: a task has failed for good that the run cannot do without. No task begins any more.
	failed bool
	busy   int // tasks in progress
}

// newGraph takes over what an earlier execution of the workflow has settled.
func newGraph(steps []step) *graph {
	g := &graph{steps: steps, states: make([]definition.TaskStatus, len(steps))}
	for i, s := range steps {
		if s.Was != "" && s.Was != definition.TaskRunning {
			g.note(i, s.Was)
		}
	}
	return g
}

// ready returns the tasks that may begin, in the order of the list. After a failure these are the ones alone that an earlier
// execution has begun and not brought to an end.
func (g *graph) ready() []int {
	var ready []int
	for i, s := range g.steps {
		if g.states[i] == "" && (!g.failed || s.Was == definition.TaskRunning) && g.settledAll(s.Needs) {
			ready = append(ready, i)
		}
	}
	return ready
}

func (g *graph) settledAll(needs []int) bool {
	for _, n := range needs {
		if !settled(g.states[n]) {
			return false
		}
	}
	return true
}

func (g *graph) begin(i int) {
	g.states[i] = definition.TaskRunning
	g.busy++
}

// settle ends a task that was begun.
func (g *graph) settle(i int, status definition.TaskStatus) {
	g.busy--
	g.note(i, status)
}

func (g *graph) note(i int, status definition.TaskStatus) {
	g.states[i] = status
	switch status {
	case definition.TaskFailed, definition.TaskTimedOut:
		g.failed = g.failed || !g.steps[i].Continue
	case definition.TaskCanceled:
		// Nothing is canceled in a run that goes on.
		g.failed = true
	}
}

// over reports whether nothing is in progress, and nothing can begin.
func (g *graph) over() bool { return g.busy == 0 && len(g.ready()) == 0 }

func settled(s definition.TaskStatus) bool { return s != "" && s != definition.TaskRunning }
