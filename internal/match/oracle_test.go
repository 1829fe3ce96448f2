package match

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"github.com/activity-core/activity-core/internal/definition"
)

// The oracle: what the table answers, against a plain reading of the rules by loops over decoded values. It has no code in
// common with the table but the parser of events and CEL itself: it knows by itself what filters and wildcards mean, what
// numbers are equal, and which equalities a condition has.

var (
	oracleSeed = flag.Uint64("oracle.seed", 0, "seed of the oracle's random definitions and events; 0 takes a fresh one")
	// By default about 250,000 pairs of a definition and an event.
	oracleRounds = flag.Int("oracle.rounds", 60, "how often the oracle changes its definitions and asks about events")
)

// conjunct is a part of a condition. An equality has a path and a literal.
type conjunct struct {
	text string
	path []string
}

// rule is a definition with its condition as it was put together.
type rule struct {
	definition.Routable
	conjuncts []conjunct
}

// vocabulary is small, so that much is equal.
type vocabulary struct{ *rand.Rand }

func pick[T any](v vocabulary, from ...T) T { return from[v.IntN(len(from))] }

func (v vocabulary) name() string { return pick(v, "a", "b", "c", "é", "x y", "l") }

func (v vocabulary) scalar() string { return pick(v, scalars...) }

// scalars are texts, literals, and numbers in all their forms.
var scalars = []string{`1`, `1.0`, `1e0`, `10e-1`, `"1"`, `2`, `1.5`, `0.1`, `0.10000000000000000001`, `9007199254740992`, `9007199254740993`,
	`9007199254740993.0`, `18446744073709551615`, `18446744073709551616`, `-9223372036854775808`, `1e400`, `-1e400`, `1e-400`, `-0`, `0`, `0.0`,
	`null`, `true`, `false`, `"true"`, `""`, `"é"`, `"\u00e9"`, `"x"`, `"\u0078"`, `"xy\n"`, `"\ud83d\ude00"`}

func (v vocabulary) value(depth int) string {
	switch n := v.IntN(10); {
	case n == 0:
		return pick(v, `[]`, `[1]`, `[1.0]`, `[ 1, 2 ]`, `[2,1]`, `["x"]`, `[{"a":1,"b":"x"}]`, `[{"b":"\u0078","a":1e0}]`, `[[1]]`, `[null]`)
	case n <= 3 && depth > 0:
		return v.object(2, depth-1)
	}
	return v.scalar()
}

func (v vocabulary) object(most, depth int) string {
	members := map[string]string{}
	for range v.IntN(most + 1) {
		members[v.name()] = v.value(depth)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(members)) {
		written := name
		if name == "é" && v.IntN(2) == 0 {
			written = `\u00e9`
		}
		b.WriteString(`,"` + written + `":` + members[name])
	}
	if b.Len() == 0 {
		return pick(v, "{}", "{ }")
	}
	return "{" + b.String()[1:] + "}"
}

func (v vocabulary) eventType() string { return pick(v, "t", "t.u", "t.v", "t.u.v", "w.u") }

func (v vocabulary) pattern() string {
	return pick(v, "t", "t.u", "t.u", "t.u", "t.v", "w.u", "t.*", "*.u", "*", "*.*", ">", "t.>", "t.u.>", "*.u.>", "t.*.v", "t.u.v")
}

func (v vocabulary) event(t *testing.T, id int) *definition.Event {
	t.Helper()
	eventType := v.eventType()
	envelope := fmt.Sprintf(`"event_id":"%d","type":%q`, id, eventType)
	if v.IntN(10) > 0 {
		envelope += `,"payload":` + v.object(4, 2)
	}
	envelope += pick(v, "", `,"source":"s"`, `,"source":null`, `,"more":{"a":1}`, `,"more":{"a":[]}`, `,"more":1`)
	e, fault := definition.ParseEnvelope([]byte("{"+envelope+"}"), "p."+eventType, "p")
	if fault != nil {
		t.Fatalf("%s: %v", envelope, fault)
	}
	return &e
}

// member returns a path in the event and how it is written.
func (v vocabulary) member() (path []string, text string) {
	if v.IntN(8) == 0 {
		path = pick(v, []string{"source"}, []string{"type"}, []string{"more"}, []string{"more", "a"}, []string{"payload"}, []string{"event_id", "a"})
	} else {
		path = []string{"payload", v.name()}
		for v.IntN(4) == 0 {
			path = append(path, v.name())
		}
	}
	text = "event"
	for _, name := range path {
		if name == "é" || name == "x y" || v.IntN(4) == 0 {
			text += "[" + strconv.Quote(name) + "]"
		} else {
			text += "." + name
		}
	}
	return path, text
}

