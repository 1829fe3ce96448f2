package execution

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/expression"
)

// maxInput is the most bytes of a task's input that the ledger keeps.
const maxInput = 64 << 10

// runFacts is what expressions read as run.
type runFacts struct {
	ID         string                 `json:"id"`
	Definition string                 `json:"definition"`
	Trigger    definition.TriggerKind `json:"trigger"`
	DueAt      string                 `json:"due_at"`
	Key        string                 `json:"key"`
	TraceID    string                 `json:"trace_id,omitempty"`
	RerunOf    string                 `json:"rerun_of,omitempty"`
	Depth      int                    `json:"depth"`
	Input      json.RawMessage        `json:"input,omitempty"`
	// Status, Reason and Error are for the on_failure tasks.
	*outcome
}

type definitionFacts struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Revision int               `json:"revision"`
	Labels   map[string]string `json:"labels"`
}

// valuesOf returns what the expressions of a run's tasks may read. A run that an event made has the event; others have what they were
// given by hand as run.input.
func valuesOf(doc *definition.Document, work *definition.TaskWork, end *outcome) (*expression.Values, error) {
	r := &work.Run
	context := r.Context()
	facts := runFacts{ID: r.ID, Definition: r.DefinitionName, Trigger: r.Kind, DueAt: context.DueAt.Format(timeFormat), Key: r.Key,
		TraceID: r.TraceID, RerunOf: r.RerunOf, Depth: r.Depth, outcome: end}
	v := &expression.Values{}
	if r.EventID != "" {
		v.Event = r.Input
	} else {
		facts.Input = r.Input
	}
	var err error
	if v.Run, err = json.Marshal(facts); err != nil {
		return nil, permanently("the run's input cannot be written as JSON: %s", err)
	}
	labels := doc.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	if v.Definition, err = json.Marshal(definitionFacts{r.DefinitionID, r.DefinitionName, r.Revision, labels}); err != nil {
		return nil, permanently("the definition's labels cannot be written as JSON: %s", err)
	}
	v.Tasks = make(map[string]json.RawMessage, len(work.Results))
	for i := range work.Results {
		t := &work.Results[i]
		v.Tasks[t.Name] = expression.TaskValue(string(t.Status), t.Error, t.Output, t.OutputTruncated)
	}
	return v, nil
}

// timeFormat is RFC 3339 with as many digits as there are.
const timeFormat = "2006-01-02T15:04:05.999999999Z07:00"

// fill replaces the expressions in the task's fields by their values, and returns them as they may be shown: secrets as ***.
func (p *plan) fill(ctx context.Context, work *definition.TaskWork, secrets *Secrets) (shown []byte, err error) {
	work.Task, work.Output = p.task, p.output
	if p.with.Fixed() {
		return boundInput(p.task.With), nil
	}
	names := p.with.Secrets()
	if len(names) > 0 {
		if secrets == nil {
			return nil, permanently("only http and publish tasks may read secrets")
		}
		if err := secrets.Check(names); err != nil {
			return nil, err
		}
		work.Values.Secret = secrets.Lookup
	}
	with, err := p.with.Render(ctx, work.Values)
	if err != nil {
		return nil, expressionFailure(err)
	}
	work.Task.With = with
	if len(names) == 0 {
		return boundInput(with), nil
	}
	masked := *work.Values
	masked.Secret = func(string) (string, bool) { return redacted, true }
	if with, err = p.with.Render(ctx, &masked); err != nil {
		return nil, nil //nolint:nilerr // an expression that does more with a secret than to pass it on; the input is not shown then
	}
	return boundInput(secrets.Redact(with)), nil
}

// boundInput keeps JSON as it is, and the beginning of what is too long for the ledger as a text.
func boundInput(with []byte) []byte {
	if len(with) <= maxInput {
		return with
	}
	text, err := json.Marshal(string(with[:maxInput/2]) + "…")
	if err != nil {
		return nil
	}
	return text
}

// expressionFailure is the failure of a task for an expression without a value, which no other attempt will mend. An evaluation that
// ran out of the attempt's time is none.
func expressionFailure(err error) error {
	var fault *expression.EvalError
	if errors.As(err, &fault) {
		return withKind(string(definition.ReasonExpression), &permanentError{text: fault.Error()})
	}
	return err
}

// union returns the names of two sorted lists, without caring about doubles.
func union(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	return append(append(make([]string, 0, len(a)+len(b)), a...), b...)
}

// fixed reports whether nothing about the task, or about one of its items, has to be evaluated.
func (p *plan) fixed() bool { return p.condition == nil && p.with.Fixed() && p.output == nil }

func (p *plan) listReads() []string      { return readsOf(p.list) }
func (p *plan) conditionReads() []string { return readsOf(p.condition) }

func (p *plan) withReads() []string {
	if p.output == nil {
		return p.with.Reads()
	}
	return union(p.with.Reads(), p.output.Reads())
}

func readsOf(e *expression.Expression) []string {
	if e == nil {
		return nil
	}
	return e.Reads()
}

// mayRun evaluates the task's condition.
func (p *plan) mayRun(ctx context.Context, values *expression.Values) (bool, error) {
	if p.condition == nil {
		return true, nil
	}
	ok, err := p.condition.Bool(ctx, values)
	if err != nil {
		return false, expressionFailure(err)
	}
	return ok, nil
}
