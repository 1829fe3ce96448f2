package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const manual = `"name": "x", "trigger_config": {"trigger_type": "manual"}`

// logTask is a task of a name, with more fields.
func logTask(name string, more ...string) string {
	return `{"name": "` + name + `", "type": "log", "with": {"message": "x"}` + strings.Join(append([]string{""}, more...), ", ") + `}`
}

// with is a task named a of a type, with fields and more.
func with(kind, fields string, more ...string) string {
	return `{"name": "a", "type": "` + kind + `", "with": {` + fields + `}` + strings.Join(append([]string{""}, more...), ", ") + `}`
}

func tasks(list ...string) string {
	return `{` + manual + `, "tasks": [` + strings.Join(list, ", ") + `]}`
}

func onFailure(tasks, onFailure string) string {
	return `{` + manual + `, "tasks": [` + tasks + `], "on_failure": [` + onFailure + `]}`
}

func http(more string) string { return with("http", `"url": "https://example.com"`+more) }

func TestTasksRefused(t *testing.T) {
	t.Parallel()
	many := make([]string, MaxTasks)
	for i := range many {
		many[i] = logTask(fmt.Sprintf("t%d", i))
	}
	for name, tt := range map[string]struct{ body, field, rule, message string }{
		// The graph.
		"unknown need":         {tasks(logTask("a", `"needs": ["b"]`)), "tasks[0].needs[0]", "unknown_task", `"b" is not a task of this list`},
		"need of itself":       {tasks(logTask("a", `"needs": ["a"]`)), "tasks[0].needs[0]", "cycle", `"a" cannot need itself`},
		"need twice":           {tasks(logTask("a"), logTask("b", `"needs": ["a", "a"]`)), "tasks[1].needs[1]", "unique", `"a" is there twice`},
		"cycle of two":         {tasks(logTask("a", `"needs": ["b"]`), logTask("b", `"needs": ["a"]`)), "tasks[0].needs", "cycle", "the tasks wait for each other: a → b → a"},
		"cycle behind":         {tasks(logTask("x", `"needs": ["b"]`), logTask("a", `"needs": ["c"]`), logTask("b", `"needs": ["a"]`), logTask("c", `"needs": ["b"]`)), "tasks[2].needs", "cycle", "the tasks wait for each other: b → a → c → b"},
		"need of another list": {onFailure(logTask("a"), logTask("b", `"needs": ["a"]`)), "on_failure[0].needs[0]", "unknown_task", `"a" is one of tasks, all of which are over`},
		"need of on_failure":   {onFailure(logTask("a", `"needs": ["b"]`), logTask("b")), "tasks[0].needs[0]", "unknown_task", `"b" is not a task of this list`},
		"needs type":           {tasks(logTask("a", `"needs": "b"`)), "tasks[0].needs", "type", "must be a list, but is a string"},
		"name in both lists":   {onFailure(logTask("a"), logTask("a")), "on_failure[0].name", "unique", `"a" is already the name of tasks[0]`},
		"too many in both":     {onFailure(strings.Join(many, ", "), logTask("a")), "tasks", "max_items", "there are 51 tasks, with those of on_failure; at most 50 are allowed"},
		"too many on failure":  {onFailure("", strings.Join(append(many, logTask("a")), ", ")), "on_failure", "max_items", "there are 51 tasks"},
		// Conditions, lists, what becomes of errors.
		"if syntax":             {tasks(logTask("a", `"if": "event.a = 1"`)), "tasks[0].if", "syntax", "line 1, column 9: "},
		"if type":               {tasks(logTask("a", `"if": "size(event)"`)), "tasks[0].if", "type", "must be true or false, but is of type int"},
		"if scope":              {tasks(logTask("a", `"if": "item == 1"`, `"for_each": "[1]"`)), "tasks[0].if", "scope", "item exists in the with of a task with for_each only"},
		"if secret":             {tasks(logTask("a", `"if": "secrets.A == ''"`)), "tasks[0].if", "scope", "secrets may be read in the with of http and publish tasks only"},
		"for_each type":         {tasks(logTask("a", `"for_each": "{'a': 1}"`)), "tasks[0].for_each", "type", "must be a list, but is of type map(string, int)"},
		"for_each reads itself": {tasks(logTask("a", `"for_each": "tasks.a.output"`)), "tasks[0].for_each", "needs", `reads task "a", which this task does not need`},
		"for_each of wait":      {tasks(with("wait", `"duration": "1m"`, `"for_each": "[1]"`)), "tasks[0].for_each", "not_of_this_type", "does not belong to a task of type wait"},
		"parallel alone":        {tasks(logTask("a", `"max_parallel": 3`)), "tasks[0].max_parallel", "for_each", "belongs to a task with for_each"},
		"parallel":              {tasks(logTask("a", `"for_each": "[1]"`, `"max_parallel": 101`)), "tasks[0].max_parallel", "range", "must be from 1 to 100 for a task of type log"},
		"negative parallel":     {tasks(logTask("a", `"for_each": "[1]"`, `"max_parallel": -1`)), "tasks[0].max_parallel", "range", "must be from 1 to 100"},
		"parallel of activity":  {tasks(with("activity", `"activity": "A", "task_queue": "q"`, `"for_each": "[1]"`, `"max_parallel": 21`)), "tasks[0].max_parallel", "range", "must be from 1 to 20 for a task of type activity"},
		"on_error":              {tasks(logTask("a", `"on_error": "ignore"`)), "tasks[0].on_error", "one_of", `"ignore" is not known: it must be one of fail, continue`},
		"retry of wait":         {tasks(with("wait", `"duration": "1m"`, `"retry": {}`)), "tasks[0].retry", "not_of_this_type", "does not belong to a task of type wait"},
		"http error type":       {tasks(with("http", `"url": "https://example.com"`, `"retry": {"non_retryable_errors": ["http_503", "503"]}`)), "tasks[0].retry.non_retryable_errors[1]", "error_type", `"503" is not an error of http: it must be http_ and a status`},
		"log error type":        {tasks(logTask("a", `"retry": {"non_retryable_errors": ["x"]}`)), "tasks[0].retry.non_retryable_errors[0]", "not_of_this_type", "does not belong to a task of type log"},
		"empty error type":      {tasks(with("activity", `"activity": "A", "task_queue": "q"`, `"retry": {"non_retryable_errors": [""]}`)), "tasks[0].retry.non_retryable_errors[0]", "max_length", "must be 1 to 200"},
		// Expressions within with.
		"syntax within":         {tasks(http(`, "body": {"items": [1, {"id": "a ${event.}"}]}`)), "tasks[0].with.body.items[1].id", "syntax", "${event.}: line 1"},
		"unclosed":              {tasks(with("log", `"message": "${run.id"`)), "tasks[0].with.message", "syntax", "holds ${ without its }"},
		"not needed":            {tasks(logTask("b"), http(`, "body": {"id": "${tasks.b.output}"}`)), "tasks[1].with.body.id", "needs", `reads task "b", which this task does not need, directly or by others: add "b" to needs`},
		"task that is not":      {tasks(http(`, "body": {"id": "${tasks.b.output}"}`)), "tasks[0].with.body.id", "unknown_task", `reads task "b", which does not exist`},
		"on_failure not needed": {onFailure(logTask("b"), with("log", `"message": "${tasks.c.output}"`)+", "+logTask("c")), "on_failure[0].with.message", "needs", `add "c" to needs`},
		"secret of activity":    {tasks(with("activity", `"activity": "A", "task_queue": "q", "args": ["${secrets.A}"]`)), "tasks[0].with.args[0]", "scope", "secrets may be read in the with of http and publish"},
		"secret of output":      {tasks(http(`, "output": {"a": "${secrets.A}"}`)), "tasks[0].with.output.a", "scope", "secrets may be read"},
		"response of with":      {tasks(http(`, "body": "${response.status}"`)), "tasks[0].with.body", "scope", "response may be read in the output of http tasks only"},
		"item without list":     {tasks(with("log", `"message": "${item}"`)), "tasks[0].with.message", "scope", "item exists in the with of a task with for_each only"},
		"item of output":        {tasks(http(`, "output": "${item}"`)), "tasks[0].with.output", "scope", "item exists in the with"},
		"output needs":          {tasks(logTask("b"), http(`, "output": "${tasks.b.status}"`)), "tasks[1].with.output", "needs", `add "b" to needs`},
		"unknown field open":    {tasks(with("log", `"mesage": "${run.id}"`)), "tasks[0].with.mesage", "unknown_field", "is not a field that is known here"},
		"too many expressions": {tasks(with("log", `"message": "`+strings.Repeat("${1}", 200)+`"`), strings.Replace(with("log", `"message": "`+strings.Repeat("${1}", 200)+`"`), `"a"`, `"b"`, 1),
			strings.Replace(with("log", `"message": "`+strings.Repeat("${1}", 200)+`"`), `"a"`, `"c"`, 1)), "", "max_items", "has more than 500 expressions in its tasks"},
		"with of one expression": {tasks(`{"name": "a", "type": "log", "with": "${event.payload}"}`), "tasks[0].with", "type", "must be an object, but is a string"},
		// http.
		"method open":     {tasks(http(`, "method": "${run.input.method}"`)), "tasks[0].with.method", "fixed", "must not be an expression"},
		"body twice":      {tasks(http(`, "body": {}, "raw_body": "${event.payload.text}"`)), "tasks[0].with.raw_body", "one_of", "must not be given together with body"},
		"status":          {tasks(http(`, "expected_status": [200, 99]`)), "tasks[0].with.expected_status[1]", "range", "must be from 100 to 599"},
		"status type":     {tasks(http(`, "expected_status": ["200"]`)), "tasks[0].with.expected_status[0]", "type", "must be a whole number, but is a string"},
		"header value":    {tasks(http(`, "headers": {"a": "b\nc"}`)), "tasks[0].with.headers", "header", `"a" is not a legal header`},
		"header name":     {tasks(http(`, "headers": {"a b": "${run.id}"}`)), "tasks[0].with.headers", "header", `"a b" is not a legal header`},
		"literal not url": {tasks(with("http", `"url": "$${run.id}"`)), "tasks[0].with.url", "url", "must be an absolute http or https URL"},
		"query type":      {tasks(http(`, "query": {"a": 1}`)), "tasks[0].with.query.a", "type", "must be a string, but is a number"},
		// publish.
		"event type":  {tasks(with("publish", `"subject": "a", "event_type": "a b"`)), "tasks[0].with.event_type", "event_type", "visible ASCII"},
		"NATS header": {tasks(with("publish", `"subject": "a", "headers": {"Nats-Msg-Id": "1"}`)), "tasks[0].with.headers", "header", `"Nats-Msg-Id" is reserved by NATS`},
		// workflow.
		"parent close":    {tasks(with("workflow", `"workflow": "W", "task_queue": "q", "parent_close": "keep"`)), "tasks[0].with.parent_close", "one_of", "request_cancel, terminate, abandon"},
		"detached":        {tasks(with("workflow", `"workflow": "W", "task_queue": "q", "wait": false, "parent_close": "terminate"`)), "tasks[0].with.parent_close", "one_of", "must be abandon, or left out, for a workflow that is not waited for"},
		"id of all items": {tasks(with("workflow", `"workflow": "W", "task_queue": "q", "id": "w"`, `"for_each": "[1]"`)), "tasks[0].with.id", "unique", "must differ from item to item"},
		// wait.
		"wait for nothing":  {tasks(with("wait", ``)), "tasks[0].with", "one_of", "must have exactly one of duration, until, approval"},
		"wait for two":      {tasks(with("wait", `"duration": "1m", "until": "${event.payload.at}"`)), "tasks[0].with", "one_of", "must have exactly one of"},
		"wait duration":     {tasks(with("wait", `"duration": "soon"`)), "tasks[0].with.duration", "duration", "must be a duration with a unit"},
		"wait past":         {tasks(with("wait", `"duration": "-1s"`)), "tasks[0].with.duration", "duration", "must be a duration"},
		"wait too long":     {tasks(with("wait", `"duration": "24h"`)), "tasks[0].with.duration", "range", "must be less than the task's timeout, which is 24h0m0s"},
		"wait over the run": {tasks(with("wait", `"duration": "36h"`, `"timeout": "48h"`)), "tasks[0].with.duration", "range", "must be less than the timeout of the whole run, which is 24h0m0s"},
		"wait until":        {tasks(with("wait", `"until": "tomorrow"`)), "tasks[0].with.until", "time", "must be an RFC 3339 time"},
		"approval":          {tasks(with("wait", `"approval": {}`)), "tasks[0].with.approval.message", "required", "it says what is to be decided"},
		"approval too long": {tasks(with("wait", `"approval": {"message": "`+strings.Repeat("ä", 2001)+`"}`)), "tasks[0].with.approval.message", "max_length", "2000"},
		// concurrency.
		"key scope": {`{` + manual + `, "concurrency": {"limit": 1, "key": "tasks.a.output"}}`, "concurrency.key", "scope", "tasks may be read by other tasks only"},
		"key type":  {`{` + manual + `, "concurrency": {"limit": 1, "key": "[1]"}}`, "concurrency.key", "type", "must be a text, a number, or true or false"},
		"key alone": {`{` + manual + `, "concurrency": {"limit": 0, "key": "run.key"}}`, "concurrency.key", "needs_limit", "needs a limit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseDocument([]byte(tt.body))
			var invalid *InvalidError
			if !errors.As(err, &invalid) || len(invalid.Fields) != 1 {
				t.Fatalf("error = %v, want an InvalidError with one fault", err)
			}
			got := invalid.Fields[0]
			if got.Field != tt.field || got.Rule != tt.rule || !strings.Contains(got.Message, tt.message) {
				t.Errorf("got  %q %q %q\nwant %q %q %q", got.Field, got.Rule, got.Message, tt.field, tt.rule, tt.message)
			}
		})
	}
}