func (v vocabulary) literal() string { return pick(v, literals...) }

// literals are constants of conditions.
var literals = []string{`1`, `1.0`, `1u`, `2`, `-1`, `1.5`, `0.1`, `0`, `-0.0`, `9007199254740993`, `9007199254740992.0`, `18446744073709551615u`,
	`18446744073709551616.0`, `-9223372036854775808`, `"x"`, `'x'`, `"1"`, `"é"`, `"\u00e9"`, `r"x"`, `""`, `"t.u"`, `"s"`, `true`, `false`, `null`}

func (v vocabulary) conjunct() conjunct {
	path, m := v.member()
	if v.IntN(2) == 0 {
		text := m + " == " + v.literal()
		switch v.IntN(4) {
		case 0:
			text = v.literal() + " == " + m
		case 1:
			text = "(" + text + ")"
		}
		return conjunct{text, path}
	}
	_, other := v.member()
	literal := v.literal()
	return conjunct{text: pick(v,
		"has("+"event.payload.a"+")", "has(event.payload.a.b)", "!has(event.payload.c)", m+" in ["+literal+", 1, \"x\"]", m+" in {\"x\": 1}",
		m+" + 1 > 2", m+" > 1", m+" <= 1.5", m+" != "+literal, "!("+m+" == "+literal+")", m+" == "+other, m+" == [1]", "[1, 2] == "+m,
		"("+m+" == "+literal+" || "+other+" == 1)", m+".size() > 0", m+".exists(x, x == 1)", m+".all(x, x != "+literal+")", m,
		m+".exists(x, x.a == 1 && x.b == \"x\")", m+".map(x, x + 1) == [2]", "event.payload.?a.orValue(1) == "+literal, m+".startsWith(\"x\")",
		"("+m+" == 1 ? "+other+" == 2 : true)", "true", "false", "1 == 1", "type("+m+") == string", "1 / 0 == 1", "size(event.payload) > 1", m+"[0] == 1",
		"string("+m+") == \"1\"", "double("+m+") < 2.0", m+".matches(\"^x\")", "dyn(1) == "+literal, "event.payload[\"a\" + \"\"] == 1")}
}

func (v vocabulary) rule(id string, now time.Time) rule {
	r := rule{Routable: definition.Routable{ID: id, Name: "n" + id, EventType: v.pattern(), Live: v.IntN(6) > 0,
		EnabledSince: now.Add(time.Duration(v.IntN(5)-3) * Skew)}}
	if v.IntN(3) > 0 {
		filters := map[string]json.RawMessage{}
		for range 1 + v.IntN(2) {
			name := v.name()
			for v.IntN(3) == 0 {
				name += "." + v.name()
			}
			filters[name] = json.RawMessage(v.value(2))
		}
		if _, err := definition.FilterPlaces(filters); err == nil {
			r.Filters = filters
		}
	}
	if v.IntN(2) == 0 {
		var texts []string
		for range 1 + v.IntN(3) {
			c := v.conjunct()
			r.conjuncts, texts = append(r.conjuncts, c), append(texts, c.text)
		}
		r.Condition = strings.Join(texts, " && ")
		if len(texts) == 3 && v.IntN(2) == 0 {
			r.Condition = texts[0] + " && (" + texts[1] + " && " + texts[2] + ")"
		}
	}
	return r
}

// naive answers by the rules, with an environment for CEL of its own.
type naive struct {
	env      *cel.Env
	programs map[string]cel.Program
}

type answer int

const (
	unmet answer = iota
	met
	untold // the condition cannot be evaluated
)

func newNaive(t *testing.T) *naive {
	t.Helper()
	env, err := cel.NewEnv(cel.Variable("event", cel.DynType), cel.OptionalTypes(), ext.Strings(), ext.Lists(), ext.Sets(), ext.Math(), ext.Network())
	if err != nil {
		t.Fatal(err)
	}
	return &naive{env, map[string]cel.Program{}}
}

func (n *naive) eval(t *testing.T, text string, event any) answer {
	t.Helper()
	program := n.programs[text]
	if program == nil {
		a, issues := n.env.Compile(text)
		if issues.Err() != nil {
			t.Fatalf("%s: %v", text, issues.Err())
		}
		var err error
		if program, err = n.env.Program(a); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		n.programs[text] = program
	}
	out, _, err := program.Eval(map[string]any{"event": event})
	switch {
	case err != nil || out.Type() != types.BoolType:
		return untold
	case out == types.True:
		return met
	}
	return unmet
}

