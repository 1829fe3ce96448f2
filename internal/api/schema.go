package api

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/expression"
	"github.com/danielgtaylor/huma/v2"
)

// The definition language is described by hand: its JSON depends on trigger_type and on the type of each task, and what
// may be left out depends on the request. TestSchemaMatchesDocument holds this file against package definition.

const refPrefix = "#/components/schemas/"

// Names of the hand-written schemas.
const (
	schemaDefinition  = "Definition"
	schemaNew         = "NewDefinition"
	schemaReplacement = "DefinitionChange"
	schemaPatch       = "DefinitionPatch"
	schemaTrigger     = "TriggerConfig"
	schemaTask        = "Task"
	schemaRetry       = "Retry"
	schemaConcurrency = "Concurrency"
	schemaNotify      = "Notification"
	schemaPause       = "Pause"
	schemaPreview     = "CronPreview"
	schemaBackfill    = "BackfillRequest"
	schemaEvent       = "Event"
	schemaEnvelope    = "EventEnvelope"
	schemaCloudEvent  = "CloudEvent"
	schemaDeadLetters = "DeadLetterSelection"
	schemaReplay      = "ReplayRequest"
	schemaStop        = "StopRequest"
	schemaRerun       = "RerunRequest"
	schemaDecision    = "Decision"
	schemaRunFilter   = "RunFilter"
	schemaStopRuns    = "StopRunsRequest"
	schemaRerunRuns   = "RerunRunsRequest"
	schemaToken       = "TokenRequest"
	schemaRotation    = "RotationRequest"
)

const apiText = `activity-core keeps activity definitions: when something should happen (cron, a single time, an event, by hand) and what ` +
	`should be done (tasks). Every due moment becomes one row of the ledger and at most one run.

Every path answers with and without a trailing slash. Errors are RFC 9457 problems; their ` + "`type`" + ` is a path ` +
	`of this API that explains it (` + "`GET /problems`" + ` lists all of them), and ` + "`errors`" + ` names each field and the rule that it ` +
	`breaks. Unknown fields and unknown query parameters are refused. Lists are paged: pass ` +
	"`next_cursor`" + ` as ` + "`cursor`" + ` until it is null.`

// documentConfig makes a huma API without the parts that are served differently here: its document is built once (see
// docs.go), its documentation page loads scripts from other hosts, and its schema links repeat the Host header of the
// request.
func documentConfig() huma.Config {
	config := huma.DefaultConfig("activity-core", "1")
	config.Info.Description = apiText
	config.Tags = []*huma.Tag{
		{Name: tagDefinitions, Description: "What should happen, and when."},
		{Name: tagRevisions, Description: "What definitions were, and the way back."},
		{Name: tagTimes, Description: "When something is due."},
		{Name: tagRuns, Description: "The ledger: what became of every due moment, and why."},
		{Name: tagBackfills, Description: "Runs of past slots."},
		{Name: tagEvents, Description: "What becomes of an event, and why."},
		{Name: tagDeadLetters, Description: "Messages that could not be routed."},
		{Name: tagReplays, Description: "Events of the past, routed again."},
		{Name: tagAccess, Description: "Who may do what."},
		{Name: tagAudit, Description: "Who changed what, when and from where."},
		{Name: tagOperations, Description: "For the platform."},
	}
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{bearerScheme: {Type: "http", Scheme: "bearer",
		Description: "A token of this installation, or a JWT of the organization's identity provider. Not needed where ACTCORE_AUTH is off."}}
	config.AllowAdditionalPropertiesByDefault = true // in answers, which may grow; bodies say false
	config.CreateHooks = nil
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	return config
}

