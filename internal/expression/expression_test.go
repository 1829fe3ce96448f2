package expression

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

const everything = Event | Run | Definition | Tasks | Item | Secrets | Response

func sample() *Values {
	return &Values{
		Event: json.RawMessage(`{"event_id":"e-1","type":"order.paid","payload":{"id":9007199254740993,"one":1.0,"half":0.5,
			"list":[1,2.5,null],"object":{"z":1,"a":[true]},"text":"x\u0000<>&\ud83d\ude00\\","huge":18446744073709551616,"endless":1e400,"a b":7}}`),
		Run:        json.RawMessage(`{"id":"r-1","trigger":"event"}`),
		Definition: json.RawMessage(`{"name":"d","labels":{"team":"growth"}}`),
		Tasks: map[string]json.RawMessage{
			"a":    TaskValue("succeeded", "", []byte(`{"x":1}`), false),
			"b-c":  TaskValue("skipped", "", nil, false),
			"cut":  TaskValue("succeeded", "", []byte(`"begin`), true),
			"fail": TaskValue("failed", "broken \"pipe\"", nil, false),
		},
		Secret: func(name string) (string, bool) { return "s3cret", name == "TOKEN" },
	}
}

func TestEval(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{ // the value as JSON, or the error after "error: "
		{`event.payload.id`, `9007199254740993`},
		{`event.payload.id + 0`, `9007199254740993`},
		{`event.payload.one`, `1`},
		{`event.payload.half`, `0.5`},
		{`event.payload.list`, `[1,2.5,null]`},
		{`event.payload.object`, `{"a":[true],"z":1}`},
		{`event.payload.text`, `"x\u0000<>&😀\\"`},
		{`event.payload["a b"]`, `7`},
		{`event.payload.huge`, `18446744073709552000`},
		{`event.payload.endless`, `error: ${event.payload.endless}: the number +Inf cannot be written as JSON`},
		{`[0.0 / 0.0]`, `error: ${[0.0 / 0.0]}: the number NaN cannot be written as JSON`},
		{`null`, `null`}, {`1e21`, `1e+21`}, {`3.0`, `3`}, {`-0.5`, `-0.5`}, {`18446744073709551615u`, `18446744073709551615`},
		{`"a" + "b"`, `"ab"`}, {`b"abc"`, `"YWJj"`},
		{`duration("1h")`, `"3600s"`}, {`duration("1.5s")`, `"1.5s"`}, {`duration("-1.000000001s")`, `"-1.000000001s"`},
		{`timestamp("2026-01-01T00:00:00.5+01:00")`, `"2025-12-31T23:00:00.5Z"`},
		{`{1: 2, true: 3}`, `{"1":2,"true":3}`},
		{`{1: 2, "1": 3}`, `error: ${{1: 2, "1": 3}}: an object would have the member "1" twice`},
		{`event.payload.?id`, `9007199254740993`},
		{`[optional.of(1)]`, `[1]`},
		{`event.payload.?nope`, `error: ${event.payload.?nope}: has no value: orValue(…) says what to take instead`},
		{`dyn(type(1))`, `error: ${dyn(type(1))}: is of type type, which JSON does not have: string(…) makes a text of it`},
		{`event.payload.nope`, `error: ${event.payload.nope}: no such key: nope`},
		{`event.payload.id > "x"`, `error: ${event.payload.id > "x"}: no such overload (a value is of another type than the expression expects)`},
		{`run.trigger == "event" ? event.event_id : run.input.id`, `"e-1"`},
		{`run.nope`, `error: ${run.nope}: no such key: nope`},
		{`definition.labels.team`, `"growth"`},
		{`item.sku`, `error: ${item.sku}: there is no item: this is not one of a for_each`},
		{`[1, 2].map(item, item * 2)`, `[2,4]`},
		{`[1].map(item, .item)`, `error: ${[1].map(item, .item)}: there is no item: this is not one of a for_each`},
		{`response.status`, `error: ${response.status}: there is no response`},
		{`tasks.a.output.x`, `1`}, {`tasks.a.status`, `"succeeded"`}, {`tasks["b-c"].status`, `"skipped"`}, {"tasks.`b-c`.error", `""`},
		{`tasks.fail.error`, `"broken \"pipe\""`},
		{`tasks["b-c"].output`, `error: ${tasks["b-c"].output}: no such key: output (task b-c is skipped, and has none)`},
		{`tasks.cut.output`, `error: ${tasks.cut.output}: no such key: output (the output of task cut was too large to be kept, and was cut)`},
		{`tasks.later.status`, `error: ${tasks.later.status}: no such key: later (task later was not begun)`},
		{`has(tasks.later)`, `false`}, {`has(tasks.a.output.y)`, `false`},
		{`tasks.?later.?status.orValue("none")`, `"none"`},
		{`secrets.TOKEN`, `"s3cret"`},
		{`secrets.OTHER`, `error: ${secrets.OTHER}: there is no secret OTHER`},
		{`[event.payload.text]` + strings.Repeat(`.map(x, [x, x])`, 40), `error: too large`},
	} {
		e, err := Compile(c.text, everything)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		got, err := e.Eval(t.Context(), sample())
		text := string(got)
		if err != nil {
			var fault *EvalError
			if text = "error: " + err.Error(); !errors.As(err, &fault) {
				t.Errorf("%s: %T", c.text, err)
			}
			if strings.HasSuffix(err.Error(), errTooLarge.Error()) {
				text = "error: too large"
			}
		} else if !json.Valid(got) {
			t.Errorf("%s: %s is not JSON", c.text, got)
		}
		if text != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.text, text, c.want)
		}
	}
}