// asked is an event in the three forms in which the oracle reads it.
type asked struct {
	*definition.Event
	publishedAt time.Time
	decoded     any // numbers are json.Number
	forCEL      any
}

func (n *naive) answer(t *testing.T, r *rule, e *asked) answer {
	t.Helper()
	if !r.Live || !meetsPattern(strings.Split(r.EventType, "."), strings.Split(e.Type, ".")) ||
		e.publishedAt.Before(r.EnabledSince.Add(-2*time.Minute)) {
		return unmet
	}
	for name, value := range r.Filters {
		if !meetsFilter(dig(e.decoded, "payload"), strings.Split(name, "."), decode(t, value)) {
			return unmet
		}
	}
	if r.Condition == "" {
		return met
	}
	got := n.eval(t, r.Condition, e.forCEL)
	for _, c := range r.conjuncts {
		if c.path != nil {
			if found := dig(e.decoded, c.path...); found == nothing || n.eval(t, c.text, e.forCEL) != met {
				if got == met {
					t.Fatalf("%s holds for %s, but %s does not", r.Condition, e.Raw, c.text)
				}
				return unmet
			}
		}
	}
	return got
}

func meetsPattern(pattern, words []string) bool {
	switch {
	case len(pattern) == 0 || len(words) == 0:
		return len(pattern) == len(words)
	case pattern[0] == ">":
		return true
	}
	return (pattern[0] == "*" || pattern[0] == words[0]) && meetsPattern(pattern[1:], words[1:])
}

// nothing is what is absent; null is nil.
var nothing any = struct{}{}

func dig(value any, path ...string) any {
	for _, name := range path {
		object, ok := value.(map[string]any)
		if !ok {
			return nothing
		}
		if value, ok = object[name]; !ok {
			return nothing
		}
	}
	return value
}

func meetsFilter(payload any, path []string, want any) bool {
	found := dig(payload, path...)
	if object, ok := want.(map[string]any); ok && len(object) > 0 {
		for name, value := range object {
			if !meetsFilter(found, strings.Split(name, "."), value) {
				return false
			}
		}
		return true
	}
	if found == nothing {
		return false
	}
	same, known := equal(want, found)
	if !known { // numbers beyond any double, in one of few forms
		return want == found
	}
	return same
}

// forCEL makes of a decoded value what the documentation says that conditions see.
func forCEL(value any) any {
	switch value := value.(type) {
	case map[string]any:
		object := map[string]any{}
		for name, v := range value {
			object[name] = forCEL(v)
		}
		return object
	case []any:
		list := []any{}
		for _, v := range value {
			list = append(list, forCEL(v))
		}
		return list
	case json.Number:
		exact, _ := new(big.Rat).SetString(value.String())
		if exact.IsInt() && exact.Num().IsInt64() {
			return exact.Num().Int64()
		}
		if exact.IsInt() && exact.Num().IsUint64() {
			return exact.Num().Uint64()
		}
		f, _ := exact.Float64()
		return f
	}
	return value
}

func ask(t *testing.T, e *definition.Event, publishedAt time.Time) *asked {
	t.Helper()
	decoded := decode(t, e.Raw)
	return &asked{e, publishedAt, decoded, forCEL(decoded)}
}

