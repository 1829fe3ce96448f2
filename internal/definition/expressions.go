package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/activity-core/activity-core/internal/expression"
)

// What the expressions of each place may read.
const (
	keyScope    = expression.Event | expression.Run | expression.Definition
	taskScope   = keyScope | expression.Tasks
	itemScope   = taskScope | expression.Item
	outputScope = expression.Response
)

// withScope returns what expressions in the task's With may read.
func (t *Task) withScope() expression.Scope {
	scope := taskScope
	if t.ForEach != "" {
		scope = itemScope
	}
	return scope
}

// Template returns With, for http without its output, as a template. The error is an *expression.Error.
func (t *Task) Template() (*expression.Template, error) {
	with, _, err := t.parts()
	if err != nil {
		return nil, err
	}
	scope := t.withScope()
	if t.Type == TaskHTTP || t.Type == TaskPublish {
		scope |= expression.Secrets
	}
	template, err := expression.CompileTemplate(with, scope)
	if err != nil {
		return nil, err
	}
	return template.Texts(t.isText).At("with"), nil
}

// OutputTemplate returns what an http task's output is made of; nil when there is nothing. The error is an
// *expression.Error.
func (t *Task) OutputTemplate() (*expression.Template, error) {
	_, output, err := t.parts()
	if err != nil || output == nil {
		return nil, err
	}
	template, err := expression.CompileTemplate(output, t.withScope()|outputScope)
	if err != nil {
		return nil, err
	}
	return template.At("with.output"), nil
}

// parts returns With without the member output of an http task, and that member, nil when it is absent.
func (t *Task) parts() (with, output []byte, err error) {
	if len(t.With) == 0 {
		return []byte("{}"), nil, nil
	}
	if t.Type != TaskHTTP {
		return t.With, nil, nil
	}
	var members object
	if jsonv2.Unmarshal(t.With, &members) != nil {
		return t.With, nil, nil // decoding it into its type tells the fault
	}
	if output = members["output"]; output == nil {
		return t.With, nil, nil
	}
	delete(members, "output")
	if with, err = jsonv2.Marshal(members, jsonv2.Deterministic(true)); err != nil {
		return nil, nil, fmt.Errorf("take the output out of the fields of task %s: %w", t.Name, err)
	}
	return with, output, nil
}

// isText tells whether a text is wanted in a place of With, whatever an expression there gives.
func (t *Task) isText(place string) bool {
	check, known := types[t.Type]
	if !known {
		return false
	}
	within := check.fields
	for name := range strings.SplitSeq(place, ".") {
		field, found := fieldNamed(within, name)
		if !found {
			return false
		}
		if within = field; within.Kind() == reflect.Pointer {
			within = within.Elem()
		}
		if within.Kind() == reflect.Map {
			return within.Elem().Kind() == reflect.String
		}
	}
	return within.Kind() == reflect.String
}

func fieldNamed(in reflect.Type, name string) (reflect.Type, bool) {
	if in.Kind() != reflect.Struct {
		return nil, false
	}
	for i := range in.NumField() {
		if tag, _, _ := strings.Cut(in.Field(i).Tag.Get("json"), ","); tag == name {
			return in.Field(i).Type, true
		}
	}
	return nil, false
}

// Condition returns If; nil when there is none. The error is an *expression.Error.
func (t *Task) Condition() (*expression.Expression, error) {
	return compiled(t.If, "if", expression.CompileBool, taskScope)
}

// Items returns ForEach; nil when there is none. The error is an *expression.Error.
func (t *Task) Items() (*expression.Expression, error) {
	return compiled(t.ForEach, "for_each", expression.CompileList, taskScope)
}

// KeyExpression returns Key; nil when there is none. The error is an *expression.Error.
func (c *Concurrency) KeyExpression() (*expression.Expression, error) {
	return compiled(c.Key, "concurrency.key", expression.CompileText, keyScope)
}

func compiled(text, place string, compile func(string, expression.Scope) (*expression.Expression, error),
	scope expression.Scope) (*expression.Expression, error) {
	if text == "" {
		return nil, nil
	}
	e, err := compile(text, scope)
	if err != nil {
		return nil, err
	}
	return e.At(place), nil
}

