package expression

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/go-json-experiment/json/jsontext"
)

var errTooLarge = errors.New("the value is too large: at most 1 MiB of JSON is allowed")

// appendJSON writes a value as JSON, at most a number of bytes of it. Ints stay ints, the members of objects are sorted,
// a text stands for what JSON has no type for.
func appendJSON(dst []byte, value ref.Val, most int) ([]byte, error) {
	w := writer{dst: dst, most: len(dst) + most}
	if err := w.value(value); err != nil {
		return nil, err
	}
	return w.dst, nil
}

// writer writes values. Its limit also ends what is small in memory and endless to write, as lists that hold one list
// many times.
type writer struct {
	dst  []byte
	most int
}

func (w *writer) value(value ref.Val) error {
	switch v := value.(type) {
	case types.Null:
		w.dst = append(w.dst, "null"...)
	case types.Bool:
		w.dst = strconv.AppendBool(w.dst, bool(v))
	case types.Int:
		w.dst = strconv.AppendInt(w.dst, int64(v), 10)
	case types.Uint:
		w.dst = strconv.AppendUint(w.dst, uint64(v), 10)
	case types.Double:
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("the number %v cannot be written as JSON", float64(v))
		}
		w.dst = append(w.dst, jsontext.Float(float64(v)).String()...)
	case *types.Optional:
		inner, err := unwrapped(v)
		if err != nil {
			return err
		}
		return w.value(inner)
	case traits.Lister:
		return w.list(v)
	case traits.Mapper:
		return w.object(v)
	default:
		text, err := plainText(value)
		if err != nil {
			return err
		}
		return w.text(text)
	}
	return w.check()
}

func (w *writer) text(text string) (err error) {
	if len(w.dst)+len(text) > w.most {
		return errTooLarge
	}
	if !utf8.ValidString(text) {
		return errors.New("a text in the value is not UTF-8")
	}
	if w.dst, err = jsontext.AppendQuote(w.dst, text); err != nil {
		return fmt.Errorf("write a text as JSON: %w", err)
	}
	return w.check()
}

func (w *writer) check() error {
	if len(w.dst) > w.most {
		return errTooLarge
	}
	return nil
}

func (w *writer) list(list traits.Lister) error {
	w.dst = append(w.dst, '[')
	separator := ""
	for it := list.Iterator(); it.HasNext() == types.True; separator = "," {
		w.dst = append(w.dst, separator...)
		if err := w.value(it.Next()); err != nil {
			return err
		}
	}
	w.dst = append(w.dst, ']')
	return w.check()
}

// object writes the members in the order of their names. A key that is a number or a bool is written as a text.
func (w *writer) object(object traits.Mapper) error {
	type member struct {
		name string
		key  ref.Val
	}
	var members []member
	for it := object.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, ok := key.ConvertToType(types.StringType).(types.String)
		if !ok {
			return fmt.Errorf("an object's key is %s, which JSON does not allow", kind(key))
		}
		members = append(members, member{string(name), key})
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	w.dst = append(w.dst, '{')
	for i, m := range members {
		if i > 0 {
			if m.name == members[i-1].name {
				return fmt.Errorf("an object would have the member %q twice", clip(m.name, 60))
			}
			w.dst = append(w.dst, ',')
		}
		if err := w.text(m.name); err != nil {
			return err
		}
		w.dst = append(w.dst, ':')
		if err := w.value(object.Get(m.key)); err != nil {
			return err
		}
	}
	w.dst = append(w.dst, '}')
	return w.check()
}

// appendText writes a value as it stands within a text: a text as it is, everything else as JSON. Null cannot stand there.
func appendText(dst []byte, value ref.Val, most int) ([]byte, error) {
	switch value.(type) {
	case types.Null:
		return nil, errors.New("is null, which cannot stand in a text")
	case types.Bool, types.Int, types.Uint, types.Double, traits.Lister, traits.Mapper:
		return appendJSON(dst, value, most)
	}
	text, err := plainText(value)
	switch {
	case err != nil:
		return nil, err
	case len(text) > most:
		return nil, errTooLarge
	case !utf8.ValidString(text):
		return nil, errors.New("the text is not UTF-8")
	}
	return append(dst, text...), nil
}

// plainText returns the text of a value that JSON writes as a text.
func plainText(value ref.Val) (string, error) {
	switch v := value.(type) {
	case types.String:
		return string(v), nil
	case types.Bytes:
		return base64.StdEncoding.EncodeToString(v), nil
	case types.Timestamp:
		return v.UTC().Format(time.RFC3339Nano), nil
	case types.Duration:
		return seconds(v.Duration), nil
	case ref.Val:
		return "", fmt.Errorf("is %s, which JSON does not have: string(…) makes a text of it", kind(value))
	}
	return "", errors.New("has no value")
}

// seconds writes a duration as CEL's string(…) does, exactly.
func seconds(d time.Duration) string {
	whole, rest := d/time.Second, d%time.Second
	if rest == 0 {
		return strconv.FormatInt(int64(whole), 10) + "s"
	}
	sign := ""
	if d < 0 {
		sign, whole, rest = "-", -whole, -rest
	}
	return sign + strings.TrimRight(fmt.Sprintf("%d.%09d", whole, rest), "0") + "s"
}

// unwrapped returns what an optional value holds.
func unwrapped(value ref.Val) (ref.Val, error) {
	for {
		optional, ok := value.(*types.Optional)
		if !ok {
			return value, nil
		}
		if !optional.HasValue() {
			return nil, errors.New("has no value: orValue(…) says what to take instead")
		}
		value = optional.GetValue()
	}
}

// kind names what a value is.
func kind(value ref.Val) string {
	switch value.(type) {
	case types.Null:
		return "null"
	case types.Bool:
		return "true or false"
	case types.Int, types.Uint, types.Double:
		return "a number"
	case types.String:
		return "a text"
	case traits.Lister:
		return "a list"
	case traits.Mapper:
		return "an object"
	}
	return "of type " + value.Type().TypeName()
}
