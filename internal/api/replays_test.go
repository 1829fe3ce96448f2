package api

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	from, to := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)
	const zero = `{"read":0,"matched":0,"new":0,"rerun":0,"ran":0,"failed":0}`
	for _, test := range []struct {
		body  string
		asked definition.ReplayRequest
		types string
	}{
		{`{"from":"2026-05-01T00:00:00Z","to":"2026-05-02T02:00:00.0000009+02:00","definition_ids":["` + someID + `"]}`,
			definition.ReplayRequest{From: from, To: to, DefinitionIDs: []string{someID}}, `[]`},
		{`{"from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z","event_types":["user.created","order.>","*"],"definition_ids":["` +
			strings.ToUpper(someID) + `"],"dry_run":true}`,
			definition.ReplayRequest{From: from, To: to, EventTypes: []string{"user.created", "order.>", "*"},
				DefinitionIDs: []string{someID}, DryRun: true}, `["user.created","order.>","*"]`},
		{`{"from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z","event_types":null,"definition_ids":["` + someID + `"],"dry_run":null}`,
			definition.ReplayRequest{From: from, To: to, DefinitionIDs: []string{someID}}, `[]`},
	} {
		o := testOptions()
		var asked definition.ReplayRequest
		o.Store = &fakeStore{createReplay: func(r definition.ReplayRequest) (definition.Replay, error) {
			asked = r
			return definition.Replay{ReplayRequest: r, ID: otherID, Status: definition.ReplayPending, CreatedAt: to}, nil
		}}
		w := call(t, newAPI(t, o), "POST", "/replays", test.body)
		want := fmt.Sprintf(`{"id":"%s","status":"pending","from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z","event_types":%s,`+
			`"definition_ids":["%s"],"dry_run":%v,"error":null,"counted":%s,"done":%s,"created_at":"2026-05-02T00:00:00Z","finished_at":null}`+"\n",
			otherID, test.types, someID, test.asked.DryRun, zero, zero)
		if w.Code != 202 || w.Header().Get("Location") != "/replays/"+otherID || w.Body.String() != want {
			t.Errorf("%s: %d at %q\n%s\nwant\n%s", test.body, w.Code, w.Header().Get("Location"), w.Body, want)
		}
		if !reflect.DeepEqual(asked, test.asked) {
			t.Errorf("%s: asked %+v, want %+v", test.body, asked, test.asked)
		}
	}
}

func TestReplayProgress(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 5, 1, 2, 0, 0, 0, time.FixedZone("", 7200))
	o := testOptions()
	o.Store = &fakeStore{getReplay: func(string) (definition.Replay, error) {
		return definition.Replay{
			ReplayRequest: definition.ReplayRequest{From: at, To: at, DefinitionIDs: []string{someID}}, ID: otherID,
			Status: definition.ReplayFailed, Error: "the stream is gone", CreatedAt: at, FinishedAt: &at,
			Counted: definition.ReplayCounts{Read: 9, Matched: 8, New: 4, Rerun: 2, Ran: 1, Failed: 1},
			Done:    definition.ReplayCounts{Read: 3, Matched: 2, New: 2},
		}, nil
	}}
	w := call(t, newAPI(t, o), "GET", "/replays/"+otherID, "")
	const want = `{"id":"` + otherID + `","status":"failed","from":"2026-05-01T00:00:00Z","to":"2026-05-01T00:00:00Z","event_types":[],` +
		`"definition_ids":["` + someID + `"],"dry_run":false,"error":"the stream is gone",` +
		`"counted":{"read":9,"matched":8,"new":4,"rerun":2,"ran":1,"failed":1},` +
		`"done":{"read":3,"matched":2,"new":2,"rerun":0,"ran":0,"failed":0},` +
		`"created_at":"2026-05-01T00:00:00Z","finished_at":"2026-05-01T00:00:00Z"}` + "\n"
	if w.Code != 200 || w.Body.String() != want {
		t.Errorf("%d %s\nwant %s", w.Code, w.Body, want)
	}
}

