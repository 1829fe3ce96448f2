// Package expression evaluates the expressions of a definition's tasks and of its concurrency key, which are written in
// CEL, the Common Expression Language, and fills them into texts where these hold ${…}. It is pure, and there is no clock
// in it: the same expression gives the same value for the same values at any time and place. The language and its limits
// are those of conditions (package condition); the variables are more.
package expression

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/activity-core/activity-core/internal/condition"
)

// Limits on expressions.
const (
	// MaxText is the most bytes of an expression.
	MaxText = condition.MaxText
	// MaxResult is the most bytes of an expression's value as JSON.
	MaxResult = 1 << 20
	// MaxRendered is the most bytes of a template with its values filled in.
	MaxRendered = 2 << 20
	// MaxExpressions is the most expressions in one template.
	MaxExpressions = 200
)

// Error says why an expression is refused.
type Error struct {
	// Path is the place within a template, as in body.items[2]; "" for an expression of its own.
	Path string
	// Rule is a short word for programs: max_length, max_items, syntax, type, cost or scope.
	Rule string
	// Message is a sentence or two for the user.
	Message string
}

func (e *Error) Error() string { return e.Message }

// EvalError says why an expression has no value for these values. No other try will mend it. It may hold pieces of the
// values, and so of secrets.
type EvalError struct {
	// Path is the place: within a template, after what At was told; "" when there is nothing to tell.
	Path string
	// Text is the expression.
	Text string
	// Message says what is missing or wrong.
	Message string
}

func (e *EvalError) Error() string {
	text := "${" + clip(e.Text, 200) + "}: " + e.Message
	if e.Path != "" {
		text = e.Path + ": " + text
	}
	return text
}

// example is shown where a message says what an expression is.
const example = "event.payload.id"

var language = condition.NewLanguage(condition.Words{
	Noun:    "expression",
	Example: example,
	Unknown: "an expression's values begin with event, run, definition, tasks, item, secrets or response, as in " + example +
		", texts stand in quotes, and the functions are those of docs/expressions.md",
	Overload: " (a value is of another type than the expression expects)",
	Costly:   "the evaluation costs more than is allowed",
}, cel.Variable("event", object), cel.Variable("run", object), cel.Variable("definition", object), cel.Variable("tasks", object),
	cel.Variable("item", cel.DynType), cel.Variable("secrets", cel.MapType(cel.StringType, cel.StringType)),
	cel.Variable("response", object))

var object = cel.MapType(cel.StringType, cel.DynType)

// Expression is a compiled expression. It is immutable and safe for concurrent use.
type Expression struct {
	text, place string
	program     *condition.Program
	reading
}

// Compile checks an expression that may read the variables of the scope. The error is an *Error.
func Compile(text string, scope Scope) (*Expression, error) {
	return compile(text, scope, func(t *cel.Type) string {
		if t.Kind() == types.TypeKind || t.Kind() == types.OpaqueKind && t.TypeName() != "optional_type" {
			return fmt.Sprintf("is of type %s, which JSON does not have: string(…) makes a text of it", t)
		}
		return ""
	})
}

// CompileBool is Compile for a condition: as far as that can be told without values, it must be true or false.
func CompileBool(text string, scope Scope) (*Expression, error) {
	return compile(text, scope, want("must be true or false", "compare it with something, as in "+example+" == 7", types.BoolKind))
}

// CompileList is Compile for what must be a list.
func CompileList(text string, scope Scope) (*Expression, error) {
	return compile(text, scope, want("must be a list", "as event.payload.items may be", types.ListKind))
}

// CompileText is Compile for what must be a single value that can be written as a text, and is not null.
func CompileText(text string, scope Scope) (*Expression, error) {
	return compile(text, scope, want("must be a text, a number, or true or false", "choose a member, as in "+example, scalarKinds...))
}

var scalarKinds = []types.Kind{types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.StringKind, types.BytesKind,
	types.TimestampKind, types.DurationKind}

// want returns a check of an expression's type.
func want(must, instead string, kinds ...types.Kind) func(*cel.Type) string {
	return func(t *cel.Type) string {
		if t.Kind() == types.DynKind || slices.Contains(kinds, t.Kind()) {
			return ""
		}
		return fmt.Sprintf("%s, but is of type %s: %s", must, t, instead)
	}
}

