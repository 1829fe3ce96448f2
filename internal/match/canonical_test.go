package match

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestCanonical(t *testing.T) {
	t.Parallel()
	same := func(values ...string) []string { return values }
	// Values of one line are equal; values of different lines are not.
	classes := [][]string{
		same("1", "1.0", "1e0", "10e-1", "0.1e1", "1E+0", "1.000", "0.0001e4", " 1 ", "1e-0"),
		same("-1", "-1.0", "-10e-1"),
		same("0", "-0", "0.0", "0e7", "-0.00e-7", "0e99999999999999999999999"),
		same("100", "1e2", "1.0e2", "100.00"),
		same("120.5", "1205e-1", "0.1205e3", "120.50"),
		same("9007199254740992"),
		same("9007199254740993", "9007199254740993.0", "9.007199254740993e15"),
		same("0.1"), same("0.10000000000000000001"),
		same("1e400000", "10e399999", "0.1e400001"),
		same("1e-400000"),
		same("1e9223372036854775807", "10e9223372036854775806", "0.001e9223372036854775810"),
		same("1e9223372036854775808"),
		same("1e-9223372036854775808", "10e-9223372036854775809"),
		same("1e99999999999999999999", "10e99999999999999999998", "0.1e100000000000000000000", "1e+00099999999999999999999"),
		same("1e100000000000000000000", "10e99999999999999999999"),
		same("1e-100000000000000000000", "0.1e-99999999999999999999", "10e-100000000000000000001"),
		same("1e1"+strings.Repeat("0", 2000), "10e"+strings.Repeat("9", 2000)),
		same(`"1"`, `"\u0031"`), same(`"1.0"`), same(`""`), same(`" "`),
		same(`"a/b"`, `"a\/b"`, `"\u0061/b"`),
		same("\"\u00e9\"", `"\u00e9"`), same("\"e\u0301\"", `"e\u0301"`),
		same(`"😀"`, `"\ud83d\ude00"`),
		same(`"\u0000"`), same(`"\n"`, `"\u000a"`), same(`"\""`, `"\u0022"`), same(`"\\"`, `"\u005c"`),
		same("true"), same("false"), same("null"), same(`"null"`),
		same("[]", " [ ] "), same("{}", "{ }"), same("[[]]"), same("[{}]"), same("[null]"),
		same("[1,2]", "[1.0, 2e0]"), same("[2,1]"), same("[12]"), same(`["1,2"]`), same("[1,[2]]"),
		same(`{"a":1,"b":[true]}`, `{"b":[true],"a":1.0}`, `{"\u0062":[true],"a":1}`), same(`{"a":1}`), same(`{"a":null}`),
		same(`{"a":{"c":1,"b":2}}`, `{"a":{"b":2,"c":1}}`), same(`{"a:1,b":2}`), same(`{"a":"1,b:2"}`), same(`{"A":1}`),
	}
	seen := map[string]int{}
	for i, class := range classes {
		var first string
		for j, value := range class {
			form, err := Canonical(nil, []byte(value))
			if err != nil {
				t.Errorf("%.60s: %v", value, err)
				continue
			}
			if j == 0 {
				first = string(form)
				if other, taken := seen[first]; taken {
					t.Errorf("%.60s has the form of %.60s", value, classes[other][0])
				}
				seen[first] = i
			} else if string(form) != first {
				t.Errorf("%.60s has the form %.60s, but %.60s has %.60s", value, form, class[0], first)
			}
		}
	}
}

func TestCanonicalRefuses(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", " ", "nul", "01", "1.", "+1", "'a'", `"`, "\"\xff\"", `"\ud800"`, "[1", "[1,]", "[1]]", "{}{}", "{} 1", `{"a":1,"a":1}`,
		`{"a":1,"\u0061":1}`, `{1:2}`, "NaN", "1 2", `[{"a":{"b":1,"b":2}}]`} {
		if form, err := Canonical(nil, []byte(value)); err == nil {
			t.Errorf("%q has the form %q, want an error", value, form)
		}
	}
}

// FuzzCanonical: the form of a form is itself, valid JSON stays valid JSON, and equality is that of exact arithmetic.
func FuzzCanonical(f *testing.F) {
	for _, seed := range [][2]string{{`1`, `1.0`}, {`{"a":[1e3,"\u0061"]}`, `{"a":[1000,"a"]}`}, {`9007199254740993`, `9007199254740992`},
		{`-0`, `0`}, {`1e20`, `100000000000000000000`}, {`{"b":1,"a":2}`, `{"a":2,"b":1}`}} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		formA, errA := Canonical(nil, a)
		if valid := jsontext.Value(a).IsValid(); valid != (errA == nil) {
			t.Fatalf("%q: valid %v, but error %v", a, valid, errA)
		}
		if errA != nil {
			return
		}
		if again, err := Canonical(nil, formA); err != nil || !bytes.Equal(again, formA) {
			t.Fatalf("the form %q of %q has the form %q (%v)", formA, a, again, err)
		}
		formB, errB := Canonical(nil, b)
		if errB != nil || len(a) > 1000 || len(b) > 1000 {
			return
		}
		if want, known := equal(decode(t, a), decode(t, b)); known && want != bytes.Equal(formA, formB) {
			t.Fatalf("%q and %q: equal %v, but forms %q and %q", a, b, want, formA, formB)
		}
	})
}

func decode(t *testing.T, data []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	return v
}

// equal is JSON equality by the standard library's types and rational arithmetic; known is false for numbers that would
// take too long.
func equal(a, b any) (same, known bool) {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		if !ok {
			return false, true
		}
		return equalNumbers(a.String(), b.String())
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false, true
		}
		for i := range a {
			if same, known := equal(a[i], b[i]); !same || !known {
				return same, known
			}
		}
		return true, true
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false, true
		}
		for name := range a {
			other, ok := b[name]
			if !ok {
				return false, true
			}
			if same, known := equal(a[name], other); !same || !known {
				return same, known
			}
		}
		return true, true
	}
	// What is left is comparable in a; b may not be.
	switch b.(type) {
	case []any, map[string]any:
		return false, true
	}
	return a == b, true
}

func equalNumbers(a, b string) (same, known bool) {
	for _, text := range []string{a, b} {
		if i := strings.IndexAny(text, "eE"); i >= 0 && len(strings.TrimLeft(text[i+1:], "+-0")) > 3 {
			return false, false
		}
	}
	x, okX := new(big.Rat).SetString(a)
	y, okY := new(big.Rat).SetString(b)
	return okX && okY && x.Cmp(y) == 0, okX && okY
}