// defineSchemas adds the hand-written schemas to the document.
func defineSchemas(registry huma.Registry) {
	all := registry.Map()
	for name, s := range triggerSchemas() {
		all[name] = s
	}
	for name, s := range taskSchemas() {
		all[name] = s
	}
	for name, s := range steeringSchemas() {
		all[name] = s
	}
	all[schemaRetry] = object("How often a failed task is tried again.", nil, properties{
		"max_attempts":     integer("How often in all. Default 3; for a workflow task 1.", 1, 100),
		"initial_interval": duration("The pause before the second try. Default 1s.", "1s"),
		"backoff":          number("Each pause is this much longer than the one before. Default 2.", 1, 10),
		"max_interval":     duration("The longest pause. Default 1m.", "1m"),
		"non_retryable_errors": &huma.Schema{Type: huma.TypeArray, Items: text("", 200), MaxItems: new(50),
			Description: "Types of errors that are not tried again: those of Temporal for activity and workflow, http_<status> for http.",
			Examples:    []any{[]string{"http_503"}}},
	})
	all[schemaConcurrency] = object("How many runs of the definition run at one time. Default: 1 with skip for cron and "+
		"scheduled, no limit for others.", nil, properties{
		"limit": integer("0, the default, for no limit.", 0, definition.MaxConcurrency),
		"key":   expressionText("over event, run and definition: the limit holds for each of its values.", "event.payload.customer.id"),
		"on_limit": described(enumSchema(definition.OnLimitSkip, definition.OnLimitQueue, definition.OnLimitReplace),
			"What becomes of an occurrence that finds the limit reached: it is skipped, waits, or waits for the oldest run, which is "+
				"canceled. Runs by hand always queue. Default skip."),
	})
	all[schemaNew] = object("A definition as its author writes it.", []string{"name", "trigger_config"}, documentProperties())

	change := nullableFields(documentProperties(), "name", "trigger_config")
	all[schemaReplacement] = object("The fields to replace; null resets one to its default.", nil, change)
	merge := nullableFields(documentProperties(), "name", "trigger_config")
	merge["trigger_config"] = triggerPatch(all)
	merge["concurrency"] = nullable(object("The fields to change; null removes the limit.", nil,
		nullableFields(all[schemaConcurrency].Properties, "limit")))
	merge["labels"] = &huma.Schema{Type: huma.TypeObject, Nullable: true, Description: "Labels to add or change; null removes one.",
		AdditionalProperties: &huma.Schema{Type: huma.TypeString, Nullable: true}}
	all[schemaPatch] = object("A JSON Merge Patch (RFC 7396) of a definition.", nil, merge)

	stored := documentProperties()
	stored["id"] = &huma.Schema{Type: huma.TypeString, Format: "uuid"}
	stored["revision"] = described(&huma.Schema{Type: huma.TypeInteger}, "1 for the first; every change adds one.")
	stored["created_at"] = timestamp("")
	stored["updated_at"] = timestamp("")
	registry.Schema(reflect.TypeFor[Sync](), true, "")
	stored["sync"] = &huma.Schema{
		Description: "Whether its Temporal Schedule is as wanted; null for a definition that never had one.",
		OneOf:       []*huma.Schema{ref("Sync"), {Type: "null"}},
	}
	all[schemaDefinition] = object("A stored definition, with the defaults filled in.",
		[]string{"id", "revision", "name", "enabled", "trigger_config", "tasks", "created_at", "updated_at", "sync"}, stored)
	for name, s := range requestSchemas() {
		all[name] = s
	}
	for name, s := range eventSchemas() {
		all[name] = s
	}
	for name, s := range tokenSchemas() {
		all[name] = s
	}
	for _, s := range all {
		s.PrecomputeMessages()
	}
}

// allowNull adds null to the values of every nullable enumeration, here and below: to JSON Schema a type that allows null is not
// enough when there is an enum.
func allowNull(s *huma.Schema) {
	if s == nil {
		return
	}
	if s.Nullable && len(s.Enum) > 0 && !slices.Contains(s.Enum, nil) {
		s.Enum = append(slices.Clone(s.Enum), nil)
	}
	for _, p := range s.Properties {
		allowNull(p)
	}
	for _, list := range [][]*huma.Schema{s.OneOf, s.AnyOf, s.AllOf, {s.Items}} {
		for _, part := range list {
			allowNull(part)
		}
	}
	if more, ok := s.AdditionalProperties.(*huma.Schema); ok {
		allowNull(more)
	}
}

func documentProperties() properties {
	labels := &huma.Schema{Type: huma.TypeObject, Description: "For people and tools; without meaning to the service.",
		AdditionalProperties: text("", definition.MaxLabelValue), MaxProperties: new(definition.MaxLabels)}
	enabled := described(&huma.Schema{Type: huma.TypeBoolean, Default: true},
		"Whether it becomes due by its trigger. A disabled one can still be triggered by hand.")
	tasks := &huma.Schema{Type: huma.TypeArray, Items: ref(schemaTask), MaxItems: new(definition.MaxTasks),
		Description: "Each begins once the tasks that it needs are settled. None is legal: the run is recorded and succeeds."}
	onFailure := &huma.Schema{Type: huma.TypeArray, Items: ref(schemaTask), MaxItems: new(definition.MaxTasks),
		Description: "Done after the tasks of a run that failed or timed out, for at most 30 minutes. They do not change the outcome."}
	notify := &huma.Schema{Type: huma.TypeArray, Items: ref(schemaNotify), MaxItems: new(definition.MaxNotifications),
		Description: "What is sent when a run ends."}
	name := text("Unique.", 100)
	name.Pattern = `^[a-z0-9][a-z0-9._-]{0,99}$`
	return properties{
		"name":        name,
		"description": text("", definition.MaxDescription),
		"labels":      labels,
		"enabled":     enabled,
		"pause_reason": text("Why it is disabled, for people; the note of its schedule in Temporal shows it. Only while enabled is "+
			"false, and gone when it becomes true.", definition.MaxPauseReason),
		"trigger_config": ref(schemaTrigger),
		"tasks":          tasks,
		"on_failure":     onFailure,
		"notify":         notify,
		"concurrency":    ref(schemaConcurrency),
		"timeout":        duration("Of a whole run. Default 24h, at most 720h.", "1h"),
	}
}

