package match

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	e := event(t, "order.paid", `{"tier":"pro","n":1,"customer":{"country":"DE"},"long":"`+long+`","l":[1,2]}`)
	base := func(change func(*definition.Routable)) definition.Routable {
		r := definition.Routable{ID: "d", Name: "n", Revision: 3, EventType: "order.*", Live: true, EnabledSince: noon}
		change(&r)
		return r
	}
	filters := func(text string) func(*definition.Routable) {
		return func(r *definition.Routable) { r.Filters = routable("", "", text).Filters }
	}
	condition := func(text string) func(*definition.Routable) {
		return func(r *definition.Routable) { r.Condition = text }
	}
	for name, c := range map[string]struct {
		change func(*definition.Routable)
		want   Explanation
	}{
		"matches": {func(*definition.Routable) {}, Explanation{Matches: true}},
		"matches all": {func(r *definition.Routable) {
			filters(`{"customer.country": "DE", "n": 1.0}`)(r)
			condition(`event.payload.tier == "pro" && event.payload.n < 2`)(r)
		}, Explanation{Matches: true}},
		"enabled comes first": {func(r *definition.Routable) { r.Live, r.EventType = false, "x" },
			Explanation{Clause: "enabled", Expected: "enabled, with an event trigger", Found: "disabled, deleted or without one"}},
		"type": {func(r *definition.Routable) { r.EventType, r.EnabledSince = "user.>", noon.Add(time.Hour) },
			Explanation{Clause: "event_type", Expected: "user.>", Found: "order.paid"}},
		"too old": {func(r *definition.Routable) {
			r.EnabledSince = noon.Add(Skew + time.Millisecond)
			filters(`{"n": 2}`)(r)
		}, Explanation{Clause: "enabled_since", Expected: "an event published at 2026-01-31T12:00:00.001Z or later", Found: "2026-01-31T12:00:00Z"}},
		"filters by their places": {filters(`{"tier": "free", "customer": {"country": "AT", "zone": null}, "n": 2}`),
			Explanation{Clause: "filters.customer.country", Expected: `"AT"`, Found: `"DE"`}},
		"absent": {filters(`{"customer.country": "DE", "customer.zone": null}`),
			Explanation{Clause: "filters.customer.zone", Expected: "null", Found: "absent"}},
		"in what is no object":    {filters(`{"tier.x": 1}`), Explanation{Clause: "filters.tier.x", Expected: "1", Found: "absent"}},
		"an object with members":  {filters(`{"customer": {}}`), Explanation{Clause: "filters.customer", Expected: "{}", Found: `{"country":"DE"}`}},
		"a number is not rounded": {filters(`{"n": 1.00000000000000000001}`), Explanation{Clause: "filters.n", Expected: "1.00000000000000000001", Found: "1"}},
		"a long value": {filters(`{"long": "y"}`),
			Explanation{Clause: "filters.long", Expected: `"y"`, Found: `"` + long[:199] + "… (302 bytes)"}},
		"filters before the condition": {func(r *definition.Routable) {
			filters(`{"n": 2}`)(r)
			condition(`event.payload.tier == "free"`)(r)
		}, Explanation{Clause: "filters.n", Expected: "2", Found: "1"}},
		"equalities of the condition by their text": {condition(`event.payload.absent > 1 && event.payload.tier == "free" && event.payload.n == 2`),
			Explanation{Clause: "condition", Expected: "event.payload.n == 2", Found: "1"}},
		"absent in the condition": {condition(`event.payload.absent == null`),
			Explanation{Clause: "condition", Expected: "event.payload.absent == null", Found: "absent"}},
		"the first part that is false": {condition(`event.payload.n > 0 && event.payload.l.exists(x, x > 2) && event.payload.n > 5`),
			Explanation{Clause: "condition", Expected: "event.payload.l.exists(x, x > 2)", Found: "false"}},
		"an error": {condition(`event.payload.tier == "pro" && event.payload.absent > 1`), Explanation{Clause: "condition",
			Expected: `event.payload.tier == "pro" && event.payload.absent > 1`,
			Err:      "no such key: absent (the event does not have it; has(…) asks for a member first)"}},
		"a false part outweighs an error": {condition(`event.payload.absent > 1 && event.payload.n > 5`),
			Explanation{Clause: "condition", Expected: "event.payload.n > 5", Found: "false"}},
		"a condition that does not compile any more": {condition(`event.payload.n > 1 && nothing()`), Explanation{Clause: "condition",
			Expected: `event.payload.n > 1 && nothing()`, Err: "the condition cannot be compiled: line 1, column 31: nothing is not known here: an event's " +
				`members begin with event, as in event.payload.tier == "pro", texts stand in quotes, and the functions are those of docs/conditions.md`}},
		"unreadable": {func(r *definition.Routable) { r.Unreadable = errors.New("from the future") },
			Explanation{Clause: "definition", Err: "definition d (n) revision 3 cannot be matched: from the future"}},
		"filters that are refused now": {filters(`{"a..b": 1}`), Explanation{Clause: "definition",
			Err: `definition d (n) revision 3 cannot be matched: filter "a..b" has an empty part: dots separate the names of members, as in customer.tier`}},
	} {
		r := base(c.change)
		got := Explain(r, e, noon)
		if got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, c.want)
		}
		table, err := (&Table{}).Apply([]definition.Routable{r})
		if (err != nil) != (c.want.Clause == "definition") {
			t.Errorf("%s: Apply: %v", name, err)
		}
		met, err := table.Match(e, noon)
		if err != nil || (len(met) == 1 && met[0].Err == nil) != c.want.Matches {
			t.Errorf("%s: Match: %+v, %v", name, met, err)
		}
		if len(met) == 1 && met[0].Err != nil && met[0].Err.Error() != c.want.Err {
			t.Errorf("%s: Match: %v", name, met[0].Err)
		}
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	digest := func(envelope string) string {
		e, fault := definition.ParseEnvelope([]byte(`{"event_id":"1","type":"a"`+envelope+`}`), "p.a", "p")
		if fault != nil {
			t.Fatal(fault)
		}
		sum, err := Digest(&e)
		if err != nil || len(sum) != DigestBytes {
			t.Fatalf("%s: %d bytes, %v", envelope, len(sum), err)
		}
		return string(sum)
	}
	// The payloads of a line are equal, those of different lines are not.
	seen := map[string]string{}
	for _, line := range [][]string{
		{``, `,"payload":{}`, `,"payload":{ },"source":"s"`},
		{`,"payload":{"a":1,"b":[{"c":2,"d":"é"}]}`, `,"payload":{"b":[{"\u0064":"\u00e9","c":2.0}],"a":1e0}`},
		{`,"payload":{"a":1}`}, {`,"payload":{"a":null}`}, {`,"payload":{"a":"1"}`}, {`,"payload":{"a":{}}`}, {`,"payload":{"\"":1}`},
		{`,"payload":{"a":9007199254740993}`}, {`,"payload":{"a":9007199254740992}`},
	} {
		sum := digest(line[0])
		if other, taken := seen[sum]; taken {
			t.Errorf("%s has the digest of %s", line[0], other)
		}
		seen[sum] = line[0]
		for _, same := range line[1:] {
			if digest(same) != sum {
				t.Errorf("%s and %s have different digests", same, line[0])
			}
		}
	}
	const known = "\x44\x13\x6f\xa3\x55\xb3\x67\x8a\x11\x46\xad\x16\xf7\xe8\x64\x9e" // the first half of SHA-256 of {}
	if got := digest(``); got != known {
		t.Errorf("the digest of no payload is %x, want %x", got, known)
	}
}
