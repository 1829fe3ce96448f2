package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/api"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// known lets callers in by the name of their credential.
type known map[string]access.Caller

func (k known) Authenticate(_ context.Context, credential string) (access.Caller, error) {
	c, ok := k[credential]
	if !ok {
		return c, access.ErrUnknown
	}
	return c, nil
}

// syncs counts the comparisons of all schedules that were asked for.
type syncs struct{ real, dry int }

func (s *syncs) SyncAll(_ context.Context, dryRun bool) (api.SyncResult, error) {
	if dryRun {
		s.dry++
	} else {
		s.real++
	}
	return api.SyncResult{Complete: true}, nil
}

// audited is an API whose callers are known, and its database.
type audited struct {
	*service
	t     *testing.T
	pool  *pgxpool.Pool
	syncs *syncs
	n     int // of definitions that were made
}

func newAudited(t *testing.T) *audited {
	t.Helper()
	a := &audited{t: t, pool: testenv.Pool(t), syncs: &syncs{}}
	a.service = serve(t, a.pool, nobody(t), "nobodys-queue", func(o *api.Options) {
		o.FullSyncer = a.syncs
		o.Access = known{
			"ada":   {ID: "person:issuer#1", Name: "ada", Role: access.Admin},
			"team":  {ID: "token:1", Name: "team's", Role: access.Editor, Labels: map[string]string{"team": "a", "env": "prod"}},
			"other": {ID: "token:2", Name: "other's", Role: access.Editor, Labels: map[string]string{"team": "b"}},
		}
	})
	return a
}

// ask makes a request as somebody, with a request id.
func (a *audited) ask(who, requestID, method, path, body string) (int, []byte) {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+who)
	r.Header.Set("X-Request-Id", requestID)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, data
}

func (a *audited) get(who string, status int, path string, into any) {
	a.t.Helper()
	got, data := a.ask(who, "r", "GET", path, "")
	if got != status {
		a.t.Fatalf("GET %s: %d, want %d: %s", path, got, status, data)
	}
	if err := json.Unmarshal(data, into); err != nil {
		a.t.Fatalf("GET %s: %v in %s", path, err, data)
	}
}

// define stores a definition with a name of its own and these fields besides.
func (a *audited) define(fields string) definition.Stored {
	a.t.Helper()
	a.n++
	doc, err := definition.ParseDocument(fmt.Appendf(nil, `{"name": "d-%d", %s}`, a.n, fields))
	if err != nil {
		a.t.Fatal(err)
	}
	stored, err := a.store.CreateDefinition(a.t.Context(), doc)
	if err != nil {
		a.t.Fatal(err)
	}
	return stored
}

const (
	byHand  = `"trigger_config": {"trigger_type": "manual"}`
	hourly  = `"trigger_config": {"trigger_type": "cron", "cron_expression": "@hourly"}`
	onEvent = `"trigger_config": {"trigger_type": "event", "event_type": "a"}`
	asks    = byHand + `, "tasks": [{"name": "ok", "type": "wait", "with": {"approval": {"message": "go on?"}}}]`
)

// run makes a run by hand that waits for its workflow.
func (a *audited) run(d definition.Stored) string {
	a.t.Helper()
	starts, err := a.store.AcceptRuns(a.t.Context(), []definition.Occurrence{{DefinitionID: d.ID, Kind: definition.KindManual, Key: definition.ManualKey()}})
	if err != nil || len(starts) != 1 {
		a.t.Fatal(err)
	}
	return starts[0].RunID
}

func (a *audited) canceledRun(d definition.Stored) string {
	a.t.Helper()
	id := a.run(d)
	if _, err := a.store.StopRun(a.t.Context(), id, definition.StopRequest{How: definition.StopCancel}); err != nil {
		a.t.Fatal(err)
	}
	return id
}

