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

// valuesOf returns what the expressions of a run's tasks may read; end is how the run ended, for its on_failure tasks.
func valuesOf(doc *definition.Document, work *definition.TaskWork, end *outcome) (*expression.Values, error) {
	run := work.Run
	if end != nil {
		run.Status, run.Reason, run.Error = end.Status, end.Reason, end.Error
	}
	v, err := run.Values(doc.Labels, work.Results)
	if err != nil {
		return nil, permanently("the run's input cannot be written as JSON: %s", err)
	}
	return v, nil
}

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
