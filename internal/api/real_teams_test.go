package api_test

import (
	"cmp"
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

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// teams knows everybody by a credential such as b-editor: somebody of team b with the role editor, limited to the label team=b. Those of
// the team root are limited to nothing.
type teams struct{}

func (teams) Authenticate(_ context.Context, credential string) (access.Caller, error) {
	team, role, _ := strings.Cut(credential, "-")
	c := access.Caller{ID: "token:" + credential, Name: credential, Role: access.Role(role)}
	if team != "root" {
		c.Labels = map[string]string{"team": team}
	}
	return c, nil
}

// reply is what came back from one request.
type reply struct {
	status int
	header http.Header
	body   string
}

// ask makes one request as somebody.
func (s *service) ask(t *testing.T, who, method, path, body string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+who)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(data)}
}

// must asks and wants a status.
func (s *service) must(t *testing.T, status int, who, method, path, body string) reply {
	t.Helper()
	r := s.ask(t, who, method, path, body)
	if r.status != status {
		t.Fatalf("%s: %s %s: %d, want %d: %s", who, method, path, r.status, status, r.body)
	}
	return r
}

// sweepRequest is a request of the sweep. Words in braces stand for what is team A's, and nobody else's: see sweptWorld.
type sweepRequest struct {
	operation string
	path      string
	body      string
	// b is the status that team B gets, where its role allows the operation; 0 stands for 404. a is team A's.
	b, a int
}

const (
	sweptRange   = `"from":"2026-01-05T10:00:00Z","to":"2026-01-05T10:02:00Z"`
	installation = http.StatusForbidden // for everybody with labels
)