func (a *audited) waitingRun() string {
	a.t.Helper()
	d := a.define(asks)
	id := a.run(d)
	if _, err := a.store.BeginRun(a.t.Context(), definition.Begin{RunID: id, DefinitionID: d.ID, WorkflowID: "w-" + id, FirstRunID: "f"}); err != nil {
		a.t.Fatal(err)
	}
	err := a.store.FinishTask(a.t.Context(), definition.TaskResult{RunID: id, Name: "ok", Type: definition.TaskWait, Status: definition.TaskRunning})
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

var lastHours = time.Now().UTC().Truncate(time.Hour).Add(-3 * time.Hour)

func (a *audited) backfill() string {
	a.t.Helper()
	b, err := a.store.CreateBackfill(a.t.Context(), definition.BackfillRequest{DefinitionID: a.define(hourly).ID, From: lastHours,
		To: lastHours.Add(2 * time.Hour), MaxConcurrent: 1}, false)
	if err != nil {
		a.t.Fatal(err)
	}
	return b.ID
}

func (a *audited) replay() string {
	a.t.Helper()
	r, err := a.store.CreateReplay(a.t.Context(), definition.ReplayRequest{DefinitionIDs: []string{a.define(onEvent).ID}, From: lastHours,
		To: lastHours.Add(time.Hour)})
	if err != nil {
		a.t.Fatal(err)
	}
	return r.ID
}

func (a *audited) letter() string {
	a.t.Helper()
	a.n++
	err := a.store.AcceptDeadLetters(a.t.Context(), []definition.DeadLetter{{Stream: "S", StreamSeq: uint64(a.n), Reason: definition.RejectNotJSON,
		Data: []byte("x"), DataSize: 1, PublishedAt: lastHours}})
	if err != nil {
		a.t.Fatal(err)
	}
	list, err := a.store.ListDeadLetters(a.t.Context(), definition.ListDeadLetters{Limit: 1})
	if err != nil {
		a.t.Fatal(err)
	}
	return list[0].ID
}

// mutation is a request that changes something.
type mutation struct {
	method, path, body string
	action             definition.Action
	kind               definition.TargetKind
	target             string // its id; "?" for a new one
}

const backfillRange = `"from": "%s", "to": "%s"`

func lastRange() string {
	return fmt.Sprintf(backfillRange, lastHours.Format(time.RFC3339), lastHours.Add(time.Hour).Format(time.RFC3339))
}

// mutations are, by operation id, all that changes something: each makes what it needs, and a request that succeeds once.
var mutations = map[string]func(a *audited) mutation{
	"create-definition": func(a *audited) mutation {
		a.n++
		return mutation{"POST", "/activity-definitions/", fmt.Sprintf(`{"name": "new-%d", %s}`, a.n, byHand), definition.ActionCreate,
			definition.TargetDefinition, "?"}
	},
	"update-definition": changes("PUT", "", `{"description": "x"}`, definition.ActionUpdate, byHand),
	"patch-definition":  changes("PATCH", "", `{"description": "x"}`, definition.ActionUpdate, byHand),
	"delete-definition": changes("DELETE", "", "", definition.ActionDelete, hourly),
	"pause-definition":  changes("POST", "/pause", `{"reason": "why"}`, definition.ActionPause, hourly),
	"resume-definition": changes("POST", "/resume", "", definition.ActionResume, hourly+`, "enabled": false`),
	"rollback-definition": func(a *audited) mutation {
		d := a.define(byHand)
		_, err := a.store.UpdateDefinition(a.t.Context(), d.ID, definition.Change{}, func(d definition.Document) (definition.Document, error) {
			d.Description = "x"
			return d, nil
		})
		if err != nil {
			a.t.Fatal(err)
		}
		return mutation{"POST", "/activity-definitions/" + d.ID + "/revisions/1/rollback", "", definition.ActionRollback,
			definition.TargetDefinition, d.ID}
	},
	"trigger-definition": func(a *audited) mutation {
		return mutation{"POST", "/activity-definitions/" + a.define(byHand).ID + "/trigger", `{"a": 1}`, definition.ActionRunTrigger,
			definition.TargetRun, "?"}
	},
	"backfill-definition": func(a *audited) mutation {
		return mutation{"POST", "/activity-definitions/" + a.define(hourly).ID + "/backfill", "{" + lastRange() + "}",
			definition.ActionBackfillCreate, definition.TargetBackfill, "?"}
	},
	"cancel-backfill": func(a *audited) mutation {
		id := a.backfill()
		return mutation{"POST", "/backfills/" + id + "/cancel", "", definition.ActionBackfillCancel, definition.TargetBackfill, id}
	},
	"cancel-run":    steers("cancel", definition.ActionRunCancel, func(a *audited) string { return a.run(a.define(byHand)) }),
	"terminate-run": steers("terminate", definition.ActionRunTerminate, func(a *audited) string { return a.run(a.define(byHand)) }),
	"rerun-run":     steers("rerun", definition.ActionRunRerun, func(a *audited) string { return a.canceledRun(a.define(byHand)) }),
	"approve-task":  steers("tasks/ok/approve", definition.ActionRunApprove, (*audited).waitingRun),
	"reject-task":   steers("tasks/ok/reject", definition.ActionRunReject, (*audited).waitingRun),
	"cancel-runs":   steersMany("cancel", definition.ActionRunCancel, (*audited).run, ""),
	"terminate-runs": steersMany("terminate", definition.ActionRunTerminate, (*audited).run,
		""),
	"rerun-runs": steersMany("rerun", definition.ActionRunRerun, (*audited).canceledRun, `, "status": ["canceled"]`),
	"retry-dead-letter": func(a *audited) mutation {
		id := a.letter()
		return mutation{"POST", "/dead-letters/" + id + "/retry", "", definition.ActionDeadLetterRetry, definition.TargetDeadLetter, id}
	},
	"discard-dead-letter": func(a *audited) mutation {
		id := a.letter()
		return mutation{"POST", "/dead-letters/" + id + "/discard", "", definition.ActionDeadLetterDiscard, definition.TargetDeadLetter, id}
	},
	"retry-dead-letters": func(a *audited) mutation {
		a.letter()
		a.letter()
		return mutation{"POST", "/dead-letters/retry", `{"reason": "not_json"}`, definition.ActionDeadLetterRetry, definition.TargetDeadLetter, ""}
	},
	"discard-dead-letters": func(a *audited) mutation {
		a.letter()
		a.letter()
		return mutation{"POST", "/dead-letters/discard", `{"reason": "not_json"}`, definition.ActionDeadLetterDiscard,
			definition.TargetDeadLetter, ""}
	},
	"create-replay": func(a *audited) mutation {
		return mutation{"POST", "/replays", fmt.Sprintf(`{%s, "definition_ids": [%q, %q]}`, lastRange(), a.define(onEvent).ID, a.define(onEvent).ID),
			definition.ActionReplayCreate, definition.TargetReplay, "?"}
	},
	"cancel-replay": func(a *audited) mutation {
		id := a.replay()
		return mutation{"POST", "/replays/" + id + "/cancel", "", definition.ActionReplayCancel, definition.TargetReplay, id}
	},
	"create-token": func(*audited) mutation {
		return mutation{"POST", "/tokens", `{"name": "ci", "role": "viewer"}`, definition.ActionTokenCreate, definition.TargetToken, "?"}
	},
	"rotate-token": func(a *audited) mutation {
		id := a.token()
		return mutation{"POST", "/tokens/" + id + "/rotate", "", definition.ActionTokenRotate, definition.TargetToken, id}
	},
	"revoke-token": func(a *audited) mutation {
		id := a.token()
		return mutation{"POST", "/tokens/" + id + "/revoke", "", definition.ActionTokenRevoke, definition.TargetToken, id}
	},
	"sync-schedules": func(*audited) mutation {
		return mutation{"POST", "/admin/sync", "", definition.ActionSchedulesSync, definition.TargetSchedules, ""}
	},
}

// token makes a token and returns its id.
func (a *audited) token() string {
	a.t.Helper()
	t, err := a.store.CreateToken(a.t.Context(), access.TokenRequest{Name: "ci", Role: access.Viewer, Lifetime: time.Hour}, access.NewToken())
	if err != nil {
		a.t.Fatal(err)
	}
	return t.ID
}

func changes(method, path, body string, action definition.Action, fields string) func(*audited) mutation {
	return func(a *audited) mutation {
		id := a.define(fields).ID
		return mutation{method, "/activity-definitions/" + id + path, body, action, definition.TargetDefinition, id}
	}
}

func steers(path string, action definition.Action, run func(*audited) string) func(*audited) mutation {
	return func(a *audited) mutation {
		id := run(a)
		return mutation{"POST", "/runs/" + id + "/" + path, "", action, definition.TargetRun, id}
	}
}

func steersMany(path string, action definition.Action, run func(*audited, definition.Stored) string, more string) func(*audited) mutation {
	return func(a *audited) mutation {
		d := a.define(byHand)
		id := run(a, d)
		return mutation{"POST", "/runs/" + path, fmt.Sprintf(`{"filter": {"definition_id": %q%s}}`, d.ID, more), action, definition.TargetRun, id}
	}
}

// reading are the operations that change nothing although they are sent by POST.
var reading = []string{"preview-cron", "test-event"}

// mutating returns the ids of the operations of the API's document that change something.
func (a *audited) mutating() []string {
	a.t.Helper()
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		}
	}
	a.get("ada", 200, "/openapi.json", &document)
	var out []string
	for _, item := range document.Paths {
		for method, op := range item {
			if method != "get" && !slices.Contains(reading, op.OperationID) {
				out = append(out, op.OperationID)
			}
		}
	}
	slices.Sort(out)
	return out
}

