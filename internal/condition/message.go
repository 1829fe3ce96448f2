package condition

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/interpreter"
)

// refusal words the first of CEL's complaints for somebody who never saw CEL.
func (w *Words) refusal(rule string, issues *cel.Issues) *Error {
	first := issues.Errors()[0]
	e := &Error{Rule: rule, Message: w.explain(first.Message)}
	if line := first.Location.Line(); line > 0 {
		e.Line, e.Column = line, first.Location.Column()+1
		e.Message = fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
	}
	return e
}

var (
	unknownName = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	// operator is what CEL calls an operator within, as in '_==_'.
	operator = regexp.MustCompile(`_(\S+)_`)
)

// plainName returns the name of a function as it is written.
func plainName(function string) string {
	if function == operators.In {
		return "in"
	}
	return operator.ReplaceAllString(function, "$1")
}

// explain adds to a complaint of CEL's what to do about it.
func (w *Words) explain(complaint string) string {
	hint := ""
	switch m := unknownName.FindStringSubmatch(complaint); {
	case m != nil:
		return fmt.Sprintf("%s is not known here: %s", clip(m[1]), w.Unknown)
	case strings.Contains(complaint, "token recognition error at: '= '"), strings.Contains(complaint, "token recognition error at: '='"):
		hint = "; equality is written =="
	case strings.Contains(complaint, "token recognition error at: '&"), strings.Contains(complaint, "token recognition error at: '|"):
		hint = "; and is written &&, or is written ||"
	case strings.Contains(complaint, "mismatched input 'and'"), strings.Contains(complaint, "extraneous input 'and'"):
		hint = "; and is written &&"
	case strings.Contains(complaint, "mismatched input 'or'"), strings.Contains(complaint, "extraneous input 'or'"):
		hint = "; or is written ||"
	case strings.Contains(complaint, "found no matching overload"):
		complaint = operator.ReplaceAllString(complaint, "$1")
		hint = "; both sides must be of one type, or the function takes other arguments"
	case strings.Contains(complaint, "recursion limit"), strings.Contains(complaint, "nesting depth"):
		return fmt.Sprintf("is nested too deeply: at most about %d levels are allowed", maxNesting)
	}
	return clip(complaint) + hint
}

// evaluationFault words why an expression has no value.
func (w *Words) evaluationFault(err error) error {
	var canceled interpreter.EvalCancelledError
	text := err.Error()
	switch {
	case errors.As(err, &canceled), strings.HasPrefix(text, "operation cancelled"), strings.HasPrefix(text, "operation interrupted"):
		return errors.New(w.Costly)
	case strings.HasPrefix(text, "no such key"):
		text = clip(text) + w.Missing
	case text == "no such overload":
		text += w.Overload
	}
	return errors.New(clip(text))
}

// clip keeps a text that may hold values of an event, or pieces of a condition, short.
func clip(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