func parsed(t *testing.T, body string) Document {
	t.Helper()
	d, err := ParseDocument([]byte(body))
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return d
}

// TestTasksAllowed is what is only known when the task is done, and other things that must not be refused.
func TestTasksAllowed(t *testing.T) {
	t.Parallel()
	for _, task := range []string{
		with("http", `"url": "${event.payload.url}", "headers": {"Authorization": "Bearer ${secrets.TOKEN}"}, "query": {"n": "${event.payload.n}"},
			"expected_status": [200, "${run.input.status}"], "body": {"all": "${event}"}, "output": "${response.body.id}"`),
		with("http", `"url": "https://${run.input.host}/x", "raw_body": "$${ is literal", "expected_status": "${run.input.statuses}", "headers": "${run.input.headers}"`),
		with("http", `"url": "https://example.com/${item.id}", "output": {"${not looked at}": ["${response.status}", "${item}"]}`, `"for_each": "event.payload.items"`, `"max_parallel": 100`),
		with("publish", `"subject": "orders.${event.payload.kind}", "event_type": "${event.type}", "headers": {"X": "${secrets.A}"}, "payload": "${event.payload}"`),
		with("activity", `"activity": "${run.input.activity}", "task_queue": "q", "args": "${run.input.args}"`),
		with("workflow", `"workflow": "W", "task_queue": "q", "id": "order-${item}", "wait": false`, `"for_each": "[1, 2]"`, `"max_parallel": 20`),
		with("workflow", `"workflow": "W", "task_queue": "q", "wait": "${run.input.wait}", "parent_close": "abandon", "args": [{"a": null}]`),
		with("wait", `"duration": "${run.input.minutes}m"`), with("wait", `"duration": "23h59m"`), with("wait", `"duration": "1m"`, `"timeout": "90s"`),
		with("wait", `"until": "${event.payload.at}"`), with("wait", `"until": "2026-01-31T09:00:00+01:00"`),
		with("wait", `"approval": {"message": "Ship ${event.payload.id}?"}`), with("wait", `"approval": "${run.input}"`),
		logTask("a", `"on_error": "continue"`, `"if": "run.trigger == 'event' && event.payload.n > 1"`, `"needs": null`, `"for_each": null`),
		with("activity", `"activity": "A", "task_queue": "q"`, `"retry": {"non_retryable_errors": ["BadInput"]}`),
	} {
		parsed(t, tasks(task))
	}
	parsed(t, onFailure(logTask("a")+", "+logTask("b", `"needs": ["a"]`)+", "+strings.Replace(with("log", `"message": "${tasks.a.output} ${tasks.b.status}"`, `"needs": ["b"]`), `"a"`, `"c"`, 1),
		`{"name": "d", "type": "log", "with": {"message": "${run.reason} ${tasks.c.error} ${tasks.e.status}"}, "needs": ["e"]}, `+logTask("e", `"if": "has(tasks.a)"`)))
	parsed(t, `{`+manual+`, "concurrency": {"limit": 1, "on_limit": "replace", "key": "event.payload.customer"}}`)
}

