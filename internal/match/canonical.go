package match

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Canonical appends to dst the canonical form of one valid JSON value. Two values have the same form exactly when they
// are equal as JSON: strings by their characters whatever the escapes, numbers by their exact decimal value (1, 1.0 and
// 10e-1 are equal; 2^53 and 2^53+1 are not; no number equals a string), objects whatever the order of their members,
// lists element by element. Text that is not one valid JSON value, or that has a name twice in one object, is an error.
func Canonical(dst, value []byte) ([]byte, error) {
	value = bytes.Trim(value, " \t\r\n")
	if len(value) == 0 {
		return dst, errors.New("canonical form: no value")
	}
	// The common cases need no decoder.
	if v := jsontext.Value(value); value[0] != '{' && value[0] != '[' {
		if !v.IsValid() {
			return dst, fmt.Errorf("canonical form: %.40q is not a JSON value", value)
		}
		return appendScalar(dst, value)
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(value))
	dst, err := appendNext(dst, d)
	if err == nil && d.InputOffset() != int64(len(value)) {
		err = errors.New("more than one value")
	}
	if err != nil {
		return dst, fmt.Errorf("canonical form: %w", err)
	}
	return dst, nil
}

// appendNext appends the canonical form of the decoder's next value. Its recursion is bounded by the decoder's limit on
// depth.
func appendNext(dst []byte, d *jsontext.Decoder) ([]byte, error) {
	switch d.PeekKind() {
	case '{':
		return appendObject(dst, d)
	case '[':
		if _, err := d.ReadToken(); err != nil {
			return dst, err
		}
		dst = append(dst, '[')
		for first := true; d.PeekKind() != ']'; first = false {
			if !first {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = appendNext(dst, d); err != nil {
				return dst, err
			}
		}
		_, err := d.ReadToken()
		return append(dst, ']'), err
	}
	v, err := d.ReadValue()
	if err != nil {
		return dst, err
	}
	return appendScalar(dst, v)
}

func appendObject(dst []byte, d *jsontext.Decoder) ([]byte, error) {
	if _, err := d.ReadToken(); err != nil {
		return dst, err
	}
	var members []memberForm
	for d.PeekKind() != '}' {
		quoted, err := d.ReadValue()
		if err != nil {
			return dst, err
		}
		name, err := appendScalar(nil, quoted)
		if err != nil {
			return dst, err
		}
		form, err := appendNext(nil, d)
		if err != nil {
			return dst, err
		}
		members = append(members, memberForm{name, form})
	}
	if _, err := d.ReadToken(); err != nil {
		return dst, err
	}
	return appendMembers(dst, members), nil
}

// memberForm is the canonical form of a member of an object; its name is quoted.
type memberForm struct{ name, form []byte }

// appendMembers sorts the members by their names.
func appendMembers(dst []byte, members []memberForm) []byte {
	slices.SortFunc(members, func(a, b memberForm) int { return bytes.Compare(a.name, b.name) })
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, m.name...), ':'), m.form...)
	}
	return append(dst, '}')
}

// appendScalar appends the form of a valid literal, string or number without spaces around it.
func appendScalar(dst, value []byte) ([]byte, error) {
	switch {
	case value[0] != '"' && value[0] != '-' && (value[0] < '0' || value[0] > '9'):
		return append(dst, value...), nil // true, false, null
	case value[0] != '"':
		return appendNumber(dst, value), nil
	case bytes.IndexByte(value, '\\') < 0:
		return append(dst, value...), nil
	}
	text, err := jsontext.AppendUnquote([]byte(nil), value)
	if err != nil {
		return dst, err
	}
	return jsontext.AppendQuote(dst, text)
}

// appendNumber writes a valid JSON number as its significant digits and the exponent of ten behind them: 120.50 becomes
// 1205e-1. Zero has one form. The value is exact at any size, and an exponent of any length costs no more than its text.
func appendNumber(dst, text []byte) []byte {
	negative := text[0] == '-'
	if negative {
		text = text[1:]
	}
	mantissa, exponent := text, []byte(nil)
	if i := bytes.IndexAny(text, "eE"); i >= 0 {
		mantissa, exponent = text[:i], text[i+1:]
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	fraction = bytes.TrimRight(fraction, "0")
	shift := -len(fraction)
	start := len(dst)
	if negative {
		dst = append(dst, '-')
	}
	digits := len(dst)
	if whole = bytes.TrimLeft(whole, "0"); len(whole) == 0 {
		fraction = bytes.TrimLeft(fraction, "0")
	}
	dst = append(append(dst, whole...), fraction...)
	if len(dst) == digits {
		return append(dst[:start], "0e0"...)
	}
	for dst[len(dst)-1] == '0' {
		dst = dst[:len(dst)-1]
		shift++
	}
	return appendExponent(append(dst, 'e'), exponent, shift)
}

// appendExponent appends exponent + shift. The exponent is valid text of any length, or empty; the shift is at most the
// length of a JSON text.
func appendExponent(dst, exponent []byte, shift int) []byte {
	sign := 1
	if len(exponent) > 0 && (exponent[0] == '-' || exponent[0] == '+') {
		if exponent[0] == '-' {
			sign = -1
		}
		exponent = exponent[1:]
	}
	exponent = bytes.TrimLeft(exponent, "0")
	if len(exponent) <= 18 {
		e := 0
		for _, c := range exponent {
			e = 10*e + int(c-'0')
		}
		return strconv.AppendInt(dst, int64(sign*e+shift), 10)
	}
	// Longer than any shift: the sign stays, and the shift is added digit by digit, with carry or borrow.
	digits := bytes.Clone(exponent)
	carry := sign * shift
	for i := len(digits) - 1; i >= 0 && carry != 0; i-- {
		sum := int(digits[i]-'0') + carry
		digit := ((sum % 10) + 10) % 10
		digits[i], carry = byte('0'+digit), (sum-digit)/10
	}
	if sign < 0 {
		dst = append(dst, '-')
	}
	if carry > 0 {
		return append(strconv.AppendInt(dst, int64(carry), 10), digits...)
	}
	return append(dst, bytes.TrimLeft(digits, "0")...)
}
