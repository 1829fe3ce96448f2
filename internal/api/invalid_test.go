package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/definition"
)

// TestBadDefinitions holds the refusal of every kind of bad definition: status, field, rule and exact words. The storage
// expects no call, so nothing is stored.
func TestBadDefinitions(t *testing.T) {
	t.Parallel()
	manual := func(rest string) string { return `{"name":"a","trigger_config":{"trigger_type":"manual"}` + rest + `}` }
	trigger := func(rest string) string { return `{"name":"a","trigger_config":{` + rest + `}}` }
	cron := func(rest string) string { return trigger(`"trigger_type":"cron",` + rest) }
	event := func(rest string) string { return trigger(`"trigger_type":"event",` + rest) }
	const five = `"cron_expression":"0 9 * * *",`
	for _, test := range []struct {
		name, body string
		status     int
		faults     []Fault
	}{
		{"no name", `{"trigger_config":{"trigger_type":"manual"}}`, 422, []Fault{{"name", "required", "is required"}}},
		{"bad name", `{"name":"Daily Report","trigger_config":{"trigger_type":"manual"}}`, 422, []Fault{{"name", "name",
			`"Daily Report" is not a name: it must be 1 to 100 characters of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit`}}},
		{"name of another type", `{"name":7,"trigger_config":{"trigger_type":"manual"}}`, 422,
			[]Fault{{"name", "type", "must be a string, but is a number"}}},
		{"no trigger", `{"name":"a"}`, 422, []Fault{{"trigger_config.trigger_type", "required", "is required: one of cron, scheduled, event, manual"}}},
		{"unknown field", manual(`,"enabeld":true`), 422, []Fault{{"enabeld", "unknown_field", "is not a field that is known here"}}},
		{"unknown field in another case", manual(`,"Enabled":true`), 422,
			[]Fault{{"Enabled", "unknown_field", "is not a field that is known here"}}},
		{"read-only field", manual(`,"revision":7`), 422, []Fault{{"revision", "unknown_field", "is not a field that is known here"}}},
		{"field twice", manual(`,"name":"b"`), 422, []Fault{{"name", "duplicate_field", "is given twice"}}},
		{"unknown trigger type", trigger(`"trigger_type":"webhook"`), 422, []Fault{{"trigger_config.trigger_type", "one_of",
			`"webhook" is not a trigger type: it must be one of cron, scheduled, event, manual`}}},
		{"field of another trigger type", trigger(`"trigger_type":"manual","event_type":"user.created"`), 422,
			[]Fault{{"trigger_config.event_type", "not_of_this_type", "does not belong to a trigger of type manual"}}},
		{"no cron expression", trigger(`"trigger_type":"cron"`), 422, []Fault{{"trigger_config.cron_expression", "required",
			`is required for a cron trigger, as in "0 9 * * 1-5"`}}},
		{"bad cron", cron(`"cron_expression":"61 * * * *"`), 422, []Fault{{"trigger_config.cron_expression", "range",
			`the minute field takes 0 to 59, but "61" asks for 61; write a value in that range`}}},
		{"six-field cron", cron(`"cron_expression":"0 0 9 * * 1-5"`), 422, []Fault{{"trigger_config.cron_expression", "six_fields",
			"the expression has six fields; cron has five (minute hour day-of-month month day-of-week), and six mean different things " +
				"in different systems: some put seconds first, some put a year last; leave out the field that is not cron, or use " +
				`"@every 30s" for periods under a minute`}}},
		{"unknown zone", cron(five + `"timezone":"Europe/Berlinn"`), 422, []Fault{{"trigger_config.timezone", "unknown_zone",
			`"Europe/Berlinn" is not a known time zone; use an IANA name such as Europe/Berlin or America/New_York, not an offset, ` +
				`or leave it empty for UTC`}}},
		{"unknown misfire policy", cron(five + `"misfire_policy":"replay"`), 422, []Fault{{"trigger_config.misfire_policy", "one_of",
			`"replay" is not a misfire policy: it must be one of skip, compress, catchup`}}},
		{"duration without a unit", cron(five + `"jitter":"30"`), 422, []Fault{{"trigger_config.jitter", "duration",
			`must be a duration with a unit in quotes, as in "90s" or "5m"`}}},
		{"bad time", cron(five + `"start_at":"tomorrow"`), 422, []Fault{{"trigger_config.start_at", "time",
			`must be an RFC 3339 time, as in "2026-01-31T09:00:00Z"`}}},
		{"empty event type", event(`"event_type":""`), 422, []Fault{{"trigger_config.event_type", "event_type", "must not be empty"}}},
		{"wildcard within a word", event(`"event_type":"user.cr*"`), 422, []Fault{{"trigger_config.event_type", "event_type",
			`has the word "cr*": a wildcard stands for a whole word, as in user.* or user.>`}}},
		{"filters not an object", event(`"event_type":"user.created","filters":["pro"]`), 422,
			[]Fault{{"trigger_config.filters", "type", "must be an object, but is a list"}}},
		{"task of an unknown type", manual(`,"tasks":[{"name":"t","type":"shell","with":{}}]`), 422, []Fault{{"tasks[0].type", "one_of",
			`"shell" is not a task type: it must be one of log, http, publish, activity, workflow, wait`}}},
		{"task without its fields", manual(`,"tasks":[{"name":"t","type":"http","with":{}}]`), 422,
			[]Fault{{"tasks[0].with.url", "required", "is required, as in https://example.com/hook"}}},
		{"two faults at once", `{"name":"","trigger_config":{"trigger_type":"event","event_type":"A"}}`, 422, []Fault{
			{"name", "required", "is required"},
			{"trigger_config.event_type", "event_type", "must be lower-case words of a-z, 0-9, _ and - joined by dots, as in user.created"},
		}},
		{"empty", ``, 422, []Fault{{"body", "required", "a JSON object is required, but the body is empty"}}},
		{"null", `null`, 422, []Fault{{"body", "type", "must be a JSON object, but is null"}}},
		{"a list", `[]`, 422, []Fault{{"body", "type", "must be an object, but is a list"}}},
		{"not JSON", `name: a`, 400, []Fault{{"body", "json",
			"is not valid JSON at byte 1: invalid character 'a' in literal null (expecting 'u')"}}},
		{"cut off", `{"name":"a"`, 400, []Fault{{"body", "json", "is not valid JSON at byte 11: unexpected EOF"}}},
		{"something after it", manual("") + `{}`, 400, []Fault{{"body", "json",
			"is not valid JSON at byte 55: invalid character '{' after top-level value"}}},
		{"too large", manual(`,"description":"` + strings.Repeat("x", MaxDefinition) + `"`), 413, []Fault{{"body", "max_bytes",
			"the body is larger than 64 KiB, which is the most that is allowed here"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			kinds := map[int]string{400: "not-json", 413: "too-large", 422: "invalid"}
			p := wantProblem(t, call(t, newAPI(t, testOptions()), "POST", "/activity-definitions/", test.body),
				test.status, kinds[test.status])
			if fmt.Sprint(p.Errors) != fmt.Sprint(test.faults) {
				t.Errorf("got  %q\nwant %q", p.Errors, test.faults)
			}
		})
	}
}

// TestBadChanges checks that PUT and PATCH refuse like POST does, with the stored document untouched.
func TestBadChanges(t *testing.T) {
	t.Parallel()
	doc, err := definition.ParseDocument([]byte(`{"name":"a","trigger_config":{"trigger_type":"manual"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method, body, want string
		status             int
	}{
		{"PUT", `{"enabled":"no"}`, "enabled: must be true or false, but is a string", 422},
		{"PUT", `{"name":null}`, "name: is required", 422},
		{"PATCH", `{"trigger_config":{"trigger_type":"cron"}}`,
			`trigger_config.cron_expression: is required for a cron trigger, as in "0 9 * * 1-5"`, 422},
		{"PATCH", `[]`, "body: must be an object, but is a list", 422},
		{"PATCH", ``, "body: a JSON object is required, but the body is empty", 422},
	} {
		o := testOptions()
		o.Store = &fakeStore{update: func(change func(definition.Document) (definition.Document, error)) (definition.Stored, error) {
			if _, err := change(doc); err != nil {
				return definition.Stored{}, fmt.Errorf("update definition: %w", err)
			}
			t.Errorf("%s %s was taken", test.method, test.body)
			return definition.Stored{}, nil
		}}
		p := wantProblem(t, call(t, newAPI(t, o), test.method, "/activity-definitions/"+someID, test.body), test.status, "invalid")
		if p.Detail != test.want {
			t.Errorf("%s %s: %q, want %q", test.method, test.body, p.Detail, test.want)
		}
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	const manual = `{"name":"a","trigger_config":{"trigger_type":"manual"}}`
	a := newAPI(t, testOptions())
	for _, test := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		kind                     string
		detail                   string
		rule                     string
	}{
		{"form content type", "POST", "/activity-definitions/", manual,
			[]string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported-media-type",
			`the body has the Content-Type "application/x-www-form-urlencoded": send JSON with the header Content-Type: application/json`, ""},
		{"merge patch content type for PUT", "PUT", "/activity-definitions/" + someID, manual,
			[]string{"Content-Type", "application/merge-patch+json"}, 415, "unsupported-media-type",
			`the body has the Content-Type "application/merge-patch+json": send JSON with the header Content-Type: application/json`, ""},
		{"text for PATCH", "PATCH", "/activity-definitions/" + someID, manual, []string{"Content-Type", "text/plain"}, 415,
			"unsupported-media-type", `the body has the Content-Type "text/plain": send JSON with the header Content-Type: ` +
				`application/json or application/merge-patch+json`, ""},
		{"compressed", "POST", "/activity-definitions/", manual, []string{"Content-Encoding", "gzip"}, 415, "unsupported-media-type",
			`the body has the Content-Encoding "gzip", which is not understood here: send it uncompressed`, ""},
		{"malformed id", "GET", "/activity-definitions/42", "", nil, 422, "invalid",
			`id: "42" is not an id: an id is a UUID such as 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b`, "uuid"},
		{"malformed id for PUT", "PUT", "/activity-definitions/42/", manual, nil, 422, "invalid",
			`id: "42" is not an id: an id is a UUID such as 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b`, "uuid"},
		{"malformed id for DELETE", "DELETE", "/activity-definitions/42", "", nil, 422, "invalid",
			`id: "42" is not an id: an id is a UUID such as 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b`, "uuid"},
		{"malformed id for a trigger", "POST", "/activity-definitions/42/trigger", "", nil, 422, "invalid",
			`id: "42" is not an id: an id is a UUID such as 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b`, "uuid"},
		{"malformed id of a run", "GET", "/runs/42", "", nil, 422, "invalid",
			`id: "42" is not an id: an id is a UUID such as 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b`, "uuid"},
		{"input not JSON", "POST", "/activity-definitions/" + someID + "/trigger", `{"a":`, nil, 400, "not-json",
			`body: is not valid JSON at byte 5: unexpected EOF`, "json"},
		{"input of two values", "POST", "/activity-definitions/" + someID + "/trigger", `1 2`, nil, 400, "not-json",
			`body: must be one JSON value, but something follows it`, "json"},
		{"input with a name twice", "POST", "/activity-definitions/" + someID + "/trigger", `{"a":{"b":1,"b":2}}`, nil, 422, "invalid",
			`body: holds the member "b" twice in one object`, "duplicate_field"},
		{"input too large", "POST", "/activity-definitions/" + someID + "/trigger", `"` + strings.Repeat("x", MaxInput) + `"`, nil, 413,
			"too-large", "the body is larger than 256 KiB, which is the most that is allowed here", "max_bytes"},
		{"page too large", "GET", "/runs?limit=501", "", nil, 422, "invalid",
			`limit: "501" is not a page size: it must be a whole number from 1 to 500`, "range"},
		{"page of nothing", "GET", "/activity-definitions/?limit=0", "", nil, 422, "invalid",
			`limit: "0" is not a page size: it must be a whole number from 1 to 500`, "range"},
		{"page size in words", "GET", "/activity-definitions?limit=ten", "", nil, 422, "invalid",
			`limit: "ten" is not a page size: it must be a whole number from 1 to 500`, "range"},
		{"unknown parameter", "GET", "/runs?state=failed", "", nil, 422, "invalid",
			`state: is not a parameter of this request; the known ones are limit, cursor, status, reason, trigger, since, until, rerun_of, backfill_id, replay_id, event_id, definition_id, definition, label`, "unknown_parameter"},
		{"parameter of a request that has none", "GET", "/runs/" + someID + "?verbose=1", "", nil, 422, "invalid",
			`verbose: is not a parameter of this request, which has none`, "unknown_parameter"},
		{"parameter on a write", "POST", "/activity-definitions/?dry_run=true", manual, nil, 422, "invalid",
			`dry_run: is not a parameter of this request, which has none`, "unknown_parameter"},
		{"parameter twice", "GET", "/runs?status=failed&status=missed", "", nil, 422, "invalid", `status: is given more than once`, "once"},
		{"empty parameter", "GET", "/runs?status=", "", nil, 422, "invalid",
			`status: is empty: give it a value or leave it out`, "not_empty"},
		{"parameter without a value", "GET", "/activity-definitions/?enabled", "", nil, 422, "invalid",
			`enabled: is empty: give it a value or leave it out`, "not_empty"},
		{"parameter that is no text", "GET", "/activity-definitions/?name=a%00", "", nil, 422, "invalid", `name: is not legal text`, "text"},
		{"query that is not encoded", "GET", "/runs?status=%zz", "", nil, 422, "invalid",
			`query: is not well formed: names and values must be URL-encoded`, "encoding"},
		{"unknown status", "GET", "/runs?status=done", "", nil, 422, "invalid", `status: "done" is not known: it must be one of ` +
			`accepted, queued, running, succeeded, failed, timed_out, canceled, skipped, missed`, "one_of"},
		{"unknown trigger", "GET", "/activity-definitions/" + someID + "/runs/?trigger=hand", "", nil, 422, "invalid",
			`trigger: "hand" is not known: it must be one of cron, event, manual, backfill, replay, rerun`, "one_of"},
		{"unknown trigger type", "GET", "/activity-definitions/?trigger_type=webhook", "", nil, 422, "invalid",
			`trigger_type: "webhook" is not known: it must be one of cron, scheduled, event, manual`, "one_of"},
		{"enabled in words", "GET", "/activity-definitions/?enabled=yes", "", nil, 422, "invalid",
			`enabled: "yes" is neither true nor false`, "boolean"},
		{"definition of runs malformed", "GET", "/runs?definition_id=7", "", nil, 422, "invalid",
			`definition_id: "7" is not an id: an id is a UUID`, "uuid"},
		{"forged cursor", "GET", "/runs?cursor=MTI", "", nil, 422, "invalid",
			`cursor: is not a cursor: use the next_cursor of an earlier answer as it is, or leave it out`, "cursor"},
		{"cursor that is no base64", "GET", "/activity-definitions/?cursor=!", "", nil, 422, "invalid",
			`cursor: is not a cursor: use the next_cursor of an earlier answer as it is, or leave it out`, "cursor"},
		{"cursor of another list", "GET", "/activity-definitions/?cursor=" + cursor{list: "runs", seq: 7}.String(), "", nil, 422, "invalid",
			`cursor: belongs to another list or to other filters: leave it out to begin anew`, "cursor"},
		{"another origin", "POST", "/activity-definitions/" + someID + "/trigger", "",
			[]string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, 403, "cross-origin",
			`a page of another origin may not change anything here; call the API from its own origin or from outside a browser`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := wantProblem(t, call(t, a, test.method, test.path, test.body, test.headers...), test.status, test.kind)
			if p.Detail != test.detail {
				t.Errorf("detail %q\nwant   %q", p.Detail, test.detail)
			}
			rule := ""
			if len(p.Errors) > 0 {
				rule = p.Errors[0].Rule
			}
			if rule != test.rule {
				t.Errorf("rule %q, want %q", rule, test.rule)
			}
		})
	}
}

func TestDuplicateName(t *testing.T) {
	t.Parallel()
	o := testOptions()
	o.Store = &fakeStore{
		create: func(definition.Document) (definition.Stored, error) {
			return definition.Stored{}, fmt.Errorf("create definition a: %w", definition.ErrNameTaken)
		},
		update: func(change func(definition.Document) (definition.Document, error)) (definition.Stored, error) {
			_, err := change(definition.Document{Name: "a", Trigger: definition.Trigger{Type: definition.TriggerManual}})
			if err != nil {
				return definition.Stored{}, err
			}
			return definition.Stored{}, fmt.Errorf("update definition: %w", definition.ErrNameTaken)
		},
	}
	a := newAPI(t, o)
	for _, test := range []struct{ method, path, body, name string }{
		{"POST", "/activity-definitions/", `{"name":"b","trigger_config":{"trigger_type":"manual"}}`, "b"},
		{"PUT", "/activity-definitions/" + someID, `{"name":"c"}`, "c"},
		{"PATCH", "/activity-definitions/" + someID, `{"name":"d"}`, "d"},
	} {
		p := wantProblem(t, call(t, a, test.method, test.path, test.body), 409, "name-taken")
		want := Fault{"name", "unique", `"` + test.name + `" is already the name of another definition; choose another name, or change that definition`}
		if len(p.Errors) != 1 || p.Errors[0] != want || p.Detail != "name: "+want.Message {
			t.Errorf("%s: %+v, want %+v", test.method, p, want)
		}
	}
}

func TestContentTypesThatAreTaken(t *testing.T) {
	t.Parallel()
	for _, given := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON", ""} {
		o := testOptions()
		o.Store = &fakeStore{create: func(d definition.Document) (definition.Stored, error) {
			return definition.Stored{Definition: definition.Definition{ID: someID, Document: d}}, nil
		}}
		w := call(t, newAPI(t, o), "POST", "/activity-definitions/", `{"name":"a","trigger_config":{"trigger_type":"manual"}}`,
			"Content-Type", given)
		if w.Code != 201 {
			t.Errorf("Content-Type %q: %d %s", given, w.Code, w.Body)
		}
	}
}