// triggerSchemas returns the schema of trigger_config and of each of its types.
func triggerSchemas() map[string]*huma.Schema {
	cronExpression := text("Five fields as in crontab(5), or @hourly and the like, or @every with a duration.", 0)
	cronExpression.Examples = []any{"0 9 * * 1-5"}
	zone := text("IANA name of the time zone.", 0)
	zone.Default, zone.Examples = "UTC", []any{"Europe/Berlin"}
	misfire := described(enumSchema(definition.MisfireSkip, definition.MisfireCompress, definition.MisfireCatchup),
		"What becomes of slots that are more than 60 s late: skip records them as missed, compress runs the newest, catchup runs "+
			"all within misfire_window.")
	misfire.Default = definition.MisfireSkip
	runAt := text("The one time it is due: RFC 3339, or without an offset the local time of the time zone. It has to lie ahead.", 0)
	runAt.Examples = []any{"2126-12-24T18:00:00+01:00", "2126-12-24T18:00"}
	window := duration("How old a slot may be to be caught up. Default 24h.", "24h")
	jitter := duration("Each run starts up to this much later, at random. Default none.", "30s")
	eventType := text("The type of the events: exact, or with * for one word and > at the end for one or more.", definition.MaxEventType)
	eventType.Examples = []any{"user.created", "user.*"}
	filters := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: &huma.Schema{}, MaxProperties: new(definition.MaxFilters),
		Description: "Places of the event's payload that must all equal these values, by JSON equality. Dots and nested objects " +
			"name what lies deeper; other members may be there.",
		Examples: []any{map[string]any{"tier": "pro", "customer.country": "DE"}}}
	condition := text("A CEL expression over event that must be true as well; see docs/conditions.md.", definition.MaxCondition)
	condition.Examples = []any{"event.payload.amount > 100"}
	variants := map[string]*huma.Schema{
		"CronTrigger": object("Due at the times of a cron expression.", []string{"trigger_type", "cron_expression"}, properties{
			"trigger_type":    constant(definition.TriggerCron),
			"cron_expression": cronExpression,
			"timezone":        zone,
			"misfire_policy":  misfire,
			"misfire_window":  window,
			"jitter":          jitter,
			"start_at":        timestamp("No slot before it."),
			"end_at":          timestamp("No slot after it."),
		}),
		"ScheduledTrigger": object("Due once.", []string{"trigger_type", "run_at"}, properties{
			"trigger_type":   constant(definition.TriggerScheduled),
			"run_at":         runAt,
			"timezone":       zone,
			"misfire_policy": misfire,
			"misfire_window": window,
			"jitter":         jitter,
		}),
		"EventTrigger": object("Due when a matching event arrives.", []string{"trigger_type", "event_type"}, properties{
			"trigger_type": constant(definition.TriggerEvent),
			"event_type":   eventType,
			"filters":      filters,
			"condition":    condition,
		}),
		"ManualTrigger": object("Due by hand alone.", []string{"trigger_type"}, properties{
			"trigger_type": constant(definition.TriggerManual),
		}),
	}
	variants[schemaTrigger] = union("When it becomes due. Every definition can also be triggered by hand.", "trigger_type",
		map[string]string{"cron": "CronTrigger", "scheduled": "ScheduledTrigger", "event": "EventTrigger", "manual": "ManualTrigger"})
	return variants
}

// triggerPatch is trigger_config in a merge patch: any field of any type.
func triggerPatch(all map[string]*huma.Schema) *huma.Schema {
	fields := properties{}
	for _, name := range []string{"CronTrigger", "ScheduledTrigger", "EventTrigger"} {
		for field, s := range all[name].Properties {
			fields[field] = s
		}
	}
	fields = nullableFields(fields, "trigger_type", "cron_expression", "run_at", "event_type")
	fields["trigger_type"] = enumSchema(definition.TriggerTypes...)
	return object("The fields to change. Another trigger_type replaces the whole trigger_config.", nil, fields)
}

// expressionText is an expression in CEL, with an example.
func expressionText(description, example string) *huma.Schema {
	s := text("A CEL expression "+description+" See docs/expressions.md.", expression.MaxText)
	s.Examples = []any{example}
	return s
}

// orExpression is a value of a schema, or a text with an expression that gives it.
func orExpression(s *huma.Schema) *huma.Schema {
	return &huma.Schema{Description: s.Description, AnyOf: []*huma.Schema{s, {Type: huma.TypeString, Pattern: `^\$\{[\s\S]*\}$`}}}
}

