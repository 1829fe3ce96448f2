package expression

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"cel.dev/cel-go/common/types/ref"
	"github.com/go-json-experiment/json/jsontext"
)

// Template is a JSON value whose texts may hold ${…}. It is immutable and safe for concurrent use.
//
// A text that is one whole ${…} becomes the expression's value, whatever its JSON type; elsewhere in a text, values are
// written as texts. $${ stands for ${ itself. The names of members are not looked at, and everything that is not an
// expression stays as it was written, byte by byte.
type Template struct {
	place   string
	pieces  []piece
	outline []byte
	open    []string
	tasks   []string
	secrets []string
	// fixed: rendering gives what it was made of.
	fixed bool
}

// piece is fixed JSON, or an expression.
type piece struct {
	fixed []byte
	expr  *Expression
	// whole: the value stands for itself, not within a text.
	whole bool
	// text: the value of a whole one is written as a text.
	text bool
	path string
}

// CompileTemplate checks the expressions in the texts of a JSON value. The error is an *Error.
func CompileTemplate(value json.RawMessage, scope Scope) (*Template, error) {
	p := templateParser{raw: value, scope: scope}
	d := jsontext.NewDecoder(bytes.NewReader(value), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
		kind, length := d.StackIndex(d.StackDepth())
		isName := kind == '{' && length%2 == 0
		if d.PeekKind() != '"' || isName {
			if _, err := d.ReadToken(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, &Error{Path: path(d), Rule: "json", Message: "is not valid JSON"}
			}
			continue
		}
		text, err := d.ReadValue()
		if err != nil {
			return nil, &Error{Path: path(d), Rule: "json", Message: "is not valid JSON"}
		}
		end := int(d.InputOffset())
		if err := p.text(d, end-len(text), end); err != nil {
			return nil, err
		}
	}
	if _, values := d.StackIndex(0); values != 1 {
		return nil, &Error{Rule: "json", Message: "is not one JSON value"}
	}
	p.fix(value[p.done:])
	p.outline = append(p.outline, value[p.done:]...)
	slices.Sort(p.tasks)
	slices.Sort(p.secrets)
	return &Template{pieces: p.pieces, outline: p.outline, open: p.open, tasks: slices.Compact(p.tasks),
		secrets: slices.Compact(p.secrets), fixed: !p.changes}, nil
}