// sweep has requests for every operation of the OpenAPI document. Team B makes all of them first, then team A, in this order.
var sweep = []sweepRequest{
	{"list-definitions", "/activity-definitions/", "", 200, 200},
	{"list-definitions", "/activity-definitions/?limit=1", "", 200, 200},
	{"list-definitions", "/activity-definitions/?name={name}", "", 200, 200},
	{"list-definitions", "/activity-definitions/?label=team%3Da", "", 200, 200},
	{"list-definitions", "/activity-definitions/?event_type={type}", "", 200, 200},
	{"list-definitions", "/activity-definitions/?trigger_type=cron&enabled=true", "", 200, 200},
	{"get-definition", "/activity-definitions/{cron}", "", 0, 200},
	{"get-definition", "/activity-definitions/{scheduled}", "", 0, 200},
	{"get-definition", "/activity-definitions/{event}", "", 0, 200},
	{"get-definition", "/activity-definitions/{manual}", "", 0, 200},
	{"get-definition", "/activity-definitions/{deleted}", "", 0, 404},
	{"next-fires", "/activity-definitions/{cron}/next-fires", "", 0, 200},
	{"next-fires", "/activity-definitions/{scheduled}/next-fires", "", 0, 200},
	{"next-fires", "/activity-definitions/{event}/next-fires", "", 0, 409},
	{"list-definition-runs", "/activity-definitions/{manual}/runs", "", 0, 200},
	{"list-definition-runs", "/activity-definitions/{manual}/runs?limit=1&trigger=manual", "", 0, 200},
	{"list-definition-runs", "/activity-definitions/{event}/runs?event_id={event_id}", "", 0, 200},
	{"list-definition-runs", "/activity-definitions/{deleted}/runs", "", 0, 200},
	{"list-definition-backfills", "/activity-definitions/{cron}/backfills", "", 0, 200},
	{"list-definition-backfills", "/activity-definitions/{cron}/backfills?limit=1", "", 0, 200},
	{"get-backfill", "/backfills/{backfill}", "", 0, 200},
	{"list-runs", "/runs", "", 200, 200},
	{"list-runs", "/runs?limit=1", "", 200, 200},
	{"list-runs", "/runs?definition_id={manual}", "", 200, 200},
	{"list-runs", "/runs?definition_id={deleted}", "", 200, 200},
	{"list-runs", "/runs?definition={name}", "", 200, 200},
	{"list-runs", "/runs?label=team%3Da", "", 200, 200},
	{"list-runs", "/runs?status=failed&reason=task_failed", "", 200, 200},
	{"list-runs", "/runs?reason=task_failed", "", 200, 200},
	{"list-runs", "/runs?trigger=backfill", "", 200, 200},
	{"list-runs", "/runs?since=2026-01-01T00:00:00Z", "", 200, 200},
	{"list-runs", "/runs?rerun_of={failed}", "", 200, 200},
	{"list-runs", "/runs?backfill_id={backfill}", "", 200, 200},
	{"list-runs", "/runs?event_id={event_id}", "", 200, 200},
	{"list-runs", "/runs?event_id={event_id}&status=accepted", "", 200, 200},
	{"get-run", "/runs/{open}", "", 0, 200},
	{"get-run", "/runs/{failed}", "", 0, 200},
	{"get-run", "/runs/{again}", "", 0, 200},
	{"get-run", "/runs/{asking}", "", 0, 200},
	{"get-run", "/runs/{queued}", "", 0, 200},
	{"get-run", "/runs/{of_event}", "", 0, 200},
	{"get-run", "/runs/{of_deleted}", "", 0, 200},
	{"get-run-task", "/runs/{asking}/tasks/ok", "", 0, 200},
	{"get-run-task", "/runs/{asking}/tasks/never", "", 0, 404},
	{"preview-cron", "/cron/preview", `{"cron_expression":"@daily","from":"2026-01-01T00:00:00Z"}`, 200, 200},
	{"test-event", "/events/test?at=2100-01-01T00:00:00Z", `{"event_id":"e","type":"{type}","payload":{}}`, 200, 200},
	{"get-event", "/events/{event_id}", "", 0, 200},
	{"get-event", "/events/{lonely}", "", 0, 404}, // recorded, and a dead letter, but without a run
	{"list-replays", "/replays", "", 200, 200},
	{"list-replays", "/replays?limit=1", "", 200, 200},
	{"get-replay", "/replays/{replay}", "", 0, 200},

	{"list-revisions", "/activity-definitions/{cron}/revisions", "", 0, 200},
	{"list-revisions", "/activity-definitions/{deleted}/revisions?limit=1", "", 0, 200},
	{"get-revision", "/activity-definitions/{cron}/revisions/1", "", 0, 200},
	{"get-revision", "/activity-definitions/{cron}/revisions/99", "", 0, 404},
	{"list-audit", "/audit", "", 200, 200},
	{"list-audit", "/audit?definition_id={cron}", "", 200, 200},
	{"list-audit", "/audit?target_id={failed}", "", 200, 200},
	{"list-audit", "/audit?actor=root-editor&action=create", "", 200, 200},
	{"get-audit-entry", "/audit/{audit}", "", 0, 200},
	{"whoami", "/whoami", "", 200, 200},

	{"list-tokens", "/tokens", "", installation, installation},
	{"create-token", "/tokens", `{"name":"x","role":"viewer"}`, installation, installation},
	{"get-token", "/tokens/{letter}", "", installation, installation},
	{"revoke-token", "/tokens/{letter}/revoke", "", installation, installation},
	{"rotate-token", "/tokens/{letter}/rotate", "", installation, installation},
	{"list-dead-letters", "/dead-letters", "", installation, installation},
	{"get-dead-letter", "/dead-letters/{letter}", "", installation, installation},
	{"retry-dead-letter", "/dead-letters/{letter}/retry", "", installation, installation},
	{"discard-dead-letter", "/dead-letters/{letter}/discard", "", installation, installation},
	{"retry-dead-letters", "/dead-letters/retry", `{"reason":"not_json"}`, installation, installation},
	{"discard-dead-letters", "/dead-letters/discard", `{"reason":"not_json"}`, installation, installation},
	{"sync-schedules", "/admin/sync", "", installation, installation},
	{"health", "/healthz", "", 404, 404}, // cmd/api has handlers for these two
	{"ready", "/readyz", "", 404, 404},

	{"create-definition", "/activity-definitions/", `{"name":"new-one","labels":{"team":"a"},"trigger_config":{"trigger_type":"manual"}}`, 422, 201},
	{"update-definition", "/activity-definitions/{cron}", `{"description":"other"}`, 0, 200},
	{"diff-revision", "/activity-definitions/{cron}/revisions/2/diff", "", 0, 200},
	{"diff-revision", "/activity-definitions/{cron}/revisions/2/diff?against=1", "", 0, 200},
	{"rollback-definition", "/activity-definitions/{cron}/revisions/1/rollback", "", 0, 200},
	{"rollback-definition", "/activity-definitions/{cron}/revisions/99/rollback", "", 0, 404},
	{"update-definition", "/activity-definitions/{manual}", `{"name":"{taken}"}`, 0, 409},
	{"update-definition", "/activity-definitions/{manual}", `{"labels":{"team":"b"}}`, 0, 422},
	{"update-definition", "/activity-definitions/{manual}", `{"timeout":"never"}`, 0, 422},
	{"patch-definition", "/activity-definitions/{event}", `{"description":"other"}`, 0, 200},
	{"patch-definition", "/activity-definitions/{event}", `{"labels":{"team":null}}`, 0, 422},
	{"patch-definition", "/activity-definitions/{manual}", `{}`, 0, 200},
	{"pause-definition", "/activity-definitions/{scheduled}/pause", `{"reason":"later"}`, 0, 200},
	{"resume-definition", "/activity-definitions/{scheduled}/resume", "", 0, 200},
	{"trigger-definition", "/activity-definitions/{manual}/trigger", `{"n":1}`, 0, 202},
	{"trigger-definition", "/activity-definitions/{cron}/trigger", "", 0, 202},
	{"backfill-definition", "/activity-definitions/{cron}/backfill", `{` + sweptRange + `,"dry_run":true}`, 0, 200},
	{"backfill-definition", "/activity-definitions/{cron}/backfill", `{` + sweptRange + `}`, 0, 409},
	{"backfill-definition", "/activity-definitions/{event}/backfill", `{` + sweptRange + `}`, 0, 409},
	{"backfill-definition", "/activity-definitions/{other_cron}/backfill", `{` + sweptRange + `}`, 0, 202},
	{"cancel-backfill", "/backfills/{backfill}/cancel", "", 0, 200},
	{"create-replay", "/replays", `{` + sweptRange + `,"definition_ids":["{event}"]}`, 422, 409},
	{"create-replay", "/replays", `{` + sweptRange + `,"definition_ids":["{event}"],"dry_run":true}`, 422, 202},
	{"cancel-replay", "/replays/{replay}/cancel", "", 0, 200},
	{"create-replay", "/replays", `{` + sweptRange + `,"definition_ids":["{event}"]}`, 422, 202},

	{"cancel-run", "/runs/{failed}/cancel", "", 0, 409},
	{"cancel-run", "/runs/{open}/cancel", `{"note":"enough"}`, 0, 202},
	{"terminate-run", "/runs/{failed}/terminate", "", 0, 409},
	{"terminate-run", "/runs/{queued}/terminate", "", 0, 202},
	{"rerun-run", "/runs/{failed}/rerun", "", 0, 202},
	{"rerun-run", "/runs/{failed}/rerun", `{"from":"failed"}`, 0, 202},
	{"rerun-run", "/runs/{asking}/rerun", "", 0, 409},
	{"rerun-run", "/runs/{of_deleted}/rerun", "", 0, 409},
	{"approve-task", "/runs/{asking}/tasks/note/approve", "", 0, 409},
	{"approve-task", "/runs/{asking}/tasks/none/approve", "", 0, 404},
	{"approve-task", "/runs/{asking}/tasks/ok/approve", `{"by":"ada"}`, 0, 202},
	{"approve-task", "/runs/{asking}/tasks/ok/approve", `{"by":"ada"}`, 0, 409},
	{"reject-task", "/runs/{asking_too}/tasks/ok/reject", "", 0, 202},
	{"rerun-runs", "/runs/rerun", `{"filter":{"definition_id":"{scheduled}","status":["failed"]},"dry_run":true}`, 200, 200},
	{"rerun-runs", "/runs/rerun", `{"filter":{"definition_id":"{scheduled}","status":["failed"]}}`, 202, 202},
	{"rerun-runs", "/runs/rerun", `{"filter":{"labels":{"team":"a"},"status":["skipped"]}}`, 202, 202},
	{"cancel-runs", "/runs/cancel", `{"filter":{"definition":"{name}"},"dry_run":true}`, 200, 200},
	{"cancel-runs", "/runs/cancel", `{"filter":{"definition":"{name}"}}`, 202, 202},
	{"cancel-runs", "/runs/cancel", `{"filter":{"event_id":"{event_id}"}}`, 202, 202},
	{"terminate-runs", "/runs/terminate", `{"filter":{"labels":{"team":"a"}},"dry_run":true}`, 200, 200},
	{"terminate-runs", "/runs/terminate", `{"filter":{"definition_id":"{cron}"}}`, 202, 202},
	{"terminate-runs", "/runs/terminate", `{"filter":{"labels":{"team":"a"}}}`, 202, 202},

	{"delete-definition", "/activity-definitions/{cron}", "", 0, 204},
	{"delete-definition", "/activity-definitions/{scheduled}", "", 0, 204},
	{"delete-definition", "/activity-definitions/{event}", "", 0, 204},
	{"delete-definition", "/activity-definitions/{manual}", "", 0, 204},
}