// withProperties returns the fields of each task type.
func withProperties() map[definition.TaskType]properties {
	headers := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: text("", 0)}
	args := &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{},
		Description: "The arguments, any JSON values. Absent: one argument, the run's context."}
	queue := text("The task queue of your worker.", 200)
	method := enumSchema("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
	method.Default = "POST"
	subject := text("The NATS subject, without wildcards.", 255)
	subject.Examples = []any{"orders.shipped"}
	url := text("Absolute, http or https.", 0)
	url.Examples = []any{"https://example.com/orders/${event.payload.id}"}
	approval := object("Waits until somebody approves or rejects.", []string{"message"}, properties{
		"message": text("What is to be decided.", 2000)})
	return map[definition.TaskType]properties{
		definition.TaskLog: {"message": text("", 0)},
		definition.TaskHTTP: {"method": method, "url": url, "headers": headers,
			"query":    described(&huma.Schema{Type: huma.TypeObject, AdditionalProperties: text("", 0)}, "Added to the query of the URL."),
			"body":     {Description: "Sent as JSON. Without it and raw_body: the run's context, for POST, PUT and PATCH."},
			"raw_body": text("Sent as it is, instead of body.", 0),
			"expected_status": {Type: huma.TypeArray, Items: orExpression(integer("", 100, 599)), MaxItems: new(50),
				Description: "The statuses that are a success, instead of 200 to 299."},
			"output": {Description: "What the task's output is made of, with expressions over response: status, headers, body."}},
		definition.TaskPublish: {"subject": subject, "headers": headers,
			"event_type": text("The type in the CloudEvents headers. Absent: the subject.", 255),
			"payload":    {Description: "Sent as JSON. Absent: the run's context."}},
		definition.TaskActivity: {"activity": text("The name of the Temporal activity.", 200), "task_queue": queue, "args": args},
		definition.TaskWorkflow: {"workflow": text("The name of the workflow type.", 200), "task_queue": queue, "args": args,
			"id": text("The workflow's id. Absent: made of the run's and the task's.", 255),
			"wait": orExpression(&huma.Schema{Type: huma.TypeBoolean, Default: true,
				Description: "false: the task has succeeded once the workflow is started."}),
			"parent_close": described(enumSchema(definition.ParentCloseRequestCancel, definition.ParentCloseTerminate, definition.ParentCloseAbandon),
				"What becomes of the workflow when the run ends first. Default request_cancel; abandon with wait false, where nothing else is allowed.")},
		definition.TaskWait: {"duration": duration("How long.", "10m"),
			"until": text("An RFC 3339 time. One that is past ends the wait at once.", 0), "approval": approval},
	}
}

// taskSchemas returns the schema of a task and of each of its types, and of what is sent at the end of a run.
func taskSchemas() map[string]*huma.Schema {
	out, mapping, with := map[string]*huma.Schema{}, map[string]string{}, withProperties()
	for _, t := range []struct {
		kind     definition.TaskType
		schema   string
		text     string
		required []string
	}{
		{definition.TaskLog, "LogTask", "Writes one line to the worker's log.", []string{"message"}},
		{definition.TaskHTTP, "HTTPTask", "Makes one HTTP request. 200 to 299 is a success; 408, 425, 429 and 5xx are tried again.", []string{"url"}},
		{definition.TaskPublish, "PublishTask", "Publishes one message to JetStream.", []string{"subject"}},
		{definition.TaskActivity, "ActivityTask", "Calls a Temporal activity of your own.", []string{"activity", "task_queue"}},
		{definition.TaskWorkflow, "WorkflowTask", "Runs a Temporal workflow of your own.", []string{"workflow", "task_queue"}},
		{definition.TaskWait, "WaitTask", "Waits for one of three things.", nil},
	} {
		out[t.schema] = object(t.text, []string{"name", "type", "with"}, taskProperties(t.kind, object("Any text may hold ${…}, a CEL "+
			"expression.", t.required, with[t.kind])))
		mapping[string(t.kind)] = t.schema
	}
	out[schemaTask] = union("One step of a run.", "type", mapping)
	out[schemaNotify] = object("What is sent when a run ends.", []string{"on", "type", "with"}, properties{
		"on": &huma.Schema{Type: huma.TypeArray, Items: enumSchema(definition.NotifyOns...), MinItems: new(1),
			Description: "Which ends it tells of."},
		"type": enumSchema(definition.TaskHTTP, definition.TaskPublish),
		"with": {Type: huma.TypeObject, AdditionalProperties: true,
			Description: "The fields of the type, as of a task. Expressions may read run, definition and secrets."},
	})
	return out
}

// taskProperties returns what a task of a type may have.
func taskProperties(kind definition.TaskType, with *huma.Schema) properties {
	name := text("Unique within the definition.", 63)
	name.Pattern = `^[a-z0-9][a-z0-9_-]{0,62}$`
	most, limit := definition.MaxParallel, "5m"
	switch kind {
	case definition.TaskActivity, definition.TaskWorkflow:
		most = definition.MaxUserParallel
	case definition.TaskWait:
		limit = "24h"
	}
	all := properties{
		"name": name,
		"type": constant(kind),
		"needs": {Type: huma.TypeArray, Items: text("", 63), MaxItems: new(definition.MaxTasks), Default: []string{},
			Description: "The tasks of the same list that must be settled before this one begins."},
		"if":       expressionText("that must be true; the task is skipped otherwise.", `tasks.check.output.ok`),
		"with":     with,
		"on_error": described(enumSchema(definition.OnErrorFail, definition.OnErrorContinue), "What becomes of the run when the task fails for good. Default fail."),
		"timeout":  duration("Of the whole task, all attempts included. Default "+limit+".", "30s"),
	}
	if kind == definition.TaskWait {
		return all
	}
	all["for_each"] = expressionText("that gives a list: the task is done for each of its items.", `event.payload.items`)
	all["max_parallel"] = integer("How many items at a time. Default 10.", 1, float64(most))
	all["retry"] = ref(schemaRetry)
	return all
}

