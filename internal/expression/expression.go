// Package expression evaluates the expressions of a definition's tasks and of its concurrency key, which are written in CEL,
// the Common Expression Language, and fills them into texts where these hold ${…}.
package expression

import (
	"context"
	"encoding/json"
	"errors"
)

// Scope says which variables an expression may read.
type Scope uint16

// The variables.
const (
	Event Scope = 1 << iota
	Run
	Definition
	Tasks
	Item
	Secrets
	Response
)

// Error says why an expression is refused.
type Error struct {
	// Path is the place within a template, as in body.items[2]; "" for an expression of its own.
	Path string
	// Rule is a short word for programs: max_length, syntax, type, cost or scope.
	Rule string
	// Message is a sentence or two for the user.
	Message string
}

func (e *Error) Error() string { return e.Message }

// EvalError says why an expression has no value for these values. No other try will mend it.
type EvalError struct {
	// Path is the place within a template; "" for an expression of its own.
	Path string
	// Text is the expression.
	Text string
	// Message says what is missing or wrong.
	Message string
}

func (e *EvalError) Error() string {
	text := "${" + e.Text + "}: " + e.Message
	if e.Path != "" {
		text = e.Path + ": " + text
	}
	return text
}

// Values are what the variables hold, as JSON. A variable that is nil is absent: reading it is an error that says so.
type Values struct {
	Event, Run, Definition, Item, Response json.RawMessage
	// Tasks holds, by name, an object of status, error and output for each task that may be read.
	Tasks map[string]json.RawMessage
	// Secret returns a secret's value; nil when there are none.
	Secret func(name string) (string, bool)
}

// Expression is a compiled expression. It is immutable and safe for concurrent use.
type Expression struct{}

// Template is a JSON value whose texts may hold ${…}. It is immutable and safe for concurrent use.
type Template struct{}

var errLater = errors.New("not there yet")

// Compile checks an expression that may read the variables of the scope. The error is an *Error.
func Compile(text string, scope Scope) (*Expression, error) { return nil, errLater }

// Reads returns the names of the tasks that it reads, sorted.
func (e *Expression) Reads() []string { return nil }

// Eval returns the value as JSON. The error is an *EvalError.
func (e *Expression) Eval(ctx context.Context, v *Values) (json.RawMessage, error) { return nil, errLater }

// Bool returns the value of a condition. The error is an *EvalError.
func (e *Expression) Bool(ctx context.Context, v *Values) (bool, error) { return false, errLater }

// List returns the items of a list, at most a number of them. The error is an *EvalError.
func (e *Expression) List(ctx context.Context, v *Values, most int) ([]json.RawMessage, error) {
	return nil, errLater
}

// Text returns a scalar (not null) as text, as a template would write it. The error is an *EvalError.
func (e *Expression) Text(ctx context.Context, v *Values) (string, error) { return "", errLater }

// CompileTemplate checks the expressions in the texts of a JSON value. The error is an *Error.
func CompileTemplate(value json.RawMessage, scope Scope) (*Template, error) { return nil, errLater }

// Reads returns the names of the tasks that it reads, sorted.
func (t *Template) Reads() []string { return nil }

// Secrets returns the names of the secrets that it reads, sorted.
func (t *Template) Secrets() []string { return nil }

// Fixed reports whether it holds no expression.
func (t *Template) Fixed() bool { return true }

// Render fills in the values. The error is an *EvalError.
func (t *Template) Render(ctx context.Context, v *Values) (json.RawMessage, error) { return nil, errLater }
