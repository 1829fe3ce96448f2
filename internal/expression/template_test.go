package expression

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRender(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ template, want string }{ // the error after "error: "
		{`{"b": 1.50, "a":"\u00e9 \ud800 <>&", "${event.type}": null}`, `{"b": 1.50, "a":"\u00e9 \ud800 <>&", "${event.type}": null}`},
		{`"${event.payload.id}"`, `9007199254740993`},
		{`{"z":"${event.payload.list}","a":["${event.payload.object}", 1e400]}`, `{"z":[1,2.5,null],"a":[{"a":[true],"z":1}, 1e400]}`},
		{`"\u0024{event.type}"`, `"order.paid"`},
		{`"order ${event.payload.id} of ${event.type}!"`, `"order 9007199254740993 of order.paid!"`},
		{`"\ud800 \u0000 ${event.payload.text} \ud83d\ude00 \"<"`, `"\ud800 \u0000 x\u0000<>&😀\\ \ud83d\ude00 \"<"`},
		{`"é${event.type}é"`, `"éorder.paidé"`},
		{`"${1}${true}${0.5}${[1,\"a\"]}${{'k': null}}"`, `"1true0.5[1,\"a\"]{\"k\":null}"`},
		{`" ${event.payload.id}"`, `" 9007199254740993"`},
		{`"$${event.type}"`, `"${event.type}"`},
		{`["$${", "$$${event.type}", "$ {event.type}", "$", "a$", "{}", "cost: $5"]`, `["${", "$${event.type}", "$ {event.type}", "$", "a$", "{}", "cost: $5"]`},
		{`"$${a} ${event.type}"`, `"${a} order.paid"`},
		{`"${'$'}${event.payload.id}"`, `"$9007199254740993"`},
		{`"${'}'}"`, `"}"`}, {`"${\"}\"}"`, `"}"`}, {`"${r'\\'}x"`, `"\\x"`}, {`"${'\\'}'}x"`, `"'}x"`}, {`"${'''a'}'''}"`, `"a'}"`},
		{`"${\"\"\"}\"\"\"}"`, `"}"`}, {`"${R\"\"\"\\\"\"\"}"`, `"\\"`}, {`"${br'}\\'}"`, `"fVw="`},
		{"\"${{'a':{'b':1}}}\"", `{"a":{"b":1}}`},
		{"\"${1 // it's }\\n}\"", `1`},
		{"\"${{'a-b': 2}.`a-b`}\"", `2`},
		{`"a ${null}"`, `error: with: ${null}: is null, which cannot stand in a text`},
		{`"${null}"`, `null`},
		{`{"body":{"id":"${event.payload.nope}"}}`, `error: with.body.id: ${event.payload.nope}: no such key: nope`},
		{`{"args":[1,{"a":"x ${item}"}]}`, `error: with.args[1].a: ${item}: there is no item: this is not one of a for_each`},
		{`["${event.payload.nope}"]`, `error: with[0]: ${event.payload.nope}: no such key: nope`},
		{`"${event.payload.endless} x"`, `error: with: ${event.payload.endless}: the number +Inf cannot be written as JSON`},
	} {
		template, err := CompileTemplate(json.RawMessage(c.template), everything)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		rendered, err := template.At("with").Render(t.Context(), sample())
		got := string(rendered)
		if err != nil {
			var fault *EvalError
			if got = "error: " + err.Error(); !errors.As(err, &fault) {
				t.Errorf("%s: %T", c.template, err)
			}
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.template, got, c.want)
		}
	}
}

func TestCompileTemplateRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ template, path, rule, message string }{
		{`"a ${"`, "", "syntax", "holds ${ without its }: perhaps a quote within is not closed. The text ${ itself is written $${"},
		{`{"a":["${'}"]}`, "a[0]", "syntax", "holds ${ without its }"},
		{`"${1 // }"`, "", "syntax", "holds ${ without its }"},
		{`"${{}"`, "", "syntax", "holds ${ without its }"},
		{`"x${}"`, "", "syntax", "${}: must not be empty: it is an expression, as in event.payload.id"},
		{`{"body":{"items":[1,{"a b":"${event.}"}]}}`, "body.items[1].a b", "syntax", "${event.}: line 1, column "},
		{`{"1":"${secrets}"}`, "1", "scope", "${secrets}: secrets cannot be read as a whole"},
		{`["x", "${response.body}"]`, "[1]", "scope", "${response.body}: response may be read in the output of http tasks only"},
		{`{"a":`, "", "json", "is not valid JSON"}, {``, "", "json", "is not one JSON value"}, {`1 2`, "", "json", "is not one JSON value"},
		{`["` + strings.Repeat("${1}", MaxExpressions+1) + `"]`, "[0]", "max_items", "there are more than 200 expressions"},
	} {
		_, err := CompileTemplate(json.RawMessage(c.template), everything&^Response)
		var refused *Error
		if !errors.As(err, &refused) {
			t.Errorf("%.100s: %v, want an *Error", c.template, err)
		} else if refused.Path != c.path && c.rule != "json" || refused.Rule != c.rule || !strings.HasPrefix(refused.Message, c.message) {
			t.Errorf("%.100s:\n got %q %s: %s\nwant %q %s: %s", c.template, refused.Path, refused.Rule, refused.Message, c.path, c.rule, c.message)
		}
	}
}

