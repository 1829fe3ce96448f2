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
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
)

// Limits on conditions, and on all other expressions.
const (
	// MaxText is the most bytes of an expression.
	MaxText = 4096
	// maxNodes and maxNesting bound the expression that the text, with its macros, is parsed to.
	maxNodes   = 4000
	maxNesting = 100
	// maxRegex bounds what a regular expression, which may come from the event, is compiled to.
	maxRegex = 1000
	// maxEstimate is the most that an expression may be estimated to cost for the worst event, in CEL's units: it allows a
	// walk through a list and the lists in it, but not through two lists crosswise.
	maxEstimate = 100_000_000
	// maxCost is the most that one evaluation may cost, in the same units of about 50 to 100 ns.
	maxCost = 2_000_000
	// maxUnwatched is up to which estimate an expression is evaluated without counting, which takes as long as the
	// evaluation itself: no function whose cost depends on the event is as cheap as that.
	maxUnwatched = 100
	// maxTime ends an evaluation whose cost CEL counts too low. It is long, because an outcome must not depend on
	// how busy the machine is.
	maxTime = 5 * time.Second
)

// Language is CEL over some variables, with this package's limits and ways to say what is wrong.
type Language struct {
	words Words
	// environment takes milliseconds to make.
	environment func() (*cel.Env, error)
	checking    sync.Mutex
}

// Words are what a language's messages say.
type Words struct {
	// Noun is what an expression of the language is called, and Example is one.
	Noun, Example string
	// Unknown says, after a name that is not known, which names are.
	Unknown string
	// Missing and Overload are put after the errors of an evaluation that found no such member, or a value of another type.
	Missing, Overload string
	// Costly is the error of an evaluation that went over its limit.
	Costly string
}

// NewLanguage returns the language with the variables.
func NewLanguage(words Words, variables ...cel.EnvOption) *Language {
	return &Language{words: words, environment: sync.OnceValues(func() (*cel.Env, error) {
		return cel.NewEnv(append(variables,
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
		)...)
	})}
}

// check checks one expression at a time: cel-go makes a list of all names at the first unknown one, in a way that races.
func (l *Language) check(env *cel.Env, parsed *cel.Ast) (*cel.Ast, *cel.Issues) {
	l.checking.Lock()
	defer l.checking.Unlock()
	return env.Check(parsed)
}

// Program is a compiled expression. It is immutable and safe for concurrent use.
type Program struct {
	program cel.Program
	words   *Words
	// watched: what an evaluation costs depends on the values, and is counted.
	watched bool
}

// Compile checks an expression and makes it ready. Read looks at what it was parsed to, macros expanded, and fits at the
// type of its value; either may be nil, or return an error, which is returned. The error is an *Error when the text is at
// fault.
func (l *Language) Compile(text string, read func(*ast.AST) error, fits func(*cel.Type) error) (p *Program, err error) {
	defer recoverCompile(&err)
	env, parsed, err := l.parse(text)
	if err != nil {
		return nil, err
	}
	if uses(parsed.NativeRep(), "format") {
		return nil, &Error{Rule: "type", Message: "must not use format, which can write texts of any length"}
	}
	if read != nil {
		if err := read(parsed.NativeRep()); err != nil {
			return nil, err
		}
	}
	checked, issues := l.check(env, parsed)
	if issues.Err() != nil {
		return nil, l.words.refusal("type", issues)
	}
	if fits != nil {
		if err := fits(checked.OutputType()); err != nil {
			return nil, err
		}
	}
	if name := overgrown(checked.NativeRep()); name != "" {
		return nil, &Error{Rule: "cost", Message: fmt.Sprintf("could take too long: %s must not compare two lists that the %s "+
			"makes itself, as map and filter do, nor write one out", plainName(name), l.words.Noun)}
	}
	estimate, err := env.EstimateCost(checked, bounds{})
	if err != nil {
		return nil, fmt.Errorf("estimate the cost of a %s: %w", l.words.Noun, err)
	}
	if estimate.Max > maxEstimate {
		return nil, &Error{Rule: "cost", Message: "could take too long for a large event: it must not go through two lists " +
			"crosswise, nor compare long texts again and again"}
	}
	p = &Program{words: &l.words, watched: estimate.Max > maxUnwatched}
	// Not cel.OptOptimize: it looks constants of a list up by their kind, so that 1u in [1.0] is no longer what 1u == 1.0
	// is.
	options := []cel.ProgramOption{cel.OptimizeRegex(interpreter.MatchesRegexOptimization)}
	if p.watched {
		options = append(options, cel.CostTracking(watch{}), cel.CostLimit(maxCost), cel.InterruptCheckFrequency(100))
	}
	if p.program, err = env.Program(checked, options...); err != nil {
		return nil, &Error{Rule: "type", Message: "cannot be prepared: " + clip(err.Error())}
	}
	return p, nil
}

// recoverCompile makes a panic an error: what CEL stumbles over is no expression.
func recoverCompile(err *error) {
	if r := recover(); r != nil {
		*err = &Error{Rule: "syntax", Message: "cannot be compiled: " + clip(fmt.Sprint(r))}
	}
}

// parse checks the text's length and syntax only. It takes a third of Compile's time.
func (l *Language) parse(text string) (*cel.Env, *cel.Ast, error) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, nil, &Error{Rule: "syntax", Message: "must not be empty: it is an expression, as in " + l.words.Example}
	case len(text) > MaxText:
		return nil, nil, &Error{Rule: "max_length", Message: fmt.Sprintf("has %d bytes; at most %d are allowed", len(text), MaxText)}
	}
	env, err := l.environment()
	if err != nil {
		return nil, nil, fmt.Errorf("prepare CEL: %w", err)
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, nil, l.words.refusal("syntax", issues)
	}
	return env, parsed, nil
}

func uses(a *ast.AST, function string) bool {
	return len(ast.MatchDescendants(ast.NavigateAST(a), ast.FunctionMatcher(function))) > 0
}

// Eval returns the value for the variables. The error is for people, except that of a context that has ended.
func (p *Program) Eval(ctx context.Context, variables cel.Activation) (out ref.Val, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, errors.New("the evaluation failed: "+clip(fmt.Sprint(r)))
		}
	}()
	if p.watched {
		limited, cancel := context.WithTimeout(ctx, maxTime)
		defer cancel()
		out, _, err = p.program.ContextEval(limited, variables)
	} else {
		out, _, err = p.program.Eval(variables)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, p.words.evaluationFault(err)
	}
	return out, nil
}
