package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

func storedLetter(status definition.DeadLetterStatus) definition.StoredDeadLetter {
	at := time.Date(2026, 1, 2, 4, 4, 5, 0, time.FixedZone("", 3600))
	return definition.StoredDeadLetter{
		DeadLetter: definition.DeadLetter{
			Stream: "S", StreamSeq: 7, PublishedAt: at, Subject: "activity.a", Reason: definition.RejectNotJSON, Detail: "no JSON",
			Header: map[string][]string{"A": {"1", "2"}}, Data: []byte("{"), DataSize: 1, Deliveries: 2,
		},
		ID: someID, Seq: 3, Status: status, Retries: 1, CreatedAt: at,
	}
}

const letterHead = `"reason":"not_json","detail":"no JSON","event_id":null,"subject":"activity.a","stream":"S","stream_seq":7,` +
	`"published_at":"2026-01-02T03:04:05Z",`

func TestDeadLetter(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 9)
	const headers = `"headers":{"A":["1","2"]},`
	const rest = `"deliveries":2,"retries":1,"runs":0,"created_at":"2026-01-02T03:04:05Z","settled_at":null,` + headers
	for _, test := range []struct {
		name, data string
		size       int
		want       string
	}{
		{"text", "{\x00é", 4, `"data_size":4,` + rest + `"data":"{\u0000é","data_base64":null,"data_truncated":false`},
		{"empty", "", 0, `"data_size":0,` + rest + `"data":"","data_base64":null,"data_truncated":false`},
		{"no text", "\xff", 1, `"data_size":1,` + rest + `"data":null,"data_base64":"/w==","data_truncated":false`},
		{"not cut, but within a character", "a\xc3", 2,
			`"data_size":2,` + rest + `"data":null,"data_base64":"YcM=","data_truncated":false`},
		{"cut within a character", long + "\xf0\x9f\x98", 90,
			`"data_size":90,` + rest + `"data":"` + long + `","data_base64":null,"data_truncated":true`},
		{"cut after a character", long + "é", 90,
			`"data_size":90,` + rest + `"data":"` + long + `é","data_base64":null,"data_truncated":true`},
		{"cut, and no text", "\xff" + long, 90,
			`"data_size":90,` + rest + `"data":null,"data_base64":"/3h4eHh4eHh4eA==","data_truncated":true`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := testOptions()
			o.Store = &fakeStore{getLetter: func(id string) (definition.StoredDeadLetter, error) {
				l := storedLetter(definition.DeadLetterOpen)
				l.Data, l.DataSize = []byte(test.data), test.size
				return l, nil
			}}
			w := call(t, newAPI(t, o), "GET", "/dead-letters/"+someID, "")
			want := `{"id":"` + someID + `","status":"open",` + letterHead + test.want + "}\n"
			if w.Code != 200 || w.Body.String() != want {
				t.Errorf("%d %s\nwant %s", w.Code, w.Body, want)
			}
		})
	}
}

func TestListOfDeadLetters(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var asked definition.ListDeadLetters
	o.Store = &fakeStore{letters: func(q definition.ListDeadLetters) ([]definition.StoredDeadLetter, error) {
		asked = q
		var rows []definition.StoredDeadLetter
		for seq := range int64(q.Limit) {
			l := storedLetter(definition.DeadLetterOpen)
			l.Seq = 900 - seq
			rows = append(rows, l)
		}
		return rows, nil
	}}
	a := newAPI(t, o)
	const filters = "reason=not_json&event_id=a/b%2B1&status=retrying&from=2026-01-02T03:04:05%2B01:00&to=2026-01-02T02:04:05Z"
	at := time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC)
	all := definition.SelectDeadLetters{Reason: "not_json", EventID: "a/b+1", Status: definition.DeadLetterRetrying, From: at, To: at}
	for path, want := range map[string]definition.ListDeadLetters{
		"/dead-letters":                      {Limit: 51},
		"/dead-letters?limit=2&" + filters:   {SelectDeadLetters: all, Limit: 3},
		"/dead-letters/?limit=1&status=open": {SelectDeadLetters: definition.SelectDeadLetters{Status: definition.DeadLetterOpen}, Limit: 2},
	} {
		w := call(t, a, "GET", path, "")
		if w.Code != 200 || asked != want {
			t.Errorf("%s: %d, asked %+v, want %+v", path, w.Code, asked, want)
			continue
		}
		if strings.Contains(w.Body.String(), `"data"`) || strings.Contains(w.Body.String(), `"headers"`) {
			t.Errorf("%s shows data or headers", path)
		}
		list := decode[DeadLetterList](t, w)
		if len(list.Items) != want.Limit-1 || list.NextCursor == nil {
			t.Fatalf("%s: %d items, cursor %v", path, len(list.Items), list.NextCursor)
		}
		joint := "?"
		if strings.Contains(path, "?") {
			joint = "&"
		}
		want.BeforeSeq = int64(900 - (want.Limit - 2))
		if w := call(t, a, "GET", path+joint+"cursor="+*list.NextCursor, ""); w.Code != 200 || asked != want {
			t.Errorf("%s, next page: %d, asked %+v, want %+v", path, w.Code, asked, want)
		}
		// Without one of its filters, the cursor is none.
		_, query, _ := strings.Cut(path, "?limit=2&")
		given := strings.Split(query, "&")
		for i := range given {
			other := strings.Join(slices.Delete(slices.Clone(given), i, i+1), "&")
			if other = strings.TrimPrefix(other+"&", "&"); query == "" {
				other = "status=routed&"
			}
			p := wantProblem(t, call(t, a, "GET", "/dead-letters?"+other+"cursor="+*list.NextCursor, ""), 422, "invalid")
			if p.Errors[0].Rule != "cursor" {
				t.Errorf("%s, then %s: %+v", path, other, p)
			}
		}
	}
}

