package api_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
)

// change sends a request that has to succeed.
func (a *audited) change(status int, method, path, body string) []byte {
	a.t.Helper()
	got, data := a.ask("ada", "r", method, path, body)
	if got != status {
		a.t.Fatalf("%s %s: %d, want %d: %s", method, path, got, status, data)
	}
	return data
}

func (a *audited) problem(who string, status int, kind, method, path string) api.Problem {
	a.t.Helper()
	got, data := a.ask(who, "r", method, path, "")
	var p api.Problem
	if err := json.Unmarshal(data, &p); err != nil || got != status || p.Type != "/problems/"+kind {
		a.t.Errorf("%s %s: %d, want %d %s: %s", method, path, got, status, kind, data)
	}
	return p
}

func summary(r api.ListedRevision) string {
	to := ""
	if r.RolledBackTo != nil {
		to = fmt.Sprintf(" to %d", *r.RolledBackTo)
	}
	return fmt.Sprintf("%d %s%s by %s %v", r.Revision, *r.Action, to, *r.Actor, r.Changed)
}

func TestRevisions(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	var made api.Definition
	data := a.change(201, "POST", "/activity-definitions/", `{"name": "report", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily"},
		"tasks": [{"name": "note", "type": "log", "with": {"message": "a\u0000b"}}, {"name": "tell", "type": "log", "with": {"message": "c"}}]}`)
	if err := json.Unmarshal(data, &made); err != nil {
		t.Fatal(err)
	}
	path := "/activity-definitions/" + made.ID
	a.change(200, "PATCH", path, `{"description": "x", "labels": {"team": "a"}}`)
	a.change(200, "POST", path+"/pause", `{"reason": "moving"}`)
	a.change(200, "PUT", path, `{"name": "renamed", "tasks": [{"name": "tell", "type": "log", "with": {"message": "d"}}]}`)
	a.change(200, "PUT", path, `{}`) // changes nothing

	var back api.Definition
	if err := json.Unmarshal(a.change(200, "POST", path+"/revisions/1/rollback", ""), &back); err != nil {
		t.Fatal(err)
	}
	if back.Revision != 5 || back.Name != "report" || back.Enabled || back.PauseReason != "moving" || len(back.Tasks) != 2 || len(back.Labels) != 0 {
		t.Errorf("rolled back to %+v", back)
	}
	a.change(200, "POST", path+"/resume", "")
	back = api.Definition{}
	if err := json.Unmarshal(a.change(200, "POST", path+"/revisions/3/rollback", ""), &back); err != nil {
		t.Fatal(err)
	}
	if back.Revision != 7 || !back.Enabled || back.PauseReason != "" || back.Description != "x" {
		t.Errorf("rolled back to what was paused: %+v", back)
	}

	want := []string{
		"7 rollback to 3 by ada [description labels]", "6 resume by ada [enabled pause_reason]",
		"5 rollback to 1 by ada [description labels name tasks]", "4 update by ada [name tasks]", "3 pause by ada [enabled pause_reason]",
		"2 update by ada [description labels]", "1 create by ada []",
	}
	var got []string
	for cursor, pages := "", 0; pages == 0 || cursor != ""; pages++ {
		var page api.RevisionList
		a.get("ada", 200, path+"/revisions?limit=3"+cursor, &page)
		for _, r := range page.Items {
			got = append(got, summary(r))
		}
		if cursor = ""; page.NextCursor != nil {
			cursor = "&cursor=" + *page.NextCursor
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("revisions %q\nwant %q", got, want)
	}

	var first, paused api.Revision
	a.get("ada", 200, path+"/revisions/1", &first)
	a.get("ada", 200, path+"/revisions/3", &paused)
	if !first.Document.Equal(made.Document) || first.DefinitionID != made.ID || first.Revision != 1 || *first.Action != "create" ||
		paused.Document.PauseReason != "moving" || paused.Document.Enabled {
		t.Errorf("revisions %+v\n%+v", first, paused)
	}

	diff := func(query string) (against *int, out []string) {
		var d api.RevisionDiff
		a.get("ada", 200, path+"/revisions/"+query, &d)
		for _, c := range d.Changes {
			out = append(out, fmt.Sprint(c.Op, " ", c.Path, " ", c.Before, " ", c.After))
		}
		return d.Against, out
	}
	against, changes := diff("4/diff")
	if fmt.Sprint(changes) != "[changed name report renamed changed tasks[tell].with.message c d removed tasks[note] "+
		"map[name:note needs:[] type:log with:map[message:a\x00b]] <nil>]" || *against != 3 {
		t.Errorf("diff with %v: %q", against, changes)
	}
	if against, changes = diff("7/diff?against=2"); len(changes) != 0 || *against != 2 {
		t.Errorf("diff with %v: %q", against, changes)
	}
	if against, changes = diff("2/diff?against=7"); len(changes) != 0 || *against != 7 {
		t.Errorf("diff with %v: %q", against, changes)
	}
	if against, changes = diff("1/diff"); len(changes) != 4 || against != nil || !strings.HasPrefix(changes[0], "added enabled") {
		t.Errorf("diff with %v: %q", against, changes)
	}
	// What a list tells of the fields is what a diff tells.
	for n := 2; n <= 7; n++ {
		var top []string
		_, changes := diff(fmt.Sprintf("%d/diff", n))
		for _, c := range changes {
			field := strings.FieldsFunc(strings.Fields(c)[1], func(r rune) bool { return r == '.' || r == '[' })[0]
			top = append(top, field)
		}
		slices.Sort(top)
		if line := fmt.Sprint(slices.Compact(top)); !strings.HasSuffix(want[7-n], line) {
			t.Errorf("revision %d changes %s, and the list says %s", n, line, want[7-n])
		}
	}

	// The audit trail says what came back.
	var list api.AuditList
	a.get("ada", 200, "/audit?action=rollback&limit=1", &list)
	var entry api.AuditDetail
	a.get("ada", 200, fmt.Sprintf("/audit/%d", list.Items[0].ID), &entry)
	if after := entry.After.(map[string]any); after["rolled_back_to"] != 3.0 || after["description"] != "x" || len(entry.Changes) != 2 ||
		entry.Changes[0].Path != "description" || *entry.Revision != 7 || *entry.DefinitionName != "report" {
		t.Errorf("entry %+v", entry)
	}

	// What is not there.
	for path, want := range map[string][2]string{
		path + "/revisions/8":                                          {"not-found", "there is no revision 8 of definition " + made.ID + ": the newest is 7"},
		path + "/revisions/8/diff":                                     {"not-found", "there is no revision 8 of definition " + made.ID + ": the newest is 7"},
		path + "/revisions/1/diff?against=9":                           {"not-found", "there is no revision 9 of definition " + made.ID + ": the newest is 7"},
		"/activity-definitions/" + definition.NewID() + "/revisions":   {"not-found", ""},
		"/activity-definitions/" + definition.NewID() + "/revisions/1": {"not-found", ""},
	} {
		if p := a.problem("ada", 404, want[0], "GET", path); want[1] != "" && p.Detail != want[1] {
			t.Errorf("%s: %s", path, p.Detail)
		}
	}
	for _, path := range []string{path + "/revisions/0", path + "/revisions/x", path + "/revisions/2147483648", path + "/revisions/1/diff?against=0"} {
		a.problem("ada", 422, "invalid", "GET", path)
	}
	a.sql(`DELETE FROM definition_revisions WHERE revision IN (1, 2, 5)`)
	for n, next := range map[int]int{1: 3, 2: 3, 5: 6} {
		p := a.problem("ada", 404, "revision-gone", "GET", fmt.Sprintf("%s/revisions/%d", path, n))
		if !strings.Contains(p.Detail, fmt.Sprintf("the oldest that is kept is %d;", next)) {
			t.Errorf("revision %d: %s", n, p.Detail)
		}
		a.problem("ada", 404, "revision-gone", "POST", fmt.Sprintf("%s/revisions/%d/rollback", path, n))
	}
	a.problem("ada", 404, "revision-gone", "GET", path+"/revisions/3/diff")
	a.problem("ada", 404, "revision-gone", "GET", path+"/revisions/6/diff")

	// A deleted definition is still read, and not brought back.
	a.change(204, "DELETE", path, "")
	var page api.RevisionList
	a.get("ada", 200, path+"/revisions", &page)
	if len(page.Items) != 4 || page.Items[3].Changed != nil {
		t.Errorf("revisions of what was deleted: %+v", page.Items)
	}
	a.get("ada", 200, path+"/revisions/3", &paused)
	a.problem("ada", 404, "not-found", "POST", path+"/revisions/3/rollback")
	a.problem("ada", 404, "not-found", "GET", path+"/revisions/8")
	a.sql(`DELETE FROM definition_revisions`)
	a.problem("ada", 404, "not-found", "GET", path+"/revisions")
	a.problem("ada", 404, "not-found", "GET", path+"/revisions/3")
}

func TestRollbacksThatAreRefused(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	d := a.define(byHand)
	path := "/activity-definitions/" + d.ID
	a.change(200, "PUT", path, `{"name": "renamed"}`)
	a.change(201, "POST", "/activity-definitions/", fmt.Sprintf(`{"name": %q, %s}`, d.Name, byHand))
	if p := a.problem("ada", 409, "name-taken", "POST", path+"/revisions/1/rollback"); !strings.Contains(p.Detail, d.Name) {
		t.Errorf("%+v", p)
	}
	// A rule came after revision 1 was written.
	a.sql(`UPDATE definition_revisions SET document = '{"name": "old", "enabled": true, "trigger_config": {"trigger_type": "manual"},
		"timeout": "1ms", "tasks": []}' WHERE revision = 1 AND definition_id = '` + d.ID + `'`)
	if p := a.problem("ada", 422, "invalid", "POST", path+"/revisions/1/rollback"); len(p.Errors) != 1 || p.Errors[0].Field != "timeout" {
		t.Errorf("%+v", p)
	}
	// Its only time is past.
	a.sql(`UPDATE definition_revisions SET document = '{"name": "old", "enabled": true, "tasks": [],
		"trigger_config": {"trigger_type": "scheduled", "run_at": "2020-01-01T00:00:00Z", "misfire_policy": "skip"}}' WHERE revision = 1 AND definition_id = '` + d.ID + `'`)
	if p := a.problem("ada", 422, "invalid", "POST", path+"/revisions/1/rollback"); len(p.Errors) != 1 || p.Errors[0].Field != "trigger_config.run_at" {
		t.Errorf("%+v", p)
	}
	// Before it was the team's it was another's, and would be again.
	given := a.define(byHand + `, "labels": {"team": "b"}`)
	a.change(200, "PATCH", "/activity-definitions/"+given.ID, `{"labels": {"team": "a", "env": "prod"}}`)
	p := a.problem("team", 422, "invalid", "POST", "/activity-definitions/"+given.ID+"/revisions/1/rollback")
	if len(p.Errors) != 2 || p.Errors[0].Field != "labels.env" || p.Errors[1].Field != "labels.team" || p.Errors[1].Rule != "scope" {
		t.Errorf("%+v", p)
	}
	for _, id := range []string{d.ID, given.ID} {
		if now, err := a.store.GetDefinition(t.Context(), id); err != nil || now.Revision != 2 {
			t.Errorf("%s: revision %d %v", now.Name, now.Revision, err)
		}
	}
}

// TestRevisionsAndAuditWithinLabels asks as callers that are limited to some definitions.
func TestRevisionsAndAuditWithinLabels(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	ours := a.define(byHand + `, "labels": {"team": "a", "env": "prod", "more": "x"}`)
	half := a.define(byHand + `, "labels": {"team": "a", "env": "dev"}`)
	gone := a.define(onEvent + `, "labels": {"team": "a", "env": "prod"}`)
	theirs := a.define(byHand + `, "labels": {"team": "b"}`)
	none := a.define(byHand)
	a.run(ours)
	a.run(theirs)
	a.change(204, "DELETE", "/activity-definitions/"+gone.ID, "")
	a.change(200, "POST", "/admin/sync", "")

	for _, d := range []definition.Stored{half, theirs, none} {
		for _, path := range []string{"", "/1", "/1/diff"} {
			a.problem("team", 404, "not-found", "GET", "/activity-definitions/"+d.ID+"/revisions"+path)
		}
		a.problem("team", 404, "not-found", "POST", "/activity-definitions/"+d.ID+"/revisions/1/rollback")
	}
	var revisions api.RevisionList
	a.get("team", 200, "/activity-definitions/"+ours.ID+"/revisions", &revisions)
	a.get("team", 200, "/activity-definitions/"+gone.ID+"/revisions", &revisions)
	a.get("other", 200, "/activity-definitions/"+theirs.ID+"/revisions", &revisions)

	of := func(who, query string) []string {
		var list api.AuditList
		a.get(who, 200, "/audit"+query, &list)
		var out []string
		for _, e := range list.Items {
			name := ""
			if e.DefinitionName != nil {
				name = *e.DefinitionName
			}
			out = append(out, string(e.Action)+" "+name)
			// What is listed can be read, and nothing else.
			for _, other := range []string{"ada", "team", "other"} {
				status, data := a.ask(other, "r", "GET", fmt.Sprintf("/audit/%d", e.ID), "")
				if sees := other == "ada" || other == who; sees != (status == 200) || !sees && status != 404 {
					if who != "ada" {
						t.Errorf("%s reads entry %d of %s: %d %s", other, e.ID, who, status, data)
					}
				}
			}
		}
		return out
	}
	if got := of("ada", "?limit=500"); len(got) != 9 {
		t.Errorf("%d entries: %q", len(got), got)
	}
	for query, want := range map[string][]string{
		"":                                {"delete d-3", "run.trigger d-1", "create d-3", "create d-1"},
		"?action=create":                  {"create d-3", "create d-1"},
		"?actor=system":                   {"run.trigger d-1", "create d-3", "create d-1"},
		"?target_kind=run":                {"run.trigger d-1"},
		"?target_kind=schedules":          nil,
		"?definition_id=" + ours.ID:       {"run.trigger d-1", "create d-1"},
		"?target_id=" + ours.ID:           {"create d-1"},
		"?definition_id=" + half.ID:       nil,
		"?target_id=" + theirs.ID:         nil,
		"?since=2020-01-01T00:00:00Z":     {"delete d-3", "run.trigger d-1", "create d-3", "create d-1"},
		"?until=2020-01-01T00:00:00Z":     nil,
		"?actor=ada&target_kind=run":      nil,
		"?actor=ada&action=delete":        {"delete d-3"},
		"?actor=system&action=create":     {"create d-3", "create d-1"},
		"?actor=nobody":                   nil,
		"?definition_id=" + gone.ID:       {"delete d-3", "create d-3"},
		"?target_kind=definition&limit=1": {"delete d-3"},
	} {
		if got := of("team", query); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if got := of("other", ""); !slices.Equal(got, []string{"run.trigger d-4", "create d-4"}) {
		t.Errorf("of the other team: %q", got)
	}
	a.problem("ada", 404, "not-found", "GET", "/audit/9999")
	for _, path := range []string{"/audit/0", "/audit/x", "/audit?action=made", "/audit?target_kind=thing", "/audit?target_id=x",
		"/audit?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "/audit?actors=ada"} {
		a.problem("ada", 422, "invalid", "GET", path)
	}
}
