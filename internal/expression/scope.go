package expression

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
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

// vocabulary is the variables, each with where it may be read.
var vocabulary = map[string]struct {
	scope Scope
	where string
}{
	"event":      {Event, "event may be read in tasks and in the concurrency key only"},
	"run":        {Run, "run may be read in tasks and in the concurrency key only"},
	"definition": {Definition, "definition may be read in tasks and in the concurrency key only"},
	"tasks":      {Tasks, "tasks may be read by other tasks only"},
	"item":       {Item, "item exists in the with of a task with for_each only"},
	"secrets":    {Secrets, "secrets may be read in the with of http and publish tasks only, and not in their output"},
	"response":   {Response, "response may be read in the output of http tasks only"},
}

var secretName = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,62}$`)

// reading is what an expression reads.
type reading struct {
	scope          Scope
	tasks, secrets []string
}

// read collects what an expression reads, and refuses what it may not read. The error is an *Error.
func (r *reading) read(e ast.Expr, scope Scope) error {
	w := &readingWalk{reading: r, allowed: scope, bound: map[string]int{}}
	w.walk(e)
	if w.fault != "" {
		return &Error{Rule: "scope", Message: w.fault}
	}
	return nil
}

// readingWalk walks an expression. Its recursion is bounded by the parser.
type readingWalk struct {
	*reading
	allowed Scope
	// bound counts, by name, the variables of macros that are in force.
	bound map[string]int
	fault string
}

func (w *readingWalk) refuse(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
	}
}

// variable returns the name of the variable that an expression is, "" when it is none.
func (w *readingWalk) variable(e ast.Expr) string {
	if e.Kind() != ast.IdentKind {
		return ""
	}
	name := e.AsIdent()
	if w.bound[name] > 0 {
		return ""
	}
	return strings.TrimPrefix(name, ".") // a dot before a name means that no macro's variable is meant
}

// walk looks at an expression.
func (w *readingWalk) walk(e ast.Expr) {
	switch e.Kind() {
	case ast.IdentKind:
		switch name := w.variable(e); name {
		case "tasks":
			w.refuse(`tasks cannot be read as a whole: name a task, as in tasks.a.output`)
		case "secrets":
			w.refuse(`secrets cannot be read as a whole: name one, as in secrets.TOKEN`)
		default:
			w.note(name)
		}
	case ast.SelectKind:
		w.member(e.AsSelect().Operand(), e.AsSelect().FieldName(), true)
	case ast.CallKind:
		w.call(e.AsCall())
	case ast.ListKind:
		w.all(e.AsList().Elements())
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			w.walk(entry.AsMapEntry().Key())
			w.walk(entry.AsMapEntry().Value())
		}
	case ast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			w.walk(field.AsStructField().Value())
		}
	case ast.ComprehensionKind:
		w.comprehension(e.AsComprehension())
	}
}

func (w *readingWalk) all(list []ast.Expr) {
	for _, e := range list {
		w.walk(e)
	}
}

func (w *readingWalk) call(c ast.CallExpr) {
	args := c.Args()
	switch c.FunctionName() {
	case operators.Index, operators.OptIndex, operators.OptSelect:
		name, constant := "", false
		if args[1].Kind() == ast.LiteralKind {
			text, ok := args[1].AsLiteral().(types.String)
			name, constant = string(text), ok
		}
		w.member(args[0], name, constant)
		w.walk(args[1])
	default:
		if c.IsMemberFunction() {
			w.walk(c.Target())
		}
		w.all(args)
	}
}

// member looks at the choice of a member, whose name is a constant or not known before there are values.
func (w *readingWalk) member(of ast.Expr, name string, constant bool) {
	switch v := w.variable(of); v {
	case "tasks":
		w.note(v)
		if !constant {
			w.refuse(`tasks[…] must name the task as a constant, as in tasks["a"]`)
		} else if !slices.Contains(w.tasks, name) {
			w.tasks = append(w.tasks, name)
		}
	case "secrets":
		w.note(v)
		switch {
		case !constant:
			w.refuse(`secrets[…] must name the secret as a constant, as in secrets.TOKEN`)
		case !secretName.MatchString(name):
			w.refuse("%q is not the name of a secret: it must be 1 to 63 characters of A-Z, 0-9 and _, beginning with a letter", clip(name, 60))
		case !slices.Contains(w.secrets, name):
			w.secrets = append(w.secrets, name)
		}
	default:
		w.walk(of)
	}
}

func (w *readingWalk) note(name string) {
	v, known := vocabulary[name]
	if !known {
		return // the check of types tells
	}
	w.scope |= v.scope
	if w.allowed&v.scope == 0 {
		w.refuse("%s", v.where)
	}
}

func (w *readingWalk) comprehension(c ast.ComprehensionExpr) {
	w.walk(c.IterRange())
	w.walk(c.AccuInit())
	w.bound[c.AccuVar()]++
	w.walk(c.Result())
	for _, name := range []string{c.IterVar(), c.IterVar2()} {
		w.bound[name]++
	}
	w.walk(c.LoopCondition())
	w.walk(c.LoopStep())
	for _, name := range []string{c.IterVar(), c.IterVar2(), c.AccuVar()} {
		w.bound[name]--
	}
}

// dashedTask is a task's name that CEL does not take for one.
var dashedTask = regexp.MustCompile(`\btasks\.([a-z0-9_]+-[a-z0-9_-]*|[0-9][a-z0-9_-]*)`)

// nameHint tells how such a name is written; "" when there is none.
func nameHint(text string) string {
	if m := dashedTask.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("; a task whose name is no plain word is written tasks[%q]", clip(m[1], 63))
	}
	return ""
}
