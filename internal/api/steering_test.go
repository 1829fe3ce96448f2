package api

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// TestStop checks what a request to stop a run writes, what it tells, and how it answers.
func TestStop(t *testing.T) {
	t.Parallel()
	var asked definition.StopRequest
	stopped := definition.Stopped{Runs: []definition.Stopping{{RunID: someID, WorkflowID: "w", How: definition.StopCancel}}, Wake: []string{"next"}}
	run := definition.RunDetail{Run: definition.Run{ID: someID, Status: definition.RunRunning, Stop: definition.Stop{How: definition.StopCancel}}}
	o := testOptions()
	store, teller := &fakeStore{
		stopRun: func(_ string, r definition.StopRequest) (definition.Stopped, error) {
			asked = r
			return stopped, nil
		},
		getRun: func(string) (definition.RunDetail, error) { return run, nil },
	}, &fakeStopper{err: errors.New("temporal is away")}
	o.Store, o.Stopper = store, teller
	a := newAPI(t, o)

	w := call(t, a, "POST", "/runs/"+someID+"/cancel", `{"note": "too slow"}`)
	if body := decode[Run](t, w); w.Code != http.StatusAccepted || body.StopRequested == nil || *body.StopRequested != "cancel" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if want := (definition.StopRequest{How: definition.StopCancel, Note: "too slow"}); asked != want {
		t.Errorf("asked for %+v, want %+v", asked, want)
	}
	if !reflect.DeepEqual(teller.stopped, stopped.Runs) || !reflect.DeepEqual(teller.woken, stopped.Wake) {
		t.Errorf("told %+v, woke %v", teller.stopped, teller.woken)
	}
	if w := call(t, a, "POST", "/runs/"+someID+"/terminate", ""); w.Code != http.StatusAccepted || asked != (definition.StopRequest{How: definition.StopTerminate}) {
		t.Errorf("%d, asked for %+v", w.Code, asked)
	}

	run.Status, run.Reason = definition.RunFailed, definition.ReasonTaskFailed
	store.stopRun = func(string, definition.StopRequest) (definition.Stopped, error) {
		return definition.Stopped{}, definition.ErrRunFinal
	}
	p := wantProblem(t, call(t, a, "POST", "/runs/"+someID+"/terminate", ""), 409, "run-ended")
	if want := "run " + someID + " has ended already (failed: task_failed): there is nothing left to terminate"; p.Detail != want {
		t.Errorf("%q, want %q", p.Detail, want)
	}
	store.stopRun = func(string, definition.StopRequest) (definition.Stopped, error) {
		return definition.Stopped{}, definition.ErrNotFound
	}
	wantProblem(t, call(t, a, "POST", "/runs/"+someID+"/cancel", ""), 404, "not-found")
	wantProblem(t, call(t, a, "POST", "/runs/"+someID+"/cancel", `{"note": "`+strings.Repeat("x", maxNote+1)+`"}`), 422, "invalid")
	wantProblem(t, call(t, a, "POST", "/runs/"+someID+"/cancel", `{"note": "a\u0000"}`), 422, "invalid")
	wantProblem(t, call(t, a, "POST", "/runs/"+someID+"/cancel", `{"reason": "x"}`), 422, "invalid")
}

func TestRerunAnswers(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var from definition.RerunFrom
	var fault error
	start := definition.Start{RunID: otherID, DefinitionID: someID, Key: "rerun-x-1", Kind: definition.KindRerun, Status: definition.RunAccepted}
	o.Store = &fakeStore{
		rerunRun: func(_ string, f definition.RerunFrom) (definition.Start, error) {
			from = f
			return start, fault
		},
		getRun: func(string) (definition.RunDetail, error) { return definition.RunDetail{}, definition.ErrUnavailable },
	}
	o.Ledger = &fakeLedger{}
	a := newAPI(t, o)
	w := call(t, a, "POST", "/runs/"+someID+"/rerun", "")
	if body := decode[Run](t, w); w.Code != http.StatusAccepted || w.Header().Get("Location") != "/runs/"+otherID || from != definition.RerunStart ||
		body.RerunOf == nil || *body.RerunOf != someID || body.Trigger != triggerKind(definition.KindRerun) {
		t.Errorf("%d %v %s %s", w.Code, w.Header(), from, w.Body)
	}
	if w := call(t, a, "POST", "/runs/"+someID+"/rerun", `{"from": "failed"}`); w.Code != http.StatusAccepted || from != definition.RerunFailed {
		t.Errorf("%d %s", w.Code, from)
	}
	p := wantProblem(t, call(t, a, "POST", "/runs/"+someID+"/rerun", `{"from": "middle"}`), 422, "invalid")
	if want := `from: "middle" is not known: it must be one of start, failed`; p.Detail != want {
		t.Errorf("%q, want %q", p.Detail, want)
	}
	for kind, err := range map[string]error{"run-open": definition.ErrRunOpen, "run-not-failed": definition.ErrRunNotFailed,
		"definition-deleted": definition.ErrDefinitionGone} {
		fault = err
		wantProblem(t, call(t, a, "POST", "/runs/"+someID+"/rerun", ""), 409, kind)
	}
	fault = definition.ErrNotFound
	wantProblem(t, call(t, a, "POST", "/runs/"+someID+"/rerun", ""), 404, "not-found")
}