// requestSchemas returns the schemas of the bodies of a few fields.
func requestSchemas() map[string]*huma.Schema {
	zone := text("IANA name of the time zone.", 0)
	zone.Default, zone.Examples = "UTC", []any{"Europe/Berlin"}
	count := integer("How many times to return at most.", 1, maxFires)
	count.Default = defaultFires
	missing := described(&huma.Schema{Type: huma.TypeBoolean, Default: true},
		"Leave out the slots that ran or are about to: only those without a row, and those that were missed, skipped or called "+
			"off and not made up for since. false: all of them.")
	concurrent := integer("How many of its runs are started at one time.", 1, definition.MaxBackfillConcurrent)
	concurrent.Default = 1
	dryRun := described(&huma.Schema{Type: huma.TypeBoolean, Default: false}, "Only count the runs.")
	return map[string]*huma.Schema{
		schemaPause: object("", nil, properties{
			"reason": nullable(text("Why, for people.", definition.MaxPauseReason)),
		}),
		schemaPreview: object("", []string{"cron_expression"}, properties{
			"cron_expression": text("Five fields as in crontab(5), or @hourly and the like, or @every with a duration.", 0),
			"timezone":        nullable(zone),
			"count":           nullable(count),
			"from":            nullable(timestamp("The times at and after it. Default: now.")),
		}),
		schemaBackfill: object("", []string{"from", "to"}, properties{
			"from":           timestamp("The first instant of the range, inclusive."),
			"to":             timestamp("The last instant of the range, inclusive; not in the future."),
			"only_missing":   nullable(missing),
			"max_concurrent": nullable(concurrent),
			"dry_run":        nullable(dryRun),
		}),
		schemaDeadLetters: object("Which dead letters: at least one of reason, from and to.", nil, properties{
			"reason":  nullable(described(enumSchema(definition.RejectReasons...), "Those with this reason.")),
			"from":    nullable(timestamp("Those that were stored then or later.")),
			"to":      nullable(timestamp("Those that were stored before.")),
			"dry_run": nullable(described(&huma.Schema{Type: huma.TypeBoolean, Default: false}, "Only count them.")),
		}),
		schemaReplay: object("", []string{"from", "to", "definition_ids"}, properties{
			"from": timestamp("The first publishing time, inclusive."),
			"to":   timestamp("The last publishing time, exclusive; not in the future."),
			"event_types": nullable(&huma.Schema{Type: huma.TypeArray, Items: text("", definition.MaxEventType),
				MaxItems: new(maxReplayTypes), Description: "Exact types or wildcards, as in user.created or user.*. Absent or empty: all."}),
			"definition_ids": &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString, Format: "uuid"},
				MinItems: new(1), MaxItems: new(definition.MaxReplayDefinitions),
				Description: "The definitions, with an event trigger, that get runs."},
			"dry_run": nullable(described(&huma.Schema{Type: huma.TypeBoolean, Default: false}, "Only count.")),
		}),
	}
}

// eventSchemas returns the schemas of the messages of the event stream. They may have members of their own.
func eventSchemas() map[string]*huma.Schema {
	open := func(s *huma.Schema) *huma.Schema {
		s.AdditionalProperties = true
		return s
	}
	id := func() *huma.Schema {
		s := text("Names the event for good, for all sources.", definition.MaxEventID)
		s.Pattern = eventIDPattern.String()
		return s
	}
	words := func(description string) *huma.Schema { return nullable(text(description, definition.MaxAttribute)) }
	kind := text("Lower-case words joined by dots, as in user.created.", definition.MaxEventType)
	payload := func() *huma.Schema { return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true} }
	return map[string]*huma.Schema{
		schemaEvent: {Description: "A message of the event stream.",
			AnyOf: []*huma.Schema{ref(schemaEnvelope), ref(schemaCloudEvent)}},
		schemaEnvelope: open(object("An event in our own envelope.", []string{"event_id", "type"}, properties{
			"event_id": id(), "type": kind, "source": words(""), "subject": words(""), "trace_id": words(""),
			"occurred_at": nullable(timestamp("The publisher's time; nothing is decided by it.")), "payload": payload(),
		})),
		schemaCloudEvent: open(object("A CloudEvent 1.0 in structured mode.", []string{"specversion", "id", "source", "type"},
			properties{
				"specversion": constant("1.0"), "id": id(), "type": kind, "source": text("", definition.MaxAttribute), "subject": words(""),
				"time": nullable(timestamp("The publisher's time; nothing is decided by it.")), "traceparent": words("W3C Trace Context."),
				"datacontenttype": words("JSON, or absent."), "dataschema": words("Not looked at."), "data": nullable(payload()),
			})),
	}
}