// TestTextFields: an expression in a field that is a text gives a text, elsewhere its own type.
func TestTextFields(t *testing.T) {
	t.Parallel()
	for fields, want := range map[string]string{
		with("http", `"url": "${run.input.n}", "headers": {"A": "${run.input.n}"}, "query": {"b": "${run.input.n}"}, "body": {"n": "${run.input.n}"},
			"expected_status": ["${run.input.n}"], "output": "${response.status}"`): `{"body":{"n":7},"expected_status":[7],"headers":{"A":"7"},"query":{"b":"7"},"url":"7"}`,
		with("http", `"url": "https://example.com", "raw_body": "${run.input}"`):                                 `{"raw_body":"{\"n\":7}","url":"https://example.com"}`,
		with("log", `"message": "${run.input.n}"`):                                                               `{"message":"7"}`,
		with("publish", `"subject": "a", "event_type": "${run.input.n}", "payload": "${run.input}"`):             `{"event_type":"7","payload":{"n":7},"subject":"a"}`,
		with("activity", `"activity": "${run.input.n}", "task_queue": "q", "args": ["${run.input.n}"]`):          `{"activity":"7","args":[7],"task_queue":"q"}`,
		with("workflow", `"workflow": "W", "task_queue": "q", "id": "${run.input.n}", "wait": "${1 > 0}"`):       `{"id":"7","task_queue":"q","wait":true,"workflow":"W"}`,
		with("wait", `"approval": {"message": "${run.input.n}"}`):                                                `{"approval":{"message":"7"}}`,
		with("wait", `"duration": "${duration('90s')}"`):                                                         `{"duration":"90s"}`,
		strings.Replace(with("log", `"message": "${definition.labels.team} ${definition.name}"`), "}}", "}}", 1): `{"message":"growth x"}`,
	} {
		d := parsed(t, tasks(fields))
		template, err := d.Tasks[0].Template()
		if err != nil {
			t.Fatal(err)
		}
		run := Run{ID: "r", DefinitionName: "x", Input: []byte(`{"n":7}`)}
		v, err := run.Values(map[string]string{"team": "growth"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		rendered, err := template.Render(t.Context(), v)
		var members object
		if err != nil || json.Unmarshal(rendered, &members) != nil {
			t.Errorf("%s: %s, %v", fields, rendered, err)
			continue
		}
		var value any
		_ = json.Unmarshal(rendered, &value)
		if sorted, _ := json.Marshal(value); string(sorted) != want {
			t.Errorf("%s:\n got %s\nwant %s", fields, rendered, want)
		}
		task := d.Tasks[0]
		task.With = rendered
		if err := task.Decode(reflect.New(types[task.Type].fields).Interface()); err != nil {
			t.Errorf("%s cannot be decoded: %v", rendered, err)
		}
	}
}

func TestOutputTemplate(t *testing.T) {
	t.Parallel()
	d := parsed(t, tasks(http(`, "output": {"id": "${response.body.id}"}`)))
	output, err := d.Tasks[0].OutputTemplate()
	if err != nil || output == nil {
		t.Fatal(output, err)
	}
	v, err := (&Run{}).Values(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	v.Response = json.RawMessage(`{"status":200,"body":{"id":9007199254740993}}`)
	if got, err := output.Render(t.Context(), v); err != nil || string(got) != `{"id":9007199254740993}` {
		t.Errorf("output: %s, %v", got, err)
	}
	v.Response = json.RawMessage(`{"status":200,"body":{}}`)
	if _, err := output.Render(t.Context(), v); err == nil || err.Error() != "with.output.id: ${response.body.id}: no such key: id" {
		t.Errorf("output without id: %v", err)
	}
	for _, other := range []Task{{Type: TaskHTTP}, {Type: TaskHTTP, With: json.RawMessage(`{"url":"x"}`)}, {Type: TaskLog, With: json.RawMessage(`{"output":1}`)}} {
		if output, err := other.OutputTemplate(); output != nil || err != nil {
			t.Errorf("%s has an output: %v, %v", other.With, output, err)
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	run := Run{ID: "r", DefinitionID: "d", DefinitionName: "x", Revision: 3, Kind: KindEvent, Key: "event-e", EventID: "e", TraceID: "t", RerunOf: "q",
		Depth: 2, AcceptedAt: at, Status: RunFailed, Reason: ReasonTaskFailed, Error: "broken", Input: []byte(`{"event_id":"e","n":1e400}`)}
	v, err := run.Values(map[string]string{"b": "2", "a": "1"}, []TaskResult{{Name: "a", Status: TaskSucceeded, Output: []byte(`1.50`)},
		{Name: "b", Status: TaskSkipped}, {Name: "c", Status: TaskSucceeded, Output: []byte(`"cu`), OutputTruncated: true},
		{Name: "d", Status: TaskFailed, Error: `no "x"`}})
	if err != nil {
		t.Fatal(err)
	}
	const runText = `{"id":"r","definition":"x","trigger":"event","due_at":"2026-01-02T02:04:05Z","key":"event-e","trace_id":"t","rerun_of":"q","depth":2,` +
		`"status":"failed","reason":"task_failed","error":"broken"}`
	for what, c := range map[string]struct{ got, want string }{
		"event":      {string(v.Event), `{"event_id":"e","n":1e400}`},
		"run":        {string(v.Run), runText},
		"definition": {string(v.Definition), `{"id":"d","name":"x","revision":3,"labels":{"a":"1","b":"2"}}`},
		"a":          {string(v.Tasks["a"]), `{"status":"succeeded","error":"","output":1.50}`},
		"b":          {string(v.Tasks["b"]), `{"status":"skipped","error":""}`},
		"c":          {string(v.Tasks["c"]), `{"status":"succeeded","error":"","output_truncated":true}`},
		"d":          {string(v.Tasks["d"]), `{"status":"failed","error":"no \"x\""}`},
	} {
		if c.got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", what, c.got, c.want)
		}
	}
	occurrence := Occurrence{DefinitionID: "d", Kind: KindManual, Key: "manual-1", Input: []byte(`{"a":1,"a":2.0}`)}
	v, err = occurrence.Values("x", nil)
	const manualRun = `{"definition":"x","trigger":"manual","key":"manual-1","depth":0,"input":{"a":1,"a":2.0}}`
	if err != nil || v.Event != nil || string(v.Run) != manualRun || string(v.Definition) != `{"id":"d","name":"x","revision":0,"labels":{}}` {
		t.Errorf("an occurrence by hand: %s, %s, %s, %v", v.Event, v.Run, v.Definition, err)
	}
	key, err := (&Concurrency{Key: `string(run.input.a)`}).KeyExpression()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Text(t.Context(), v); err != nil {
		t.Error(err)
	}
	if none, err := (&Concurrency{}).KeyExpression(); none != nil || err != nil {
		t.Errorf("no key: %v, %v", none, err)
	}
}

// TestStoredTasks: a stored task without needs was written when tasks ran one after another.
func TestStoredTasks(t *testing.T) {
	t.Parallel()
	stored := []byte(`{"name":"x","trigger_config":{"trigger_type":"manual"},"tasks":[` + logTask("a") + `,` + logTask("b") + `,` + logTask("c", `"needs":[]`) + `]}`)
	d, err := DecodeStored(stored)
	if err != nil {
		t.Fatal(err)
	}
	var needs [][]string
	for _, task := range d.Tasks {
		needs = append(needs, task.Needs)
	}
	if want := [][]string{{}, {"a"}, {}}; !reflect.DeepEqual(needs, want) {
		t.Errorf("needs of stored tasks: %v, want %v", needs, want)
	}
	changed, err := d.Merge([]byte(`{"description": "more"}`))
	if err != nil || !slices.Equal(changed.Tasks[1].Needs, []string{"a"}) {
		t.Errorf("a change of something else: %+v, %v", changed.Tasks, err)
	}
	changed, err = d.Replace([]byte(`{"tasks": [` + logTask("a") + `,` + logTask("b") + `]}`))
	if err != nil || len(changed.Tasks[1].Needs) != 0 || changed.Tasks[1].Needs == nil {
		t.Errorf("new tasks: %+v, %v", changed.Tasks, err)
	}
	if text, err := json.Marshal(changed); err != nil || !strings.Contains(string(text), `"needs":[]`) {
		t.Errorf("a new document is stored without needs: %s, %v", text, err)
	}
}

func TestTaskAt(t *testing.T) {
	t.Parallel()
	d := parsed(t, onFailure(logTask("a")+", "+logTask("b"), logTask("c")))
	for index, want := range map[int]string{0: "a", 1: "b", 2: "c", 3: "", -1: ""} {
		task, ok := d.TaskAt(index)
		if ok != (want != "") || ok && task.Name != want {
			t.Errorf("task %d is %+v, %v, want %s", index, task, ok, want)
		}
	}
	if all := d.AllTasks(); len(all) != 3 || all[2].Name != "c" {
		t.Errorf("all tasks: %+v", all)
	}
}

func TestTaskDefaults(t *testing.T) {
	t.Parallel()
	no := false
	for what, c := range map[string]struct{ got, want any }{
		"timeout":          {(&Task{Type: TaskHTTP}).Limit(), DefaultTaskLimit},
		"timeout of wait":  {(&Task{Type: TaskWait}).Limit(), DefaultWaitLimit},
		"own timeout":      {(&Task{Type: TaskWait, Timeout: Duration(time.Minute)}).Limit(), time.Minute},
		"parallel":         {(&Task{}).Parallel(), DefaultParallel},
		"own parallel":     {(&Task{MaxParallel: 3}).Parallel(), 3},
		"waits":            {(&WorkflowTask{}).Waits(), true},
		"detached":         {(&WorkflowTask{Wait: &no}).Waits(), false},
		"close":            {(&WorkflowTask{}).OnParentClose(), ParentCloseRequestCancel},
		"close, detached":  {(&WorkflowTask{Wait: &no}).OnParentClose(), ParentCloseAbandon},
		"close, terminate": {(&WorkflowTask{ParentClose: ParentCloseTerminate}).OnParentClose(), ParentCloseTerminate},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
}

// BenchmarkValidate checks 50 tasks with four expressions each.
func BenchmarkValidate(b *testing.B) {
	list := make([]string, MaxTasks)
	for i := range list {
		needs := ""
		if i > 0 {
			needs = fmt.Sprintf(`"t%d"`, i-1)
		}
		list[i] = fmt.Sprintf(`{"name": "t%d", "type": "http", "needs": [%s], "if": "event.payload.amount > 100", "with": {"url": "https://example.com/${event.payload.id}",
			"headers": {"Authorization": "Bearer ${secrets.TOKEN}"}, "body": {"customer": "${event.payload.customer.name}"}}}`, i, needs)
	}
	d, err := ParseDocument([]byte(tasks(list...)))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := d.Validate(); err != nil {
			b.Fatal(err)
		}
	}
}
