package condition

import (
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// A list that a condition makes may hold one value many times over, as [1].map(x, [x, x]).map(x, [x, x]) does, and so be
// tiny in memory, small by CEL's counting of costs, and endless to go through. What goes through lists with all that is in
// them without CEL's knowing is only allowed where one of them is what the event or the text holds, which bounds it.

// comparing are the functions that go through both of their arguments together, expanding those that write out a whole one.
var (
	comparing = []string{operators.Equals, operators.NotEquals, operators.In, "sets.contains", "sets.equivalent", "sets.intersects"}
	expanding = []string{"distinct", "flatten"}
)

// overgrown returns the name of a function in the expression that might not come to an end; "" when there is none.
func overgrown(a *ast.AST) string {
	w := growthWalk{ast: a, made: map[string]int{}}
	w.walk(a.Expr())
	return w.found
}

// growthWalk walks an expression. Its recursion is bounded by the parser.
type growthWalk struct {
	ast *ast.AST
	// made counts, by name, the variables in scope whose values are parts of a list that the condition makes.
	made  map[string]int
	found string
}

// walk looks at an expression and tells whether its value is a list that the condition makes, or a part of one.
func (w *growthWalk) walk(e ast.Expr) bool {
	made := false
	switch e.Kind() {
	case ast.IdentKind:
		made = w.made[e.AsIdent()] > 0
	case ast.SelectKind:
		made = w.walk(e.AsSelect().Operand())
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			made = w.walk(element) || made
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			made = w.walk(entry.AsMapEntry().Key()) || made
			made = w.walk(entry.AsMapEntry().Value()) || made
		}
	case ast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			made = w.walk(field.AsStructField().Value()) || made
		}
	case ast.CallKind:
		made = w.call(e.AsCall())
	case ast.ComprehensionKind:
		w.comprehension(e.AsComprehension())
		made = true
	}
	return made && !slices.Contains(scalarKinds, w.ast.GetType(e.ID()).Kind())
}

// scalarKinds are the kinds of values that hold no others.
var scalarKinds = []types.Kind{types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.StringKind, types.BytesKind,
	types.NullTypeKind, types.DurationKind, types.TimestampKind}

func (w *growthWalk) call(c ast.CallExpr) bool {
	count := 0
	if c.IsMemberFunction() && w.walk(c.Target()) {
		count++
	}
	for _, arg := range c.Args() {
		if w.walk(arg) {
			count++
		}
	}
	if (count > 1 && slices.Contains(comparing, c.FunctionName())) || (count > 0 && slices.Contains(expanding, c.FunctionName())) {
		w.found = c.FunctionName()
	}
	return count > 0
}

func (w *growthWalk) comprehension(c ast.ComprehensionExpr) {
	made := w.walk(c.IterRange())
	if made {
		w.made[c.IterVar()]++
		w.made[c.IterVar2()]++
	}
	// A variable that macros bind to a value is an accumulator that is not changed.
	bound := w.walk(c.AccuInit())
	if bound {
		w.made[c.AccuVar()]++
	}
	w.walk(c.LoopCondition())
	w.walk(c.LoopStep())
	w.walk(c.Result())
	if made {
		w.made[c.IterVar()]--
		w.made[c.IterVar2()]--
	}
	if bound {
		w.made[c.AccuVar()]--
	}
}