// Request bodies.

func createBody() *huma.RequestBody {
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{jsonType: {
		Schema: ref(schemaNew),
		Examples: examples(map[string]string{
			"cron": `{"name": "daily-report", "trigger_config": {"trigger_type": "cron", "cron_expression": "0 9 * * 1-5",
				"timezone": "Europe/Berlin", "misfire_policy": "skip"},
				"tasks": [{"name": "note", "type": "log", "with": {"message": "time for the report"}}]}`,
			"scheduled": `{"name": "release-note", "trigger_config": {"trigger_type": "scheduled", "run_at": "2126-12-24T18:00",
				"timezone": "Europe/Berlin"},
				"tasks": [{"name": "note", "type": "log", "with": {"message": "time to tell"}}]}`,
			"event": `{"name": "user-onboarding", "trigger_config": {"trigger_type": "event", "event_type": "user.created",
				"filters": {"tier": "pro"}},
				"tasks": [{"name": "welcome", "type": "http", "timeout": "1m", "retry": {"max_attempts": 5},
					"with": {"url": "https://example.com/welcome"}}]}`,
			"tasks that need each other": `{"name": "order", "trigger_config": {"trigger_type": "event", "event_type": "order.paid"},
				"tasks": [
					{"name": "stock", "type": "http", "with": {"method": "GET", "url": "https://example.com/stock/${event.payload.sku}",
						"headers": {"Authorization": "Bearer ${secrets.SHOP_TOKEN}"}, "output": {"left": "${response.body.left}"}}},
					{"name": "ship", "type": "publish", "needs": ["stock"], "if": "tasks.stock.output.left > 0",
						"with": {"subject": "orders.ship", "payload": {"order": "${event.payload.id}"}}}],
				"on_failure": [{"name": "tell", "type": "log", "with": {"message": "order ${event.payload.id}: ${run.error}"}}]}`,
			"manual": `{"name": "reindex", "trigger_config": {"trigger_type": "manual"}, "concurrency": {"limit": 1},
				"tasks": [{"name": "reindex", "type": "workflow", "timeout": "30m",
					"with": {"workflow": "Reindex", "task_queue": "search-tq", "args": [{"full": true}]}}]}`,
		}),
	}}}
}

func replaceBody() *huma.RequestBody {
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{jsonType: {
		Schema: ref(schemaReplacement),
		Examples: examples(map[string]string{
			"disable":    `{"enabled": false}`,
			"reschedule": `{"trigger_config": {"trigger_type": "cron", "cron_expression": "30 8 * * *", "timezone": "Europe/Berlin"}}`,
		}),
	}}}
}

func mergeBody() *huma.RequestBody {
	media := func() *huma.MediaType {
		return &huma.MediaType{Schema: ref(schemaPatch), Examples: examples(map[string]string{
			"one field of the trigger": `{"trigger_config": {"timezone": "America/New_York"}}`,
			"labels":                   `{"labels": {"team": "growth", "old": null}}`,
		})}
	}
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{mergePatchType: media(), jsonType: media()}}
}

func triggerBody() *huma.RequestBody {
	return &huma.RequestBody{Content: map[string]*huma.MediaType{jsonType: {
		Schema:   &huma.Schema{Description: "Any JSON value of at most 256 KiB."},
		Examples: examples(map[string]string{"object": `{"customer": 42}`}),
	}}}
}

func pauseBody() *huma.RequestBody {
	return &huma.RequestBody{Content: map[string]*huma.MediaType{jsonType: {
		Schema: ref(schemaPause), Examples: examples(map[string]string{"reason": `{"reason": "the target moves house"}`}),
	}}}
}

func fieldsOf(schema string, required bool, texts map[string]string) *huma.RequestBody {
	return &huma.RequestBody{Required: required, Content: map[string]*huma.MediaType{jsonType: {
		Schema: ref(schema), Examples: examples(texts),
	}}}
}

func noteBody() *huma.RequestBody {
	return fieldsOf(schemaStop, false, map[string]string{"note": `{"note": "the target is down"}`})
}

func rerunBody() *huma.RequestBody {
	return fieldsOf(schemaRerun, false, map[string]string{"from the start": `{}`, "from what failed": `{"from": "failed"}`})
}

func decideBody() *huma.RequestBody {
	return fieldsOf(schemaDecision, false, map[string]string{"decision": `{"by": "ada", "comment": "looks good"}`})
}

func stopRunsBody() *huma.RequestBody {
	return fieldsOf(schemaStopRuns, true, map[string]string{
		"count": `{"filter": {"definition": "reindex", "status": ["queued"]}, "dry_run": true}`,
		"note":  `{"filter": {"labels": {"team": "growth"}}, "note": "the target is down"}`,
	})
}

