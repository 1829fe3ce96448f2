package condition

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"github.com/go-json-experiment/json/jsontext"
)

// Event is an event as conditions see it: a JSON object, decoded when a condition is evaluated for the first time. It is
// made with NewEvent and is not safe for concurrent use.
//
// A JSON number whose value is whole is an int, or a uint where only that holds it, however it is written: 1, 1.0 and
// 10e-1 are the int 1. Any other number is the nearest double, and one that is too large for it is infinite.
type Event struct {
	raw     []byte
	decoded bool
	value   any
	err     error
}

// NewEvent returns the event of an envelope, which must stay as it is while the event is in use. Its objects are known to
// have each name once.
func NewEvent(raw []byte) *Event { return &Event{raw: raw} }

// ResolveName and Parent make the event the variables of an evaluation.
func (e *Event) ResolveName(name string) (any, bool) { return e.value, name == "event" }

// Parent returns nil: there are no other variables.
func (e *Event) Parent() cel.Activation { return nil }

func (e *Event) decode() error {
	if e.decoded {
		return e.err
	}
	e.decoded = true
	if e.value, e.err = Decode(e.raw); e.err != nil {
		e.err = fmt.Errorf("decode the event: %w", e.err)
	}
	return e.err
}

// Decode returns a JSON value as expressions see it: a map[string]any, a []any, or a value of CEL's. Its objects are
// known to have each name once.
func Decode(raw []byte) (any, error) {
	return decode(jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true)))
}

// decode reads the next value. Its recursion is bounded by the depth of an event.
func decode(d *jsontext.Decoder) (any, error) {
	switch d.PeekKind() {
	case '{':
		if _, err := d.ReadToken(); err != nil {
			return nil, err
		}
		object := map[string]any{}
		for d.PeekKind() == '"' {
			name, err := d.ReadToken()
			if err != nil {
				return nil, err
			}
			text := name.String() // before the next read
			if object[text], err = decode(d); err != nil {
				return nil, err
			}
		}
		_, err := d.ReadToken()
		return object, err
	case '[':
		if _, err := d.ReadToken(); err != nil {
			return nil, err
		}
		list := []any{}
		for kind := d.PeekKind(); kind != ']' && kind != 0; kind = d.PeekKind() {
			element, err := decode(d)
			if err != nil {
				return nil, err
			}
			list = append(list, element)
		}
		_, err := d.ReadToken()
		return list, err
	}
	value, err := d.ReadValue()
	if err != nil {
		return nil, err
	}
	return scalar(value)
}

// scalar returns what a JSON literal, string or number is in CEL.
func scalar(value []byte) (ref.Val, error) {
	switch value[0] {
	case 'n':
		return types.NullValue, nil
	case 't', 'f':
		return types.Bool(value[0] == 't'), nil
	case '"':
		if bytes.IndexByte(value, '\\') < 0 {
			return types.String(value[1 : len(value)-1]), nil
		}
		text, err := jsontext.AppendUnquote([]byte(nil), value)
		return types.String(text), err
	}
	return number(value), nil
}

// number returns the value of a valid JSON number.
func number(text []byte) ref.Val {
	if whole := wholeDigits(text); whole != "" {
		if n, err := strconv.ParseInt(whole, 10, 64); err == nil {
			return types.Int(n)
		}
		if n, err := strconv.ParseUint(whole, 10, 64); err == nil {
			return types.Uint(n)
		}
	}
	return types.Double(Float(text))
}

// Float returns the double that is nearest to a valid JSON number, infinite where there is none.
func Float(text []byte) float64 {
	f, _ := strconv.ParseFloat(string(text), 64) // the only fault of valid text is its range
	if f == 0 {
		return 0 // -0 and 0 are one number
	}
	return f
}

// maxDigits is how many digits a whole number may have that an int64 or uint64 holds.
const maxDigits = 20

// wholeDigits writes a valid JSON number without point and exponent; "" when it is not whole, or has more than maxDigits.
func wholeDigits(text []byte) string {
	if !bytes.ContainsAny(text, ".eE") {
		return string(text)
	}
	sign, text := "", text
	if text[0] == '-' {
		sign, text = "-", text[1:]
	}
	mantissa, exponent := text, []byte("0")
	if i := bytes.IndexAny(text, "eE"); i >= 0 {
		mantissa, exponent = text[:i], text[i+1:]
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	digits := bytes.Join([][]byte{whole, fraction}, nil)
	significant := bytes.TrimRight(digits, "0")
	if len(significant) == 0 {
		return "0"
	}
	// An exponent that is too long to be read is larger than the text's length could make up for.
	e, err := strconv.Atoi(string(exponent))
	if err != nil || e > math.MaxInt32 || e < math.MinInt32 {
		return ""
	}
	// The value is significant × 10^zeros.
	zeros := e - len(fraction) + len(digits) - len(significant)
	significant = bytes.TrimLeft(significant, "0")
	if zeros < 0 || len(significant)+zeros > maxDigits {
		return ""
	}
	return sign + string(significant) + string(bytes.Repeat([]byte("0"), zeros))
}
