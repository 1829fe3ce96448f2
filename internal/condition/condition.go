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
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
)

// Limits on conditions.
const (
	// MaxText is the most bytes of a condition.
	MaxText = 4096
	// maxNodes and maxNesting bound the expression that the text, with its macros, is parsed to.
	maxNodes   = 4000
	maxNesting = 100
	// maxRegex bounds what a regular expression, which may come from the event, is compiled to.
	maxRegex = 1000
	// maxEstimate is the most that a condition may be estimated to cost for the worst event, in CEL's units: it allows a
	// walk through a list and the lists in it, but not through two lists crosswise.
	maxEstimate = 100_000_000
	// maxCost is the most that one evaluation may cost, in the same units of about 50 to 100 ns.
	maxCost = 2_000_000
	// maxUnwatched is up to which estimate a condition is evaluated without counting, which takes as long as the evaluation
	// itself: no function whose cost depends on the event is as cheap as that.
	maxUnwatched = 100
	// maxTime ends an evaluation whose cost CEL counts too low. It is long, because a condition's outcome must not depend on
	// how busy the machine is.
	maxTime = 5 * time.Second
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
	program cel.Program
	// watched: what an evaluation costs depends on the event, and is counted.
	watched bool
}

// environment is what conditions may use. It takes milliseconds to make.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("event", cel.MapType(cel.StringType, cel.DynType)),
		cel.OptionalTypes(),
		ext.Strings(), ext.Lists(), ext.Sets(), ext.Math(), ext.Network(),
		cel.EnableMacroCallTracking(),
		cel.EnableIdentifierEscapeSyntax(),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(MaxText),
		cel.ParserRecursionLimit(maxNesting),
		cel.ExpressionNodeLimit(maxNodes),
		cel.ExpressionNestingDepthLimit(maxNesting),
		cel.RegexProgramSizeLimit(maxRegex),
	)
})

// Compile checks a condition and makes it ready. The error is an *Error when the text is at fault. The condition's value
// must be a bool, as far as that can be told without an event.
func Compile(text string) (c *Condition, err error) {
	defer recoverCompile(&err)
	env, parsed, err := parse(text)
	if err != nil {
		return nil, err
	}
	if uses(parsed.NativeRep(), "format") {
		return nil, &Error{Rule: "type", Message: "must not use format, which can write texts of any length"}
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, refusal("type", issues)
	}
	if out := checked.OutputType(); !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return nil, &Error{Rule: "type", Message: fmt.Sprintf("must be true or false, but is of type %s: compare it with something, as in %s",
			out, example)}
	}
	if name := overgrown(checked.NativeRep()); name != "" {
		return nil, &Error{Rule: "cost", Message: fmt.Sprintf("could take too long: %s must not compare two lists that the condition "+
			"makes itself, as map and filter do, nor write one out", plainName(name))}
	}
	estimate, err := env.EstimateCost(checked, bounds{})
	if err != nil {
		return nil, fmt.Errorf("estimate the cost of a condition: %w", err)
	}
	if estimate.Max > maxEstimate {
		return nil, &Error{Rule: "cost", Message: "could take too long for a large event: it must not go through two lists " +
			"crosswise, nor compare long texts again and again"}
	}
	c = &Condition{watched: estimate.Max > maxUnwatched}
	// Not cel.OptOptimize: it looks constants of a list up by their kind, so that 1u in [1.0] is no longer what 1u == 1.0 is.
	options := []cel.ProgramOption{cel.OptimizeRegex(interpreter.MatchesRegexOptimization)}
	if c.watched {
		options = append(options, cel.CostTracking(watch{}), cel.CostLimit(maxCost), cel.InterruptCheckFrequency(100))
	}
	if c.program, err = env.Program(checked, options...); err != nil {
		return nil, &Error{Rule: "type", Message: "cannot be prepared: " + clip(err.Error())}
	}
	return c, nil
}

// recoverCompile makes a panic an error: what CEL stumbles over is not a condition.
func recoverCompile(err *error) {
	if r := recover(); r != nil {
		*err = &Error{Rule: "syntax", Message: "cannot be compiled: " + clip(fmt.Sprint(r))}
	}
}

// parse checks the text's length and syntax only. It takes a third of Compile's time.
func parse(text string) (*cel.Env, *cel.Ast, error) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, nil, &Error{Rule: "syntax", Message: "must not be empty: it is an expression, as in " + example}
	case len(text) > MaxText:
		return nil, nil, &Error{Rule: "max_length", Message: fmt.Sprintf("has %d bytes; at most %d are allowed", len(text), MaxText)}
	}
	env, err := environment()
	if err != nil {
		return nil, nil, fmt.Errorf("prepare CEL: %w", err)
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, nil, refusal("syntax", issues)
	}
	return env, parsed, nil
}

func uses(a *ast.AST, function string) bool {
	return len(ast.MatchDescendants(ast.NavigateAST(a), ast.FunctionMatcher(function))) > 0
}

// Eval tells whether the event fulfils the condition. The error is for people: the condition cannot be told for this event,
// mostly because it reads a member that the event does not have.
func (c *Condition) Eval(e *Event) (holds bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			holds, err = false, errors.New("the evaluation failed: "+clip(fmt.Sprint(r)))
		}
	}()
	if err = e.decode(); err != nil {
		return false, err
	}
	var out ref.Val
	if c.watched {
		ctx, cancel := context.WithTimeout(context.Background(), maxTime)
		defer cancel()
		out, _, err = c.program.ContextEval(ctx, e)
	} else {
		out, _, err = c.program.Eval(e)
	}
	if err != nil {
		return false, evaluationFault(err)
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the condition's value is of type %s, not true or false", out.Type().TypeName())
	}
	return bool(b), nil
}
