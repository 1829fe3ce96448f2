package definition

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/expression"
)

var taskNamePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// checkTasks checks both lists of tasks.
func (d *Document) checkTasks(f *faults) {
	if n := len(d.Tasks) + len(d.OnFailure); n > MaxTasks {
		list := "tasks"
		if len(d.OnFailure) > len(d.Tasks) {
			list = "on_failure"
		}
		f.add(list, "max_items", "there are %d tasks, with those of on_failure; at most %d are allowed", n, MaxTasks)
		return
	}
	c := taskCheck{run: d.RunTimeout(), faults: f, seen: map[string]string{}}
	for _, list := range []taskList{{"tasks", d.Tasks, nil}, {"on_failure", d.OnFailure, d.Tasks}} {
		for i := range list.tasks {
			c.names(&list, i)
		}
		list.checkNeeds(f)
		for i := range list.tasks {
			c.task(&list, i)
		}
	}
	if c.expressions > MaxExpressions {
		f.add("", "max_items", "has more than %d expressions in its tasks", MaxExpressions)
	}
}

// taskCheck goes through all tasks of a document.
type taskCheck struct {
	*faults
	run         time.Duration     // the timeout of a run
	seen        map[string]string // the path of each name
	expressions int
}

func (c *taskCheck) names(list *taskList, i int) {
	name, path := list.tasks[i].Name, list.path(i)
	if !taskNamePattern.MatchString(name) {
		c.add(path+".name", "name", "must be 1 to 63 characters of a-z, 0-9, _ and -, beginning with a letter or digit")
	} else if first, dup := c.seen[name]; dup {
		c.add(path+".name", "unique", "%q is already the name of %s", name, first)
	} else {
		c.seen[name] = path
	}
}

var onErrors = []string{OnErrorFail, OnErrorContinue}

func (c *taskCheck) task(list *taskList, i int) {
	t, path := &list.tasks[i], list.path(i)
	if t.OnError != "" && !slices.Contains(onErrors, t.OnError) {
		c.add(path+".on_error", "one_of", "%q is not known: it must be one of %s", clip(t.OnError, 60), strings.Join(onErrors, ", "))
	}
	checkDuration(c.faults, path+".timeout", t.Timeout, time.Second, MaxTimeout)
	t.checkRetry(path+".retry", c.faults)
	t.checkForEach(path, c.faults)
	if _, known := types[t.Type]; !known {
		c.add(path+".type", "one_of", "%q is not a task type: it must be one of log, http, publish, activity, workflow, wait",
			clip(string(t.Type), 60))
		return
	}
	readable := list.before(i)
	c.expression(path+".if", t.If, t.Condition, readable)
	c.expression(path+".for_each", t.ForEach, t.Items, readable)
	if c.expressions > MaxExpressions {
		return // they are not compiled: it would take long
	}
	template, err := t.Template()
	if err != nil {
		addExpressionFault(path+".with", err, c.faults)
		return
	}
	c.template(path+".with", template, readable)
	output, err := t.OutputTemplate()
	if err != nil {
		addExpressionFault(path+".with.output", err, c.faults)
	} else if output != nil {
		c.template(path+".with.output", output, readable)
	}
	t.checkFields(template, path+".with", c.run, c.faults)
}

// expression checks an expression of its own.
func (c *taskCheck) expression(path, text string, compile func() (*expression.Expression, error), readable names) {
	if text == "" || c.expressions > MaxExpressions {
		return
	}
	c.expressions++
	e, err := compile()
	if err != nil {
		addExpressionFault(path, err, c.faults)
		return
	}
	for _, name := range e.Reads() {
		c.read(path, name, readable)
	}
}

func (c *taskCheck) template(path string, t *expression.Template, readable names) {
	c.expressions += t.Expressions()
	for _, name := range t.Reads() {
		c.read(joinPath(path, t.Place(name)), name, readable)
	}
}

