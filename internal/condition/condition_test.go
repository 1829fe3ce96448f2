package condition

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/common/types"
)

func compile(t testing.TB, text string) *Condition {
	t.Helper()
	c, err := Compile(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return c
}

func TestEval(t *testing.T) {
	t.Parallel()
	const envelope = `{"event_id":"e-1","type":"order.paid","source":"shop","extra":[1],"payload":{"n":5,"big":18446744073709551615,"half":0.5,
		"text":"Köln","null":null,"yes":true,"list":[{"sku":"a","count":2},{"sku":"b","count":1}],"tags":["x","y"],"a b":1,"ip":"10.1.2.3"}}`
	for _, c := range []struct {
		text, want string // "true", "false", or a piece of the error
	}{
		{`true`, "true"}, {`false`, "false"},
		{`event.type == "order.paid" && event.source.startsWith("sh")`, "true"},
		{`event.extra[0] == 1`, "true"},
		{`has(event.subject)`, "false"},
		{`event.payload.n > 4 && event.payload.n < 5.5`, "true"},
		{`event.payload.big == 18446744073709551615u`, "true"},
		{`event.payload.big in [18446744073709551616.0, 1, "x"] && event.payload.big in [1, event.payload.big]`, "true"},
		{`event.payload.half * 2.0 == 1.0`, "true"},
		{`event.payload.text.upperAscii() == "KöLN" && size(event.payload.text) == 4`, "true"},
		{`event.payload["null"] == null && has(event.payload.` + "`null`)", "true"},
		{`event.payload["a b"] == 1 && event.payload.` + "`a b`" + ` == 1`, "true"},
		{`event.payload.yes`, "true"},
		{`event.payload.list.exists(i, i.sku == "a" && i.count > 1)`, "true"},
		{`event.payload.list.exists(i, i.sku == "b" && i.count > 1)`, "false"},
		{`event.payload.list.map(i, i.count) == [2, 1]`, "true"},
		{`sets.intersects(event.payload.tags, ["y", "z"])`, "true"},
		{`event.payload.tags.join("-") == "x-y" && math.greatest(event.payload.n, 3) == 5`, "true"},
		{`cidr("10.0.0.0/8").containsIP(event.payload.ip)`, "true"},
		{`event.payload.?absent.orValue(7) == 7 && event.payload.?list[?5].hasValue() == false`, "true"},
		{`"a,b".split(",") == ["a", "b"] && "aXb".replace("X", "-") == "a-b"`, "true"},
		{`timestamp("2026-01-01T00:00:00Z").getHours() == 0`, "true"},
		{`event.payload.absent > 1`, "no such key: absent (the event does not have it; has(…) asks"},
		{`event.payload.text > 1`, "no such overload (a value is of another type"},
		{`event.payload.n`, "the condition's value is of type int, not true or false"},
		{`event.payload.n && true`, "no such overload"},
		{`1 / (event.payload.n - 5) > 0`, "division by zero"},
		{`event.payload.text.matches(event.payload.text + "(")`, "missing closing"},
		{`event.payload.text.matches("(a{500}){500}" + event.payload.text)`, "invalid repeat count"},
		{`event.payload.n + 9223372036854775807 > 0`, "integer overflow"},
	} {
		holds, err := compile(t, c.text).Eval(NewEvent([]byte(envelope)))
		got := fmt.Sprint(holds)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %s, want %s", c.text, got, c.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ number, want string }{
		{`1`, `int 1`}, {`1.0`, `int 1`}, {`1e0`, `int 1`}, {`10e-1`, `int 1`}, {`0.1e1`, `int 1`}, {`-1.0`, `int -1`}, {`100e-2`, `int 1`},
		{`0`, `int 0`}, {`-0`, `int 0`}, {`-0.0`, `int 0`}, {`0e999999999999999999999`, `int 0`}, {`0.000e-5`, `int 0`},
		{`1e3`, `int 1000`}, {`120.50e1`, `int 1205`}, {`1E+2`, `int 100`},
		{`9007199254740993`, `int 9007199254740993`}, {`9007199254740993.0`, `int 9007199254740993`}, {`9.007199254740993e15`, `int 9007199254740993`},
		{`9223372036854775807`, `int 9223372036854775807`}, {`-9223372036854775808`, `int -9223372036854775808`},
		{`9223372036854775808`, `uint 9223372036854775808`}, {`18446744073709551615`, `uint 18446744073709551615`},
		{`1.8446744073709551615e19`, `uint 18446744073709551615`},
		{`18446744073709551616`, `double 1.8446744073709552e+19`}, {`-9223372036854775809`, `double -9.223372036854776e+18`},
		{`1.5`, `double 1.5`}, {`0.1`, `double 0.1`}, {`1.0000000000000000001`, `double 1`}, {`0.99999999999999999999`, `double 1`},
		{`1e400`, `double +Inf`}, {`-1e400`, `double -Inf`}, {`1e-400`, `double 0`}, {`-1e-400`, `double 0`},
		{`1e99999999999999999999`, `double +Inf`}, {`1e-99999999999999999999`, `double 0`}, {`1` + strings.Repeat("0", 400), `double +Inf`},
	} {
		value, err := scalar([]byte(c.number))
		if got := fmt.Sprintf("%s %v", value.Type().TypeName(), value.Value()); err != nil || got != c.want {
			t.Errorf("%.40s is the %s (%v), want %s", c.number, got, err, c.want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, rule   string
		line, column int
		message      string
	}{
		{``, "syntax", 0, 0, `must not be empty: it is an expression, as in event.payload.tier == "pro"`},
		{" \n", "syntax", 0, 0, `must not be empty`},
		{`"` + strings.Repeat("x", MaxText) + `" == ""`, "max_length", 0, 0, "has 4104 bytes; at most 4096 are allowed"},
		{`event.payload.a = 1`, "syntax", 1, 17, "equality is written =="},
		{"event.payload.a == 1 &&\n  event.payload.b = 1", "syntax", 2, 19, "line 2, column 19: "},
		{`event.payload.a == 1 and true`, "syntax", 1, 22, "and is written &&"},
		{`event.payload.a == 1 or true`, "syntax", 1, 22, "or is written ||"},
		{`event.payload.a == 'x`, "syntax", 1, 20, "token recognition error"},
		{`tier == "pro"`, "type", 1, 1, `tier is not known here: an event's members begin with event, as in event.payload.tier == "pro"`},
		{`event.payload.tier == pro`, "type", 1, 23, "texts stand in quotes"},
		{`now() > timestamp(event.occurred_at)`, "type", 1, 4, "now is not known here"},
		{`"a" > 1`, "type", 1, 5, "found no matching overload for '>' applied to '(string, int)'; both sides must be of one type"},
		{`size(event.payload)`, "type", 0, 0, "must be true or false, but is of type int: compare it with something"},
		{`"yes"`, "type", 0, 0, "must be true or false, but is of type string"},
		{`event.payload.s.matches("(")`, "type", 0, 0, "missing closing )"},
		{`cidr("10.0.0.0/99").containsIP(event.payload.ip)`, "type", 1, 6, "prefix length out of range"},
		{strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300), "syntax", 0, 0, "is nested too deeply"},
		{`event.payload.a.exists(x, event.payload.b.exists(y, x == y))`, "cost", 0, 0, "could take too long for a large event"},
		{`event.payload.a.exists(x, x in event.payload.b)`, "cost", 0, 0, "could take too long"},
		{`[1]` + strings.Repeat(`.map(x, [x, x])`, 60) + ` == [1]` + strings.Repeat(`.map(x, [x, x])`, 60), "cost", 0, 0, "== must not compare two lists"},
		{`[1]` + strings.Repeat(`.map(x, [x, x])`, 60) + `.exists(x, [x] == [x])`, "cost", 0, 0, "== must not compare two lists"},
		{`[1].map(x, [x]) in [[1].map(x, [x])]`, "cost", 0, 0, "in must not compare two lists"},
		{`sets.contains(event.payload.a.map(x, [x]), event.payload.b.filter(x, true))`, "cost", 0, 0, "sets.contains must not compare two lists"},
		{`[1]` + strings.Repeat(`.map(x, [x, x])`, 60) + `.flatten(60) == [1]`, "cost", 0, 0, "flatten must not"},
		{`optional.of([1].map(x, [x])).optMap(y, y == y).hasValue()`, "cost", 0, 0, "== must not compare"},
		{`event.payload.a.map(x, [x]).map(y, y == y)[0]`, "cost", 0, 0, "== must not compare"},
		{`"%s".format([event]) == "x"`, "type", 0, 0, "must not use format"},
		{`event.payload.a.map(x, event.payload.a.map(y, event.payload.a)).size() > 1`, "cost", 0, 0, "could take too long"},
	} {
		_, err := Compile(c.text)
		var refused *Error
		if !errors.As(err, &refused) {
			t.Errorf("%.100s: %v, want an *Error", c.text, err)
			continue
		}
		if refused.Rule != c.rule || refused.Line != c.line || refused.Column != c.column || !strings.Contains(refused.Message, c.message) {
			t.Errorf("%.100s:\n got %+v\nwant %+v", c.text, refused, c)
		}
		if len(refused.Message) > 600 || strings.Contains(refused.Message, "\n") {
			t.Errorf("%.100s: not a short line: %q", c.text, refused.Message)
		}
	}
}

// TestAllowed is what people write and the estimate of costs must not refuse.
func TestAllowed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`event.payload.text.contains("a") && event.payload.text.matches("^a.*b$") && event.payload.other.matches("(?i)x+y")`,
		`event.payload.items.exists(i, i.name.lowerAscii().startsWith("a") && i.tags.exists(t, t in ["a", "b", "c"]))`,
		`event.payload.a.exists(a, a.b.exists(b, b.c.all(c, c.n > 1)))`,
		`event.payload.items.filter(i, i.count > 1).map(i, i.sku).exists(s, s == "x")`,
		`event.payload.items.all(i, i.sku.matches("^[a-z]{2,9}-[0-9]+$"))`,
		`sets.contains(["a", "b", "c"], event.payload.tags)`,
		`event.payload.a == event.payload.b && event.payload.l == event.payload.m`,
		`event.payload.a.map(x, x.n) == [1, 2] && event.payload.a.filter(x, x.n > 1) == event.payload.b`,
		`event.payload.first + " " + event.payload.last == event.payload.name + ""`,
		`event.payload.a.filter(x, x.n == 1).size() == event.payload.b.filter(x, x.n == 1).size()`,
		`event.payload.exists(name, name.startsWith("x-"))`,
	} {
		compile(t, text)
	}
}

