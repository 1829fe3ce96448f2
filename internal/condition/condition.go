// Package condition says whether an event fulfils a condition: an expression in CEL, the Common Expression Language, over
// the one variable event, which is the event's envelope as JSON. It is pure, and the same condition gives the same answer
// for the same event at any time and place; there is no clock in it.
//
// What is written may come from anyone who may store a definition, and events come from other teams. Therefore the length
// of the text, the size of what it is parsed to, the cost of the worst event (estimated when it is compiled), and the cost
// of each evaluation have limits.
package condition

import (
	"context"
	"fmt"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// example is shown where a message says what a condition is.
const example = `event.payload.tier == "pro"`

// Error says why a condition is refused.
type Error struct {
	// Rule is a short word for programs: max_length, syntax, type or cost.
	Rule string
	// Line and Column are the place, counted from 1 in characters; 0 when there is none.
	Line, Column int
	// Message is a sentence or two for the user: where, what, and what to write instead.
	Message string
}

func (e *Error) Error() string { return e.Message }

// Condition is a compiled condition. It is immutable and safe for concurrent use.
type Condition struct {
	program *Program
}

// conditions is the language of conditions.
var conditions = NewLanguage(Words{
	Noun:    "condition",
	Example: example,
	Unknown: "an event's members begin with event, as in " + example + ", texts stand in quotes, and the functions are those of " +
		"docs/conditions.md",
	Missing:  " (the event does not have it; has(…) asks for a member first)",
	Overload: " (a value is of another type than the condition expects)",
	Costly:   "the evaluation costs more than is allowed for one event",
}, cel.Variable("event", cel.MapType(cel.StringType, cel.DynType)))

// Compile checks a condition and makes it ready. The error is an *Error when the text is at fault. The condition's value
// must be a bool, as far as that can be told without an event.
func Compile(text string) (*Condition, error) {
	program, err := conditions.Compile(text, nil, func(out *cel.Type) error {
		if !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
			return &Error{Rule: "type", Message: fmt.Sprintf("must be true or false, but is of type %s: compare it with something, as in %s",
				out, example)}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Condition{program: program}, nil
}

// Eval tells whether the event fulfils the condition. The error is for people: the condition cannot be told for this event,
// mostly because it reads a member that the event does not have.
func (c *Condition) Eval(e *Event) (bool, error) {
	if err := e.decode(); err != nil {
		return false, err
	}
	out, err := c.program.Eval(context.Background(), e)
	if err != nil {
		return false, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the condition's value is of type %s, not true or false", out.Type().TypeName())
	}
	return bool(b), nil
}