func TestDecisionAnswers(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var asked definition.Decision
	var task definition.TaskResult
	var fault error
	teller := &fakeStopper{}
	o.Store = &fakeStore{
		decide: func(d definition.Decision) (string, definition.TaskResult, error) {
			asked = d
			return "w", task, fault
		},
		getRun: func(string) (definition.RunDetail, error) {
			return definition.RunDetail{Run: definition.Run{ID: someID}}, nil
		},
	}
	o.Stopper = teller
	a := newAPI(t, o)
	path := "/runs/" + someID + "/tasks/ask/"
	if w := call(t, a, "POST", path+"approve", `{"by": "ada", "comment": "go"}`); w.Code != http.StatusAccepted || len(teller.decided) != 1 ||
		asked != (definition.Decision{RunID: someID, Task: "ask", Approved: true, By: "ada", Comment: "go"}) {
		t.Errorf("%d %+v, told %v", w.Code, asked, teller.decided)
	}
	if w := call(t, a, "POST", path+"reject", ""); w.Code != http.StatusAccepted || asked.Approved {
		t.Errorf("%d %+v", w.Code, asked)
	}
	fault = definition.ErrNotWaiting
	for want, was := range map[string]definition.TaskResult{
		"task ask of run " + someID + " does not wait for approval: it has not come to that yet, or never will": {},
		"task ask of run " + someID + " is of the type log, which nobody has to approve":                        {Name: "ask", Type: definition.TaskLog},
		"task ask of run " + someID + " was approved already, by ada at 2026-01-02T03:04:05Z: the first decision stands": {Name: "ask",
			Type: definition.TaskWait, Status: definition.TaskSucceeded, Output: []byte(`{"approved":true,"by":"ada","at":"2026-01-02T03:04:05Z"}`)},
		"task ask of run " + someID + " was rejected already, by somebody who gave no name at 2026-01-02T03:04:05Z: the first decision stands": {
			Name: "ask", Type: definition.TaskWait, Status: definition.TaskFailed, Output: []byte(`{"approved":false,"by":"","at":"2026-01-02T03:04:05Z"}`)},
		"task ask of run " + someID + " does not wait for approval: it is timed_out": {Name: "ask", Type: definition.TaskWait, Status: definition.TaskTimedOut},
	} {
		task = was
		w := call(t, a, "POST", path+"approve", "")
		if p := decode[Problem](t, w); w.Code != 409 || p.Detail != want {
			t.Errorf("%d %q, want %q", w.Code, p.Detail, want)
		}
	}
	fault = definition.ErrNotFound
	wantProblem(t, call(t, a, "POST", path+"approve", ""), 404, "not-found")
	wantProblem(t, call(t, a, "POST", path+"approve", `{"by": "`+strings.Repeat("x", maxBy+1)+`"}`), 422, "invalid")
}