// TestLimit: what is allowed by the estimate for a usual event still has a limit for the largest ones.
func TestLimit(t *testing.T) {
	t.Parallel()
	list := NewEvent([]byte(`{"payload":{"l":[` + strings.Repeat("1,", 500_000) + `1],"s":"` + strings.Repeat("a", 1_000_000) + `"}}`))
	for _, text := range []string{
		`event.payload.l.exists(x, x == 2 || x == 3 || x == 4 || x == 5)`,
		`[event.payload.s]` + strings.Repeat(`.map(x, x + x)`, 12) + `.size() == 1`,
		`[event.payload.l]` + strings.Repeat(`.map(x, x + x)`, 12) + `.size() == 1`,
		`event.payload.s.replace("", event.payload.s) == ""`,
		`event.payload.s.split("").exists(c, c == "b")`,
	} {
		c, err := Compile(text)
		if err != nil {
			continue // refused at once is as good
		}
		began := time.Now()
		_, err = c.Eval(list)
		if took := time.Since(began); err == nil || err.Error() != "the evaluation costs more than is allowed for one event" || took > 2*maxTime {
			t.Errorf("%s: %v after %v", text, err, took)
		}
	}
}

func TestEventThatCannotBeDecoded(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{``, `{`, `{"a":}`, `{"payload":{"a":[1,}}`, "{\"a\":\"\xff\"}"} {
		if holds, err := compile(t, `true`).Eval(NewEvent([]byte(raw))); err == nil || holds {
			t.Errorf("%q: %v, %v, want an error", raw, holds, err)
		}
	}
}

