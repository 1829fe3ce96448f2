package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const minimalCron = `{"name": "daily-report", "trigger_config": {"trigger_type": "cron", "cron_expression": "0 9 * * 1-5",
	"timezone": "Europe/Berlin", "misfire_policy": "skip"}}`

func TestParseDocument(t *testing.T) {
	t.Parallel()
	d, err := ParseDocument([]byte(minimalCron))
	if err != nil {
		t.Fatal(err)
	}
	if !d.Enabled || d.Tasks == nil || d.RunTimeout() != DefaultTimeout {
		t.Errorf("defaults are missing: %+v", d)
	}
	if c := d.Limits(KindCron); c.Limit != 1 || c.OnLimit != OnLimitSkip {
		t.Errorf("concurrency of cron = %+v, want 1, skip", c)
	}
	if c := d.Limits(KindManual); c.Limit != 1 || c.OnLimit != OnLimitQueue {
		t.Errorf("concurrency of a manual run = %+v, want 1, queue", c)
	}
	d, err = ParseDocument([]byte(`{"name": "x", "enabled": null, "timeout": null,
		"trigger_config": {"trigger_type": "cron", "cron_expression": "@daily", "timezone": null, "jitter": null, "start_at": null}}`))
	if err != nil || !d.Enabled || d.Trigger.Timezone != "UTC" {
		t.Errorf("null is not the same as not given: %+v, %v", d, err)
	}
}

