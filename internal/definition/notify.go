package definition

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/activity-core/activity-core/internal/expression"
)

// MaxNotifications is the most notifications of a definition.
const MaxNotifications = 20

// NotifyWorkflow is the name of the workflow type that sends the notifications of one run's end.
const NotifyWorkflow = "NotifyRun"

// NotifyWorkflowID is the id of the workflow that sends a run's notifications.
func NotifyWorkflowID(runID string) string { return "notify-" + runID }

// NotifyTimeout bounds the tries to send one notification.
const NotifyTimeout = 24 * time.Hour

// NotifyOn is what a notification tells of.
type NotifyOn string

// NotifyLate and NotifyRecovered are what a notification can tell of besides the statuses that a run ends with.
const (
	// NotifyLate: the run began more than LateAfter after it was due.
	NotifyLate NotifyOn = "late"
	// NotifyRecovered: the run succeeded, and the one of its kind that ended before it had not.
	NotifyRecovered NotifyOn = "recovered"
)

// NotifyOns lists all that a notification can tell of.
var NotifyOns = []NotifyOn{NotifyOn(RunSucceeded), NotifyOn(RunFailed), NotifyOn(RunTimedOut), NotifyOn(RunCanceled),
	NotifyOn(RunSkipped), NotifyOn(RunMissed), NotifyLate, NotifyRecovered}

// Notification tells somebody of the ends of a definition's runs.
type Notification struct {
	// On lists what it tells of. An end of which several hold is told once, as the first of them.
	On []NotifyOn `json:"on"`
	// Type is TaskHTTP or TaskPublish, and With has the fields of that type. Its texts may hold expressions over run, definition
	// and secrets.
	Type TaskType        `json:"type"`
	With json.RawMessage `json:"with,omitempty"`
}

// NotifyScope is what the expressions of a notification may read.
const NotifyScope = expression.Run | expression.Definition | expression.Secrets

// Told returns what the notification tells of a run's end, "" for nothing. recovered says that the run succeeded after one of its
// kind that had not.
func (n *Notification) Told(run *Run, recovered bool) NotifyOn {
	for _, on := range n.On {
		switch {
		case on == NotifyOn(run.Status), on == NotifyLate && run.Late(), on == NotifyRecovered && recovered:
			return on
		}
	}
	return ""
}

// AsksRecovered reports whether it matters for a notification how the run before ended.
func (e *RunEnd) AsksRecovered() bool {
	return e.Run.Status == RunSucceeded && slices.ContainsFunc(e.Notify, func(n Notification) bool {
		return slices.Contains(n.On, NotifyRecovered)
	})
}

// Recovers reports whether a run that succeeds after one that ended like this has recovered.
func (s RunStatus) Recovers() bool { return s == RunFailed || s == RunTimedOut || s == RunMissed }

// Late reports whether the run began more than LateAfter after it was due. What was asked for by hand for a time that was past
// (backfills, replays, reruns) is never late.
func (r *Run) Late() bool {
	switch r.Kind {
	case KindBackfill, KindReplay, KindRerun:
		return false
	}
	return r.StartedAt != nil && r.StartedAt.Sub(r.DueAt()) > LateAfter
}

// NotifyInput is the argument of a NotifyWorkflow. Like a run's it holds names only: what is sent is in Postgres.
type NotifyInput struct {
	RunID string        `json:"run_id"`
	Send  []NotifyOrder `json:"send"`
}

// NotifyOrder asks for one notification of the definition's revision to be sent.
type NotifyOrder struct {
	// Index is that of the notification in the document's list.
	Index int      `json:"index"`
	On    NotifyOn `json:"on"`
}

// checkNotify reports every rule that the notifications break.
func (d *Document) checkNotify(f *faults) {
	if len(d.Notify) > MaxNotifications {
		f.add("notify", "max_items", "has %d notifications; at most %d are allowed", len(d.Notify), MaxNotifications)
		return
	}
	expressions := 0
	for i := range d.Notify {
		expressions += bytes.Count(d.Notify[i].With, []byte("${"))
	}
	if expressions > MaxExpressions {
		f.add("notify", "max_items", "has more than %d expressions", MaxExpressions) // they are not compiled: it would take long
		return
	}
	for i := range d.Notify {
		d.Notify[i].check(d, fmt.Sprintf("notify[%d]", i), f)
	}
}

func (n *Notification) check(d *Document, path string, f *faults) {
	if len(n.On) == 0 {
		f.add(path+".on", "required", "is required: one or more of %s", notifyWords())
	}
	for i, on := range n.On {
		switch {
		case !slices.Contains(NotifyOns, on):
			f.add(fmt.Sprintf("%s.on[%d]", path, i), "one_of", "%q is not known: it must be one of %s", clip(string(on), 60), notifyWords())
		case slices.Contains(n.On[:i], on):
			f.add(fmt.Sprintf("%s.on[%d]", path, i), "unique", "%q is given twice", on)
		}
	}
	if n.Type != TaskHTTP && n.Type != TaskPublish {
		f.add(path+".type", "one_of", "%q is not known: it must be one of http, publish", clip(string(n.Type), 60))
		return
	}
	template, err := n.Template()
	if err != nil {
		addExpressionFault(path+".with", err, f)
		return
	}
	var given object
	if n.Type == TaskHTTP && jsonv2.Unmarshal(n.With, &given) == nil && given["output"] != nil {
		f.add(path+".with.output", "unknown_field", "is for tasks: nobody reads the output of a notification")
	}
	n.Task("").checkFields(template, path+".with", 0, f)
}

func notifyWords() string {
	words := make([]string, len(NotifyOns))
	for i, on := range NotifyOns {
		words[i] = string(on)
	}
	return strings.Join(words, ", ")
}

// Template returns With as a template. The error is an *expression.Error.
func (n *Notification) Template() (*expression.Template, error) {
	t := n.Task("")
	with := n.With
	if len(with) == 0 {
		with = json.RawMessage("{}")
	}
	template, err := expression.CompileTemplate(with, NotifyScope)
	if err != nil {
		return nil, err
	}
	return template.Texts(t.isText).At("with"), nil
}

// NotifyValues returns what the expressions of a notification may read, but for secrets: the run as tasks know it, with started_at,
// finished_at and notification, which is what is told.
func (e *RunEnd) NotifyValues(told NotifyOn) (*expression.Values, error) {
	v, err := e.Run.Values(e.Labels, nil)
	if err != nil {
		return nil, err
	}
	v.Event = nil
	run := object{}
	if err := jsonv2.Unmarshal(v.Run, &run); err != nil {
		return nil, fmt.Errorf("describe the end of run %s: %w", e.Run.ID, err)
	}
	for name, value := range map[string]any{"notification": told, "started_at": e.Run.StartedAt, "finished_at": e.Run.FinishedAt} {
		if run[name], err = jsonv2.Marshal(value); err != nil {
			return nil, fmt.Errorf("describe the end of run %s: %w", e.Run.ID, err)
		}
	}
	v.Run, err = jsonv2.Marshal(run)
	return v, err
}

// Task returns the task that sends the notification, with a name of its own: one that no task of a definition can have.
func (n *Notification) Task(name string) *Task {
	return &Task{Name: name, Type: n.Type, Needs: []string{}, With: n.With}
}