func compile(text string, scope Scope, fault func(*cel.Type) string) (*Expression, error) {
	e := &Expression{text: text}
	read := func(a *ast.AST) error { return e.reading.read(a.Expr(), scope) }
	fits := func(t *cel.Type) error {
		if message := fault(t); message != "" {
			return &Error{Rule: "type", Message: message}
		}
		return nil
	}
	program, err := language.Compile(text, read, fits)
	if err != nil {
		return nil, refusal(text, err)
	}
	e.program = program
	slices.Sort(e.tasks)
	slices.Sort(e.secrets)
	return e, nil
}

func refusal(text string, err error) *Error {
	var own *Error
	var refused *condition.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &refused):
		return &Error{Rule: refused.Rule, Message: refused.Message + nameHint(text)}
	}
	return &Error{Rule: "syntax", Message: clip(err.Error(), 300)}
}

// At returns the expression with a place that its errors name, as in "if".
func (e *Expression) At(place string) *Expression {
	c := *e
	c.place = place
	return &c
}

// Reads returns the names of the tasks that it reads, sorted.
func (e *Expression) Reads() []string { return e.tasks }

// Eval returns the value as JSON. The error is an *EvalError, or that of a context that has ended.
func (e *Expression) Eval(ctx context.Context, v *Values) (json.RawMessage, error) {
	value, err := e.value(ctx, newVariables(v), e.place)
	if err != nil {
		return nil, err
	}
	out, err := appendJSON(nil, value, MaxResult)
	if err != nil {
		return nil, e.fault(e.place, err)
	}
	return out, nil
}

// Bool returns the value of a condition. The error is that of Eval.
func (e *Expression) Bool(ctx context.Context, v *Values) (bool, error) {
	value, err := e.value(ctx, newVariables(v), e.place)
	if err != nil {
		return false, err
	}
	b, ok := value.(types.Bool)
	if !ok {
		return false, e.fault(e.place, fmt.Errorf("must be true or false, but is %s", kind(value)))
	}
	return bool(b), nil
}

// List returns the items of a list, at most a number of them. The error is that of Eval.
func (e *Expression) List(ctx context.Context, v *Values, most int) ([]json.RawMessage, error) {
	value, err := e.value(ctx, newVariables(v), e.place)
	if err != nil {
		return nil, err
	}
	list, ok := value.(traits.Lister)
	if !ok {
		return nil, e.fault(e.place, fmt.Errorf("must be a list, but is %s", kind(value)))
	}
	size, _ := list.Size().(types.Int)
	if int64(size) > int64(most) {
		return nil, e.fault(e.place, fmt.Errorf("has %d items; at most %d are allowed", size, most))
	}
	items, room := make([]json.RawMessage, 0, size), MaxResult
	for it := list.Iterator(); it.HasNext() == types.True; {
		item, err := appendJSON(nil, it.Next(), room)
		if err != nil {
			return nil, e.fault(fmt.Sprintf("%s[%d]", e.place, len(items)), err)
		}
		items, room = append(items, item), room-len(item)
	}
	return items, nil
}

// Text returns a single value (not null) as text, as a template would write it. The error is that of Eval.
func (e *Expression) Text(ctx context.Context, v *Values) (string, error) {
	value, err := e.value(ctx, newVariables(v), e.place)
	if err != nil {
		return "", err
	}
	switch value.(type) {
	case traits.Lister, traits.Mapper:
		return "", e.fault(e.place, fmt.Errorf("must be a text, a number, or true or false, but is %s", kind(value)))
	}
	text, err := appendText(nil, value, MaxResult)
	if err != nil {
		return "", e.fault(e.place, err)
	}
	return string(text), nil
}

// value evaluates the expression.
func (e *Expression) value(ctx context.Context, v *variables, place string) (ref.Val, error) {
	if err := v.prepare(e); err != nil {
		return nil, e.fault(place, err)
	}
	out, err := e.program.Eval(ctx, v)
	switch {
	case err == nil:
		out, err = unwrapped(out)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		err = v.explain(e, err)
	}
	if err != nil {
		return nil, e.fault(place, err)
	}
	return out, nil
}

func (e *Expression) fault(place string, err error) *EvalError {
	return &EvalError{Path: place, Text: e.text, Message: err.Error()}
}

// clip bounds a text that is quoted in an error.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
