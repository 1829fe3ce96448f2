package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// TestEventThatWouldBeADeadLetter tests events whose fate needs no storage, and one that only other definitions are for.
func TestEventThatWouldBeADeadLetter(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	for _, test := range []struct {
		name, body, kind string // kind is the Content-Type
		reason, detail   string
	}{
		{"empty", ``, "", "not_json", "the message is empty"},
		{"not JSON", `{"event_id"`, "application/json", "not_json", "the message is not valid JSON at byte 11: unexpected EOF"},
		{"no type", `{"event_id":"e"}`, "application/json", "missing_type", "type is required, as in user.created"},
		{"bad type", `{"event_id":"e","type":"User"}`, "application/json", "bad_type",
			`type "User" must be lower-case words of a-z, 0-9, _ and - joined by dots, as in user.created`},
		{"a type that is no string", `{"event_id":"e","type":7}`, "application/json", "bad_type", "type must be a string, but is a number"},
		{"type in another case", `{"event_id":"e","TYPE":"a"}`, "application/json", "bad_field", `"TYPE" is not a field: it must be written "type"`},
		{"type twice", `{"event_id":"e","type":"a","type":"b"}`, "application/json", "duplicate_name", `"type" is given twice`},
		{"an envelope that is said to be a CloudEvent", `{"event_id":"e","type":"a"}`, cloudEventType, "bad_cloud_event",
			`specversion must be "1.0", but is not given`},
		{"too large", `{"event_id":"e","type":"a","x":"` + strings.Repeat("x", definition.MaxEvent) + `"}`, "application/json", "too_large",
			"the message is larger than 1 MiB, which is the most that an event may have"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := call(t, a, "POST", "/events/test?at=2026-01-02T03:04:05Z", test.body, "Content-Type", test.kind)
			got := decode[EventTest](t, w)
			if w.Code != 200 || got.Outcome != "dead_letter" || got.Reason == nil || string(*got.Reason) != test.reason ||
				got.Detail == nil || *got.Detail != test.detail || got.Event != nil {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	w := call(t, a, "POST", "/events/test/?at=2026-01-02T04:04:05%2B01:00", `[]`)
	const want = `{"outcome":"dead_letter","reason":"not_object","detail":"the message must be a JSON object, but is a list",` +
		`"published_at":"2026-01-02T03:04:05Z","matches":[],"matches_total":0,"matches_truncated":false,` +
		`"errors":[],"errors_total":0,"errors_truncated":false,"near_misses":[],"near_misses_total":0,"near_misses_truncated":false}` + "\n"
	if w.Code != 200 || w.Body.String() != want {
		t.Errorf("%d %s\nwant %s", w.Code, w.Body, want)
	}
	p := wantProblem(t, call(t, a, "POST", "/events/test?at=now", `{}`), 422, "invalid")
	if want := `at: "now" is not an RFC 3339 time, as in 2026-01-31T09:00:00Z (the + of an offset is %2B in a query)`; p.Detail != want {
		t.Errorf("%q", p.Detail)
	}
	p = wantProblem(t, call(t, a, "POST", "/events/test", `{}`, "Content-Type", "text/plain"), 415, "unsupported-media-type")
	if want := `the body has the Content-Type "text/plain": send JSON with the header Content-Type: application/json or ` +
		`application/cloudevents+json`; p.Detail != want {
		t.Errorf("%q", p.Detail)
	}
}

func routable(name, eventType, filters, condition string) definition.Routable {
	r := definition.Routable{ID: "id-" + name, Name: name, Revision: 2, EventType: eventType, Condition: condition, Live: true}
	if filters != "" {
		if err := json.Unmarshal([]byte(filters), &r.Filters); err != nil {
			panic(err) // a constant of a test
		}
	}
	return r
}

func TestEventTest(t *testing.T) {
	t.Parallel()
	published := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	disabled := routable("a-disabled", "user.created", "", "")
	disabled.Live = false
	later := routable("a-later", "user.created", "", "")
	later.EnabledSince = published.Add(time.Hour)
	unreadable := routable("unreadable", "user.created", "", "")
	unreadable.Unreadable = fmt.Errorf("decode stored definition: no")
	all := []definition.Routable{
		routable("a-other-type", "order.*", "", ""), disabled, later,
		routable("z-filter", "user.created", `{"tier":"free"}`, ""),
		routable("b-filter", "user.*", `{"region":"eu"}`, ""),
		routable("z-condition", "user.created", "", "event.payload.n > 5"),
		routable("match", "user.created", `{"tier":"pro"}`, "event.payload.n < 5"),
		routable("wildcard", "user.>", "", ""),
		routable("broken", "user.created", "", "event.payload.absent > 5"),
		unreadable,
	}
	o := testOptions()
	o.Store = &fakeStore{ofType: func(eventType string) ([]definition.Routable, error) {
		if eventType != "user.created" {
			t.Errorf("asked for definitions of %q", eventType)
		}
		return all, nil
	}}
	a := newAPI(t, o)
	a.now = func() time.Time { return published }
	for name, body := range map[string]struct{ text, kind, source, traceID string }{
		"envelope": {`{"event_id":"e/1","type":"user.created","source":"signup","subject":"s","trace_id":"t",
			"occurred_at":"2026-01-01T01:00:00+01:00","payload":{"tier":"pro","n":1}}`, "application/json", "signup", "t"},
		"CloudEvent": {`{"specversion":"1.0","id":"e/1","type":"user.created","source":"/shop","subject":"s","time":"2026-01-01T00:00:00Z",
			"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","data":{"tier":"pro","n":1}}`,
			cloudEventType, "/shop", "4bf92f3577b34da6a3ce929d0e0e4736"},
	} {
		w := call(t, a, "POST", "/events/test", body.text, "Content-Type", body.kind)
		got := decode[EventTest](t, w)
		source, subject, traceID, occurred := body.source, "s", body.traceID, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		if w.Code != 200 || got.Outcome != "matched" || got.Reason != nil || !got.PublishedAt.Equal(published) || got.Event == nil {
			t.Fatalf("%s: %d %s", name, w.Code, w.Body)
		}
		if e := got.Event; e.EventID != "e/1" || e.Type != "user.created" || *e.Source != source || *e.Subject != subject ||
			*e.TraceID != traceID || !e.OccurredAt.Equal(occurred) {
			t.Errorf("%s: event %s", name, w.Body)
		}
		matches := []EventMatch{{"id-match", "match", 2}, {"id-wildcard", "wildcard", 2}}
		if !slices.Equal(got.Matches, matches) || got.MatchesTotal != 2 {
			t.Errorf("%s: matches %+v", name, got.Matches)
		}
		if len(got.Errors) != 2 || got.ErrorsTotal != 2 || got.Errors[0].Name != "broken" || got.Errors[0].Error == "" ||
			got.Errors[1].Name != "unreadable" {
			t.Errorf("%s: errors %+v", name, got.Errors)
		}
		var misses []string
		for _, m := range got.NearMisses {
			misses = append(misses, m.Name+" "+m.FailedClause)
		}
		want := []string{"z-condition condition", "b-filter filters.region", "z-filter filters.tier", "a-later enabled_since",
			"a-disabled enabled", "a-other-type event_type"}
		if !slices.Equal(misses, want) || got.NearMissesTotal != len(want) || got.NearMissesTruncated {
			t.Errorf("%s: near misses %q, want %q", name, misses, want)
		}
		if m := got.NearMisses[2]; m.Expected != `"free"` || m.Found != `"pro"` || m.Revision != 2 || m.DefinitionID != "id-z-filter" {
			t.Errorf("%s: %+v", name, m)
		}
	}

	// The time of publishing decides about a definition that was enabled later.
	got := decode[EventTest](t, call(t, a, "POST", "/events/test?at=2026-01-02T05:00:00Z", `{"event_id":"e","type":"user.created"}`))
	if !slices.Contains(got.Matches, EventMatch{"id-a-later", "a-later", 2}) {
		t.Errorf("published later: %+v", got)
	}
}

func TestEventTestIsCut(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, maxTestResults, maxTestResults + 1} {
		o := testOptions()
		o.Store = &fakeStore{ofType: func(string) ([]definition.Routable, error) {
			var all []definition.Routable
			for i := range n {
				all = append(all, routable(fmt.Sprintf("m%03d", i), "a", "", ""), routable(fmt.Sprintf("n%03d", n-i), "a", `{"x":1}`, ""),
					routable("e", "a", "", "event.payload.absent"))
			}
			return all, nil
		}}
		got := decode[EventTest](t, call(t, newAPI(t, o), "POST", "/events/test", `{"event_id":"e","type":"a"}`))
		outcome := "matched"
		if n == 0 {
			outcome = "unmatched"
		}
		shown, cut := min(n, maxTestResults), n > maxTestResults
		if got.Outcome != outcome || got.MatchesTotal != n || got.ErrorsTotal != n || got.NearMissesTotal != n ||
			len(got.Matches) != shown || len(got.Errors) != shown || len(got.NearMisses) != shown ||
			got.MatchesTruncated != cut || got.ErrorsTruncated != cut || got.NearMissesTruncated != cut {
			t.Errorf("%d each: %+v", n, got)
		}
		if n > 0 && got.NearMisses[0].Name != "n001" {
			t.Errorf("first near miss %+v", got.NearMisses[0])
		}
	}
}

// TestEventIDs asks for events whose ids need care in a path. The routes are those of the test of events, too.
func TestEventIDs(t *testing.T) {
	t.Parallel()
	o := testOptions()
	asked := ""
	o.Store = &fakeStore{getEvent: func(id string) (definition.EventHistory, error) {
		asked = id
		return definition.EventHistory{ID: id, RunsTotal: 1}, nil
	}}
	a := newAPI(t, o)
	for path, want := range map[string]string{
		"/events/e-1":             "e-1",
		"/events/e-1/":            "e-1",
		"/events/a%2Fb":           "a/b",
		"/events/a%2fb%2F":        "a/b/",
		"/events/a/b":             "a/b",
		"/events/a/b/":            "a/b",
		"/events/a/b//":           "a/b/",
		"/events//a":              "/a",
		"/events/a/b%2Fc:d+e=f@g": "a/b/c:d+e=f@g",
		"/events/a+b:c":           "a+b:c",
		"/events/a%2Bb%3Ac":       "a+b:c",
		"/events/a%2Bb/c":         "a+b/c",
		"/events/test":            "test",
		"/events/test/":           "test",
		"/events/test/1":          "test/1",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			asked = ""
			if w := call(t, a, method, path, ""); w.Code != 200 || asked != want {
				t.Errorf("%s %s: %d, asked for %q, want %q", method, path, w.Code, asked, want)
			}
		}
	}
	const rule = " is not an event id: it must be 1 to 128 of A-Z, a-z, 0-9 and . _ : / + = @ -"
	for path, want := range map[string]string{
		"/events/a%20b":                       `"a b"`,
		"/events/a%252Fb":                     `"a%2Fb"`,
		"/events/a%252Fb/c":                   `"a%2Fb/c"`,
		"/events/%00":                         `"\x00"`,
		"/events/" + strings.Repeat("a", 129): `"` + strings.Repeat("a", 128) + `…"`,
	} {
		p := wantProblem(t, call(t, a, "GET", path, ""), 422, "invalid")
		if want = "event_id: " + want + rule; p.Detail != want {
			t.Errorf("%s: %q, want %q", path, p.Detail, want)
		}
	}
	wantProblem(t, call(t, a, "GET", "/events", ""), 404, "no-such-route")
	p := wantProblem(t, call(t, a, "DELETE", "/events/a/b", ""), 405, "method-not-allowed")
	if p.Detail != "DELETE is not possible on /events/a/b; possible are GET, HEAD" {
		t.Errorf("%q", p.Detail)
	}
}

func TestEventHistory(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 4, 4, 5, 0, time.FixedZone("", 3600))
	record := func(matches int) *definition.EventRecord {
		return &definition.EventRecord{ID: "e", Type: "a.b", Source: "s", Stream: "S", StreamSeq: 7, PublishedAt: at, Matches: matches}
	}
	runs := []definition.Run{{ID: someID, EventID: "e", EventType: "a.b"}}
	letters := []definition.StoredDeadLetter{storedLetter(definition.DeadLetterOpen)}
	const known = `"type":"a.b","source":"s","stream":"S","stream_seq":7,"published_at":"2026-01-02T03:04:05Z"`
	for _, test := range []struct {
		name                 string
		history              definition.EventHistory
		outcome, what        string
		runs, total, letters int
	}{
		{"routed", definition.EventHistory{Record: record(3), Runs: runs, RunsTotal: 3}, "routed", known, 1, 3, 0},
		{"routed, and its runs are gone", definition.EventHistory{Record: record(3)}, "routed", known, 0, 0, 0},
		{"routed before events were recorded", definition.EventHistory{Runs: runs, RunsTotal: 1}, "routed",
			`"type":"a.b","source":null,"stream":null,"stream_seq":null,"published_at":null`, 1, 1, 0},
		{"routed, and its id used again",
			definition.EventHistory{Record: record(1), Runs: runs, RunsTotal: 1, DeadLetters: letters}, "routed", known, 1, 1, 1},
		{"matched nothing", definition.EventHistory{Record: record(0)}, "matched_nothing", known, 0, 0, 0},
		{"dead letter", definition.EventHistory{DeadLetters: letters}, "dead_letter",
			`"type":null,"source":null,"stream":null,"stream_seq":null,"published_at":null`, 0, 0, 1},
	} {
		o := testOptions()
		o.Store = &fakeStore{getEvent: func(id string) (definition.EventHistory, error) {
			test.history.ID = id
			return test.history, nil
		}}
		w := call(t, newAPI(t, o), "GET", "/events/e", "")
		got := decode[EventHistory](t, w)
		head := fmt.Sprintf(`{"event_id":"e","outcome":"%s",%s,"runs":[`, test.outcome, test.what)
		if w.Code != 200 || !strings.HasPrefix(w.Body.String(), head) || len(got.Runs) != test.runs || got.RunsTotal != test.total ||
			len(got.DeadLetters) != test.letters || got.Runs == nil || got.DeadLetters == nil {
			t.Errorf("%s: %d %s\nwant %s…", test.name, w.Code, w.Body, head)
		}
	}

	for since, want := range map[*time.Time]string{
		&at: "nothing is known of event e: events that match nothing are recorded since 2026-01-02T03:04:05Z, so it never came, or it came " +
			"before that or so long ago that its record was removed",
		nil: "nothing is known of event e: events that match nothing are not recorded (ACTCORE_RECORD_UNMATCHED=true on the router turns " +
			"that on), so it matched nothing, or it never came",
	} {
		o := testOptions()
		o.Store = &fakeStore{getEvent: func(id string) (definition.EventHistory, error) {
			return definition.EventHistory{ID: id, UnmatchedSince: since}, nil
		}}
		if p := wantProblem(t, call(t, newAPI(t, o), "GET", "/events/e", ""), 404, "not-found"); p.Detail != want {
			t.Errorf("%q, want %q", p.Detail, want)
		}
	}
}

