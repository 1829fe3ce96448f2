package condition

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Equality is a part of a condition that says that a member of the event equals a constant.
type Equality struct {
	// Path names the member, from the event on: ["payload", "tier"]. It has at least one name.
	Path []string
	// literal is a bool, an int, a uint, a double, a string or null.
	literal ref.Val
}

// Equalities returns those parts of a condition that are joined to the whole by && alone, and have the form
// event.x.y == constant or constant == event.x.y. A member may be written in brackets: event.payload["a b"]. A condition
// that is true has all its equalities true. All is true when there is nothing else in it, so that it is true when they are.
// The text is checked for its syntax only; the error is that of Compile.
func Equalities(text string) (equalities []Equality, all bool, err error) {
	defer recoverCompile(&err)
	_, parsed, err := conditions.parse(text)
	if err != nil {
		return nil, false, err
	}
	all = true
	eachConjunct(parsed.NativeRep().Expr(), func(e ast.Expr) {
		q, ok := equality(e)
		if all = all && ok; ok {
			equalities = append(equalities, q)
		}
	})
	return equalities, all, nil
}

// Conjuncts returns the parts that && joins to the whole condition, in their order, as texts that are conditions of their
// own.
func Conjuncts(text string) (parts []string, err error) {
	defer recoverCompile(&err)
	_, parsed, err := conditions.parse(text)
	if err != nil {
		return nil, err
	}
	native := parsed.NativeRep()
	eachConjunct(native.Expr(), func(e ast.Expr) {
		part, unparseErr := cel.ExprToString(e, native.SourceInfo())
		parts, err = append(parts, part), unparseErr
	})
	return parts, err
}

// eachConjunct recurses as deeply as the parser allowed.
func eachConjunct(e ast.Expr, visit func(ast.Expr)) {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.LogicalAnd {
		visit(e)
		return
	}
	for _, arg := range e.AsCall().Args() {
		eachConjunct(arg, visit)
	}
}

func equality(e ast.Expr) (q Equality, ok bool) {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.Equals {
		return q, false
	}
	left, right := e.AsCall().Args()[0], e.AsCall().Args()[1]
	if left.Kind() == ast.LiteralKind {
		left, right = right, left
	}
	if right.Kind() != ast.LiteralKind {
		return q, false
	}
	switch literal := right.AsLiteral().(type) {
	case types.Bool, types.Int, types.Uint, types.Double, types.Null:
		q.literal = literal
	case types.String:
		if !utf8.ValidString(string(literal)) {
			return q, false
		}
		q.literal = literal
	default:
		return q, false
	}
	q.Path = memberPath(left, 0)
	return q, len(q.Path) > 0
}

// memberPath returns the names from event to a member, with room for deeper ones; nil when e is something else.
func memberPath(e ast.Expr, deeper int) []string {
	var operand ast.Expr
	var name string
	switch e.Kind() {
	case ast.IdentKind:
		if e.AsIdent() != "event" {
			return nil
		}
		return make([]string, 0, deeper)
	case ast.SelectKind:
		if e.AsSelect().IsTestOnly() {
			return nil
		}
		operand, name = e.AsSelect().Operand(), e.AsSelect().FieldName()
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index || call.Args()[1].Kind() != ast.LiteralKind {
			return nil
		}
		text, ok := call.Args()[1].AsLiteral().(types.String)
		if !ok || !utf8.ValidString(string(text)) {
			return nil
		}
		operand, name = call.Args()[0], string(text)
	default:
		return nil
	}
	path := memberPath(operand, deeper+1)
	if path == nil {
		return nil
	}
	return append(path, name)
}

// Literal returns the constant: a bool, an int64, a uint64, a float64, a string, or nil for null.
func (q Equality) Literal() any {
	if q.literal == types.NullValue {
		return nil
	}
	return q.literal.Value()
}

// Holds tells whether the member, as valid JSON without spaces around it, equals the constant, as CEL would: an int or a
// uint and a double are equal when their nearest doubles are.
func (q Equality) Holds(member []byte) bool {
	if member[0] == '{' || member[0] == '[' {
		return false
	}
	value, err := scalar(member)
	return err == nil && q.literal.Equal(value) == types.True
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Text returns the equality as it could have been written.
func (q Equality) Text() string {
	var b strings.Builder
	b.WriteString("event")
	for _, name := range q.Path {
		if identifier.MatchString(name) {
			b.WriteString("." + name)
		} else {
			b.WriteString("[" + strconv.Quote(name) + "]")
		}
	}
	b.WriteString(" == ")
	switch literal := q.Literal().(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(literal))
	case int64:
		b.WriteString(strconv.FormatInt(literal, 10))
	case uint64:
		b.WriteString(strconv.FormatUint(literal, 10) + "u")
	case float64:
		b.WriteString(strconv.FormatFloat(literal, 'g', -1, 64))
	case string:
		b.WriteString(strconv.Quote(literal))
	}
	return b.String()
}