// TestAbsent: what is nil is absent, and the error says so.
func TestAbsent(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`event.payload.id`: "there is no event: this run was not made due by one",
		`has(event.x)`:     "there is no event: this run was not made due by one",
		`run.id`:           "there is no run here",
		`secrets.TOKEN`:    "there is no secret TOKEN",
		`tasks.a.output`:   "no such key: a (task a was not begun)",
	} {
		e, err := Compile(text, everything)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []*Values{nil, {}} {
			if _, err := e.At("if").Eval(t.Context(), v); err == nil || err.Error() != "if: ${"+text+"}: "+want {
				t.Errorf("%s: %v, want %s", text, err, want)
			}
		}
	}
	e, err := Compile(`event.a`, Event)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Eval(t.Context(), &Values{Event: json.RawMessage(`{"a":`)}); err == nil || !strings.Contains(err.Error(), "decode event: ") {
		t.Errorf("broken JSON: %v", err)
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text    string
		scope   Scope
		rule    string
		message string // the beginning
	}{
		{``, everything, "syntax", "must not be empty: it is an expression, as in event.payload.id"},
		{`event.a = 1`, everything, "syntax", "line 1, column 9: "},
		{strings.Repeat("x", MaxText+1), everything, "max_length", "has 4097 bytes; at most 4096 are allowed"},
		{`nope`, everything, "type", "line 1, column 1: nope is not known here: an expression's values begin with event, run, definition, tasks, " +
			"item, secrets or response, as in event.payload.id, texts stand in quotes, and the functions are those of docs/expressions.md"},
		{`type(1)`, everything, "type", "is of type type(int), which JSON does not have: string(…) makes a text of it"},
		{`ip("1.2.3.4")`, everything, "type", "is of type net.IP, which JSON does not have"},
		{`event.a.exists(x, event.b.exists(y, x == y))`, everything, "cost", "could take too long for a large event"},
		{`[[1].map(x, x)] == [[1].map(x, x)]`, everything, "cost", "could take too long: == must not compare two lists that the expression makes itself"},
		{`tasks`, everything, "scope", "tasks cannot be read as a whole: name a task, as in tasks.a.output"},
		{`size(tasks)`, everything, "scope", "tasks cannot be read as a whole"},
		{`tasks.exists(t, t == "a")`, everything, "scope", "tasks cannot be read as a whole"},
		{`tasks[event.name].output`, everything, "scope", `tasks[…] must name the task as a constant, as in tasks["a"]`},
		{`tasks[1]`, everything, "scope", `tasks[…] must name the task as a constant`},
		{`[tasks, 1]`, everything, "scope", "tasks cannot be read as a whole"},
		{`{"a": secrets}`, everything, "scope", "secrets cannot be read as a whole: name one, as in secrets.TOKEN"},
		{`secrets[run.id]`, everything, "scope", "secrets[…] must name the secret as a constant, as in secrets.TOKEN"},
		{`secrets.token`, everything, "scope", `"token" is not the name of a secret: it must be 1 to 63 characters of A-Z, 0-9 and _`},
		{`secrets.TOKEN`, everything &^ Secrets, "scope", "secrets may be read in the with of http and publish tasks only, and not in their output"},
		{`item`, everything &^ Item, "scope", "item exists in the with of a task with for_each only"},
		{`[1].map(item, item + .item)`, everything &^ Item, "scope", "item exists in the with of a task with for_each only"},
		{`[item].map(item, item)`, everything &^ Item, "scope", "item exists in the with of a task with for_each only"},
		{`response.body`, everything &^ Response, "scope", "response may be read in the output of http tasks only"},
		{`tasks.a.status`, Event, "scope", "tasks may be read by other tasks only"},
		{`event.a`, Run, "scope", "event may be read in tasks and in the concurrency key only"},
		{`tasks.sync-crm.output`, everything, "type", "line 1, column 12: crm is not known here"},
	} {
		_, err := Compile(c.text, c.scope)
		var refused *Error
		if !errors.As(err, &refused) {
			t.Errorf("%.100s: %v, want an *Error", c.text, err)
		} else if refused.Rule != c.rule || !strings.HasPrefix(refused.Message, c.message) {
			t.Errorf("%.100s:\n got %s: %s\nwant %s: %s", c.text, refused.Rule, refused.Message, c.rule, c.message)
		}
	}
	if _, err := Compile(`tasks.sync-crm.output`, Tasks); !strings.HasSuffix(err.Error(), `; a task whose name is no plain word is written tasks["sync-crm"]`) {
		t.Errorf("a name with a dash: %v", err)
	}
	if _, err := Compile(`[1].map(item, item) + [2].map(tasks, tasks)`, 0); err != nil {
		t.Errorf("variables of macros may have any name: %v", err)
	}
}