// TestRunFilters checks the filters of runs by event and by replay, and that cursors belong to them.
func TestRunFilters(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var asked definition.ListRuns
	o.Store = &fakeStore{runs: func(q definition.ListRuns) ([]definition.Run, error) {
		asked = q
		return []definition.Run{{Seq: 9, ReplayID: otherID}, {Seq: 8}}, nil
	}}
	a := newAPI(t, o)
	for path, want := range map[string]definition.ListRuns{
		"/runs?limit=1&replay_id=" + otherID: {ReplayID: otherID, Limit: 2},
		"/activity-definitions/" + someID + "/runs?limit=1&trigger=replay&event_id=a%2Fb": {DefinitionID: someID, EventID: "a/b",
			Kinds: []definition.TriggerKind{definition.KindReplay}, Limit: 2},
	} {
		w := call(t, a, "GET", path, "")
		list := decode[RunList](t, w)
		if w.Code != 200 || !reflect.DeepEqual(asked, want) || list.Items[0].ReplayID == nil || *list.Items[0].ReplayID != otherID {
			t.Errorf("%s: %d, asked %+v, want %+v: %s", path, w.Code, asked, want, w.Body)
			continue
		}
		wantProblem(t, call(t, a, "GET", "/runs?limit=1&cursor="+*list.NextCursor, ""), 422, "invalid")
		if w := call(t, a, "GET", path+"&cursor="+*list.NextCursor, ""); w.Code != 200 || asked.BeforeSeq != 9 {
			t.Errorf("%s, next page: %d %+v", path, w.Code, asked)
		}
	}
	p := wantProblem(t, call(t, a, "GET", "/runs?replay_id=7&event_id=%21", ""), 422, "invalid")
	if want := `replay_id: "7" is not an id: an id is a UUID; event_id: "!" is not an event id: it must be 1 to 128 of A-Z, a-z, 0-9 and ` +
		`. _ : / + = @ -`; p.Detail != want {
		t.Errorf("%q, want %q", p.Detail, want)
	}
}