func TestBadReplays(t *testing.T) {
	t.Parallel()
	const day = `"from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z"`
	const ids = `"definition_ids":["` + someID + `"]`
	required := Fault{"definition_ids", "required", "is required: the ids of the definitions that the events are routed to again"}
	many := make([]string, definition.MaxReplayDefinitions+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"0197a1b2-3c4d-7e5f-8a9b-%012d"`, i)
	}
	types := make([]string, maxReplayTypes+1)
	for i := range types {
		types[i] = fmt.Sprintf(`"a.%d"`, i)
	}
	a := newAPI(t, testOptions())
	for _, test := range []struct {
		body   string
		faults []Fault
	}{
		{``, []Fault{{"from", "required", `is required, as in "2026-01-31T09:00:00Z"`},
			{"to", "required", `is required, as in "2026-01-31T17:00:00Z"`}, required}},
		{`{"from":"2026-05-01T00:00:01Z","to":"2026-05-01T00:00:00Z",` + ids + `}`, []Fault{{"to", "after_from", "must not be before from"}}},
		{`{"from":"1969-12-31T23:59:59Z","to":"2026-05-01T00:00:00Z",` + ids + `}`, []Fault{{"from", "range", "must not be before 1970"}}},
		{`{"from":"soon","to":"2026-05-01T00:00:00Z",` + ids + `}`, []Fault{
			{"from", "time", `must be an RFC 3339 time, as in "2026-01-31T09:00:00Z"`}}},
		{`{` + day + `,"definition_ids":[]}`, []Fault{required}},
		{`{` + day + `,"definition_ids":["7","` + someID + `","` + strings.ToUpper(someID) + `"]}`, []Fault{
			{"definition_ids[0]", "uuid", `"7" is not an id: an id is a UUID`}, {"definition_ids[2]", "unique", "is given twice"}}},
		{`{` + day + `,"definition_ids":[` + strings.Join(many, ",") + `]}`, []Fault{
			{"definition_ids", "max_items", "has 101 ids; at most 100 are allowed"}}},
		{`{` + day + `,` + ids + `,"event_types":["user.*","User","user.*",""]}`, []Fault{
			{"event_types[1]", "event_type", "must be lower-case words of a-z, 0-9, _ and - joined by dots, as in user.created"},
			{"event_types[2]", "unique", "is given twice"}, {"event_types[3]", "event_type", "must not be empty"}}},
		{`{` + day + `,` + ids + `,"event_types":[` + strings.Join(types, ",") + `]}`, []Fault{
			{"event_types", "max_items", "has 51 types; at most 50 are allowed"}}},
		{`{` + day + `,` + ids + `,"event_types":"user.created"}`, []Fault{{"event_types", "type", "must be a list, but is a string"}}},
		{`{` + day + `,` + ids + `,"limit":1}`, []Fault{{"limit", "unknown_field", "is not a field that is known here"}}},
	} {
		p := wantProblem(t, call(t, a, "POST", "/replays", test.body), 422, "invalid")
		if !slices.Equal(p.Errors, test.faults) {
			t.Errorf("%.200s\ngot  %q\nwant %q", test.body, p.Errors, test.faults)
		}
	}
}

func TestReplayRefused(t *testing.T) {
	t.Parallel()
	const body = `{"from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z","definition_ids":["` + someID + `","` + otherID + `"]}`
	const replayID = "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5d"
	replay := func(status definition.ReplayStatus, counting bool, of string) definition.Replay {
		r := definition.Replay{ID: replayID, Status: status, ReplayRequest: definition.ReplayRequest{DefinitionIDs: []string{of}}}
		if r.DryRun = counting; counting {
			r.ID = someID
		}
		return r
	}
	const unknown = "a replay of one of these definitions is active already: wait until it has ended, or cancel it with " +
		"POST /replays/{id}/cancel"
	for _, test := range []struct {
		err    error
		list   []definition.Replay
		status int
		kind   string
		detail string
	}{
		{definition.ErrReplayActive, []definition.Replay{replay(definition.ReplayRunning, true, otherID),
			replay(definition.ReplayCompleted, false, otherID), replay(definition.ReplayCounting, false, replayID),
			replay(definition.ReplayPending, false, otherID)}, 409, "replay-active",
			"a replay (" + replayID + ") of definition " + otherID + " is active already: wait until it has ended, or cancel it with " +
				"POST /replays/" + replayID + "/cancel"},
		// It ended meanwhile, or the list cannot be read.
		{definition.ErrReplayActive, []definition.Replay{replay(definition.ReplayCompleted, false, someID)}, 409, "replay-active", unknown},
		{definition.ErrReplayActive, nil, 409, "replay-active", unknown},
		{definition.Invalid("definition_ids[1]", "event_definition", "no"), nil, 422, "invalid", "definition_ids[1]: no"},
		{definition.ErrUnavailable, nil, 503, "unavailable", "the storage does not answer at the moment; try again in 2 seconds"},
	} {
		o := testOptions()
		o.Store = &fakeStore{
			createReplay: func(definition.ReplayRequest) (definition.Replay, error) {
				return definition.Replay{}, fmt.Errorf("create replay: %w", test.err)
			},
			replays: func(definition.ListReplays) ([]definition.Replay, error) {
				if test.list == nil {
					return nil, errors.New("no")
				}
				return test.list, nil
			},
		}
		p := wantProblem(t, call(t, newAPI(t, o), "POST", "/replays", body), test.status, test.kind)
		if p.Detail != test.detail {
			t.Errorf("%v: %q, want %q", test.err, p.Detail, test.detail)
		}
	}
}

func TestListOfReplays(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Store = &fakeStore{replays: func(q definition.ListReplays) ([]definition.Replay, error) {
		seq := q.BeforeSeq
		if seq == 0 {
			seq = 4
		}
		var rows []definition.Replay
		for seq--; seq > 0 && len(rows) < q.Limit; seq-- {
			rows = append(rows, definition.Replay{ID: fmt.Sprint(seq), Seq: seq})
		}
		return rows, nil
	}}
	a := newAPI(t, o)
	var ids []string
	for next := ""; ; {
		list := decode[ReplayList](t, call(t, a, "GET", "/replays?limit=2"+next, ""))
		for _, r := range list.Items {
			ids = append(ids, r.ID)
		}
		if list.NextCursor == nil {
			break
		}
		next = "&cursor=" + *list.NextCursor
		wantProblem(t, call(t, a, "GET", "/runs?limit=2"+next, ""), 422, "invalid")
	}
	if !slices.Equal(ids, []string{"3", "2", "1"}) {
		t.Errorf("%q", ids)
	}
}

func TestNoSuchReplay(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Store = &fakeStore{getReplay: func(string) (definition.Replay, error) { return definition.Replay{}, definition.ErrNotFound }}
	a := newAPI(t, o)
	p := wantProblem(t, call(t, a, "GET", "/replays/"+otherID, ""), 404, "not-found")
	if p.Detail != "there is no replay "+otherID+"; it may have been deleted" {
		t.Errorf("%q", p.Detail)
	}
	wantProblem(t, call(t, a, "GET", "/replays/7", ""), 422, "invalid")
	p = wantProblem(t, call(t, a, "POST", "/replays/"+otherID+"/cancel", `{"reason":"x"}`), 422, "invalid")
	if p.Detail != "reason: is not a field that is known here" {
		t.Errorf("%q", p.Detail)
	}
}
