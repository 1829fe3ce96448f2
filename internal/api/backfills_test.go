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

const otherID = "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5c"

func TestBackfill(t *testing.T) {
	t.Parallel()
	created := time.Date(2026, 6, 1, 14, 0, 0, 5000, time.FixedZone("", 7200))
	var asked definition.BackfillRequest
	o := testOptions()
	total := 2
	o.Store = &fakeStore{createBackfill: func(r definition.BackfillRequest, dryRun bool) (definition.Backfill, error) {
		asked = r
		b := definition.Backfill{
			ID: otherID, DefinitionID: r.DefinitionID, DefinitionName: "a", Revision: 3, From: r.From, To: r.To,
			OnlyMissing: r.OnlyMissing, MaxConcurrent: r.MaxConcurrent, Status: definition.BackfillActive, Total: total,
			CreatedAt: created, Runs: map[definition.RunStatus]int{definition.RunAccepted: total},
		}
		if dryRun {
			b.ID, b.Runs = "", nil
		}
		return b, nil
	}}
	a := newAPI(t, o)
	from, to := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)
	const head = `"definition_id":"` + someID + `","definition_name":"a","revision":3,"from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z",`
	for _, test := range []struct {
		body     string
		total    int
		status   int
		location string
		asked    definition.BackfillRequest
		want     string
	}{
		{`{"from":"2026-05-01T00:00:00Z","to":"2026-05-02T02:00:00.0000009+02:00"}`, 2, 202, "/backfills/" + otherID,
			definition.BackfillRequest{DefinitionID: someID, From: from, To: to, OnlyMissing: true, MaxConcurrent: 1},
			`{"id":"` + otherID + `",` + head + `"only_missing":true,"max_concurrent":1,"status":"active","total":2,` +
				`"created_at":"2026-06-01T12:00:00.000005Z","finished_at":null,"runs":{"accepted":2},"dry_run":false}`},
		{`{"from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z","only_missing":false,"max_concurrent":100,"dry_run":true}`, 2, 200, "",
			definition.BackfillRequest{DefinitionID: someID, From: from, To: to, MaxConcurrent: 100},
			`{"id":null,` + head + `"only_missing":false,"max_concurrent":100,"status":"active","total":2,` +
				`"created_at":"2026-06-01T12:00:00.000005Z","finished_at":null,"runs":{},"dry_run":true}`},
		{`{"from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z","only_missing":null,"max_concurrent":null,"dry_run":true}`, 0, 200, "",
			definition.BackfillRequest{DefinitionID: someID, From: from, To: to, OnlyMissing: true, MaxConcurrent: 1},
			`{"id":null,` + head + `"only_missing":true,"max_concurrent":1,"status":"completed","total":0,` +
				`"created_at":"2026-06-01T12:00:00.000005Z","finished_at":null,"runs":{},"dry_run":true}`},
	} {
		total = test.total
		w := call(t, a, "POST", "/activity-definitions/"+someID+"/backfill", test.body)
		if w.Code != test.status || w.Header().Get("Location") != test.location || strings.TrimSpace(w.Body.String()) != test.want {
			t.Errorf("%s: %d at %q\n%s\nwant\n%s", test.body, w.Code, w.Header().Get("Location"), w.Body, test.want)
		}
		if asked.From, asked.To = asked.From.UTC(), asked.To.UTC(); asked != test.asked {
			t.Errorf("%s: asked %+v, want %+v", test.body, asked, test.asked)
		}
	}
}

