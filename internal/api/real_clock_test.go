package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// note returns the note of a definition's schedule and whether it is paused.
func (s *service) note(t *testing.T, id string) (string, bool) {
	t.Helper()
	d, err := s.temporal.ScheduleClient().GetHandle(t.Context(), definition.ScheduleID(id)).Describe(t.Context())
	if err != nil {
		t.Fatalf("describe the schedule of %s: %v", id, err)
	}
	return d.Schedule.State.Note, d.Schedule.State.Paused
}

// followed waits until the answer says, or comes to say, that the schedule is as wanted: a machine that is too busy for the two
// seconds of an answer may say "pending" first.
func (s *service) followed(t *testing.T, a answer) definitionAnswer {
	t.Helper()
	d := read[definitionAnswer](t, a)
	if d.Sync != nil && d.Sync.State == "synced" {
		return d
	}
	testenv.Eventually(t, 30*time.Second, "the schedule of "+d.Name+" follows", func(ctx context.Context) (bool, error) {
		s.call(t, 200, "POST", "/admin/sync", "") // there is no worker here
		now := read[definitionAnswer](t, s.call(t, 200, "GET", "/activity-definitions/"+d.ID, ""))
		return now.Sync != nil && now.Sync.State == "synced", nil
	})
	return d
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	s := newService(t)
	created := s.call(t, 201, "POST", "/activity-definitions/",
		`{"name": "each-minute", "trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"}}`)
	d := s.followed(t, created)
	for _, test := range []struct {
		path, body string
		revision   int
		enabled    bool
		note       string
	}{
		{"/pause", `{"reason": "the target moves house"}`, 2, false, "disabled in activity-core: the target moves house"},
		{"/pause", `{"reason": "the target moves house"}`, 2, false, "disabled in activity-core: the target moves house"},
		{"/pause", "", 2, false, "disabled in activity-core: the target moves house"},
		{"/pause/", `{"reason": "it moved; a check is due"}`, 3, false, "disabled in activity-core: it moved; a check is due"},
		{"/resume", "", 4, true, "managed by activity-core; changes made here are undone"},
		{"/resume", "", 4, true, "managed by activity-core; changes made here are undone"},
		{"/pause", "", 5, false, "disabled in activity-core"},
	} {
		got := s.followed(t, s.call(t, 200, "POST", created.location+test.path, test.body))
		if got.Revision != test.revision || got.Enabled != test.enabled || got.ID != d.ID {
			t.Errorf("%s %s: %+v", test.path, test.body, got)
		}
		if note, paused := s.note(t, d.ID); note != test.note || paused == test.enabled {
			t.Errorf("%s %s: note %q, paused %v", test.path, test.body, note, paused)
		}
	}
	fires := read[api.Fires](t, s.call(t, 200, "GET", created.location+"/next-fires", ""))
	if len(fires.Fires) != 0 || len(fires.Warnings) != 2 || !strings.HasPrefix(fires.Warnings[0], "The definition is disabled: ") {
		t.Errorf("paused: %+v", fires)
	}

	// The reason is a field of the definition like others.
	put := read[definitionAnswer](t, s.call(t, 200, "PUT", created.location, `{"pause_reason": "by hand"}`))
	if put.Revision != 6 || put.Enabled {
		t.Errorf("pause_reason by PUT: %+v", put)
	}
	p := read[api.Problem](t, s.call(t, 422, "PUT", created.location, `{"enabled": true, "pause_reason": "by hand"}`))
	if p.Detail != "pause_reason: belongs to a disabled definition: leave it out, or set enabled to false" {
		t.Errorf("%q", p.Detail)
	}
	s.call(t, 204, "DELETE", created.location, "")
	s.call(t, 404, "POST", created.location+"/pause", "")
	s.call(t, 404, "POST", created.location+"/resume", "")
	s.call(t, 404, "GET", created.location+"/next-fires", "")
}

func TestNextFiresAndPreviewAgree(t *testing.T) {
	t.Parallel()
	s := newService(t)
	created := s.call(t, 201, "POST", "/activity-definitions/", `{"name": "working-days", "trigger_config": {"trigger_type": "cron",
		"cron_expression": "30 2,14 * * 1-5", "timezone": "Europe/Berlin"}}`)
	fires := read[api.Fires](t, s.call(t, 200, "GET", created.location+"/next-fires?count=1000", ""))
	preview := read[api.Fires](t, s.call(t, 200, "POST", "/cron/preview",
		`{"cron_expression": "30 2,14 * * 1-5", "timezone": "Europe/Berlin", "count": 1000}`))
	if len(fires.Fires) != 1000 || fires.Description != preview.Description || len(fires.Warnings) != 0 {
		t.Errorf("%d fires, %q, %q", len(fires.Fires), fires.Description, fires.Warnings)
	}
	if a, b := asText(t, fires.Fires[1:999]), asText(t, preview.Fires); !strings.Contains(b, strings.Trim(a, "[]")) {
		t.Errorf("they differ:\n%.300s\n%.300s", a, b) // the first may have passed between the two
	}

	manual := s.call(t, 201, "POST", "/activity-definitions/", `{"name": "by-hand", "trigger_config": {"trigger_type": "manual"}}`)
	if p := read[api.Problem](t, s.call(t, 409, "GET", manual.location+"/next-fires", "")); p.Type != "/problems/no-slots" {
		t.Errorf("%+v", p)
	}
}