func TestTemplateFacts(t *testing.T) {
	t.Parallel()
	template, err := CompileTemplate(json.RawMessage(`{"url": "https://x/${tasks.b.output}", "n": "$${", "headers": {"A": "${secrets.B + secrets.A}", "B": "c"},
		"body": ["${tasks.a.status + tasks.b.status}", 1]}`), everything)
	if err != nil {
		t.Fatal(err)
	}
	outline, open := template.Outline()
	for what, c := range map[string]struct{ got, want any }{
		"reads":       {template.Reads(), []string{"a", "b"}},
		"secrets":     {template.Secrets(), []string{"A", "B"}},
		"fixed":       {template.Fixed(), false},
		"expressions": {template.Expressions(), 3},
		"place":       {template.Place("a") + " " + template.Place("b") + " " + template.Place("c"), "body[0] url "},
		"outline":     {string(outline), `{"url": null, "n": "${", "headers": {"A": null, "B": "c"},` + "\n\t\t" + `"body": [null, 1]}`},
		"open":        {open, []string{"url", "headers.A", "body[0]"}},
	} {
		if fmt.Sprint(c.got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
	for text, want := range map[string]bool{`{"a": "$x $ {y} {z}", "${k}": 1}`: true, `{"a": "$${x}"}`: false, `"${1}"`: false, `7`: true} {
		template, err := CompileTemplate(json.RawMessage(text), 0)
		if err != nil || template.Fixed() != want || len(template.Reads()) > 0 || len(template.Secrets()) > 0 {
			t.Errorf("%s: fixed is not %v: %+v, %v", text, want, template, err)
		}
	}
}

// TestTexts: where a text is wanted, a whole ${…} is written as one.
func TestTexts(t *testing.T) {
	t.Parallel()
	template, err := CompileTemplate(json.RawMessage(`{"text":"${event.payload.id}","list":"${[1,\"a\"]}","kept":"${event.payload.id}","null":"${null}"}`), everything)
	if err != nil {
		t.Fatal(err)
	}
	texts := template.Texts(func(place string) bool { return place != "kept" && place != "null" })
	const want = `{"text":"9007199254740993","list":"[1,\"a\"]","kept":9007199254740993,"null":null}`
	if got, err := texts.Render(t.Context(), sample()); err != nil || string(got) != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	if _, err := template.Texts(func(string) bool { return true }).Render(t.Context(), sample()); err == nil ||
		err.Error() != "null: ${null}: is null, which cannot stand in a text" {
		t.Errorf("null as a text: %v", err)
	}
	if got, err := template.Render(t.Context(), sample()); err != nil || strings.Contains(string(got), `"9007`) {
		t.Errorf("the template itself was changed: %s, %v", got, err)
	}
}

// TestRenderedLimit: many values, each of which is small enough, are too large together.
func TestRenderedLimit(t *testing.T) {
	t.Parallel()
	template, err := CompileTemplate(json.RawMessage(`["${event}", "${event}", "${event}"]`), Event)
	if err != nil {
		t.Fatal(err)
	}
	event := json.RawMessage(`"` + strings.Repeat("a", 700_000) + `"`)
	if _, err := template.Render(t.Context(), &Values{Event: event}); err == nil ||
		err.Error() != "[2]: ${event}: with all values filled in, more than 2 MiB would have been written" {
		t.Errorf("three of 700 kB: %v", err)
	}
}

// FuzzTemplate: no JSON makes compiling or rendering panic or go on for long, what is rendered is JSON, and a fixed template stays as it is.
func FuzzTemplate(f *testing.F) {
	for _, text := range []string{`{"a":"${event.payload.id}"}`, `"x ${'}'} $${"`, `"\u0024{event.type}\ud83d\ude00"`, `["${tasks.a.output}", "${secrets.TOKEN}"]`,
		`"${event.payload.list.map(x, [x, x])}"`, `"${r\"\\\"}"`, `"\ud83d${1}\ude00"`, `"${b'\\xff'}"`, `"${'\\ud83d'}"`, `{"a":"${{}"}`, `"$$${1}"`,
		`"${event.?x}"`, `"${duration('1s')} ${timestamp('2026-01-01T00:00:00Z')}"`, `"${{1:2}} ${{true:null}}"`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		began := time.Now()
		defer func() {
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%q took %v", data, took)
			}
		}()
		template, err := CompileTemplate(data, everything)
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		if outline, _ := template.Outline(); !json.Valid(outline) {
			t.Fatalf("%q has the outline %q", data, outline)
		}
		for _, each := range []*Template{template, template.Texts(func(string) bool { return true })} {
			rendered, err := each.Render(t.Context(), sample())
			if err != nil {
				var fault *EvalError
				if !errors.As(err, &fault) {
					t.Fatalf("%q: %v", data, err)
				}
				continue
			}
			if !json.Valid(rendered) {
				t.Fatalf("%q is rendered as %q", data, rendered)
			}
			if template.Fixed() && string(rendered) != string(data) {
				t.Fatalf("%q became %q", data, rendered)
			}
		}
	})
}

func BenchmarkRender(b *testing.B) {
	template, err := CompileTemplate(json.RawMessage(`{"url": "https://example.com/orders/${event.payload.id}", "headers": {"Authorization": "Bearer ${secrets.TOKEN}"},
		"body": {"x": "${tasks.a.output.x}", "items": "${event.payload.list}"}}`), everything)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := template.Render(b.Context(), sample()); err != nil {
			b.Fatal(err)
		}
	}
}