func rerunRunsBody() *huma.RequestBody {
	return fieldsOf(schemaRerunRuns, true, map[string]string{
		"count": `{"filter": {"reason": "task_failed", "since": "2026-01-31T09:00:00Z"}, "dry_run": true}`,
		"go on": `{"filter": {"definition": "reindex", "status": ["failed"]}, "from": "failed"}`,
	})
}

// steeringSchemas returns the schemas of the bodies that steer runs.
func steeringSchemas() map[string]*huma.Schema {
	note := func() *huma.Schema { return nullable(text("Why, for people: it becomes the run's error.", maxNote)) }
	from := func() *huma.Schema {
		s := enumSchema(definition.RerunFroms...)
		s.Default = string(definition.RerunStart)
		return nullable(described(s, "start: every task, by the revision in force. failed: by the run's own revision, without the tasks that "+
			"succeeded or were skipped."))
	}
	dryRun := func() *huma.Schema {
		return nullable(described(&huma.Schema{Type: huma.TypeBoolean, Default: false}, "Only count them."))
	}
	id := func(description string) *huma.Schema {
		return nullable(described(&huma.Schema{Type: huma.TypeString, Format: "uuid"}, description))
	}
	words := func(items *huma.Schema, description string) *huma.Schema {
		return nullable(&huma.Schema{Type: huma.TypeArray, Items: items, Description: description})
	}
	return map[string]*huma.Schema{
		schemaStop:  object("", nil, properties{"note": note()}),
		schemaRerun: object("", nil, properties{"from": from()}),
		schemaDecision: object("", nil, properties{
			"comment": nullable(text("Why, for people.", maxNote)), "by": nullable(text("Who decides.", maxBy)),
		}),
		schemaStopRuns: object("", []string{"filter"}, properties{"filter": ref(schemaRunFilter), "note": note(), "dry_run": dryRun()}),
		schemaRerunRuns: object("", []string{"filter"}, properties{"filter": ref(schemaRunFilter), "from": from(),
			"dry_run": dryRun()}),
		schemaRunFilter: object("Which runs: at least one of these, and all that are given.", nil, properties{
			"definition_id": id("Those of this definition."),
			"definition":    nullable(text("Those of the definitions with this name.", maxNameFilter)),
			"labels": nullable(&huma.Schema{Type: huma.TypeObject, AdditionalProperties: text("", definition.MaxLabelValue),
				Description: "Those of definitions that have all of these labels."}),
			"status":      words(enumSchema(definition.RunStatuses...), "Those with one of these statuses."),
			"reason":      nullable(described(enumSchema(definition.Reasons...), "Those with this reason.")),
			"trigger":     words(enumSchema(definition.TriggerKinds...), "Those that one of these kinds of triggers made due."),
			"since":       nullable(timestamp("Those that were accepted then or later.")),
			"until":       nullable(timestamp("Those that were accepted before.")),
			"rerun_of":    id("Those that make up for this run."),
			"backfill_id": id("Those of this backfill."),
			"replay_id":   id("Those of this replay."),
			"event_id":    nullable(text("Those that this event made due.", definition.MaxEventID)),
		}),
	}
}

func tokenBody() *huma.RequestBody {
	return fieldsOf(schemaToken, true, map[string]string{
		"for a pipeline": `{"name": "ci-deploy", "role": "editor", "labels": {"team": "growth"}, "expires_in": "720h", "max_definitions": 50}`,
		"for an admin":   `{"name": "ada", "role": "admin"}`,
	})
}

func rotateBody() *huma.RequestBody {
	return fieldsOf(schemaRotation, false, map[string]string{"an hour to change over": `{"overlap": "1h"}`})
}

// tokenSchemas returns the schemas of the bodies that make tokens.
func tokenSchemas() map[string]*huma.Schema {
	labels := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: text("", access.MaxLabelValue), MaxProperties: new(access.MaxLabels),
		Description: "Its caller sees only definitions that have all of these. Absent or empty: no limit."}
	return map[string]*huma.Schema{
		schemaToken: object("", []string{"name", "role"}, properties{
			"name": text("For people; several tokens may have one name.", access.MaxTokenName),
			"role": described(enumSchema(access.Roles...), "viewer reads. operator also triggers, pauses, cancels, replays and settles dead "+
				"letters. editor also writes definitions. admin also gives access to others."),
			"labels": nullable(labels),
			"expires_in": nullable(duration("How long it is good: from 1m to 8784h. Default 2160h, which is 90 days.",
				"720h")),
			"max_definitions": nullable(integer("How many definitions its caller may have made that are not deleted; 0 for no limit. Default 1000.", 0,
				access.MostMaxDefinitions)),
		}),
		schemaRotation: object("", nil, properties{
			"overlap": nullable(duration("How long the old one stays good: from 0s to 168h. Default 24h.", "1h")),
		}),
	}
}