func asText(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestScheduled goes through the life of a definition that is due once.
func TestScheduled(t *testing.T) {
	t.Parallel()
	s := newService(t)
	runAt := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
	body := func(at time.Time) string {
		return fmt.Sprintf(`{"name": "once", "trigger_config": {"trigger_type": "scheduled", "run_at": %q, "jitter": "1m"}}`,
			at.Format(time.RFC3339))
	}
	p := read[api.Problem](t, s.call(t, 422, "POST", "/activity-definitions/", body(time.Now().Add(-time.Hour))))
	if len(p.Errors) != 1 || p.Errors[0].Field != "trigger_config.run_at" || p.Errors[0].Rule != "future" {
		t.Errorf("%+v", p)
	}
	created := s.call(t, 201, "POST", "/activity-definitions/", body(runAt))
	d := s.followed(t, created)
	want := fmt.Sprintf(`{"trigger_type":"scheduled","run_at":%q,"timezone":"UTC","misfire_policy":"skip","jitter":"1m0s"}`,
		runAt.Format(time.RFC3339))
	if string(d.Trigger) != want {
		t.Errorf("trigger %s, want %s", d.Trigger, want)
	}
	if note, paused := s.note(t, d.ID); paused || !strings.HasPrefix(note, "managed by") {
		t.Errorf("schedule: %q %v", note, paused)
	}
	if got := names(t, s, "/activity-definitions/?trigger_type=scheduled", nil); !slices.Equal(got, []string{"once"}) {
		t.Errorf("by type: %q", got)
	}
	fires := read[api.Fires](t, s.call(t, 200, "GET", created.location+"/next-fires", ""))
	if len(fires.Fires) != 1 || fires.Fires[0].UTC != runAt.Format(time.RFC3339) || len(fires.Warnings) != 1 {
		t.Errorf("%+v", fires)
	}
}

type backfillAnswer struct {
	ID            *string
	DefinitionID  string `json:"definition_id"`
	Revision      int
	From, To      string
	OnlyMissing   bool `json:"only_missing"`
	MaxConcurrent int  `json:"max_concurrent"`
	Status        string
	Total         int
	FinishedAt    *string `json:"finished_at"`
	Runs          map[string]int
	DryRun        bool `json:"dry_run"`
}

// TestLifeOfABackfill counts, makes, meets and cancels a backfill. There is no worker, so its runs wait.
func TestLifeOfABackfill(t *testing.T) {
	t.Parallel()
	s := newService(t)
	created := s.call(t, 201, "POST", "/activity-definitions/",
		`{"name": "each-minute", "enabled": false, "trigger_config": {"trigger_type": "cron", "cron_expression": "* * * * *"}}`)
	id := strings.TrimPrefix(created.location, "/activity-definitions/")
	const hour = `"from": "2026-01-05T10:00:00Z", "to": "2026-01-05T11:00:00+00:00"`

	dry := read[backfillAnswer](t, s.call(t, 200, "POST", created.location+"/backfill", `{`+hour+`, "dry_run": true}`))
	if dry.ID != nil || !dry.DryRun || dry.Total != 61 || len(dry.Runs) != 0 || !dry.OnlyMissing || dry.MaxConcurrent != 1 {
		t.Errorf("dry run: %+v", dry)
	}
	if list := read[page[backfillAnswer]](t, s.call(t, 200, "GET", created.location+"/backfills", "")); len(list.Items) != 0 {
		t.Errorf("after a dry run: %+v", list.Items)
	}

	accepted := s.call(t, 202, "POST", created.location+"/backfill", `{`+hour+`, "max_concurrent": 3}`)
	b := read[backfillAnswer](t, accepted)
	if b.ID == nil || accepted.location != "/backfills/"+*b.ID || b.DefinitionID != id || b.Status != "active" || b.Total != 61 ||
		b.Runs["accepted"] != 61 || b.MaxConcurrent != 3 || b.DryRun || b.From != "2026-01-05T10:00:00Z" || b.To != "2026-01-05T11:00:00Z" {
		t.Errorf("at %s: %s", accepted.location, accepted.body)
	}
	if got := s.call(t, 200, "GET", accepted.location, "").body; string(got) != string(accepted.body) {
		t.Errorf("read back %s\naccepted  %s", got, accepted.body)
	}
	runs := readBackfilled(t, s, "/runs?limit=50&backfill_id="+*b.ID)
	if len(runs) != 61 || runs[60].SlotAt != "2026-01-05T10:00:00Z" || runs[0].SlotAt != "2026-01-05T11:00:00Z" {
		t.Errorf("%d runs", len(runs))
	}
	for _, r := range runs {
		if r.Trigger != "backfill" || r.Status != "accepted" || r.OccurrenceKey != "cron-"+r.SlotAt || r.BackfillID != *b.ID || r.RerunOf != nil {
			t.Fatalf("run %+v", r)
		}
	}
	if mine := readBackfilled(t, s, created.location+"/runs?limit=500&trigger=backfill&status=accepted&backfill_id="+*b.ID); len(mine) != 61 {
		t.Errorf("runs of the definition: %d", len(mine))
	}
	if none := readBackfilled(t, s, "/runs?limit=500&backfill_id="+id); len(none) != 0 {
		t.Errorf("runs of no backfill: %d", len(none))
	}

	p := read[api.Problem](t, s.call(t, 409, "POST", created.location+"/backfill", `{`+hour+`}`))
	if p.Type != "/problems/backfill-active" || !strings.Contains(p.Detail, *b.ID) {
		t.Errorf("%+v", p)
	}
	if none := read[backfillAnswer](t, s.call(t, 200, "POST", created.location+"/backfill", `{`+hour+`, "dry_run": true}`)); none.Total != 0 ||
		none.Status != "completed" {
		t.Errorf("what is about to run is not missing: %+v", none)
	}

	canceled := s.call(t, 200, "POST", accepted.location+"/cancel", "")
	if c := read[backfillAnswer](t, canceled); c.Status != "canceled" || c.FinishedAt == nil || c.Runs["canceled"] != 61 || len(c.Runs) != 1 {
		t.Errorf("canceled: %s", canceled.body)
	}
	if again := s.call(t, 200, "POST", accepted.location+"/cancel/", "{}"); string(again.body) != string(canceled.body) {
		t.Errorf("canceled again: %s", again.body)
	}

	// What was called off is missing again, and is made up for by reruns.
	second := read[backfillAnswer](t, s.call(t, 202, "POST", created.location+"/backfill", `{"from": "2026-01-05T10:00:00Z",
		"to": "2026-01-05T10:01:00Z"}`))
	again := readBackfilled(t, s, "/runs?limit=50&backfill_id="+*second.ID)
	if len(again) != 2 || again[1].RerunOf == nil || *again[1].RerunOf != runs[60].ID || again[1].SlotAt != "2026-01-05T10:00:00Z" ||
		again[1].OccurrenceKey != "rerun-"+runs[60].ID+"-1" {
		t.Errorf("reruns: %+v", again)
	}
	list := read[page[backfillAnswer]](t, s.call(t, 200, "GET", created.location+"/backfills?limit=1", ""))
	if len(list.Items) != 1 || *list.Items[0].ID != *second.ID || list.NextCursor == nil {
		t.Fatalf("newest: %+v", list)
	}
	list = read[page[backfillAnswer]](t, s.call(t, 200, "GET", created.location+"/backfills?limit=1&cursor="+*list.NextCursor, ""))
	if len(list.Items) != 1 || *list.Items[0].ID != *b.ID || list.NextCursor != nil {
		t.Errorf("oldest: %+v", list)
	}
	s.call(t, 200, "POST", "/backfills/"+*second.ID+"/cancel", "")
}

type backfilledRun struct {
	ID            string
	Trigger       string
	Status        string
	OccurrenceKey string  `json:"occurrence_key"`
	SlotAt        string  `json:"slot_at"`
	RerunOf       *string `json:"rerun_of"`
	BackfillID    string  `json:"backfill_id"`
}

func readBackfilled(t *testing.T, s *service, path string) []backfilledRun {
	t.Helper()
	var all []backfilledRun
	for address := path; ; {
		list := read[page[backfilledRun]](t, s.call(t, 200, "GET", address, ""))
		all = append(all, list.Items...)
		if list.NextCursor == nil {
			return all
		}
		address = path + "&cursor=" + *list.NextCursor
	}
}

func TestBackfillsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newService(t)
	cron := s.call(t, 201, "POST", "/activity-definitions/",
		`{"name": "each-second", "enabled": false, "trigger_config": {"trigger_type": "cron", "cron_expression": "@every 1s"}}`).location
	manual := s.call(t, 201, "POST", "/activity-definitions/", `{"name": "by-hand", "trigger_config": {"trigger_type": "manual"}}`).location
	gone := "/activity-definitions/" + definition.NewID()
	for _, test := range []struct {
		location, body string
		status         int
		kind, detail   string
	}{
		{cron, `{"from": "2026-01-05T10:00:00Z", "to": "2126-01-05T11:00:00Z"}`, 422, "invalid",
			"to: must not lie in the future: what is to come is due by itself"},
		{cron, `{"from": "2026-01-05T10:00:00Z", "to": "2026-01-05T12:46:40Z"}`, 422, "invalid",
			"to: from and to hold more than 10000 slots: backfill a shorter range at a time"},
		{manual, `{"from": "2026-01-05T10:00:00Z", "to": "2026-01-05T11:00:00Z"}`, 409, "no-slots", "definition " +
			strings.TrimPrefix(manual, "/activity-definitions/") + " has a trigger of type manual, which has no times of its own; " +
			"cron and scheduled ones have"},
		{gone, `{"from": "2026-01-05T10:00:00Z", "to": "2026-01-05T11:00:00Z"}`, 404, "not-found", "there is no definition " +
			strings.TrimPrefix(gone, "/activity-definitions/") + "; it may have been deleted"},
	} {
		for _, dry := range []string{"", `, "dry_run": true`} {
			body := strings.TrimSuffix(test.body, "}") + dry + "}"
			p := read[api.Problem](t, s.call(t, test.status, "POST", test.location+"/backfill", body))
			if p.Type != "/problems/"+test.kind || p.Detail != test.detail {
				t.Errorf("%s: %q\nwant %q", body, p.Detail, test.detail)
			}
		}
	}
	s.call(t, 404, "GET", "/backfills/"+definition.NewID(), "")
	s.call(t, 404, "POST", "/backfills/"+definition.NewID()+"/cancel", "")
	s.call(t, 404, "GET", gone+"/backfills", "")

	// As large as they get, and with nothing in it: both are answered in time.
	began := time.Now()
	largest := read[backfillAnswer](t, s.call(t, 202, "POST", cron+"/backfill",
		`{"from": "2026-01-05T10:00:00Z", "to": "2026-01-05T12:46:39Z", "max_concurrent": 100}`))
	took := time.Since(began)
	if t.Logf("a backfill of %d runs was accepted within %s", largest.Total, took); largest.Total != 10_000 {
		t.Errorf("the largest: %+v", largest)
	}
	s.call(t, 200, "POST", "/backfills/"+*largest.ID+"/cancel", "")
	empty := s.call(t, 202, "POST", cron+"/backfill", `{"from": "2026-01-05T09:00:00.5Z", "to": "2026-01-05T09:00:00.5Z"}`)
	if b := read[backfillAnswer](t, empty); b.Total != 0 || b.Status != "completed" || b.FinishedAt == nil || len(b.Runs) != 0 {
		t.Errorf("an empty one: %s", empty.body)
	}
}