func TestParseDocumentRefuses(t *testing.T) {
	t.Parallel()
	const trigger = `"trigger_config": {"trigger_type": "manual"}`
	task := func(text string) string { return `{"name": "x", ` + trigger + `, "tasks": [` + text + `]}` }
	event := func(fields string) string {
		return `{"name": "x", "trigger_config": {"trigger_type": "event", ` + fields + `}}`
	}
	many := `"p0": 0`
	for i := range MaxFilters {
		many += fmt.Sprintf(`, "p%d": 0`, i+1)
	}
	tests := map[string]struct{ body, field, rule, message string }{
		"empty":           {"", "", "required", "a JSON object is required, but the body is empty"},
		"not JSON":        {`{"name": `, "", "json", "is not valid JSON at byte"},
		"trailing":        {`{"name": "x", ` + trigger + `} x`, "", "json", "is not valid JSON at byte"},
		"null":            {`null`, "", "type", "must be a JSON object, but is null"},
		"list":            {`[]`, "", "type", "must be an object, but is a list"},
		"duplicate field": {`{"name": "x", "name": "y", ` + trigger + `}`, "name", "duplicate_field", "is given twice"},
		"unknown field":   {`{"name": "x", "nmae": "y", ` + trigger + `}`, "nmae", "unknown_field", "is not a field that is known here"},
		"unknown null":    {`{"name": "x", "nmae": null, ` + trigger + `}`, "nmae", "unknown_field", "is not a field that is known here"},
		"case variant":    {`{"Name": "x", ` + trigger + `}`, "Name", "unknown_field", "is not a field"},
		"unknown nested": {`{"name": "x", "trigger_config": {"trigger_type": "manual", "crom": 1}}`, "trigger_config.crom",
			"unknown_field", "is not a field"},
		"no name":       {`{` + trigger + `}`, "name", "required", "is required"},
		"bad name":      {`{"name": "Daily Report", ` + trigger + `}`, "name", "name", `"Daily Report" is not a name`},
		"name too long": {`{"name": "` + strings.Repeat("x", 101) + `", ` + trigger + `}`, "name", "name", "1 to 100 characters"},
		"name type":     {`{"name": 7, ` + trigger + `}`, "name", "type", "must be a string, but is a number"},
		"enabled type":  {`{"name": "x", "enabled": "yes", ` + trigger + `}`, "enabled", "type", "must be true or false, but is a string"},
		"no trigger":    {`{"name": "x"}`, "trigger_config.trigger_type", "required", "one of cron, scheduled, event, manual"},
		"unknown trigger type": {`{"name": "x", "trigger_config": {"trigger_type": "webhook"}}`, "trigger_config.trigger_type", "one_of",
			`"webhook" is not a trigger type: it must be one of cron, scheduled, event, manual`},
		"field of another type": {`{"name": "x", "trigger_config": {"trigger_type": "event", "event_type": "a", "timezone": "UTC"}}`,
			"trigger_config.timezone", "not_of_this_type", "does not belong to a trigger of type event"},
		"no cron": {`{"name": "x", "trigger_config": {"trigger_type": "cron"}}`, "trigger_config.cron_expression", "required",
			"is required for a cron trigger"},
		"bad cron": {`{"name": "x", "trigger_config": {"trigger_type": "cron", "cron_expression": "61 * * * *"}}`,
			"trigger_config.cron_expression", "range", "61"},
		"six-field cron": {`{"name": "x", "trigger_config": {"trigger_type": "cron", "cron_expression": "0 0 9 * * 1"}}`,
			"trigger_config.cron_expression", "six_fields", "six fields"},
		"unknown zone": {`{"name": "x", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily", "timezone": "Mars/Base"}}`,
			"trigger_config.timezone", "unknown_zone", "Mars/Base"},
		"unknown misfire policy": {`{"name": "x", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily", "misfire_policy": "later"}}`,
			"trigger_config.misfire_policy", "one_of", `"later" is not a misfire policy: it must be one of skip, compress, catchup`},
		"bad duration": {`{"name": "x", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily", "jitter": "soon"}}`,
			"trigger_config.jitter", "duration", `must be a duration with a unit`},
		"number as duration": {`{"name": "x", "timeout": 30, ` + trigger + `}`, "timeout", "duration", `must be a duration with a unit`},
		"negative jitter": {`{"name": "x", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily", "jitter": "-5s"}}`,
			"trigger_config.jitter", "range", "must be at least 0s"},
		"bad time": {`{"name": "x", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily", "start_at": "tomorrow"}}`,
			"trigger_config.start_at", "time", "must be an RFC 3339 time"},
		"ends before it starts": {`{"name": "x", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily",
			"start_at": "2026-02-01T00:00:00Z", "end_at": "2026-01-01T00:00:00Z"}}`, "trigger_config.end_at", "after_start", "before start_at"},
		"empty event type": {`{"name": "x", "trigger_config": {"trigger_type": "event", "event_type": ""}}`,
			"trigger_config.event_type", "event_type", "must not be empty"},
		"bad event type": {`{"name": "x", "trigger_config": {"trigger_type": "event", "event_type": "User Created"}}`,
			"trigger_config.event_type", "event_type", "lower-case words"},
		"wildcard in a word": {event(`"event_type": "us*r"`), "trigger_config.event_type", "event_type",
			`has the word "us*r": a wildcard stands for a whole word`},
		"filter of null": {event(`"event_type": "a", "filters": {"b": [null], "a": {"note": null}}`), "trigger_config.filters.a.note", "not_null",
			"must not be null"},
		"filter given twice": {event(`"event_type": "a", "filters": {"a.b": 1, "a": {"b": 1}}`), "trigger_config.filters.a.b", "given_twice", "is given twice"},
		"filter with value and members": {event(`"event_type": "a", "filters": {"a": {}, "a.b.c": 1}`), "trigger_config.filters.a",
			"value_and_members", `the member "a.b.c"`},
		"filter with an empty name": {event(`"event_type": "a", "filters": {"a": {"b..c": 1}}`), "trigger_config.filters.a.b..c", "empty_name", "has an empty part"},
		"filter too deep":           {event(`"event_type": "a", "filters": {"` + strings.Repeat("a.", 99) + `a": 1}`), "trigger_config.filters." + strings.Repeat("a.", 99) + "a", "too_deep", "100 levels"},
		"too many filters": {event(`"event_type": "a", "filters": {"a": {` + many + `}}`), "trigger_config.filters", "max_items",
			"names 51 places; at most 50"},
		"condition syntax": {event(`"event_type": "a", "condition": "event.payload.a = 1"`), "trigger_config.condition", "syntax",
			"line 1, column 17"},
		"condition type": {event(`"event_type": "a", "condition": "size(event.payload)"`), "trigger_config.condition", "type", "must be true or false"},
		"condition cost": {event(`"event_type": "a", "condition": "event.payload.a.exists(x, event.payload.b.exists(y, x == y))"`),
			"trigger_config.condition", "cost", "could take too long"},
		"condition of a cron trigger": {`{"name": "x", "trigger_config": {"trigger_type": "cron", "cron_expression": "@daily", "condition": "true"}}`,
			"trigger_config.condition", "not_of_this_type", "does not belong to a trigger of type cron"},
		"non-object filters": {`{"name": "x", "trigger_config": {"trigger_type": "event", "event_type": "a", "filters": ["tier"]}}`,
			"trigger_config.filters", "type", "must be an object, but is a list"},
		"too large": {`{"name": "x", "description": "` + strings.Repeat("x", MaxDocument) + `", ` + trigger + `}`, "", "max_bytes",
			"larger than 64 KiB"},
		"bad limit":     {`{"name": "x", "concurrency": {"limit": -1}, ` + trigger + `}`, "concurrency.limit", "range", "must be from 0"},
		"bad on_limit":  {`{"name": "x", "concurrency": {"limit": 1, "on_limit": "drop"}, ` + trigger + `}`, "concurrency.on_limit", "one_of", "skip, queue, replace"},
		"long timeout":  {`{"name": "x", "timeout": "1000h", ` + trigger + `}`, "timeout", "range", "must be at most 720h0m0s"},
		"tasks type":    {`{"name": "x", "tasks": {}, ` + trigger + `}`, "tasks", "type", "must be a list, but is an object"},
		"task name":     {task(`{"name": "A", "type": "log", "with": {"message": "x"}}`), "tasks[0].name", "name", "1 to 63 characters"},
		"task type":     {task(`{"name": "a", "type": "shell"}`), "tasks[0].type", "one_of", "log, http, publish, activity, workflow, wait"},
		"task field":    {task(`{"name": "a", "type": "log", "with": {"message": "x", "colour": 1}}`), "tasks[0].with.colour", "unknown_field", "is not a field"},
		"no message":    {task(`{"name": "a", "type": "log"}`), "tasks[0].with.message", "required", "is required"},
		"same name":     {task(`{"name": "a", "type": "log", "with": {"message": "x"}}, {"name": "a", "type": "log", "with": {"message": "x"}}`), "tasks[1].name", "unique", "already the name of tasks[0]"},
		"no url":        {task(`{"name": "a", "type": "http", "with": {}}`), "tasks[0].with.url", "required", "is required"},
		"relative url":  {task(`{"name": "a", "type": "http", "with": {"url": "/hook"}}`), "tasks[0].with.url", "url", "absolute http or https"},
		"password":      {task(`{"name": "a", "type": "http", "with": {"url": "https://u:p@example.com"}}`), "tasks[0].with.url", "url", "must not hold a user name"},
		"method":        {task(`{"name": "a", "type": "http", "with": {"url": "https://example.com", "method": "BREW"}}`), "tasks[0].with.method", "one_of", "BREW"},
		"header":        {task(`{"name": "a", "type": "http", "with": {"url": "https://example.com", "headers": {"a b": "c"}}}`), "tasks[0].with.headers", "header", "not a legal header"},
		"subject":       {task(`{"name": "a", "type": "publish", "with": {"subject": "orders.*"}}`), "tasks[0].with.subject", "subject", "without wildcards"},
		"no task queue": {task(`{"name": "a", "type": "activity", "with": {"activity": "Do"}}`), "tasks[0].with.task_queue", "required", "is required"},
		"no workflow":   {task(`{"name": "a", "type": "workflow", "with": {"task_queue": "q"}}`), "tasks[0].with.workflow", "required", "is required"},
		"attempts":      {task(`{"name": "a", "type": "log", "with": {"message": "x"}, "retry": {"max_attempts": 101}}`), "tasks[0].retry.max_attempts", "range", "from 1 to 100"},
		"task timeout":  {task(`{"name": "a", "type": "log", "with": {"message": "x"}, "timeout": "1ms"}`), "tasks[0].timeout", "range", "at least 1s"},
		"label":         {`{"name": "x", "labels": {"a b": "c"}, ` + trigger + `}`, "labels", "label", "not a label name"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseDocument([]byte(tt.body))
			var invalid *InvalidError
			if !errors.As(err, &invalid) || len(invalid.Fields) == 0 {
				t.Fatalf("error = %v, want an InvalidError", err)
			}
			got := invalid.Fields[0]
			if got.Field != tt.field || got.Rule != tt.rule || !strings.Contains(got.Message, tt.message) {
				t.Errorf("got  %q %q %q\nwant %q %q %q", got.Field, got.Rule, got.Message, tt.field, tt.rule, tt.message)
			}
		})
	}
}