func TestEqualities(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, want string
		all        bool
	}{
		{`event.payload.a == 1`, `event.payload.a == 1`, true},
		{`"x" == event.payload.a`, `event.payload.a == "x"`, true},
		{`event.payload["a b"]["c"].d == 'x'`, `event.payload["a b"].c.d == "x"`, true},
		{"event.payload.`a-b` == r\"\\n\"", `event.payload["a-b"] == "\\n"`, true},
		{`event.type == "a" && event.payload.n == 1u && (event.payload.m == -1.5 && null == event.x)`,
			`event.type == "a", event.payload.n == 1u, event.payload.m == -1.5, event.x == null`, true},
		{`event.payload.a == true && event.payload.n > 1 && event.payload.b == false`, `event.payload.a == true, event.payload.b == false`, false},
		{`event.payload.a == -0.0`, `event.payload.a == -0`, true},
		{`event.payload.a == 1 || event.payload.b == 2`, ``, false},
		{`!(event.payload.a == 1)`, ``, false},
		{`event.payload.a != 1`, ``, false},
		{`event.payload.a == event.payload.b`, ``, false},
		{`event.payload.a[0] == 1`, ``, false},
		{`event.payload.?a == optional.of(1)`, ``, false},
		{`event == {}`, ``, false}, {`1 == 1`, ``, false}, {`has(event.payload.a) == true`, ``, false},
		{`event.payload.a == [1]`, ``, false}, {`event.payload.a == b"x"`, ``, false}, {`event.payload.a == 1 + 1`, ``, false},
		{`event.payload.a == (1)`, `event.payload.a == 1`, true},
		{`event.payload.l.exists(event, event.a == 1)`, ``, false},
		{`other.payload.a == 1`, ``, false},
	} {
		equalities, all, err := Equalities(c.text)
		var texts []string
		for _, q := range equalities {
			texts = append(texts, q.Text())
		}
		if got := strings.Join(texts, ", "); err != nil || got != c.want || all != c.all {
			t.Errorf("%s: %s (all: %v), %v; want %s (all: %v)", c.text, got, all, err, c.want, c.all)
		}
	}
	if _, _, err := Equalities(`event.payload.a = 1`); err == nil {
		t.Error("a text that is no condition has equalities")
	}
}