// TestBulkSteering checks what filters mean, and the answers.
func TestBulkSteering(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var which definition.ListRuns
	var dry bool
	teller := &fakeStopper{}
	o.Store = &fakeStore{
		stopRuns: func(q definition.ListRuns, _ definition.StopRequest, most int, dryRun bool) (definition.Stopped, int, error) {
			if which, dry = q, dryRun; most != 1000 {
				t.Errorf("at most %d", most)
			}
			return definition.Stopped{Runs: make([]definition.Stopping, 3), Left: 4}, 1500, nil
		},
		rerunRuns: func(q definition.ListRuns, from definition.RerunFrom, _ int, dryRun bool) ([]definition.Start, int, error) {
			if which, dry = q, dryRun; from != definition.RerunFailed {
				t.Errorf("from %s", from)
			}
			return nil, 7, nil
		},
	}
	o.Stopper = teller
	a := newAPI(t, o)
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := definition.ListRuns{
		DefinitionID: someID, Definition: "d", Labels: map[string]string{"team": "growth"}, Reason: definition.ReasonReplaced,
		Statuses: []definition.RunStatus{definition.RunQueued, definition.RunRunning}, Kinds: []definition.TriggerKind{definition.KindEvent},
		Since: since, Until: since.Add(time.Hour), RerunOf: otherID, BackfillID: otherID, ReplayID: otherID, EventID: "e-1",
	}
	const filter = `"filter": {"definition_id": "` + someID + `", "definition": "d", "labels": {"team": "growth"}, "reason": "replaced",
		"status": ["queued", "running"], "trigger": ["event"], "since": "2026-01-02T04:04:05+01:00", "until": "2026-01-02T04:04:05Z",
		"rerun_of": "` + otherID + `", "backfill_id": "` + otherID + `", "replay_id": "` + otherID + `", "event_id": "e-1"}`
	for _, test := range []struct {
		path, body string
		status     int
		count      RunCount
		told       int
	}{
		{"/runs/cancel", `{` + filter + `, "dry_run": true}`, 200, RunCount{Count: 1500, Left: 500, DryRun: true}, 0},
		{"/runs/cancel", `{` + filter + `}`, 202, RunCount{Count: 1500, Left: 4}, 3},
		{"/runs/terminate", `{` + filter + `, "note": "x"}`, 202, RunCount{Count: 1500, Left: 4}, 3},
		{"/runs/rerun", `{` + filter + `, "from": "failed", "dry_run": true}`, 200, RunCount{Count: 7, DryRun: true}, 0},
		{"/runs/rerun", `{` + filter + `, "from": "failed"}`, 202, RunCount{Left: 7}, 0},
	} {
		teller.stopped = nil
		w := call(t, a, "POST", test.path, test.body)
		if got := decode[RunCount](t, w); w.Code != test.status || got != test.count || len(teller.stopped) != test.told {
			t.Errorf("%s: %d %+v, told %d; want %d %+v, %d", test.path, w.Code, got, len(teller.stopped), test.status, test.count, test.told)
		}
		if !reflect.DeepEqual(which, want) || dry != test.count.DryRun {
			t.Errorf("%s: asked for %+v, want %+v", test.path, which, want)
		}
	}
	for body, detail := range map[string]string{
		``: "filter: must name which runs are meant: at least one of definition_id, definition, labels, status, reason, trigger, since, until, " +
			"rerun_of, backfill_id, replay_id and event_id",
		`{"filter": {"labels": {}, "status": []}}`: "filter: must name which runs are meant: at least one of definition_id, definition, labels, status, reason, " +
			"trigger, since, until, rerun_of, backfill_id, replay_id and event_id",
		`{"filter": {"status": ["done"]}}`: `filter.status: "done" is not known: it must be one of accepted, queued, running, succeeded, failed, timed_out, ` +
			`canceled, skipped, missed`,
		`{"filter": {"definition_id": "7"}}`:                                             `filter.definition_id: "7" is not an id: an id is a UUID`,
		`{"filter": {"definition": ""}}`:                                                 "filter.definition: is empty: give it a value or leave it out",
		`{"filter": {"since": "2026-01-02T03:04:05Z", "until": "2026-01-01T00:00:00Z"}}`: "filter.until: must not be before since",
		`{"filter": {"state": "queued"}}`:                                                "filter.state: is not a field that is known here",
		`{"filter": {"definition": "` + strings.Repeat("x", 101) + `"}}`:                 "filter.definition: must be at most 100 characters long, as names are",
		`{"filter": {"labels": {"a": "` + strings.Repeat("x", 256) + `"}}}`:              "filter.labels.a: must be at most 255 bytes long, as labels are",
		`{"filter": {"labels": {"a": "b\u0000"}}}`:                                       "filter: must not hold the character U+0000",
	} {
		if p := wantProblem(t, call(t, a, "POST", "/runs/cancel", body), 422, "invalid"); p.Detail != detail {
			t.Errorf("%s: %q, want %q", body, p.Detail, detail)
		}
	}
}