func previewBody() *huma.RequestBody {
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{jsonType: {
		Schema: ref(schemaPreview),
		Examples: examples(map[string]string{
			"working days": `{"cron_expression": "0 9 * * 1-5", "timezone": "Europe/Berlin"}`,
			"a change of the clocks": `{"cron_expression": "30 2 * * *", "timezone": "Europe/Berlin", "count": 3,
				"from": "2026-03-28T00:00:00+01:00"}`,
		}),
	}}}
}

func backfillBody() *huma.RequestBody {
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{jsonType: {
		Schema: ref(schemaBackfill),
		Examples: examples(map[string]string{
			"count": `{"from": "2026-01-31T00:00:00Z", "to": "2026-01-31T12:00:00Z", "dry_run": true}`,
			"all, three at a time": `{"from": "2026-01-31T00:00:00Z", "to": "2026-01-31T12:00:00Z", "only_missing": false,
				"max_concurrent": 3}`,
		}),
	}}}
}

func eventBodyDoc() *huma.RequestBody {
	const cloudEvent = `{"specversion": "1.0", "id": "o-1", "source": "/shop", "type": "order.paid", "data": {"amount": 10}}`
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		jsonType: {Schema: ref(schemaEvent), Examples: examples(map[string]string{
			"envelope":    `{"event_id": "evt-1", "type": "user.created", "source": "signup", "payload": {"tier": "pro"}}`,
			"CloudEvents": cloudEvent,
		})},
		cloudEventType: {Schema: ref(schemaCloudEvent), Examples: examples(map[string]string{"CloudEvents": cloudEvent})},
	}}
}

func moveDeadLettersBody() *huma.RequestBody {
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{jsonType: {
		Schema: ref(schemaDeadLetters),
		Examples: examples(map[string]string{
			"of one reason": `{"reason": "internal_error"}`,
			"count":         `{"from": "2026-01-31T00:00:00Z", "to": "2026-01-31T12:00:00Z", "dry_run": true}`,
		}),
	}}}
}

func replayBody() *huma.RequestBody {
	return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{jsonType: {
		Schema: ref(schemaReplay),
		Examples: examples(map[string]string{
			"count": `{"from": "2026-01-31T00:00:00Z", "to": "2026-01-31T12:00:00Z",
				"definition_ids": ["0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b"], "dry_run": true}`,
			"of some types": `{"from": "2026-01-31T00:00:00Z", "to": "2026-01-31T12:00:00Z", "event_types": ["user.created", "order.>"],
				"definition_ids": ["0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b"]}`,
		}),
	}}}
}

// Builders of schemas.

type properties = map[string]*huma.Schema

func ref(name string) *huma.Schema { return &huma.Schema{Ref: refPrefix + name} }

func described(s *huma.Schema, text string) *huma.Schema {
	s.Description = text
	return s
}

func object(text string, required []string, p properties) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Description: text, Required: required, Properties: p, AdditionalProperties: false}
}

// union is one of several schemas, told apart by a property.
func union(text, property string, mapping map[string]string) *huma.Schema {
	s := &huma.Schema{Description: text, Discriminator: &huma.Discriminator{PropertyName: property, Mapping: map[string]string{}}}
	for _, value := range slices.Sorted(maps.Keys(mapping)) {
		s.OneOf = append(s.OneOf, ref(mapping[value]))
		s.Discriminator.Mapping[value] = refPrefix + mapping[value]
	}
	return s
}

func text(description string, most int) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString, Description: description}
	if most > 0 {
		s.MaxLength = &most
	}
	return s
}

func constant[T ~string](value T) *huma.Schema { return enumSchema(value) }

func duration(description, example string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: description + " A number with a unit, as in 90s, 5m or 1h30m.",
		Examples: []any{example}}
}

func timestamp(description string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Description: description}
}

func integer(description string, least, most float64) *huma.Schema {
	return &huma.Schema{Type: huma.TypeInteger, Description: description, Minimum: &least, Maximum: &most}
}

func number(description string, least, most float64) *huma.Schema {
	return &huma.Schema{Type: huma.TypeNumber, Description: description, Minimum: &least, Maximum: &most}
}

// nullableFields returns the properties with null allowed for all but the named ones.
func nullableFields(p properties, except ...string) properties {
	out := properties{}
	for name, s := range p {
		switch {
		case slices.Contains(except, name):
			out[name] = s
		case s.Ref != "":
			out[name] = &huma.Schema{OneOf: []*huma.Schema{s, {Type: "null"}}}
		default:
			out[name] = nullable(s)
		}
	}
	return out
}

func nullable(s *huma.Schema) *huma.Schema {
	null := *s
	null.Nullable = true
	return &null
}

func examples(of map[string]string) map[string]*huma.Example {
	out := map[string]*huma.Example{}
	for name, data := range of {
		var value any
		if err := json.Unmarshal([]byte(data), &value); err != nil {
			panic("example " + name + ": " + err.Error()) // a constant of this file
		}
		out[name] = &huma.Example{Summary: name, Value: value}
	}
	return out
}