func TestBadQueriesForDeadLetters(t *testing.T) {
	t.Parallel()
	reasons := strings.Join(definition.RejectReasons, ", ")
	a := newAPI(t, testOptions())
	for query, want := range map[string]string{
		"reason=bad":          `reason: "bad" is not known: it must be one of ` + reasons,
		"status=closed":       `status: "closed" is not known: it must be one of open, retrying, routed, discarded`,
		"event_id=a%20b":      `event_id: "a b" is not an event id: it must be 1 to 128 of A-Z, a-z, 0-9 and . _ : / + = @ -`,
		"from=yesterday":      `from: "yesterday" is not an RFC 3339 time, as in 2026-01-31T09:00:00Z (the + of an offset is %2B in a query)`,
		"to=2026-01-31":       `to: "2026-01-31" is not an RFC 3339 time, as in 2026-01-31T09:00:00Z (the + of an offset is %2B in a query)`,
		"limit=0":             `limit: "0" is not a page size: it must be a whole number from 1 to 500`,
		"replay_id=" + someID: `replay_id: is not a parameter of this request; the known ones are limit, cursor, reason, event_id, status, from, to`,
		"from=2026-01-31T09:00:01Z&to=2026-01-31T09:00:00Z": `to: must not be before from`,
	} {
		if p := wantProblem(t, call(t, a, "GET", "/dead-letters?"+query, ""), 422, "invalid"); p.Detail != want {
			t.Errorf("%s: %q\nwant %q", query, p.Detail, want)
		}
	}
}

func TestMoveADeadLetter(t *testing.T) {
	t.Parallel()
	const wait = "wait until a router has routed it, which GET /dead-letters/" + someID + " tells"
	no := func(status, what string) string {
		return "dead letter " + someID + " is " + status + ", and only an open one can be retried or discarded: " + what
	}
	for _, test := range []struct {
		verb   string
		moved  int
		after  definition.DeadLetterStatus // "" for none
		status int
		detail string
	}{
		{"retry", 1, definition.DeadLetterRetrying, 202, ""},
		{"retry", 1, definition.DeadLetterRouted, 202, ""}, // a router was quick
		{"retry", 0, definition.DeadLetterRetrying, 409, no("retrying", wait)},
		{"retry", 0, definition.DeadLetterRouted, 409, no("routed", "a retry has routed it, so that nothing is left to do")},
		{"retry", 0, definition.DeadLetterDiscarded, 409, no("discarded", "publish the event again if it is wanted after all")},
		{"retry", 0, definition.DeadLetterOpen, 409, "dead letter " + someID + " was being retried until now: try again"},
		{"retry", 0, "", 404, "there is no dead letter " + someID + "; it may have been deleted"},
		{"discard", 1, definition.DeadLetterDiscarded, 200, ""},
		{"discard", 0, definition.DeadLetterDiscarded, 200, ""},
		{"discard", 0, definition.DeadLetterRetrying, 409, no("retrying", wait)},
		{"discard", 0, definition.DeadLetterRouted, 409, no("routed", "a retry has routed it, so that nothing is left to do")},
		{"discard", 0, "", 404, "there is no dead letter " + someID + "; it may have been deleted"},
	} {
		o := testOptions()
		var asked definition.SelectDeadLetters
		move := func(which definition.SelectDeadLetters, dryRun bool) (int, error) {
			asked = which
			if dryRun {
				t.Error("a dry run was asked for")
			}
			return test.moved, nil
		}
		store := &fakeStore{getLetter: func(string) (definition.StoredDeadLetter, error) {
			if test.after == "" {
				return definition.StoredDeadLetter{}, fmt.Errorf("get: %w", definition.ErrNotFound)
			}
			return storedLetter(test.after), nil
		}}
		if test.verb == "retry" {
			store.retry = move
		} else {
			store.discard = move
		}
		o.Store = store
		w := call(t, newAPI(t, o), "POST", "/dead-letters/"+someID+"/"+test.verb, "")
		if asked != (definition.SelectDeadLetters{ID: someID}) {
			t.Errorf("%s: asked for %+v", test.verb, asked)
		}
		if test.detail == "" {
			if got := decode[DeadLetter](t, w); w.Code != test.status || string(got.Status) != string(test.after) || got.Data == nil {
				t.Errorf("%s, then %s: %d %s", test.verb, test.after, w.Code, w.Body)
			}
			continue
		}
		kind := map[int]string{409: "dead-letter-not-open", 404: "not-found"}[test.status]
		if p := wantProblem(t, w, test.status, kind); p.Detail != test.detail {
			t.Errorf("%s, then %s: %q\nwant %q", test.verb, test.after, p.Detail, test.detail)
		}
	}
	a := newAPI(t, testOptions())
	wantProblem(t, call(t, a, "POST", "/dead-letters/7/retry", ""), 422, "invalid")
	p := wantProblem(t, call(t, a, "POST", "/dead-letters/"+someID+"/discard", `{"reason":"x"}`), 422, "invalid")
	if p.Detail != "reason: is not a field that is known here" {
		t.Errorf("%q", p.Detail)
	}
}