func TestConjuncts(t *testing.T) {
	t.Parallel()
	parts, err := Conjuncts(`event.a == 1 && (event.b > 2 && event.l.exists(x, x == 'y' && true)) && (event.c || event.d)`)
	want := `event.a == 1; event.b > 2; event.l.exists(x, x == "y" && true); event.c || event.d`
	if got := strings.Join(parts, "; "); err != nil || got != want {
		t.Errorf("%s (%v), want %s", got, err, want)
	}
}

// FuzzCondition: no text and no event makes CEL panic or go on for long, and a condition that is true has all its equalities.
func FuzzCondition(f *testing.F) {
	const payload = `{"payload":{"a":1,"b":"x","l":[1,{"c":null}],"n":1.5}}`
	for _, text := range []string{`event.payload.a == 1`, `event.payload.l.exists(x, x == 1)`, `event.payload.?z.orValue(1) > 0`, `"\xff" == event.b`,
		`event.payload.b.matches("(x")`, `[1].map(x, x + x).map(x, [x, x])`, `cidr("::/0").containsIP("1.2.3.4")`, `-9223372036854775808 == event.a`,
		`"%s".format([event])`, `event.payload.a == 1 && !event.payload.b`, `dyn(event)`, `type(event) == map`, `1e999 == event.payload.n`} {
		f.Add(text, []byte(payload))
	}
	f.Fuzz(func(t *testing.T, text string, raw []byte) {
		began := time.Now()
		equalities, _, parseErr := Equalities(text)
		c, err := Compile(text)
		if parseErr != nil && err == nil {
			t.Fatalf("%q compiles, but has no equalities: %v", text, parseErr)
		}
		var refused *Error
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("%q: %v", text, err)
		}
		if err == nil && len(raw) < 10_000 {
			e := NewEvent(raw)
			if holds, evalErr := c.Eval(e); holds && evalErr == nil {
				for _, q := range equalities {
					if !equalityHolds(t, q, e) {
						t.Fatalf("%q is true of %s, but %s is not", text, raw, q.Text())
					}
				}
			}
		}
		if took := time.Since(began); took > 2*maxTime {
			t.Fatalf("%q and %s took %v", text, raw, took)
		}
	})
}

func equalityHolds(t *testing.T, q Equality, e *Event) bool {
	t.Helper()
	value := e.value
	for _, name := range q.Path {
		object, ok := value.(map[string]any)
		if !ok {
			return false
		}
		if value, ok = object[name]; !ok {
			return false
		}
	}
	env, err := conditions.environment()
	if err != nil {
		t.Fatal(err)
	}
	return q.literal.Equal(env.CELTypeAdapter().NativeToValue(value)) == types.True
}
