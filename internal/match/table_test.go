package match

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func event(t testing.TB, eventType, payload string) *definition.Event {
	t.Helper()
	e, fault := definition.ParseEnvelope(fmt.Appendf(nil, `{"event_id":"1","type":%q,"payload":%s}`, eventType, payload), "p."+eventType, "p")
	if fault != nil {
		t.Fatalf("%s: %v", payload, fault)
	}
	return &e
}

func routable(id, eventType, filters string) definition.Routable {
	r := definition.Routable{ID: id, EventType: eventType, Live: true, EnabledSince: noon}
	if err := json.Unmarshal([]byte(filters), &r.Filters); err != nil {
		panic(err)
	}
	return r
}

func ids(met []Met) string {
	var out []string
	for _, r := range met {
		out = append(out, r.ID)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func apply(t testing.TB, table *Table, changes ...definition.Routable) *Table {
	t.Helper()
	next, err := table.Apply(changes)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func matched(t testing.TB, table *Table, e *definition.Event) string {
	t.Helper()
	met, err := table.Match(e, noon)
	if err != nil {
		t.Fatal(err)
	}
	return ids(met)
}

func TestMatch(t *testing.T) {
	t.Parallel()
	table := apply(t, &Table{},
		routable("all", "user.created", `{}`),
		routable("nil", "user.created", `null`),
		routable("pro", "user.created", `{"tier":"pro"}`),
		routable("pro-eu", "user.created", `{"tier":"pro","region":"eu"}`),
		routable("one", "user.created", `{"n":1}`),
		routable("one-text", "user.created", `{"n":"1"}`),
		routable("big", "user.created", `{"n":9007199254740993}`),
		routable("null", "user.created", `{"n":null}`),
		routable("object", "user.created", `{"o":{"a":[1,{"b":2}],"c":null}}`),
		routable("list", "user.created", `{"l":["a","b"]}`),
		routable("dotted", "user.created", `{"o.a":1}`),
		routable("empty", "user.created", `{"e":{}}`),
		routable("other", "user.deleted", `{}`),
	)
	for _, c := range []struct{ eventType, payload, want string }{
		{"user.created", `{}`, ""},
		{"user.created", `{"tier":"pro"}`, "pro"},
		{"user.created", `{"tier":"free","region":"eu"}`, ""},
		{"user.created", `{"tier":"pro","region":"eu","x":[]}`, "pro pro-eu"},
		{"user.created", `{"t\u0069er":"\u0070ro"}`, "pro"},
		{"user.created", `{"TIER":"pro"}`, ""},
		{"user.created", `{"tier":["pro"]}`, ""},
		{"user.created", `{"n":1.0}`, "one"},
		{"user.created", `{"n":1e0}`, "one"},
		{"user.created", `{"n":"1"}`, "one-text"},
		{"user.created", `{"n":true}`, ""},
		{"user.created", `{"n":9007199254740993}`, "big"},
		{"user.created", `{"n":9007199254740992}`, ""},
		{"user.created", `{"n":null}`, "null"},
		{"user.created", `{"o":{"c":null,"a":[1.0,{"b":2e0}]}}`, "object"},
		{"user.created", `{"o":{"c":null,"d":1,"a":[1.0,{"b":2e0}]},"x":0}`, "object"},
		{"user.created", `{"o":{"a":[1,{"b":2}]}}`, ""},
		{"user.created", `{"o":{"a":[1,{"b":2,"c":3}],"c":null}}`, ""},
		{"user.created", `{"o":{"a":1}}`, "dotted"},
		{"user.created", `{"o":{"a":"1"}}`, ""},
		{"user.created", `{"o":[{"a":1}]}`, ""},
		{"user.created", `{"o.a":1}`, ""},
		{"user.created", `{"e":{}}`, "empty"},
		{"user.created", `{"e":{ }}`, "empty"},
		{"user.created", `{"e":{"x":1}}`, ""},
		{"user.created", `{"e":[]}`, ""},
		{"user.created", `{"l":["a","b"]}`, "list"},
		{"user.created", `{"l":["b","a"]}`, ""},
		{"user.created", `{"l":["a"]}`, ""},
	} {
		want := strings.TrimSpace("all nil " + c.want)
		got := matched(t, table, event(t, c.eventType, c.payload))
		w := strings.Fields(want)
		slices.Sort(w)
		if got != strings.Join(w, " ") {
			t.Errorf("%s %s meets %q, want %q", c.eventType, c.payload, got, want)
		}
	}
	for eventType, want := range map[string]string{"user.deleted": "other", "user": "", "user.created.x": ""} {
		if got := matched(t, table, event(t, eventType, `{"tier":"pro"}`)); got != want {
			t.Errorf("%s meets %q, want %q", eventType, got, want)
		}
	}
}

func TestMatchEnabledSince(t *testing.T) {
	t.Parallel()
	table := apply(t, &Table{}, routable("d", "a", `{}`), routable("f", "a", `{"x":1}`))
	for _, c := range []struct {
		publishedAt time.Time
		want        string
	}{
		{noon.Add(time.Hour), "d f"},
		{noon, "d f"},
		{noon.Add(-Skew), "d f"},
		{noon.Add(-Skew - 1), ""},
	} {
		met, err := table.Match(event(t, "a", `{"x":1}`), c.publishedAt)
		if got := ids(met); err != nil || got != c.want {
			t.Errorf("an event of %v meets %q (%v), want %q", c.publishedAt, got, err, c.want)
		}
	}
}

// TestMatchEnabledSinceExactly: no moment is rounded.
func TestMatchEnabledSinceExactly(t *testing.T) {
	t.Parallel()
	r := routable("d", "a", `{}`)
	r.EnabledSince = noon.Add(500)
	table := apply(t, &Table{}, r)
	for _, c := range []struct {
		publishedAt time.Time
		want        string
	}{{noon.Add(500 - Skew), "d"}, {noon.Add(499 - Skew), ""}, {noon.Add(501 - Skew), "d"}} {
		met, err := table.Match(event(t, "a", `{}`), c.publishedAt)
		if got := ids(met); err != nil || got != c.want {
			t.Errorf("an event of %v meets %q (%v), want %q", c.publishedAt, got, err, c.want)
		}
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	a, b := event(t, "a", `{"x":1}`), event(t, "b", `{"x":1}`)
	first := apply(t, &Table{}, routable("1", "a", `{"x":1}`), routable("2", "a", `{}`))
	second := apply(t, first,
		routable("2", "b", `{}`),                                // another type
		routable("1", "a", `{"x":2}`),                           // another filter
		routable("3", "a", `{}`),                                // new
		routable("4", "a", `{}`), routable("4", "b", `{"x":1}`), // twice in one look: the last one counts
		definition.Routable{ID: "unknown"}, // dropped, but was never there
	)
	third := apply(t, second, definition.Routable{ID: "2"}, definition.Routable{ID: "4"}, definition.Routable{ID: "3"})
	for i, c := range []struct {
		table *Table
		a, b  string
		size  int
	}{{first, "1 2", "", 2}, {second, "3", "2 4", 4}, {third, "", "", 1}} {
		if gotA, gotB := matched(t, c.table, a), matched(t, c.table, b); gotA != c.a || gotB != c.b || c.table.Len() != c.size {
			t.Errorf("table %d of %d definitions: a meets %q, b meets %q, want %d, %q, %q", i, c.table.Len(), gotA, gotB, c.size, c.a, c.b)
		}
	}
	if same := apply(t, third); same != third {
		t.Error("no changes made another table")
	}
}

func TestApplyBadFilter(t *testing.T) {
	t.Parallel()
	bad := definition.Routable{ID: "7", Name: "broken", EventType: "a", Live: true, EnabledSince: noon,
		Filters: map[string]json.RawMessage{"x": json.RawMessage(`{"a":1,"a":2}`)}}
	syntax := routable("8", "a", `{}`)
	syntax.Condition = "event.payload.a ="
	pattern := routable("9", "a.>.b", `{}`)
	table, err := (&Table{}).Apply([]definition.Routable{bad, routable("1", "a", `{}`), syntax, pattern})
	for _, want := range []string{"definition 8 () revision 0 cannot be matched: condition: line 1, column ", "definition 9 () revision 0 cannot be matched: event_type may have >"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %s", err, want)
		}
	}
	if err == nil || !strings.Contains(err.Error(), `definition 7 (broken) revision 0 cannot be matched: filter "x"`) {
		t.Errorf("error = %v", err)
	}
	if got := matched(t, table, event(t, "a", `{}`)); got != "1" {
		t.Errorf("the others match %q, want 1", got)
	}
}

// TestApplyManyChanges changes a table of which base and recent changes are both large, one definition at a time.
func TestApplyManyChanges(t *testing.T) {
	t.Parallel()
	const n = 2000
	filters := func(version int) string { return fmt.Sprintf(`{"v":%d}`, version) }
	var changes []definition.Routable
	for i := range n {
		changes = append(changes, routable(fmt.Sprint(i), "a", filters(0)))
	}
	old := apply(t, &Table{}, changes...)
	table := old
	folded := 0
	for i := range n {
		change := routable(fmt.Sprint(i), "a", filters(1))
		change.Live = i%10 > 0 // each tenth is dropped
		before := table.base
		if table = apply(t, table, change); table.base != before {
			folded++
		}
	}
	for version, want := range map[*Table][2]int{old: {n, 0}, table: {0, n - n/10}} {
		for v := range want {
			met, err := version.Match(event(t, "a", filters(v)), noon)
			if err != nil || len(met) != want[v] {
				t.Errorf("%d definitions of version %d (%v), want %d", len(met), v, err, want[v])
			}
		}
	}
	if table.Len() != n-n/10 {
		t.Errorf("%d definitions, want %d", table.Len(), n-n/10)
	}
	// Few changes must not cost what all definitions cost, nor may they pile up.
	if folded < n/foldLeast/4 || folded > n/foldLeast*2 {
		t.Errorf("the changes were folded in %d times", folded)
	}
}

// TestMatchWithoutGarbage: an event that meets nothing costs no memory. AllocsPerRun wants no other test beside it, and the
// race detector no pool.
func TestMatchWithoutGarbage(t *testing.T) {
	var changes []definition.Routable
	for i := range 1000 {
		changes = append(changes, routable(fmt.Sprint(i), "a.b", fmt.Sprintf(`{"id":%d,"o.x":"y"}`, i)), routable(fmt.Sprint("w", i), "a.*", `{"n":"z"}`))
	}
	table := apply(t, &Table{}, changes...)
	e := event(t, "a.b", `{"id":5,"o":{"x":"z"},"n":1.5,"text":"pro"}`)
	s := new(scratch)
	s.begin(e, noon)
	allocs := testing.AllocsPerRun(1000, func() {
		if err := table.base.match(s); err != nil || len(s.met) > 0 {
			t.Fatal(s.met, err)
		}
	})
	if allocs >= 1 {
		t.Errorf("%v allocations an event", allocs)
	}
}

// TestMatchCostlyCondition: the equalities decide before a condition may cost anything.
func TestMatchCostlyCondition(t *testing.T) {
	t.Parallel()
	r := routable("d", "a", `{}`)
	r.Condition = `event.payload.l.all(x, x >= 0 && x >= 0 && x >= 0) && event.payload.tier == "pro"`
	table := apply(t, &Table{}, r)
	list := `[` + strings.Repeat("1,", 400_000) + `1]`
	if got := matched(t, table, event(t, "a", `{"tier":"free","l":`+list+`}`)); got != "" {
		t.Errorf("meets %q, want nothing", got)
	}
	met, err := table.Match(event(t, "a", `{"tier":"pro","l":`+list+`}`), noon)
	if err != nil || len(met) != 1 || met[0].Err == nil || met[0].Err.Error() != "the evaluation costs more than is allowed for one event" {
		t.Errorf("%+v, %v", met, err)
	}
}

// FuzzMatch holds index and explanation together for any filters, condition and payload.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][3]string{
		{`{"a.b":1}`, `event.payload.c == "x"`, `{"a":{"b":1.0},"c":"x"}`}, {`{"a":{"b":[]}}`, ``, `{"a":{"b":[ ]}}`}, {`{"a":{}}`, `event.type == "t.u"`, `{"a":{ }}`},
		{`{"\u0061":9007199254740993}`, `event.payload.a == 9007199254740992.0`, `{"a":9007199254740993}`}, {`{}`, `event.payload.a`, `{"a":null}`},
		{`{"a":-0}`, `event.payload["a"] == -0.0 && has(event.payload.b)`, `{"\u0061":0e5}`},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, filters, condition, payload string) {
		e, fault := definition.ParseEnvelope(fmt.Appendf(nil, `{"event_id":"1","type":"t.u","payload":%s}`, payload), "p.t.u", "p")
		if fault != nil || len(payload) > 10_000 {
			return
		}
		r := definition.Routable{ID: "d", EventType: "t.*", Condition: condition, Live: true, EnabledSince: noon}
		if json.Unmarshal([]byte(filters), &r.Filters) != nil {
			return
		}
		table, applyErr := (&Table{}).Apply([]definition.Routable{r})
		met, err := table.Match(&e, noon)
		if err != nil {
			t.Fatal(err)
		}
		x := Explain(r, &e, noon)
		matches, untold := len(met) == 1 && met[0].Err == nil, len(met) == 1 && met[0].Err != nil
		if x.Matches != matches || (x.Err != "") != (untold || applyErr != nil) {
			t.Fatalf("%s, %s and %s: %+v, but explained as %+v", filters, condition, payload, met, x)
		}
		if sum, err := Digest(&e); err != nil || len(sum) != DigestBytes {
			t.Fatalf("%s: digest %x, %v", payload, sum, err)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000, 100_000} {
		changes := make([]definition.Routable, n)
		for i := range changes {
			changes[i] = routable(fmt.Sprint(i), fmt.Sprintf("type.%d", i%50), fmt.Sprintf(`{"tier":"pro","customer":%d}`, i/100))
		}
		table := apply(b, &Table{}, changes...)
		e := event(b, "type.7", `{"tier":"pro","customer":3,"name":"somebody","region":"eu"}`)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := table.Match(e, noon); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Who follows all events does not follow the ends of runs: it would follow those of the runs that this makes.
func TestRunEventsNeedTheirWord(t *testing.T) {
	t.Parallel()
	patterns := []string{">", "*.failed", "*.*", "run.>", "run.*", "run.failed", "run.succeeded", "*.>"}
	var changes []definition.Routable
	for _, p := range patterns {
		changes = append(changes, routable(p, p, `{}`))
	}
	table := apply(t, &Table{}, changes...)
	for _, c := range []struct{ eventType, want string }{
		{"run.failed", "run.* run.> run.failed"},
		{"run.succeeded", "run.* run.> run.succeeded"},
		{"run.started", "*.* *.> > run.* run.>"},
		{"run.failed.twice", "*.> > run.>"},
		{"job.failed", "*.* *.> *.failed >"},
	} {
		e := event(t, c.eventType, `{}`)
		if got := matched(t, table, e); got != c.want {
			t.Errorf("%s met %s, want %s", c.eventType, got, c.want)
		}
		for _, p := range patterns {
			want := strings.Contains(" "+c.want+" ", " "+p+" ")
			if TypeMeets(p, c.eventType) != want {
				t.Errorf("TypeMeets(%s, %s) = %v", p, c.eventType, !want)
			}
			if x := Explain(routable(p, p, `{}`), e, noon); x.Matches != want || !want && x.Clause != "event_type" {
				t.Errorf("%s and %s are explained by %+v", p, c.eventType, x)
			}
		}
	}
}