// sweptWorld makes what is team A's: a definition of each trigger, runs in every state, one of them waiting for approval, a backfill and a
// replay; and one definition, run and replay of team B's. It returns what the words of the sweep stand for.
func sweptWorld(t *testing.T, s *service) map[string]string {
	t.Helper()
	world := map[string]string{}
	idOf := func(path, body string) string {
		t.Helper()
		var made struct{ ID string }
		if err := json.Unmarshal([]byte(s.must(t, cmp.Or(map[bool]int{true: 201}[path == "/activity-definitions/"], 202), "root-editor", "POST", path,
			body).body), &made); err != nil {
			t.Fatal(err)
		}
		return made.ID
	}
	defined := func(name, team, more string) string {
		t.Helper()
		return idOf("/activity-definitions/", fmt.Sprintf(`{"name":%q,"labels":{"team":%q,"tier":"1"},%s}`, name, team, more))
	}
	world["name"], world["taken"], world["type"] = "secret-by-hand", "secret-nightly", "secret.thing"
	const asks = `"tasks":[{"name":"note","type":"log","with":{"message":"hi"}},{"name":"ok","type":"wait","with":{"approval":{"message":"secret-question"}}}]`
	world["cron"] = defined(world["taken"], "a", `"trigger_config":{"trigger_type":"cron","cron_expression":"* * * * *"}`)
	world["other_cron"] = defined("secret-hourly", "a", `"trigger_config":{"trigger_type":"cron","cron_expression":"* * * * *"}`)
	world["scheduled"] = defined("secret-once", "a", `"trigger_config":{"trigger_type":"scheduled","run_at":"2100-01-01T00:00:00Z"}`)
	world["event"] = defined("secret-on-event", "a", `"trigger_config":{"trigger_type":"event","event_type":"`+world["type"]+`"}`)
	world["manual"] = defined(world["name"], "a", `"concurrency":{"limit":5},"trigger_config":{"trigger_type":"manual"},`+asks)
	world["deleted"] = defined("secret-gone", "a", `"trigger_config":{"trigger_type":"manual"}`)

	run := func(definitionID string) string {
		return idOf("/activity-definitions/"+definitionID+"/trigger", `"secret-input"`)
	}
	begin := func(id string) definition.Admission {
		t.Helper()
		r, err := s.store.GetRun(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		adm, err := s.store.BeginRun(t.Context(), definition.Begin{RunID: id, DefinitionID: r.DefinitionID, WorkflowID: r.WorkflowID, FirstRunID: id})
		if err != nil {
			t.Fatal(err)
		}
		return adm
	}
	ended := func(id string, status definition.RunStatus, reason definition.Reason) string {
		t.Helper()
		begin(id)
		_, err := s.store.FinishRun(t.Context(), definition.Finish{RunID: id, Status: status, Reason: reason, Error: "secret-error"})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	asking := func() string {
		t.Helper()
		id := run(world["manual"])
		begin(id)
		err := s.store.FinishTask(t.Context(), definition.TaskResult{RunID: id, Index: 1, Name: "ok", Type: definition.TaskWait,
			Status: definition.TaskRunning, Input: []byte(`"secret-task"`)})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	world["failed"] = ended(run(world["manual"]), definition.RunFailed, definition.ReasonTaskFailed)
	world["again"] = ended(idOf("/runs/"+world["failed"]+"/rerun", ""), definition.RunSucceeded, "")
	world["skipped"] = ended(run(world["manual"]), definition.RunSkipped, definition.ReasonConcurrencyLimit)
	world["late"] = ended(run(world["scheduled"]), definition.RunFailed, definition.ReasonTaskFailed)
	world["asking"], world["asking_too"] = asking(), asking()
	world["open"], world["more"], world["of_cron"] = run(world["manual"]), run(world["manual"]), run(world["cron"])
	for range 3 {
		begin(run(world["manual"]))
	}
	world["queued"] = run(world["manual"])
	if adm := begin(world["queued"]); adm.Run.Status != definition.RunQueued {
		t.Fatalf("the run that is to wait is %s", adm.Run.Status)
	}
	world["of_deleted"] = ended(run(world["deleted"]), definition.RunFailed, definition.ReasonTaskFailed)
	s.must(t, 204, "root-editor", "DELETE", "/activity-definitions/"+world["deleted"], "")

	world["event_id"], world["lonely"] = "secret:event", "secret:lonely"
	event := definition.EventRecord{ID: world["event_id"], Type: world["type"], Source: "secret-source", Digest: []byte("d"), Stream: "S", Matches: 1}
	lonely := event
	lonely.ID, lonely.Matches = world["lonely"], 0
	starts, _, err := s.store.AcceptEvents(t.Context(), []definition.EventRecord{event, lonely}, []definition.Occurrence{{
		DefinitionID: world["event"], Kind: definition.KindEvent, Key: definition.EventKey(event.ID), EventID: event.ID, EventType: event.Type}})
	if err != nil || len(starts) != 1 {
		t.Fatal(starts, err)
	}
	world["of_event"] = starts[0].RunID
	letter := definition.DeadLetter{Reason: definition.RejectNotJSON, EventID: world["lonely"], Detail: "secret-letter",
		Stream: "S", StreamSeq: 1, PublishedAt: time.Now()}
	if err := s.store.AcceptDeadLetters(t.Context(), []definition.DeadLetter{letter}); err != nil {
		t.Fatal(err)
	}
	letters, err := s.store.ListDeadLetters(t.Context(), definition.ListDeadLetters{Limit: 1})
	if err != nil || len(letters) != 1 {
		t.Fatal(letters, err)
	}
	world["letter"] = letters[0].ID
	entries, err := s.store.ListAudit(t.Context(), definition.ListAudit{DefinitionID: world["cron"], Limit: 1})
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	world["audit"] = fmt.Sprint(entries[0].ID)

	mine := defined("on-event-of-b", "b", `"trigger_config":{"trigger_type":"event","event_type":"of.b"}`)
	run(mine)
	world["backfill"] = idOf("/activity-definitions/"+world["cron"]+"/backfill", `{`+sweptRange+`}`)
	world["replay"] = idOf("/replays", `{`+sweptRange+`,"definition_ids":["`+world["event"]+`"]}`)
	idOf("/replays", `{`+sweptRange+`,"dry_run":true,"definition_ids":["`+world["event"]+`","`+mine+`"]}`) // nobody's who is limited
	idOf("/replays", `{`+sweptRange+`,"dry_run":true,"definition_ids":["`+mine+`"]}`)
	return world
}

// nobodys returns as many words for things that nobody has.
func nobodys(world map[string]string) map[string]string {
	out := map[string]string{}
	for word, value := range world {
		if _, err := uuid.Parse(value); err == nil {
			out[word] = definition.NewID()
		} else if word == "audit" {
			out[word] = "7999999"
		} else {
			out[word] = "n" + strings.ReplaceAll(uuid.NewString(), "-", "")
		}
	}
	return out
}

func fill(text string, world map[string]string) string {
	for word, value := range world {
		text = strings.ReplaceAll(text, "{"+word+"}", value)
	}
	return text
}

// print is what an answer says, but for the names of what it is about, for its own number and time.
func (r reply) print(world map[string]string) string {
	text := fmt.Sprintln(r.status)
	for _, name := range slices.Sorted(maps.Keys(r.header)) {
		if name != "Date" && name != "X-Request-Id" && name != "Content-Length" {
			text += fmt.Sprintln(name, r.header[name])
		}
	}
	body := strings.ReplaceAll(r.body, r.header.Get("X-Request-Id"), "request")
	for word, value := range world {
		body = strings.ReplaceAll(body, value, "{"+word+"}")
	}
	return text + body
}

// operations returns the operations of the OpenAPI document by their ids.
func (s *service) operations(t *testing.T) map[string]sweptOperation {
	t.Helper()
	var document struct {
		Paths map[string]map[string]sweptOperation
	}
	if err := json.Unmarshal([]byte(s.ask(t, "", "GET", "/openapi.json", "").body), &document); err != nil {
		t.Fatal(err)
	}
	out := map[string]sweptOperation{}
	for _, item := range document.Paths {
		for method, op := range item {
			op.method = strings.ToUpper(method)
			out[op.OperationID] = op
		}
	}
	return out
}

type sweptOperation struct {
	OperationID string      `json:"operationId"`
	Role        access.Role `json:"x-required-role"`
	Wide        bool        `json:"x-installation-wide"`
	method      string
}

// everything is a hash of every table.
func everything(t *testing.T, pool *pgxpool.Pool) map[string]string {
	t.Helper()
	out := map[string]string{}
	rows, err := pool.Query(t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if len(names) < 10 {
		t.Fatalf("tables: %q", names)
	}
	for _, name := range names {
		var hash string
		err := pool.QueryRow(t.Context(), `SELECT COALESCE(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM `+name+` t`).Scan(&hash)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = hash
	}
	return out
}

// TestTeams goes over all operations of the OpenAPI document with two teams that share an installation. For team B, of every role, what is
// team A's is not there: each answer is the one for something that never was, names nothing, and changes nothing. For team A it is there.
func TestTeams(t *testing.T) {
	t.Parallel()
	pool := testenv.Pool(t)
	s := serveTo(t, teams{}, pool, testenv.Temporal(t), testenv.Names(t).OrchestratorTaskQueue)
	operations := s.operations(t)
	for id := range operations {
		if !slices.ContainsFunc(sweep, func(r sweepRequest) bool { return r.operation == id }) {
			t.Errorf("operation %s is not swept: add its requests to sweep", id)
		}
	}
	// Long numbers are told from others.
	if _, err := pool.Exec(t.Context(), `ALTER TABLE audit ALTER COLUMN id RESTART WITH 7000000`); err != nil {
		t.Fatal(err)
	}
	world := sweptWorld(t, s)
	before := everything(t, pool)
	for _, r := range sweep {
		op, known := operations[r.operation]
		if !known {
			t.Fatalf("there is no operation %s", r.operation)
		}
		for _, role := range access.Roles {
			sweepAsB(t, s, op, r, role, world)
		}
	}
	for table, hash := range everything(t, pool) {
		if before[table] != hash {
			t.Errorf("team B has changed %s", table)
		}
	}

	for _, r := range sweep {
		op := operations[r.operation]
		who := "a-" + string(cmp.Or(op.Role, access.Viewer))
		got := s.ask(t, who, op.method, fill(r.path, world), fill(r.body, world))
		if got.status != r.a {
			t.Errorf("%s: %s %s %s: %d, want %d: %s", who, r.operation, r.path, r.body, got.status, r.a, got.body)
		}
		if got.empty() {
			t.Errorf("%s: %s %s %s: there is nothing: %s", who, r.operation, r.path, r.body, got.body)
		}
	}
}

// sweepAsB makes a request as somebody of team B, about what is team A's and about what is nobody's.
func sweepAsB(t *testing.T, s *service, op sweptOperation, r sweepRequest, role access.Role, world map[string]string) {
	t.Helper()
	where := fmt.Sprintf("%s: %s %s %s", role, op.OperationID, r.path, r.body)
	path, body, nothing := fill(r.path, world), fill(r.body, world), nobodys(world)
	got := s.ask(t, "b-"+string(role), op.method, path, body)
	want := cmp.Or(r.b, http.StatusNotFound)
	if op.Role != "" && !role.Allows(op.Role) {
		want = http.StatusForbidden
	}
	if got.status != want {
		t.Errorf("%s: %d, want %d: %s", where, got.status, want, got.body)
	}
	if op.Wide != (r.b == installation) {
		t.Errorf("%s: the document says that x-installation-wide is %v", where, op.Wide)
	}
	for word, value := range world {
		if strings.Contains(got.body, value) && !strings.Contains(path+body, value) {
			t.Errorf("%s: the answer tells of team A's %s: %s", where, word, got.body)
		}
	}
	if strings.Contains(got.body, "secret") && !strings.Contains(path+body, "secret") {
		t.Errorf("%s: the answer tells of team A: %s", where, got.body)
	}
	if path == r.path && body == r.body {
		return // about nothing of team A's by name
	}
	if got.status < 300 && !got.empty() && op.OperationID != "test-event" {
		t.Errorf("%s: there is something: %s", where, got.body)
	}
	other := s.ask(t, "b-"+string(role), op.method, fill(r.path, nothing), fill(r.body, nothing))
	if a, b := got.print(world), other.print(nothing); a != b {
		t.Errorf("%s: about what is team A's: %s\nabout what is nobody's: %s", where, a, b)
	}
}

// empty reports whether an answer is a list, or a count, of nothing.
func (r reply) empty() bool {
	return strings.HasPrefix(r.body, `{"items":[]`) || strings.HasPrefix(r.body, `{"count":0,`)
}