// read checks that a task may be read.
func (c *taskCheck) read(path, name string, readable names) {
	switch _, exists := c.seen[name]; {
	case readable[name]:
	case exists:
		c.add(path, "needs", "reads task %q, which this task does not need, directly or by others: add %q to needs", name, name)
	default:
		c.add(path, "unknown_task", "reads task %q, which does not exist", clip(name, 60))
	}
}

// checkForEach checks what goes with for_each.
func (t *Task) checkForEach(path string, f *faults) {
	most := MaxParallel
	if t.Type == TaskActivity || t.Type == TaskWorkflow {
		most = MaxUserParallel
	}
	switch {
	case t.ForEach != "" && t.Type == TaskWait:
		f.add(path+".for_each", "not_of_this_type", "does not belong to a task of type wait")
	case t.MaxParallel == 0:
	case t.ForEach == "":
		f.add(path+".max_parallel", "for_each", "belongs to a task with for_each")
	case t.MaxParallel < 1 || t.MaxParallel > most:
		f.add(path+".max_parallel", "range", "must be from 1 to %d for a task of type %s", most, clip(string(t.Type), 60))
	}
}

type names map[string]bool

// taskList is one of the lists of tasks.
type taskList struct {
	name  string
	tasks []Task
	// readable are tasks of another list, which all tasks of this one may read.
	readable []Task
}

func (l *taskList) path(i int) string { return fmt.Sprintf("%s[%d]", l.name, i) }

func (l *taskList) index(name string) int {
	return slices.IndexFunc(l.tasks, func(t Task) bool { return t.Name == name })
}

// before returns the tasks that a task may read: those that it needs, directly or by others, and those of the list before.
func (l *taskList) before(i int) names {
	found := names{}
	for j := range l.readable {
		found[l.readable[j].Name] = true
	}
	l.collect(i, found)
	return found
}

func (l *taskList) collect(i int, found names) {
	for _, name := range l.tasks[i].Needs {
		if j := l.index(name); j >= 0 && !found[name] {
			found[name] = true
			l.collect(j, found)
		}
	}
}

// checkNeeds checks what the tasks need.
func (l *taskList) checkNeeds(f *faults) {
	for i := range l.tasks {
		t := &l.tasks[i]
		for k, name := range t.Needs {
			path := fmt.Sprintf("%s.needs[%d]", l.path(i), k)
			switch {
			case name == t.Name:
				f.add(path, "cycle", "%q cannot need itself", clip(name, 60))
			case slices.Contains(t.Needs[:k], name):
				f.add(path, "unique", "%q is there twice", clip(name, 60))
			case l.index(name) < 0 && slices.ContainsFunc(l.readable, func(t Task) bool { return t.Name == name }):
				f.add(path, "unknown_task", "%q is one of tasks, all of which are over when a task of on_failure begins: leave it out", name)
			case l.index(name) < 0:
				f.add(path, "unknown_task", "%q is not a task of this list", clip(name, 60))
			}
		}
	}
	if cycle := l.cycle(); cycle != nil {
		f.add(l.path(l.index(cycle[0]))+".needs", "cycle", "the tasks wait for each other: %s", strings.Join(cycle, " → "))
	}
}

// cycle returns the names of tasks each of which needs the next one, and the last is the first; nil when there are none
// such.
func (l *taskList) cycle() []string {
	const begun, done = 1, 2
	state := make([]int, len(l.tasks))
	var way []string
	var visit func(i int) []string
	visit = func(i int) []string {
		state[i] = begun
		way = append(way, l.tasks[i].Name)
		for _, name := range l.tasks[i].Needs {
			j := l.index(name)
			if j < 0 || j == i {
				continue // told elsewhere
			}
			switch state[j] {
			case begun:
				return append(slices.Clone(way[slices.Index(way, name):]), name)
			case done:
				continue
			}
			if cycle := visit(j); cycle != nil {
				return cycle
			}
		}
		way = way[:len(way)-1]
		state[i] = done
		return nil
	}
	for i := range l.tasks {
		if state[i] == 0 {
			if cycle := visit(i); cycle != nil {
				return cycle
			}
		}
	}
	return nil
}