func TestMoveDeadLetters(t *testing.T) {
	t.Parallel()
	from, to := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		verb, body string
		status     int
		asked      definition.SelectDeadLetters
		dryRun     bool
	}{
		{"retry", `{"reason":"not_json"}`, 202, definition.SelectDeadLetters{Reason: "not_json"}, false},
		{"retry", `{"from":"2026-01-02T01:00:00+01:00","dry_run":true}`, 200, definition.SelectDeadLetters{From: from}, true},
		{"discard", `{"to":"2026-01-03T00:00:00Z","dry_run":false}`, 200, definition.SelectDeadLetters{To: to}, false},
		{"discard", `{"reason":"too_deep","from":"2026-01-02T00:00:00Z","to":"2026-01-03T00:00:00Z","dry_run":true}`, 200,
			definition.SelectDeadLetters{Reason: "too_deep", From: from, To: to}, true},
	} {
		o := testOptions()
		var asked definition.SelectDeadLetters
		move := func(which definition.SelectDeadLetters, dryRun bool) (int, error) {
			asked = which
			if dryRun != test.dryRun {
				t.Errorf("%s: dry run %v", test.body, dryRun)
			}
			return 12, nil
		}
		store := &fakeStore{}
		if test.verb == "retry" {
			store.retry = move
		} else {
			store.discard = move
		}
		o.Store = store
		w := call(t, newAPI(t, o), "POST", "/dead-letters/"+test.verb, test.body)
		want := fmt.Sprintf(`{"count":12,"dry_run":%v}`+"\n", test.dryRun)
		if w.Code != test.status || w.Body.String() != want || asked != test.asked {
			t.Errorf("%s %s: %d %s, asked %+v; want %d %s, asked %+v",
				test.verb, test.body, w.Code, w.Body, asked, test.status, want, test.asked)
		}
	}
}

func TestBadSelectionsOfDeadLetters(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	nothing := []Fault{{"body", "required", "must name which dead letters are meant: at least one of reason, from and to"}}
	for _, test := range []struct {
		body   string
		faults []Fault
	}{
		{``, nothing},
		{`{}`, nothing},
		{`{"dry_run":true,"reason":null}`, nothing},
		{`{"reason":""}`, []Fault{{"reason", "not_empty", "is empty: give it a value or leave it out"}}},
		{`{"reason":"bad"}`, []Fault{{"reason", "one_of",
			`"bad" is not known: it must be one of ` + strings.Join(definition.RejectReasons, ", ")}}},
		{`{"from":"2026-01-02T00:00:01Z","to":"2026-01-02T00:00:00Z"}`, []Fault{{"to", "after_from", "must not be before from"}}},
		{`{"from":"today"}`, []Fault{{"from", "time", `must be an RFC 3339 time, as in "2026-01-31T09:00:00Z"`}}},
		{`{"event_id":"a"}`, []Fault{{"event_id", "unknown_field", "is not a field that is known here"}}},
	} {
		for _, verb := range []string{"retry", "discard"} {
			p := wantProblem(t, call(t, a, "POST", "/dead-letters/"+verb, test.body), 422, "invalid")
			if !slices.Equal(p.Errors, test.faults) {
				t.Errorf("%s %s\ngot  %q\nwant %q", verb, test.body, p.Errors, test.faults)
			}
		}
	}
}