func TestBadBackfills(t *testing.T) {
	t.Parallel()
	const day = `"from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z"`
	for _, test := range []struct {
		body   string
		faults []Fault
	}{
		{``, []Fault{{"from", "required", `is required, as in "2026-01-31T09:00:00Z"`},
			{"to", "required", `is required, as in "2026-01-31T17:00:00Z"`}}},
		{`{"from":"2026-05-01T00:00:00Z","to":null}`, []Fault{{"to", "required", `is required, as in "2026-01-31T17:00:00Z"`}}},
		{`{"from":"2026-05-01","to":"2026-05-02"}`, []Fault{{"from", "time", `must be an RFC 3339 time, as in "2026-01-31T09:00:00Z"`}}},
		{`{"from":"2026-05-01T00:00:01Z","to":"2026-05-01T00:00:00Z","max_concurrent":0}`, []Fault{
			{"to", "after_from", "must not be before from"}, {"max_concurrent", "range", "must be from 1 to 100"}}},
		{`{"from":"0000-01-01T00:00:00+14:00","to":"2026-05-01T00:00:00Z"}`, []Fault{{"from", "range", "must not be before 1970"}}},
		{`{` + day + `,"max_concurrent":101}`, []Fault{{"max_concurrent", "range", "must be from 1 to 100"}}},
		{`{` + day + `,"dry_run":"yes"}`, []Fault{{"dry_run", "type", "must be true or false, but is a string"}}},
		{`{` + day + `,"only_missing":1}`, []Fault{{"only_missing", "type", "must be true or false, but is a number"}}},
		{`{` + day + `,"limit":1}`, []Fault{{"limit", "unknown_field", "is not a field that is known here"}}},
	} {
		p := wantProblem(t, call(t, newAPI(t, testOptions()), "POST", "/activity-definitions/"+someID+"/backfill", test.body), 422, "invalid")
		if fmt.Sprint(p.Errors) != fmt.Sprint(test.faults) {
			t.Errorf("%s\ngot  %q\nwant %q", test.body, p.Errors, test.faults)
		}
	}
}

func TestBackfillRefused(t *testing.T) {
	t.Parallel()
	const body = `{"from":"2026-05-01T00:00:00Z","to":"2026-05-02T00:00:00Z"}`
	active := []definition.Backfill{{ID: otherID, Status: definition.BackfillActive}}
	for _, test := range []struct {
		err    error
		list   []definition.Backfill
		status int
		kind   string
		detail string
	}{
		{definition.ErrBackfillActive, active, 409, "backfill-active", "a backfill of this definition is active already (" + otherID +
			"): wait until it has ended, or cancel it with POST /backfills/" + otherID + "/cancel"},
		// It ended meanwhile, or the list cannot be read.
		{definition.ErrBackfillActive, []definition.Backfill{{ID: otherID, Status: definition.BackfillCompleted}}, 409, "backfill-active",
			"a backfill of this definition is active already: wait until it has ended, or cancel it with POST /backfills/{id}/cancel"},
		{definition.ErrBackfillActive, nil, 409, "backfill-active",
			"a backfill of this definition is active already: wait until it has ended, or cancel it with POST /backfills/{id}/cancel"},
		{definition.Invalid("id", "no_slots", "names a definition of trigger type manual"), nil, 409, "no-slots",
			"definition " + someID + " has a trigger of type manual, which has no times of its own; cron and scheduled ones have"},
		{definition.Invalid("to", "past", "must not lie in the future"), nil, 422, "invalid", "to: must not lie in the future"},
		{definition.ErrNotFound, nil, 404, "not-found", "there is no definition " + someID + "; it may have been deleted"},
		{definition.ErrUnavailable, nil, 503, "unavailable", "the storage does not answer at the moment; try again in 2 seconds"},
	} {
		o := testOptions()
		store := holding(t, `{"name":"a","trigger_config":{"trigger_type":"manual"}}`)
		store.createBackfill = func(definition.BackfillRequest, bool) (definition.Backfill, error) {
			return definition.Backfill{}, fmt.Errorf("backfill definition: %w", test.err)
		}
		store.backfills = func(q definition.ListBackfills) ([]definition.Backfill, error) {
			if q.DefinitionID != someID || q.Limit != 1 || test.list == nil {
				return nil, errors.New("no")
			}
			return test.list, nil
		}
		o.Store = store
		p := wantProblem(t, call(t, newAPI(t, o), "POST", "/activity-definitions/"+someID+"/backfill", body), test.status, test.kind)
		if p.Detail != test.detail {
			t.Errorf("%v: %q, want %q", test.err, p.Detail, test.detail)
		}
	}
}