// entries returns the audit trail after an entry, oldest first.
func (a *audited) entries(after int64) []definition.AuditEntry {
	a.t.Helper()
	list, err := a.store.ListAudit(a.t.Context(), definition.ListAudit{Limit: 1000})
	if err != nil {
		a.t.Fatal(err)
	}
	list = slices.DeleteFunc(list, func(e definition.AuditEntry) bool { return e.ID <= after })
	slices.Reverse(list)
	return list
}

func (a *audited) newest() int64 {
	a.t.Helper()
	list, err := a.store.ListAudit(a.t.Context(), definition.ListAudit{Limit: 1})
	if err != nil {
		a.t.Fatal(err)
	}
	if len(list) == 0 {
		return 0
	}
	return list[0].ID
}

// contents is all that the database holds, a line for each table.
func (a *audited) contents() string {
	a.t.Helper()
	rows, err := a.pool.Query(a.t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename`)
	if err != nil {
		a.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		a.t.Fatal(err)
	}
	var out strings.Builder
	for _, table := range tables {
		var hash string
		err := a.pool.QueryRow(a.t.Context(), `SELECT COALESCE(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM `+table+` t`).Scan(&hash)
		if err != nil {
			a.t.Fatal(err)
		}
		fmt.Fprintln(&out, table, hash)
	}
	return out.String()
}

func (a *audited) sql(statement string) {
	a.t.Helper()
	if _, err := a.pool.Exec(a.t.Context(), statement); err != nil {
		a.t.Fatal(err)
	}
}

// TestEveryMutationIsAudited makes a request of each operation that changes something, by the API's own document: it writes one row
// of the audit trail, with the caller, and it changes nothing when that row cannot be written.
func TestEveryMutationIsAudited(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	a.sql(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$`)
	a.sql(`CREATE TRIGGER refuse BEFORE INSERT ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse()`)
	operations := a.mutating()
	for _, id := range slices.Sorted(maps.Keys(mutations)) {
		if !slices.Contains(operations, id) {
			t.Errorf("%s is no operation that changes something", id)
		}
	}
	var actions []definition.Action
	for _, id := range operations {
		make := mutations[id]
		if make == nil {
			t.Errorf("operation %s changes something, and is not in the table mutations", id)
			continue
		}
		a.sql(`ALTER TABLE audit DISABLE TRIGGER refuse`)
		r := make(a)
		a.sql(`ALTER TABLE audit ENABLE TRIGGER refuse`)
		before, synced := a.contents(), a.syncs.real
		if status, data := a.ask("ada", "refused-"+id, r.method, r.path, r.body); status != http.StatusInternalServerError {
			t.Errorf("%s: %d when the audit trail cannot be written: %s", id, status, data)
		}
		if now := a.contents(); now != before || a.syncs.real != synced {
			t.Errorf("%s changes something when the audit trail cannot be written:\n%s\nwas\n%s", id, now, before)
		}
		a.sql(`ALTER TABLE audit DISABLE TRIGGER refuse`)
		last := a.newest()
		if status, data := a.ask("ada", "request-"+id, r.method, r.path, r.body); status < 200 || status > 299 {
			t.Errorf("%s: %d: %s", id, status, data)
			continue
		}
		list := a.entries(last)
		if len(list) != 1 {
			t.Errorf("%s wrote %d rows of the audit trail: %+v", id, len(list), list)
			continue
		}
		e := list[0]
		if e.Actor != "ada" || e.ActorID != "person:issuer#1" || e.Address != "127.0.0.1" || e.RequestID != "request-"+id ||
			e.Action != r.action || e.Target.Kind != r.kind || e.Action.TargetKind() != r.kind || r.target != "?" && e.Target.ID != r.target || r.target == "?" && e.Target.ID == "" {
			t.Errorf("%s: %+v", id, e)
		}
		actions = append(actions, e.Action)
	}
	slices.Sort(actions)
	if want := slices.Sorted(slices.Values(definition.Actions)); !slices.Equal(slices.Compact(actions), want) {
		t.Errorf("actions %q, and those that are documented are %q", slices.Compact(actions), want)
	}
}

// TestWhatChangesNothingIsNotAudited makes requests that find nothing to do, and dry runs.
func TestWhatChangesNothingIsNotAudited(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	d := a.define(hourly + `, "enabled": false, "pause_reason": "why"`)
	path, clock := "/activity-definitions/"+d.ID, "/activity-definitions/"+a.define(hourly).ID
	canceledBackfill, canceledReplay, discarded := a.backfill(), a.replay(), a.letter()
	for _, path := range []string{"/backfills/" + canceledBackfill + "/cancel", "/replays/" + canceledReplay + "/cancel",
		"/dead-letters/" + discarded + "/discard"} {
		if status, data := a.ask("ada", "r", "POST", path, ""); status != 200 {
			t.Fatalf("%s: %d: %s", path, status, data)
		}
	}
	a.letter()
	filter := fmt.Sprintf(`"filter": {"definition_id": %q}`, d.ID)
	ended := a.canceledRun(d)
	open := a.run(d)
	last := a.newest()
	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", path, `{}`, 200}, {"PATCH", path, `{"enabled": false}`, 200},
		{"POST", path + "/pause", "", 200}, {"POST", path + "/pause", `{"reason": "why"}`, 200}, {"POST", clock + "/resume", "", 200},
		{"POST", path + "/revisions/1/rollback", "", 200},
		{"POST", path + "/revisions/2/rollback", "", 404},
		{"PUT", path, `{"name": "A"}`, 422},
		{"POST", "/backfills/" + canceledBackfill + "/cancel", "", 200}, {"POST", "/replays/" + canceledReplay + "/cancel", "", 200},
		{"POST", "/dead-letters/" + discarded + "/discard", "", 200},
		{"POST", "/dead-letters/retry", `{"reason": "too_large"}`, 202}, {"POST", "/dead-letters/discard", `{"reason": "too_large"}`, 200},
		{"POST", "/dead-letters/retry", `{"reason": "not_json", "dry_run": true}`, 200},
		{"POST", "/dead-letters/discard", `{"reason": "not_json", "dry_run": true}`, 200},
		{"POST", clock + "/backfill", "{" + lastRange() + `, "dry_run": true}`, 200},
		{"POST", "/replays", fmt.Sprintf(`{%s, "definition_ids": [%q], "dry_run": true}`, lastRange(), a.define(onEvent).ID), 202},
		{"POST", "/runs/" + ended + "/cancel", "", 409}, {"POST", "/runs/" + open + "/rerun", "", 409},
		{"POST", "/runs/cancel", "{" + filter + `, "dry_run": true}`, 200}, {"POST", "/runs/terminate", "{" + filter + `, "dry_run": true}`, 200},
		{"POST", "/runs/rerun", "{" + filter + `, "dry_run": true}`, 200}, {"POST", "/runs/rerun", "{" + filter + `}`, 202},
		{"POST", "/admin/sync?dry_run=true", "", 200},
		{"DELETE", "/activity-definitions/" + definition.NewID(), "", 404},
	} {
		if status, data := a.ask("ada", "nothing", r.method, r.path, r.body); status != r.status {
			t.Errorf("%s %s: %d, want %d: %s", r.method, r.path, status, r.status, data)
		}
	}
	for _, e := range a.entries(last) {
		if e.RequestID == "nothing" {
			t.Errorf("audited although nothing was changed: %+v", e)
		}
	}
}