// TestFiltersOfLists checks the filters of GET /runs.
func TestFiltersOfLists(t *testing.T) {
	t.Parallel()
	o := testOptions()
	var asked definition.ListRuns
	o.Store = &fakeStore{runs: func(q definition.ListRuns) ([]definition.Run, error) {
		asked = q
		return nil, nil
	}}
	a := newAPI(t, o)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for path, want := range map[string]definition.ListRuns{
		"/runs?status=failed,timed_out,failed&trigger=event,manual": {Statuses: []definition.RunStatus{definition.RunFailed, definition.RunTimedOut},
			Kinds: []definition.TriggerKind{definition.KindEvent, definition.KindManual}},
		"/runs?label=team%3Dgrowth&label=note%3Da%3Db%2Cc&reason=replaced": {Labels: map[string]string{"team": "growth", "note": "a=b,c"},
			Reason: definition.ReasonReplaced},
		"/runs?definition=d&since=2026-01-02T03:04:05Z&until=2026-01-02T03:04:06Z&rerun_of=" + otherID: {Definition: "d", Since: at,
			Until: at.Add(time.Second), RerunOf: otherID},
	} {
		want.Limit = defaultLimit + 1
		if w := call(t, a, "GET", path, ""); w.Code != 200 || !reflect.DeepEqual(asked, want) {
			t.Errorf("%s: %d, asked %+v, want %+v: %s", path, w.Code, asked, want, w.Body)
		}
	}
	for path, detail := range map[string]string{
		"/runs?status=failed,":                                        "status: holds an empty word",
		"/runs?label=team":                                            `label: "team" is not a label: it must be a name, = and a value, as in team=growth`,
		"/runs?label=a%3D1&label=a%3D2":                               `label: names "a" twice, and no definition has two values of one label`,
		"/runs?status=failed&status=missed":                           "status: is given more than once",
		"/runs?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z": "until: must not be before since",
	} {
		if p := wantProblem(t, call(t, a, "GET", path, ""), 422, "invalid"); p.Detail != detail {
			t.Errorf("%s: %q, want %q", path, p.Detail, detail)
		}
	}
}

// TestTaskOfARun checks the whole of a task, and the pages of its items.
func TestTaskOfARun(t *testing.T) {
	t.Parallel()
	o := testOptions()
	from := -1
	o.Store = &fakeStore{getTask: func(_, name string, fromItem, limit int) (definition.TaskDetail, []definition.ItemDetail, error) {
		from = fromItem
		items := []definition.ItemDetail{{ItemResult: definition.ItemResult{Item: fromItem, Output: []byte("1")}, OutputBytes: 9},
			{ItemResult: definition.ItemResult{Item: fromItem + 1}}}
		return definition.TaskDetail{TaskResult: definition.TaskResult{Name: name}, Items: new(3)}, items[:min(limit, 2)], nil
	}}
	a := newAPI(t, o)
	path := "/runs/" + someID + "/tasks/each?limit=1"
	w := call(t, a, "GET", path, "")
	first := decode[RunTask](t, w)
	if w.Code != 200 || from != 0 || first.Name != "each" || *first.ItemsTotal != 3 || len(first.Items) != 1 || !first.Items[0].OutputTruncated ||
		first.NextCursor == nil {
		t.Fatalf("%d from %d: %s", w.Code, from, w.Body)
	}
	if w := call(t, a, "GET", path+"&cursor="+*first.NextCursor, ""); w.Code != 200 || from != 1 {
		t.Errorf("the next page: %d from %d", w.Code, from)
	}
	wantProblem(t, call(t, a, "GET", "/runs/"+someID+"/tasks/other?cursor="+*first.NextCursor, ""), 422, "invalid")
}

// TestBecause checks what is said to have led to a run.
func TestBecause(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, run := range map[string]definition.Run{
		"slot: it was due at 2026-01-02T03:04:05Z":                                                 {Kind: definition.KindCron, SlotAt: &at},
		"request: somebody asked for it":                                                           {Kind: definition.KindManual},
		"event: the event e of the type a.b made it due; stop: run x took its place":               {Kind: definition.KindEvent, EventID: "e", EventType: "a.b", Stop: definition.Stop{How: definition.StopCancel, Reason: definition.ReasonReplaced, Note: "run x took its place"}},
		"rerun: somebody asked for run " + someID + " again; stop: somebody asked to terminate it": {Kind: definition.KindRerun, RerunOf: someID, Stop: definition.Stop{How: definition.StopTerminate, Reason: definition.ReasonTerminated}},
		"rerun: it makes up for run " + someID + "; replay: the replay " + otherID + " made it":    {Kind: definition.KindReplay, RerunOf: someID, ReplayID: otherID},
		"backfill: the backfill " + otherID + " made it":                                           {Kind: definition.KindBackfill, BackfillID: otherID},
		"event: the event " + someID + " of the type run.timed_out made it due; run: that event told that run " + someID + " had timed out": {Kind: definition.KindEvent,
			EventID: someID, EventType: "run.timed_out"},
		"event: the event mine of the type run.failed made it due": {Kind: definition.KindEvent, EventID: "mine", EventType: "run.failed"},
	} {
		var got []string
		for _, c := range because(&run) {
			got = append(got, c.Kind+": "+c.Text)
		}
		if text := strings.Join(got, "; "); text != want {
			t.Errorf("%q, want %q", text, want)
		}
	}
}