func TestListOfBackfills(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var asked []definition.ListBackfills
	o.Store = &fakeStore{
		backfills: func(q definition.ListBackfills) ([]definition.Backfill, error) {
			asked = append(asked, q)
			if q.DefinitionID == otherID {
				return nil, nil
			}
			seq := q.BeforeSeq
			if seq == 0 {
				seq = 4
			}
			var rows []definition.Backfill
			for seq--; seq > 0 && len(rows) < q.Limit; seq-- {
				rows = append(rows, definition.Backfill{ID: fmt.Sprint(seq), Seq: seq})
			}
			return rows, nil
		},
		get: func(string) (definition.Stored, error) { return definition.Stored{}, definition.ErrNotFound },
	}
	a := newAPI(t, o)
	var ids []string
	path := "/activity-definitions/" + someID + "/backfills?limit=2"
	for next := ""; ; {
		list := decode[BackfillList](t, call(t, a, "GET", path+next, ""))
		for _, b := range list.Items {
			ids = append(ids, *b.ID)
		}
		if list.NextCursor == nil {
			break
		}
		next = "&cursor=" + *list.NextCursor
		// The cursor of one definition's list is none of another's.
		p := wantProblem(t, call(t, a, "GET", "/activity-definitions/"+otherID+"/backfills?limit=2"+next, ""), 422, "invalid")
		if p.Errors[0].Rule != "cursor" {
			t.Errorf("another definition: %+v", p)
		}
	}
	if !slices.Equal(ids, []string{"3", "2", "1"}) || len(asked) != 2 || asked[1].BeforeSeq != 2 || asked[1].Limit != 3 {
		t.Errorf("%q asked by %+v", ids, asked)
	}
	p := wantProblem(t, call(t, a, "GET", "/activity-definitions/"+otherID+"/backfills", ""), 404, "not-found")
	if p.Detail != "there is no definition "+otherID+"; it may have been deleted" {
		t.Errorf("%q", p.Detail)
	}
}

func TestNoSuchBackfill(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Store = &fakeStore{getBackfill: func(string) (definition.Backfill, error) { return definition.Backfill{}, definition.ErrNotFound }}
	a := newAPI(t, o)
	p := wantProblem(t, call(t, a, "GET", "/backfills/"+otherID, ""), 404, "not-found")
	if p.Detail != "there is no backfill "+otherID+"; it may have been deleted" {
		t.Errorf("%q", p.Detail)
	}
	wantProblem(t, call(t, a, "GET", "/backfills/7", ""), 422, "invalid")
	p = wantProblem(t, call(t, a, "POST", "/backfills/"+otherID+"/cancel", `{"reason":"x"}`), 422, "invalid")
	if p.Detail != "reason: is not a field that is known here" {
		t.Errorf("%q", p.Detail)
	}
}

// TestRunsOfABackfill checks the filter, and that a cursor without it, as an older version gave out, stays good.
func TestRunsOfABackfill(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var asked definition.ListRuns
	o.Store = &fakeStore{
		runs: func(q definition.ListRuns) ([]definition.Run, error) {
			asked = q
			return []definition.Run{{Seq: 9}, {Seq: 8}}, nil
		},
		get: func(string) (definition.Stored, error) { return definition.Stored{}, definition.ErrNotFound },
	}
	a := newAPI(t, o)
	for path, want := range map[string]definition.ListRuns{
		"/runs?limit=1&backfill_id=" + otherID: {BackfillID: otherID, Limit: 2},
		"/activity-definitions/" + someID + "/runs?limit=1&trigger=backfill&backfill_id=" + otherID: {DefinitionID: someID,
			BackfillID: otherID, Kinds: []definition.TriggerKind{definition.KindBackfill}, Limit: 2},
		"/runs?limit=1&cursor=MS4yYTU5ODVhMmE3NDMzOGY5Ljc": {Limit: 2, BeforeSeq: 7},
	} {
		w := call(t, a, "GET", path, "")
		if w.Code != 200 || !reflect.DeepEqual(asked, want) {
			t.Errorf("%s: %d, asked %+v, want %+v: %s", path, w.Code, asked, want, w.Body)
			continue
		}
		if path, given := strings.CutSuffix(path, "&cursor=MS4yYTU5ODVhMmE3NDMzOGY5Ljc"); !given {
			wantProblem(t, call(t, a, "GET", "/runs?limit=1&cursor="+*decode[RunList](t, w).NextCursor, ""), 422, "invalid")
			if w := call(t, a, "GET", path+"&cursor="+*decode[RunList](t, w).NextCursor, ""); w.Code != 200 || asked.BeforeSeq != 9 {
				t.Errorf("%s, next page: %d %+v", path, w.Code, asked)
			}
		}
	}
	p := wantProblem(t, call(t, a, "GET", "/runs?backfill_id=7&definition_id=8", ""), 422, "invalid")
	if want := `definition_id: "8" is not an id: an id is a UUID; backfill_id: "7" is not an id: an id is a UUID`; p.Detail != want {
		t.Errorf("%q, want %q", p.Detail, want)
	}
}