func TestEveryFaultIsTold(t *testing.T) {
	t.Parallel()
	_, err := ParseDocument([]byte(`{"name": "X", "trigger_config": {"trigger_type": "cron", "misfire_policy": "x"}, "timeout": "-1s"}`))
	var invalid *InvalidError
	if !errors.As(err, &invalid) || len(invalid.Fields) != 4 {
		t.Errorf("error = %v, want four faults", err)
	}
}

func TestChange(t *testing.T) {
	t.Parallel()
	base, err := ParseDocument([]byte(`{"name": "x", "labels": {"a": "1", "b": "2"}, "timeout": "5m",
		"trigger_config": {"trigger_type": "event", "event_type": "user.created", "filters": {"tier": "pro", "n": 9007199254740993}}}`))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(Document) (Document, error)
		check  func(Document) bool
	}{
		"put one field": {func(d Document) (Document, error) { return d.Replace([]byte(`{"enabled": false}`)) },
			func(d Document) bool {
				return !d.Enabled && d.Trigger.EventType == "user.created" && time.Duration(d.Timeout) == 5*time.Minute &&
					string(d.Trigger.Filters["n"]) == "9007199254740993"
			}},
		"put null resets":    {func(d Document) (Document, error) { return d.Replace([]byte(`{"timeout": null, "labels": null}`)) }, func(d Document) bool { return d.Timeout == 0 && d.Labels == nil }},
		"put replaces whole": {func(d Document) (Document, error) { return d.Replace([]byte(`{"labels": {"c": "3"}}`)) }, func(d Document) bool { return len(d.Labels) == 1 }},
		"patch merges": {func(d Document) (Document, error) {
			return d.Merge([]byte(`{"labels": {"b": null, "c": "3"}, "trigger_config": {"filters": {"tier": "free"}}}`))
		}, func(d Document) bool {
			return len(d.Labels) == 2 && d.Labels["c"] == "3" && len(d.Trigger.Filters) == 2 && string(d.Trigger.Filters["tier"]) == `"free"`
		}},
		"patch of the type replaces the trigger": {func(d Document) (Document, error) {
			return d.Merge([]byte(`{"trigger_config": {"trigger_type": "manual"}}`))
		}, func(d Document) bool { return d.Trigger.Type == TriggerManual && d.Trigger.EventType == "" }},
		"empty change": {func(d Document) (Document, error) { return d.Merge([]byte(`{}`)) }, func(d Document) bool { return d.Equal(base) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.change(base)
			if err != nil || !tt.check(got) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	for _, body := range []string{`{"trigger_config": {"trigger_type": "event", "event_type": "a", "filters": {"n": null}}}`, `{"name": null}`,
		`{"trigger_config": {"filters": {"a": 1}}}`, `{"nope": 1}`, `[]`} {
		if _, err := base.Replace([]byte(body)); err == nil {
			t.Errorf("put %s was accepted", body)
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	const id = "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b"
	for _, bad := range []string{"", "7", id + "0", "{" + id + "}", strings.ReplaceAll(id, "-", ""), "../" + id} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q was accepted as an id", bad)
		}
	}
	slot := time.Date(2026, 11, 23, 10, 0, 0, 0, time.FixedZone("", 3600))
	if got, want := WorkflowID(id, CronKey(slot)), ScheduleActionID(id)+"-2026-11-23T09:00:00Z"; got != want {
		t.Errorf("a slot's workflow id is %s, but Temporal's schedule makes %s", got, want)
	}
	if back, ok := ScheduleDefinitionID(ScheduleID(id)); !ok || back != id {
		t.Errorf("schedule id leads back to %s, %v", back, ok)
	}
	if _, ok := ScheduleDefinitionID("activity-schedule-x"); ok {
		t.Error("a foreign schedule id was taken for ours")
	}
	if d, key, ok := ParseWorkflowID(WorkflowID(id, "event-a:b")); !ok || d != id || key != "event-a:b" {
		t.Errorf("workflow id leads back to %s %s %v", d, key, ok)
	}
	for _, foreign := range []string{"", "activity-x:cron", "order-" + id, "activity-" + id, "activity-" + id + ":"} {
		if _, _, ok := ParseWorkflowID(foreign); ok {
			t.Errorf("the foreign workflow id %q was taken for ours", foreign)
		}
	}
	if n := len(WorkflowID(id, EventKey(strings.Repeat("x", MaxEventID)))); n > 255 {
		t.Errorf("longest workflow id has %d characters, more than 255", n)
	}
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	one := Concurrency{Limit: 1, OnLimit: OnLimitSkip}
	queue := Concurrency{Limit: 2, OnLimit: OnLimitQueue}
	live := func(kind TriggerKind) Applicant { return Applicant{Kind: kind, Live: true, Enabled: true} }
	late := Applicant{Kind: KindCron, CatchUp: true, Live: true, Enabled: true}
	tests := map[string]struct {
		a      Applicant
		c      Concurrency
		load   Load
		status RunStatus
		reason Reason
	}{
		"no limit":               {live(KindEvent), Concurrency{}, Load{Running: 99}, RunRunning, ""},
		"deleted":                {Applicant{Kind: KindManual}, Concurrency{}, Load{}, RunSkipped, ReasonDefinitionGone},
		"disabled event":         {Applicant{Kind: KindEvent, Live: true}, Concurrency{}, Load{}, RunSkipped, ReasonDefinitionOff},
		"disabled slot":          {Applicant{Kind: KindCron, CatchUp: true, Live: true}, Concurrency{}, Load{}, RunSkipped, ReasonDefinitionOff},
		"disabled by hand":       {Applicant{Kind: KindManual, Live: true}, Concurrency{}, Load{}, RunRunning, ""},
		"disabled backfill":      {Applicant{Kind: KindBackfill, Live: true}, Concurrency{}, Load{}, RunRunning, ""},
		"room":                   {live(KindCron), one, Load{}, RunRunning, ""},
		"full, skip":             {live(KindCron), one, Load{Running: 1}, RunSkipped, ReasonConcurrencyLimit},
		"full, queue":            {live(KindEvent), queue, Load{Running: 2}, RunQueued, ""},
		"room, but not first":    {live(KindEvent), queue, Load{Running: 1, WaitingBefore: 1}, RunQueued, ""},
		"room and first":         {live(KindEvent), queue, Load{Running: 1}, RunRunning, ""},
		"limit lowered meanwh":   {live(KindEvent), one, Load{Running: 5}, RunSkipped, ReasonConcurrencyLimit},
		"late, first":            {late, one, Load{}, RunRunning, ""},
		"late, no limit":         {late, Concurrency{}, Load{Running: 3}, RunRunning, ""},
		"late, not first":        {late, Concurrency{}, Load{CaughtUpBefore: 1}, RunQueued, ""},
		"late, full, waits":      {late, one, Load{Running: 1}, RunQueued, ""},
		"late, others before it": {late, queue, Load{WaitingBefore: 1}, RunQueued, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, reason := Admit(tt.a, tt.c, tt.load)
			if status != tt.status || reason != tt.reason {
				t.Errorf("got %s %s, want %s %s", status, reason, tt.status, tt.reason)
			}
		})
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(minimalCron))
	f.Add([]byte(`{"name":"x","trigger_config":{"trigger_type":"event","event_type":"a","filters":{"a":{"b":[1,null]}}}}`))
	f.Add([]byte(`{"name":"x","trigger_config":{"trigger_type":"manual"},"tasks":[{"name":"a","type":"http","with":{"url":"http://h"}}]}`))
	f.Add([]byte(`{"name":"x","trigger_config":{"trigger_type":"manual"},"tasks":[{"name":"a","type":"log","with":{"message":"$${x} ${event.payload.id}"}},
		{"name":"b","needs":["a"],"if":"tasks.a.status == \"succeeded\"","for_each":"tasks.a.output","type":"http","with":{"url":"http://h/${item}",
		"headers":{"A":"${secrets.A}"},"output":"${response.status}"}}],"on_failure":[{"name":"c","type":"wait","with":{"duration":"1m"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDocument(data)
		if err != nil {
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("error %v is not an InvalidError", err)
			}
			return
		}
		again, err := d.Merge([]byte(`{}`))
		if err != nil || !again.Equal(d) {
			t.Fatalf("an empty change changed %s: %v", data, err)
		}
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseDocument(text); err != nil || !back.Equal(d) {
			t.Fatalf("what is written is not what is read: %s, %v", text, err)
		}
	})
}
