package match

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/activity-core/activity-core/internal/condition"
	"github.com/go-json-experiment/json/jsontext"
)

// The first bytes of keys. The key of a value is a loose form of it: equal values have the same key, and values with the
// same key are equal unless they are numbers. A number's key is its nearest double, by which CEL compares an int with a
// double; so the key is at least as loose as both kinds of equality.
const (
	textKey   = '"'
	numberKey = '#'
	listKey   = '[' // and the canonical form
	// true, false and null are their own keys, and {} that of the object without members.
)

const emptyObjectKey = "{}"

// appendKey appends the key of a valid JSON value without spaces around it. Nothing is appended for an object with members,
// which no equality names, nor for a list unless lists are wanted: their keys cost as much as the list is long.
func appendKey(dst, value []byte, lists bool) ([]byte, error) {
	switch c := value[0]; {
	case c == textKey:
		if bytes.IndexByte(value, '\\') < 0 {
			return append(dst, value[:len(value)-1]...), nil
		}
		return jsontext.AppendUnquote(append(dst, textKey), value)
	case c == '-' || '0' <= c && c <= '9':
		return appendNumberKey(dst, condition.Float(value)), nil
	case c == '[':
		if !lists {
			return dst, nil
		}
		return Canonical(dst, value)
	case c == '{':
		if !emptyObject(value) {
			return dst, nil
		}
		return append(dst, emptyObjectKey...), nil
	}
	return append(dst, value...), nil
}

func emptyObject(value []byte) bool {
	for _, c := range value[1:] {
		switch c {
		case ' ', '\t', '\r', '\n':
		default:
			return c == '}'
		}
	}
	return false
}

func appendNumberKey(dst []byte, f float64) []byte {
	if f == 0 {
		f = 0 // -0
	}
	return binary.BigEndian.AppendUint64(append(dst, numberKey), math.Float64bits(f))
}

// literalKey returns the key of a constant of a condition.
func literalKey(literal any) string {
	switch v := literal.(type) {
	case nil:
		return "null"
	case string:
		return string(textKey) + v
	case int64:
		return string(appendNumberKey(nil, float64(v)))
	case uint64:
		return string(appendNumberKey(nil, float64(v)))
	case float64:
		return string(appendNumberKey(nil, v))
	}
	return fmt.Sprint(literal) // true, false
}