// path returns the place of the value that was read last.
func path(d *jsontext.Decoder) string {
	var b strings.Builder
	level := 0
	for token := range d.StackPointer().Tokens() {
		level++
		if kind, _ := d.StackIndex(level); kind == '[' {
			b.WriteString("[" + token + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(clip(token, 60))
	}
	return b.String()
}

type templateParser struct {
	raw            []byte
	scope          Scope
	done           int // how much of raw is in pieces and in outline
	count          int
	changes        bool // a text is not what it is rendered to
	pieces         []piece
	outline        []byte
	open           []string
	tasks, secrets []string
}

// fix adds fixed JSON.
func (p *templateParser) fix(raw []byte) {
	if last := len(p.pieces) - 1; last >= 0 && p.pieces[last].expr == nil {
		p.pieces[last].fixed = append(p.pieces[last].fixed, raw...)
	} else if len(raw) > 0 {
		p.pieces = append(p.pieces, piece{fixed: bytes.Clone(raw)})
	}
}

// text looks for expressions in a text, which is at raw[start:end] with its quotes, and was just read.
func (p *templateParser) text(d *jsontext.Decoder, start, end int) error {
	inner := p.raw[start+1 : end-1]
	if !bytes.ContainsRune(inner, '$') && !bytes.Contains(inner, []byte(`\u0024`)) {
		return nil
	}
	where := path(d)
	parts, err := p.parts(inner, where)
	switch {
	case err != nil:
		return err
	case parts == nil:
		return nil
	}
	p.fix(p.raw[p.done:start])
	p.outline = append(p.outline, p.raw[p.done:start]...)
	p.done, p.changes = end, true
	if len(parts) == 1 && parts[0].expr != nil {
		parts[0].whole = true
		p.pieces = append(p.pieces, parts[0])
		p.outline, p.open = append(p.outline, "null"...), append(p.open, where)
		return nil
	}
	fixed := []byte(`"`) // the whole text, when there is no expression in it
	p.fix(fixed)
	open := false
	for _, part := range parts {
		if part.expr != nil {
			p.pieces, open = append(p.pieces, part), true
			continue
		}
		p.fix(part.fixed)
		fixed = append(fixed, part.fixed...)
	}
	p.fix([]byte(`"`))
	if open {
		p.outline, p.open = append(p.outline, "null"...), append(p.open, where)
	} else {
		p.outline = append(append(p.outline, fixed...), '"')
	}
	return nil
}

// parts splits the inner of a text at its expressions; nil when it stands for itself.
func (p *templateParser) parts(inner []byte, where string) (parts []piece, err error) {
	text, offsets := unescape(inner)
	at := 0 // how much of the text is in parts
	upTo := func(i int) {
		if i > at {
			parts = append(parts, piece{fixed: inner[offsets[at]:offsets[i]]})
		}
	}
	for i := 0; i < len(text); i++ {
		switch {
		case strings.HasPrefix(text[i:], "$${"):
			upTo(i)
			parts = append(parts, piece{fixed: []byte("${")})
			i += len("$${") - 1
			at = i + 1
		case strings.HasPrefix(text[i:], "${"):
			upTo(i)
			last := closing(text, i+len("${"))
			if last < 0 {
				return nil, &Error{Path: where, Rule: "syntax", Message: "holds ${ without its }: perhaps a quote within is not closed. " +
					"The text ${ itself is written $${"}
			}
			expr, err := p.expression(text[i+len("${"):last], where)
			if err != nil {
				return nil, err
			}
			parts = append(parts, piece{expr: expr, path: where})
			i = last
			at = i + 1
		}
	}
	if parts != nil {
		upTo(len(text))
	}
	return parts, nil
}

func (p *templateParser) expression(text, where string) (*Expression, error) {
	if p.count++; p.count > MaxExpressions {
		return nil, &Error{Path: where, Rule: "max_items", Message: fmt.Sprintf("there are more than %d expressions", MaxExpressions)}
	}
	expr, err := Compile(text, p.scope)
	var refused *Error
	if errors.As(err, &refused) {
		return nil, &Error{Path: where, Rule: refused.Rule, Message: "${" + clip(text, 60) + "}: " + refused.Message}
	} else if err != nil {
		return nil, err
	}
	p.tasks = append(p.tasks, expr.tasks...)
	p.secrets = append(p.secrets, expr.secrets...)
	return expr, nil
}

// unescape returns what the inner of a JSON text means, and for each byte of it, and its end, where in the inner it comes
// from. A surrogate without its other half means U+FFFD.
func unescape(inner []byte) (string, []int) {
	text, offsets := make([]byte, 0, len(inner)), make([]int, 0, len(inner)+1)
	for i := 0; i < len(inner); {
		from := i
		if inner[i] != '\\' {
			text, offsets = append(text, inner[i]), append(offsets, i)
			i++
			continue
		}
		i += 2
		switch c := inner[from+1]; c {
		case 'b', 'f', 'n', 'r', 't':
			text = append(text, map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}[c])
		case 'u':
			r := hex(inner[i:])
			i += 4
			if utf16.IsSurrogate(r) {
				r = utf8.RuneError
				if bytes.HasPrefix(inner[i:], []byte(`\u`)) {
					if pair := utf16.DecodeRune(hex(inner[from+2:]), hex(inner[i+2:])); pair != utf8.RuneError {
						r = pair
						i += 6
					}
				}
			}
			text = utf8.AppendRune(text, r)
		default:
			text = append(text, c)
		}
		for len(offsets) < len(text) {
			offsets = append(offsets, from)
		}
	}
	return string(text), append(offsets, len(inner))
}

// hex reads four digits, which the decoder has seen to be some.
func hex(digits []byte) rune {
	n, _ := strconv.ParseUint(string(digits[:4]), 16, 32)
	return rune(n)
}

// closing returns where the } is that ends an expression which begins at a place in the text; -1 when there is none.
// Braces within CEL's texts, names in backticks and comments do not count.
func closing(text string, from int) int {
	depth := 0
	for i := from; i < len(text); i++ {
		switch c := text[i]; c {
		case '{':
			depth++
		case '}':
			if depth == 0 {
				return i
			}
			depth--
		case '\'', '"', '`':
			raw := c == '`' || i > from && (text[i-1] == 'r' || text[i-1] == 'R')
			end := quoted(text, i, raw)
			if end < 0 {
				return -1
			}
			i = end - 1
		case '/':
			if strings.HasPrefix(text[i:], "//") {
				line := strings.IndexByte(text[i:], '\n')
				if line < 0 {
					return -1
				}
				i += line
			}
		}
	}
	return -1
}

// quoted returns the end of a quoted piece of an expression, -1 when it has none.
func quoted(text string, from int, raw bool) int {
	quote := text[from : from+1]
	if triple := strings.Repeat(quote, 3); quote != "`" && strings.HasPrefix(text[from:], triple) {
		quote = triple
	}
	for i := from + len(quote); i < len(text); i++ {
		switch {
		case text[i] == '\\' && !raw:
			i++
		case strings.HasPrefix(text[i:], quote):
			return i + len(quote)
		}
	}
	return -1
}

// At returns the template with a place that its errors begin with, as in "with".
func (t *Template) At(place string) *Template {
	c := *t
	c.place = place
	return &c
}

// Reads returns the names of the tasks that it reads, sorted.
func (t *Template) Reads() []string { return t.tasks }

// Secrets returns the names of the secrets that it reads, sorted.
func (t *Template) Secrets() []string { return t.secrets }

// Place returns where the task is read for the first time, within the template.
func (t *Template) Place(task string) string {
	for _, p := range t.pieces {
		if p.expr != nil && slices.Contains(p.expr.tasks, task) {
			return p.path
		}
	}
	return ""
}

// Outline returns what is known of the value before there are values: null is in the place of each text that holds an
// expression. Open lists the places of these texts.
func (t *Template) Outline() (value json.RawMessage, open []string) { return t.outline, t.open }

// Texts returns the template with texts in the chosen places, also where a text is one whole ${…}.
func (t *Template) Texts(at func(place string) bool) *Template {
	c := *t
	c.pieces = slices.Clone(t.pieces)
	for i := range c.pieces {
		c.pieces[i].text = c.pieces[i].whole && at(c.pieces[i].path)
	}
	return &c
}

// Expressions returns how many expressions it holds.
func (t *Template) Expressions() int {
	n := 0
	for _, p := range t.pieces {
		if p.expr != nil {
			n++
		}
	}
	return n
}

// Fixed reports whether it holds neither expressions nor $${, so that it is rendered to the very value that it was made of.
func (t *Template) Fixed() bool { return t.fixed }

// Render fills in the values. The error is an *EvalError, or that of a context that has ended.
func (t *Template) Render(ctx context.Context, v *Values) (json.RawMessage, error) {
	variables := newVariables(v)
	var out []byte
	for _, p := range t.pieces {
		if p.expr == nil {
			out = append(out, p.fixed...)
			continue
		}
		place := t.placeOf(p.path)
		value, err := p.expr.value(ctx, variables, place)
		if err != nil {
			return nil, err
		}
		if p.whole && !p.text {
			out, err = appendJSON(out, value, MaxResult)
		} else {
			out, err = p.appendWithin(out, value)
		}
		if err != nil {
			return nil, p.expr.fault(place, err)
		}
		if len(out) > MaxRendered {
			return nil, p.expr.fault(place, errors.New("with all values filled in, more than 2 MiB would have been written"))
		}
	}
	return out, nil
}

// appendWithin writes a value as a text, without quotes when it stands within one.
func (p *piece) appendWithin(dst []byte, value ref.Val) ([]byte, error) {
	text, err := appendText(nil, value, MaxResult)
	if err != nil {
		return nil, err
	}
	quoted := quote(string(text))
	if !p.whole {
		quoted = quoted[1 : len(quoted)-1]
	}
	return append(dst, quoted...), nil
}

func (t *Template) placeOf(path string) string {
	switch {
	case t.place == "" || path == "":
		return t.place + path
	case path[0] == '[':
		return t.place + path
	}
	return t.place + "." + path
}