// addExpressionFault adds the refusal of an expression, or of one in a template, at a path.
func addExpressionFault(path string, err error, f *faults) {
	var refused *expression.Error
	if errors.As(err, &refused) {
		f.add(joinPath(path, refused.Path), refused.Rule, "%s", refused.Message)
	} else {
		f.add(path, "syntax", "cannot be compiled")
	}
}

// runVariable is what expressions read as run.
type runVariable struct {
	ID         string      `json:"id,omitempty"`
	Definition string      `json:"definition"`
	Trigger    TriggerKind `json:"trigger"`
	DueAt      string      `json:"due_at,omitempty"`
	Key        string      `json:"key"`
	TraceID    string      `json:"trace_id,omitempty"`
	RerunOf    string      `json:"rerun_of,omitempty"`
	Depth      int         `json:"depth"`
	*runOutcome
	Input json.RawMessage `json:"input,omitempty"`
}

// runOutcome is what expressions read of a run that is over.
type runOutcome struct {
	Status RunStatus `json:"status"`
	Reason Reason    `json:"reason"`
	Error  string    `json:"error"`
}

// definitionVariable is what expressions read as definition.
type definitionVariable struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Revision int               `json:"revision"`
	Labels   map[string]string `json:"labels"`
}

// Values returns what the run's expressions may read, but for item, response and secrets; results are those of the tasks
// that were reached. An event is one for the runs that an event made due, all others have their input in run.input. A run
// that is over has its status, reason and error.
func (r *Run) Values(labels map[string]string, results []TaskResult) (*expression.Values, error) {
	run := runVariable{ID: r.ID, Definition: r.DefinitionName, Trigger: r.Kind, DueAt: r.DueAt().Format(time.RFC3339Nano), Key: r.Key,
		TraceID: r.TraceID, RerunOf: r.RerunOf, Depth: r.Depth}
	if r.Status.Final() {
		run.runOutcome = &runOutcome{r.Status, r.Reason, r.Error}
	}
	v, err := values(run, definitionVariable{ID: r.DefinitionID, Name: r.DefinitionName, Revision: r.Revision, Labels: labels}, r.EventID, r.Input)
	if err != nil {
		return nil, fmt.Errorf("describe run %s: %w", r.ID, err)
	}
	v.Tasks = make(map[string]json.RawMessage, len(results))
	for _, t := range results {
		v.Tasks[t.Name] = expression.TaskValue(string(t.Status), t.Error, t.Output, t.OutputTruncated)
	}
	return v, nil
}

// Values returns what the concurrency key of a definition may read for the occurrence, before there is a run: run has no
// id, no due_at and no status.
func (o *Occurrence) Values(name string, labels map[string]string) (*expression.Values, error) {
	v, err := values(runVariable{Definition: name, Trigger: o.Kind, Key: o.Key, TraceID: o.TraceID, RerunOf: o.RerunOf, Depth: o.Depth},
		definitionVariable{ID: o.DefinitionID, Name: name, Revision: o.Revision, Labels: labels}, o.EventID, o.Input)
	if err != nil {
		return nil, fmt.Errorf("describe the occurrence %s: %w", o.Key, err)
	}
	return v, nil
}

func values(run runVariable, definition definitionVariable, eventID string, input []byte) (*expression.Values, error) {
	v := &expression.Values{}
	switch {
	case eventID != "":
		v.Event = input
	case len(input) > 0:
		run.Input = input
	}
	if definition.Labels == nil {
		definition.Labels = map[string]string{}
	}
	var err error
	// The input stays as it was received, with whatever was accepted then.
	if v.Run, err = jsonv2.Marshal(run, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return nil, err
	}
	v.Definition, err = jsonv2.Marshal(definition, jsonv2.Deterministic(true))
	return v, err
}

// TaskAt returns a task by its number in the ledger, which counts through both lists; false when there is none.
func (d *Document) TaskAt(index int) (*Task, bool) {
	switch {
	case index < 0:
	case index < len(d.Tasks):
		return &d.Tasks[index], true
	case index < len(d.Tasks)+len(d.OnFailure):
		return &d.OnFailure[index-len(d.Tasks)], true
	}
	return nil, false
}

// AllTasks returns the tasks of both lists, by their numbers in the ledger.
func (d *Document) AllTasks() []Task { return slices.Concat(d.Tasks, d.OnFailure) }