func TestOracle(t *testing.T) {
	t.Parallel()
	began, seed := time.Now(), *oracleSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	v, n := vocabulary{rand.New(rand.NewPCG(seed, 1))}, newNaive(t)
	var pairs, matches, errs, explained int
	table, rules := &Table{}, map[string]*rule{}
	for round := range *oracleRounds {
		var changes []definition.Routable
		for range v.IntN(pick(v, 3, 60)) {
			r := v.rule(strconv.Itoa(v.IntN(150)), noon)
			if changes = append(changes, r.Routable); r.Live {
				rules[r.ID] = &r
			} else {
				delete(rules, r.ID)
			}
		}
		var err error
		if table, err = table.Apply(changes); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if table.Len() != len(rules) {
			t.Fatalf("seed %d: the table has %d definitions, want %d", seed, table.Len(), len(rules))
		}
		for range 40 {
			e := ask(t, v.event(t, pairs), noon.Add(time.Duration(v.IntN(4)-2)*Skew))
			got, want := map[string]answer{}, map[string]answer{}
			found, err := table.Match(e.Event, e.publishedAt)
			if err != nil {
				t.Fatalf("seed %d: %s: %v", seed, e.Raw, err)
			}
			for _, m := range found {
				if got[m.ID] != unmet {
					t.Fatalf("seed %d: %s meets %s twice", seed, e.Raw, m.ID)
				}
				if got[m.ID] = met; m.Err != nil {
					got[m.ID] = untold
				}
			}
			for _, id := range slices.Sorted(maps.Keys(rules)) {
				r := rules[id]
				pairs++
				a := n.answer(t, r, e)
				if a != unmet {
					want[id] = a
				}
				if matches++; a != met {
					matches--
				}
				if a == untold {
					errs++
				}
				// Explaining reads the definition anew each time, so only some are asked for.
				if a == unmet && v.IntN(40) > 0 {
					continue
				}
				explained++
				x := Explain(r.Routable, e.Event, e.publishedAt)
				if x.Matches != (a == met) || (x.Err != "") != (a == untold) || (x.Clause == "") != (a == met) {
					t.Fatalf("seed %d: %+v and %s at %v: explained as %+v, want %v", seed, r.Routable, e.Raw, e.publishedAt, x, a)
				}
			}
			if !maps.Equal(got, want) {
				t.Fatalf("seed %d, round %d: %s of %v meets %v, want %v\n%s", seed, round, e.Raw, e.publishedAt, got, want, differing(rules, got, want))
			}
		}
	}
	fmt.Printf("oracle: seed %d: %d pairs of a definition and an event: %d matches, %d conditions that could not be told; "+
		"%d explained; %s\n", seed, pairs, matches, errs, explained, time.Since(began).Round(100*time.Millisecond))
	if matches < pairs/100 || errs < pairs/1000 {
		t.Errorf("of %d pairs, only %d match and %d cannot be told: the vocabulary has become too large", pairs, matches, errs)
	}
}

// TestEqualities holds every value against every other, as a filter and as a condition, by the oracle's answers.
func TestEqualities(t *testing.T) {
	t.Parallel()
	n := newNaive(t)
	var rules []*rule
	var changes []definition.Routable
	add := func(filters string, conjuncts ...conjunct) {
		r := &rule{routable(strconv.Itoa(len(rules)), "t", filters), conjuncts}
		for _, c := range conjuncts {
			r.Condition = c.text
		}
		rules, changes = append(rules, r), append(changes, r.Routable)
	}
	for _, value := range slices.Concat(scalars, []string{`[]`, `[1]`, `[1.0,{"a":"x"}]`, `{}`}) {
		add(`{"a": ` + value + `}`)
		add(`{"b.a": ` + value + `}`)
	}
	for _, literal := range literals {
		add(`{}`, conjunct{"event.payload.a == " + literal, []string{"payload", "a"}})
		add(`{}`, conjunct{literal + ` == event.payload["b"].a`, []string{"payload", "b", "a"}})
	}
	table := apply(t, &Table{}, changes...)
	for i, value := range slices.Concat(scalars, []string{`[]`, `[1e0]`, `[ 1, {"\u0061":"x"} ]`, `{}`, `{ }`, `{"a":1}`}) {
		for _, payload := range []string{`{"a":` + value + `}`, `{"b":{"a":` + value + `}}`, `{"b":[` + value + `]}`, `{"b":` + value + `,"c":1}`} {
			e := ask(t, event(t, "t", payload), noon)
			got := strings.Fields(matched(t, table, e.Event))
			for _, r := range rules {
				a := n.answer(t, r, e)
				if slices.Contains(got, r.ID) != (a == met) || a == untold {
					t.Errorf("event %d: %s with %s %s: got %v, want %v", i, payload, r.Filters, r.Condition, slices.Contains(got, r.ID), a)
				}
				if x := Explain(r.Routable, e.Event, noon); x.Matches != (a == met) {
					t.Errorf("event %d: %s with %s %s: explained as %+v, want %v", i, payload, r.Filters, r.Condition, x, a)
				}
			}
		}
	}
}

// differing shows the definitions about which the two do not agree.
func differing(rules map[string]*rule, got, want map[string]answer) string {
	var b bytes.Buffer
	for id, r := range rules {
		if got[id] != want[id] {
			fmt.Fprintf(&b, "%s: got %v, want %v: %s %s %s, enabled since %v\n", id, got[id], want[id], r.EventType, r.Filters, r.Condition, r.EnabledSince)
		}
	}
	return b.String()
}