// TestSyncOnRequest takes a schedule away behind the service's back and has it put back by hand.
func TestSyncOnRequest(t *testing.T) {
	t.Parallel()
	s := newService(t)
	var last string
	for _, name := range []string{"one", "two"} {
		created := s.call(t, 201, "POST", "/activity-definitions/",
			fmt.Sprintf(`{"name": %q, "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily"}}`, name))
		last = s.followed(t, created).ID
	}
	sync := func(query string) api.SyncResult {
		return read[api.SyncResult](t, s.call(t, http.StatusOK, "POST", "/admin/sync"+query, ""))
	}
	becomes := func(query, what string, want api.SyncResult) {
		t.Helper()
		var got api.SyncResult
		testenv.Eventually(t, 30*time.Second, what, func(context.Context) (bool, error) {
			got = sync(query) // Temporal's list of schedules lags a little behind
			return got.Created == want.Created && got.Unchanged == want.Unchanged, nil
		})
		if got.Failures == nil || len(got.Failures) > 0 || got.Failed > 0 || !got.Complete || got.DryRun != want.DryRun {
			t.Errorf("%s: %+v", what, got)
		}
	}
	becomes("", "both are as wanted", api.SyncResult{Unchanged: 2})
	if err := s.temporal.ScheduleClient().GetHandle(t.Context(), definition.ScheduleID(last)).Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	becomes("?dry_run=true", "a dry run misses it", api.SyncResult{Created: 1, Unchanged: 1, DryRun: true})
	becomes("", "it is made again", api.SyncResult{Created: 1, Unchanged: 1})
	if paused, exists := s.paused(t, last); paused || !exists {
		t.Errorf("schedule: paused %v, exists %v", paused, exists)
	}
	becomes("?dry_run=false", "nothing is left to do", api.SyncResult{Unchanged: 2})
}