func TestKinds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		compile       func(string, Scope) (*Expression, error)
		text, refusal string
	}{
		{CompileBool, `run.trigger == "event"`, ``}, {CompileBool, `run.flag`, ``},
		{CompileBool, `size(event.payload)`, `must be true or false, but is of type int: compare it with something, as in event.payload.id == 7`},
		{CompileBool, `run.?flag`, `must be true or false, but is of type optional_type(dyn)`},
		{CompileList, `event.payload.list`, ``}, {CompileList, `[1]`, ``},
		{CompileList, `{"a": 1}`, `must be a list, but is of type map(string, int): as event.payload.items may be`},
		{CompileText, `event.payload.id`, ``}, {CompileText, `"a" + "b"`, ``}, {CompileText, `1`, ``},
		{CompileText, `null`, `must be a text, a number, or true or false, but is of type null`},
		{CompileText, `[1]`, `must be a text, a number, or true or false, but is of type list(int): choose a member`},
	} {
		_, err := c.compile(c.text, everything)
		if (err == nil) != (c.refusal == "") || err != nil && !strings.HasPrefix(err.Error(), c.refusal) {
			t.Errorf("%s: %v, want %s", c.text, err, c.refusal)
		}
	}
}

func TestBoolListText(t *testing.T) {
	t.Parallel()
	compile := func(text string) *Expression {
		e, err := Compile(text, everything)
		if err != nil {
			t.Fatal(err)
		}
		return e.At("here")
	}
	fault := func(value string, err error) string {
		if err != nil {
			return err.Error()
		}
		return value
	}
	for text, want := range map[string]string{
		`1 < 2`:                 "true",
		`event.type == "x"`:     "false",
		`event.payload.id`:      "here: ${event.payload.id}: must be true or false, but is a number",
		`event.payload.nope`:    "here: ${event.payload.nope}: no such key: nope",
		`event.payload.?object`: "here: ${event.payload.?object}: must be true or false, but is an object",
	} {
		b, err := compile(text).Bool(t.Context(), sample())
		value := "false"
		if b {
			value = "true"
		}
		if got := fault(value, err); got != want {
			t.Errorf("%s as a condition: %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]string{
		`event.payload.list`:                   `1 2.5 null`,
		`[]`:                                   ``,
		`["a", {"b": 1}]`:                      `"a" {"b":1}`,
		`[1, 2, 3, 4, 5]`:                      "here: ${[1, 2, 3, 4, 5]}: has 5 items; at most 4 are allowed",
		`event.payload.object`:                 "here: ${event.payload.object}: must be a list, but is an object",
		`event.type`:                           "here: ${event.type}: must be a list, but is a text",
		`[1, event.payload.endless]`:           "here[1]: ${[1, event.payload.endless]}: the number +Inf cannot be written as JSON",
		`[run, run].map(r, [r]).map(r, r)[0]`:  `{"id":"r-1","trigger":"event"}`,
		`event.payload.list.map(x, {"n": x})`:  `{"n":1} {"n":2.5} {"n":null}`,
		`event.payload.list.filter(x, x == 1)`: `1`,
	} {
		items, err := compile(text).List(t.Context(), sample(), 4)
		texts := make([]string, len(items))
		for i, item := range items {
			texts[i] = string(item)
		}
		if got := fault(strings.Join(texts, " "), err); got != want {
			t.Errorf("%s as a list: %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]string{
		`event.payload.text`:   "x\x00<>&😀\\",
		`event.payload.id`:     "9007199254740993",
		`true`:                 "true",
		`duration("90s")`:      "90s",
		`dyn(null)`:            "here: ${dyn(null)}: is null, which cannot stand in a text",
		`event.payload.list`:   "here: ${event.payload.list}: must be a text, a number, or true or false, but is a list",
		`event.payload.object`: "here: ${event.payload.object}: must be a text, a number, or true or false, but is an object",
	} {
		value, err := compile(text).Text(t.Context(), sample())
		if got := fault(value, err); got != want {
			t.Errorf("%s as a text: %q, want %q", text, got, want)
		}
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	e, err := Compile("tasks.c.output.filter(x, x == 1) + [tasks[\"b-c\"].status, tasks.?a.status.orValue(\"\")] + [has(tasks.`d`.output), tasks[?\"e\"].hasValue(), tasks.a.error]", everything)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b-c", "c", "d", "e"}; !slices.Equal(e.Reads(), want) {
		t.Errorf("reads %v, want %v", e.Reads(), want)
	}
}

// TestLimits: what would take long or be large ends with an error.
func TestLimits(t *testing.T) {
	t.Parallel()
	large := &Values{Event: json.RawMessage(`{"s":"` + strings.Repeat("a", 900_000) + `","l":[` + strings.Repeat("1,", 400_000) + `1]}`)}
	for text, want := range map[string]string{
		`event.s + event.s`: errTooLarge.Error(),
		`event.l.exists(x, x == 2 || x == 3 || x == 4 || x == 5)`: "the evaluation costs more than is allowed",
		`[event.s, event.s]`: errTooLarge.Error(),
	} {
		e, err := Compile(text, Event)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Eval(t.Context(), large); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	e, err := Compile(`event.l.exists(x, x == 2)`, Event)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Eval(ended, large); !errors.Is(err, context.Canceled) {
		t.Errorf("in a context that has ended: %v", err)
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, text := range []string{`event.payload.id`, `event.payload.amount > 100 && tasks.a.output.state == "open"`,
		`event.payload.items.filter(i, i.count > 1).map(i, i.sku)`} {
		b.Run(text, func(b *testing.B) {
			for b.Loop() {
				if _, err := Compile(text, everything); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
