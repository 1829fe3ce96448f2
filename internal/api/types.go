package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/danielgtaylor/huma/v2"
)

// Definition is the JSON of a stored definition: what its author wrote, with defaults filled in, and what the service
// added. Its schema is written by hand in schema.go.
type Definition struct {
	ID       string `json:"id"`
	Revision int    `json:"revision"`
	definition.Document
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	// Sync is null for a definition that never had a schedule.
	Sync *Sync `json:"sync"`
}

// Schema refers to the hand-written schema.
func (Definition) Schema(huma.Registry) *huma.Schema { return ref(schemaDefinition) }

// Sync tells whether the Temporal Schedule of a definition is as the definition wants it.
type Sync struct {
	State     definition.SyncState `json:"state" enum:"synced,pending,error" doc:"synced: read back from Temporal as wanted (or gone, as wanted). pending: a change waits to be carried out. error: the last try failed. A worker goes on trying until it is synced."`
	Desired   int                  `json:"desired" doc:"The revision that the schedule has to follow."`
	Observed  int                  `json:"observed" doc:"The revision that was last confirmed in Temporal; 0 for none."`
	LastError *string              `json:"last_error" doc:"Why the last try failed; null when it did not."`
	Since     time.Time            `json:"since" doc:"When this state was entered."`
}

// DefinitionList is one page of definitions.
type DefinitionList struct {
	Items      []Definition `json:"items" nullable:"false"`
	NextCursor *string      `json:"next_cursor" doc:"Pass it as cursor to get the next page; null on the last one."`
}

// RunSummary is the JSON of a run in a list.
type RunSummary struct {
	ID             string      `json:"id" format:"uuid"`
	DefinitionID   string      `json:"definition_id" format:"uuid"`
	DefinitionName string      `json:"definition_name" doc:"The name at the time of acceptance."`
	Revision       int         `json:"revision" doc:"The revision of the definition that runs."`
	Trigger        triggerKind `json:"trigger" doc:"What made it due; the slots of a scheduled trigger are cron too."`
	OccurrenceKey  string      `json:"occurrence_key" doc:"Names the due moment, once per definition: cron-<slot>, event-<event id>, manual-<uuid> or, for a run that makes up for another one, rerun-<run id>-<n>."`
	Status         runStatus   `json:"status" doc:"accepted, queued and running go on; the others are final."`
	Reason         *string     `json:"reason" doc:"Why it has this outcome, as one word of a closed list; null for a run that succeeded or goes on."`
	Error          *string     `json:"error" doc:"One sentence for a person; null when there is none."`
	EventID        *string     `json:"event_id" doc:"Of the event that made it due."`
	EventType      *string     `json:"event_type" doc:"Of the event that made it due."`
	TraceID        *string     `json:"trace_id" doc:"Of the event, or of the request that triggered it (header traceparent)."`
	SlotAt         *time.Time  `json:"slot_at" nullable:"true" doc:"The nominal time of a run that the clock made due, or that a backfill made up for."`
	CatchUp        bool        `json:"catch_up" doc:"Whether it is a late slot that runs in its turn after the earlier ones."`
	RerunOf        *string     `json:"rerun_of" format:"uuid" doc:"The run that this one makes up for; null for none."`
	BackfillID     *string     `json:"backfill_id" format:"uuid" doc:"The backfill that made it; null for none."`
	ReplayID       *string     `json:"replay_id" format:"uuid" doc:"The replay that made it; null for none."`
	ConcurrencyKey *string     `json:"concurrency_key" doc:"The value of the definition's concurrency key; null for none."`
	Depth          int         `json:"depth" doc:"How many runs led to it, each by the event of its end."`
	StopRequested  *string     `json:"stop_requested" enum:"cancel,terminate" doc:"What somebody, or a run that takes its place, asked for; null when nobody did."`
	AcceptedAt     time.Time   `json:"accepted_at" doc:"When it was written to the ledger."`
	StartedAt      *time.Time  `json:"started_at" nullable:"true" doc:"When its tasks began."`
	FinishedAt     *time.Time  `json:"finished_at" nullable:"true"`
	DurationMS     *int64      `json:"duration_ms" doc:"From started_at to finished_at, in milliseconds."`
	WorkflowID     string      `json:"workflow_id" doc:"The id of its Temporal workflow."`
	WorkflowRunID  *string     `json:"workflow_run_id" doc:"Temporal's run id; null before it began."`
}

// Run is the JSON of one run.
type Run struct {
	RunSummary
	Because       []Cause      `json:"because" nullable:"false" doc:"What led to it, and what was asked of it since."`
	QueuePosition *int         `json:"queue_position" doc:"Its place among those that wait, from 1; null when it is not queued."`
	TemporalURL   *string      `json:"temporal_url,omitempty" format:"uri" doc:"Its workflow in Temporal's Web UI; absent where it is not known where that is."`
	Input         any          `json:"input" doc:"What triggered it: the event's envelope, or the body of the trigger request; null when there was none."`
	Tasks         []TaskResult `json:"tasks" nullable:"false" doc:"In the order of the definition; a task that was not reached is absent. Of inputs and outputs of more than 16 KiB it has the first part: GET /runs/{id}/tasks/{name} has all of it."`
}

// The kinds of causes.
const (
	causeSlot     = "slot"
	causeEvent    = "event"
	causeRun      = "run"
	causeRequest  = "request"
	causeRerun    = "rerun"
	causeBackfill = "backfill"
	causeReplay   = "replay"
	causeStop     = "stop"
)

// Cause is one thing that led to a run, or was asked of it.
type Cause struct {
	Kind string  `json:"kind" enum:"slot,event,run,request,rerun,backfill,replay,stop" doc:"slot: the clock. event: an event. run: the end of another run, which was that event. request: somebody asked for it. rerun: it makes up for another run. backfill, replay: these made it. stop: it was asked to end."`
	ID   *string `json:"id" doc:"Of the event, run, backfill or replay; null for others."`
	Text string  `json:"text" doc:"The same in one sentence."`
}

// TaskResult is the JSON of what became of a task.
type TaskResult struct {
	Name            string                `json:"name"`
	Type            definition.TaskType   `json:"type" enum:"log,http,publish,activity,workflow,wait"`
	Status          definition.TaskStatus `json:"status" enum:"running,succeeded,failed,timed_out,canceled,skipped"`
	Attempts        int                   `json:"attempts"`
	Error           *string               `json:"error" doc:"Of the last attempt; null when there is none."`
	Input           any                   `json:"input" doc:"What it was done with: its expressions replaced by their values, and secrets by ***. null when it is not known; a string that holds the first part when input_truncated is true."`
	InputTruncated  bool                  `json:"input_truncated"`
	InputBytes      int                   `json:"input_bytes" doc:"The size of the input that is kept."`
	Output          any                   `json:"output" doc:"Any JSON value; a string that holds the first part of it when output_truncated is true; null when there is none."`
	OutputTruncated bool                  `json:"output_truncated"`
	OutputBytes     int                   `json:"output_bytes" doc:"The size of the output that is kept, at most 1 MiB."`
	StartedAt       time.Time             `json:"started_at"`
	FinishedAt      *time.Time            `json:"finished_at" nullable:"true"`
	DurationMS      *int64                `json:"duration_ms" doc:"From started_at to finished_at, in milliseconds."`
	ItemsTotal      *int                  `json:"items_total" doc:"How many items a task with for_each has; null for others."`
	ItemsBegun      *int                  `json:"items_begun" doc:"How many of them were begun."`
	WaitUntil       *time.Time            `json:"wait_until" nullable:"true" doc:"When a wait ends; null for other tasks, and for one that waits for approval."`
}

// RunTask is the JSON of one task of a run, with its items.
type RunTask struct {
	TaskResult
	Items      []TaskItem `json:"items" nullable:"false" doc:"Those items of a task with for_each that were begun, in order. Of values and outputs of more than 16 KiB it has the first part."`
	NextCursor *string    `json:"next_cursor" doc:"Pass it as cursor to get the next page of items; null on the last one."`
}

// TaskItem is the JSON of what became of an item of a task with for_each.
type TaskItem struct {
	Item            int                   `json:"item" doc:"Its place in the list, from 0."`
	Status          definition.TaskStatus `json:"status" enum:"running,succeeded,failed,timed_out,canceled"`
	Attempts        int                   `json:"attempts"`
	Error           *string               `json:"error"`
	Value           any                   `json:"value" doc:"The item itself; a string that holds the first part when value_truncated is true."`
	ValueTruncated  bool                  `json:"value_truncated"`
	Output          any                   `json:"output"`
	OutputTruncated bool                  `json:"output_truncated"`
	OutputBytes     int                   `json:"output_bytes"`
	StartedAt       time.Time             `json:"started_at"`
	FinishedAt      *time.Time            `json:"finished_at" nullable:"true"`
}

// RunCount tells how many runs a request was about.
type RunCount struct {
	Count  int  `json:"count" doc:"How many runs it was done for, at most 1,000; in a dry run: how many there are."`
	Left   int  `json:"left" doc:"How many more there are: ask again for these. In a dry run: how many would be left."`
	DryRun bool `json:"dry_run" doc:"Whether nothing was changed."`
}

// RunList is one page of runs.
type RunList struct {
	Items      []RunSummary `json:"items" nullable:"false"`
	NextCursor *string      `json:"next_cursor" doc:"Pass it as cursor to get the next page; null on the last one."`
}

// Backfill is the JSON of a backfill: runs of past slots, which somebody asked for.
type Backfill struct {
	ID             *string        `json:"id" format:"uuid" doc:"null in a dry run."`
	DefinitionID   string         `json:"definition_id" format:"uuid"`
	DefinitionName string         `json:"definition_name" doc:"The name at the time of the request."`
	Revision       int            `json:"revision" doc:"The revision of the definition that runs."`
	From           time.Time      `json:"from" doc:"The first instant of the range, inclusive."`
	To             time.Time      `json:"to" doc:"The last instant of the range, inclusive."`
	OnlyMissing    bool           `json:"only_missing" doc:"Whether slots that ran, or are about to, are left out."`
	MaxConcurrent  int            `json:"max_concurrent" doc:"How many of its runs are started at one time."`
	Status         backfillStatus `json:"status" doc:"active: some of its runs have not ended. completed: all have. canceled: what had not begun was canceled. In a dry run: what it would be."`
	Total          int            `json:"total" doc:"How many runs it makes, oldest slot first."`
	CreatedAt      time.Time      `json:"created_at" doc:"In a dry run: when it was counted."`
	FinishedAt     *time.Time     `json:"finished_at" nullable:"true"`
	Runs           map[string]int `json:"runs" doc:"How many of its runs have each status; a status that none has is absent. accepted ones wait for their turn. Empty in a dry run."`
	DryRun         bool           `json:"dry_run" doc:"Whether nothing was stored."`
}

// BackfillList is one page of backfills.
type BackfillList struct {
	Items      []Backfill `json:"items" nullable:"false"`
	NextCursor *string    `json:"next_cursor" doc:"Pass it as cursor to get the next page; null on the last one."`
}

// DeadLetterSummary is the JSON of a dead letter in a list: a message that could not be routed.
type DeadLetterSummary struct {
	ID          string           `json:"id" format:"uuid"`
	Status      deadLetterStatus `json:"status" doc:"open: nobody has done anything about it. retrying: a router is asked to route it again. routed: a retry routed it. discarded: somebody said that it is of no use."`
	Reason      rejectReason     `json:"reason" doc:"Why it is one, as one word of a closed list; that of the last try when it was retried."`
	Detail      string           `json:"detail" doc:"Why, in one sentence for a person."`
	EventID     *string          `json:"event_id" doc:"The event's id; null where none could be read, or an illegal one."`
	Subject     string           `json:"subject" doc:"The NATS subject that it came on."`
	Stream      string           `json:"stream" doc:"The stream that it came from."`
	StreamSeq   uint64           `json:"stream_seq" doc:"Its sequence in the stream."`
	PublishedAt time.Time        `json:"published_at" doc:"When the stream took it."`
	DataSize    int              `json:"data_size" doc:"The size of the whole message in bytes."`
	Deliveries  int              `json:"deliveries" doc:"How often it had been delivered when it was given up."`
	Retries     int              `json:"retries" doc:"How often it was routed again without success."`
	Runs        int              `json:"runs" doc:"How many definitions it met when a retry routed it; 0 otherwise."`
	CreatedAt   time.Time        `json:"created_at" doc:"When it was stored."`
	SettledAt   *time.Time       `json:"settled_at" nullable:"true" doc:"When it was routed or discarded."`
}

// DeadLetter is the JSON of one dead letter.
type DeadLetter struct {
	DeadLetterSummary
	Headers       map[string][]string `json:"headers" doc:"The message's headers, at most 8 KiB of them."`
	Data          *string             `json:"data" doc:"The message, where it is UTF-8; null otherwise."`
	DataBase64    *string             `json:"data_base64" doc:"The message in base64, where it is not UTF-8; null otherwise."`
	DataTruncated bool                `json:"data_truncated" doc:"Whether data, or data_base64, is only the first part of the message: 64 KiB of it are kept."`
}

// DeadLetterList is one page of dead letters.
type DeadLetterList struct {
	Items      []DeadLetterSummary `json:"items" nullable:"false"`
	NextCursor *string             `json:"next_cursor" doc:"Pass it as cursor to get the next page; null on the last one."`
}

// DeadLetterCount tells how many dead letters were retried or discarded.
type DeadLetterCount struct {
	Count  int  `json:"count" doc:"How many were open, and are not any more; in a dry run: how many are open."`
	DryRun bool `json:"dry_run" doc:"Whether nothing was changed."`
}

// The outcomes of a test, and those of an event.
const (
	testMatched    = "matched"
	testUnmatched  = "unmatched"
	testDeadLetter = "dead_letter"

	eventRouted         = "routed"
	eventMatchedNothing = "matched_nothing"
	eventDeadLetter     = "dead_letter"
)

// EventTest is what would become of an event.
type EventTest struct {
	Outcome             string        `json:"outcome" enum:"matched,unmatched,dead_letter" doc:"matched: it meets definitions. unmatched: it is legal and meets none. dead_letter: it could not be routed."`
	Reason              *rejectReason `json:"reason" nullable:"true" doc:"Why it would be a dead letter; null when it would not."`
	Detail              *string       `json:"detail" doc:"The same in one sentence for a person."`
	PublishedAt         time.Time     `json:"published_at" doc:"The publishing time that the answer is for."`
	Event               *TestedEvent  `json:"event,omitempty" doc:"The event as it was understood; absent for a dead letter."`
	Matches             []EventMatch  `json:"matches" nullable:"false" doc:"The definitions that it meets, at most 100, in the order of creation."`
	MatchesTotal        int           `json:"matches_total"`
	MatchesTruncated    bool          `json:"matches_truncated" doc:"Whether matches leaves some out."`
	Errors              []EventFault  `json:"errors" nullable:"false" doc:"The definitions for which that cannot be told, at most 100. The event would make a failed run of each whose condition cannot be evaluated."`
	ErrorsTotal         int           `json:"errors_total"`
	ErrorsTruncated     bool          `json:"errors_truncated" doc:"Whether errors leaves some out."`
	NearMisses          []NearMiss    `json:"near_misses" nullable:"false" doc:"Other definitions of this type or of a wildcard, at most 100; the nearest first: those whose condition does not hold, then filters, then those that were enabled later, disabled ones, and those of another type."`
	NearMissesTotal     int           `json:"near_misses_total"`
	NearMissesTruncated bool          `json:"near_misses_truncated" doc:"Whether near_misses leaves some out."`
}

// TestedEvent is an event as it was understood.
type TestedEvent struct {
	EventID    string     `json:"event_id"`
	Type       string     `json:"type"`
	Source     *string    `json:"source"`
	Subject    *string    `json:"subject" doc:"The envelope's, not the NATS subject."`
	TraceID    *string    `json:"trace_id"`
	OccurredAt *time.Time `json:"occurred_at" nullable:"true"`
}

// EventMatch is a definition that an event meets.
type EventMatch struct {
	DefinitionID string `json:"definition_id" format:"uuid"`
	Name         string `json:"name"`
	Revision     int    `json:"revision"`
}

// EventFault is a definition for which it cannot be told whether an event meets it.
type EventFault struct {
	EventMatch
	Error string `json:"error" doc:"Why, for a person."`
}

// NearMiss is a definition that an event does not meet.
type NearMiss struct {
	EventMatch
	FailedClause string `json:"failed_clause" doc:"The first that does not hold, in this order: enabled, event_type, enabled_since, filters.<place>, condition." example:"filters.tier"`
	Expected     string `json:"expected" doc:"What the clause wants." example:"\"pro\""`
	Found        string `json:"found" doc:"What is there instead." example:"absent"`
}

// EventHistory is what became of an event.
type EventHistory struct {
	EventID     string              `json:"event_id"`
	Outcome     string              `json:"outcome" enum:"routed,dead_letter,matched_nothing" doc:"routed: it met definitions. matched_nothing: it was routed and met none. dead_letter: all that is known are dead letters."`
	Type        *string             `json:"type" doc:"null where it is not known."`
	Source      *string             `json:"source" doc:"null when there is none."`
	Stream      *string             `json:"stream" doc:"The stream that brought it first; null where it is not recorded."`
	StreamSeq   *uint64             `json:"stream_seq" doc:"Its sequence there."`
	PublishedAt *time.Time          `json:"published_at" nullable:"true" doc:"When the stream took it."`
	Runs        []RunSummary        `json:"runs" nullable:"false" doc:"Its runs, newest first, at most 500; GET /runs?event_id= lists all."`
	RunsTotal   int                 `json:"runs_total"`
	DeadLetters []DeadLetterSummary `json:"dead_letters" nullable:"false" doc:"Messages with this event id that could not be routed, newest first, at most 500."`
}

// Replay is the JSON of a replay: events of the past are routed again, for some definitions only.
type Replay struct {
	ID            string       `json:"id" format:"uuid"`
	Status        replayStatus `json:"status" doc:"pending: no router has begun. counting: a router reads the range and makes nothing. running: a router reads it again and makes runs. completed: the whole range was read. canceled: the runs that it had made go on. failed: error says why."`
	From          time.Time    `json:"from" doc:"Of the publishing time, inclusive."`
	To            time.Time    `json:"to" doc:"Of the publishing time, exclusive."`
	EventTypes    []string     `json:"event_types" nullable:"false" doc:"Exact types or wildcards; empty for all."`
	DefinitionIDs []string     `json:"definition_ids" nullable:"false"`
	DryRun        bool         `json:"dry_run" doc:"Whether it only counts."`
	Error         *string      `json:"error" doc:"Why it failed; null when it did not."`
	Counted       ReplayCounts `json:"counted" doc:"What there is to do. It grows while the status is counting."`
	Done          ReplayCounts `json:"done" doc:"What was done. It grows while the status is running; in a dry run it stays zero."`
	CreatedAt     time.Time    `json:"created_at"`
	FinishedAt    *time.Time   `json:"finished_at" nullable:"true"`
}

// ReplayCounts is what a pass over the events of a replay found.
type ReplayCounts struct {
	Read    int64 `json:"read" doc:"How many messages were read."`
	Matched int64 `json:"matched" doc:"How many pairs there are of an event and a definition that it meets. Each is one of new, rerun, ran and failed."`
	New     int64 `json:"new" doc:"Those that have no row in the ledger: each gets a run."`
	Rerun   int64 `json:"rerun" doc:"Those whose row stands for no run (missed, skipped, not startable): each gets a run."`
	Ran     int64 `json:"ran" doc:"Those that have run, or are about to: left alone."`
	Failed  int64 `json:"failed" doc:"Those for which the definition's condition could not be evaluated."`
}

// ReplayList is one page of replays.
type ReplayList struct {
	Items      []Replay `json:"items" nullable:"false"`
	NextCursor *string  `json:"next_cursor" doc:"Pass it as cursor to get the next page; null on the last one."`
}

// Fires tells when something is due.
type Fires struct {
	Fires       []Fire   `json:"fires" nullable:"false" doc:"In order."`
	Description string   `json:"description" doc:"When it is due, in words." example:"At 09:00, Monday to Friday (Europe/Berlin)"`
	Warnings    []string `json:"warnings" nullable:"false" doc:"What may surprise, one sentence or two each."`
}

// Fire is one due time.
type Fire struct {
	UTC   string  `json:"utc" format:"date-time" doc:"The nominal time, which names the slot." example:"2026-03-29T01:00:00Z"`
	Local string  `json:"local" format:"date-time" doc:"The same instant on the clocks of the time zone." example:"2026-03-29T03:00:00+02:00"`
	Note  *string `json:"note" doc:"What a change of the clocks means for it; null when nothing is special."`
}

// SyncResult is what a comparison of all schedules did, or in a dry run would do. Every schedule counts once.
type SyncResult struct {
	DryRun    bool          `json:"dry_run" doc:"Whether nothing was changed."`
	Complete  bool          `json:"complete" doc:"false when the time limit cut it off; what it did until then is told."`
	Created   int           `json:"created"`
	Updated   int           `json:"updated" doc:"Those that also became paused or unpaused count as that."`
	Paused    int           `json:"paused"`
	Unpaused  int           `json:"unpaused"`
	Deleted   int           `json:"deleted"`
	Unchanged int           `json:"unchanged"`
	Failed    int           `json:"failed" doc:"Workers go on trying these."`
	Failures  []SyncFailure `json:"failures" nullable:"false"`
}

// SyncFailure is one schedule that could not be brought up to date.
type SyncFailure struct {
	DefinitionID string `json:"definition_id" format:"uuid"`
	Error        string `json:"error"`
}

// Token is the JSON of a token, without the token itself.
type Token struct {
	ID             string            `json:"id" format:"uuid"`
	Name           string            `json:"name" doc:"For people."`
	Role           role              `json:"role" doc:"What its caller may do; each role may do what the ones before it may."`
	Labels         map[string]string `json:"labels" nullable:"false" doc:"Its caller sees only definitions that have all of these; empty for no limit."`
	MaxDefinitions int               `json:"max_definitions" doc:"How many definitions its caller may have made that are not deleted; 0 for no limit."`
	CallerID       string            `json:"caller_id" doc:"Names its caller in the audit trail; the same for all that it was rotated into."`
	Hint           string            `json:"hint" doc:"Its last characters, to tell tokens apart."`
	State          tokenState        `json:"state"`
	CreatedBy      string            `json:"created_by" doc:"The name of the caller who made it."`
	CreatedAt      time.Time         `json:"created_at"`
	ExpiresAt      time.Time         `json:"expires_at"`
	RevokedAt      *time.Time        `json:"revoked_at" nullable:"true"`
	LastUsedAt     *time.Time        `json:"last_used_at" nullable:"true" doc:"To a few minutes; null when it was never used."`
}

// IssuedToken is the JSON of a new token.
type IssuedToken struct {
	Token
	Secret string `json:"token" doc:"The token itself. It is in this answer alone and cannot be told again; send it in the header Authorization: Bearer."`
}

// TokenList is one page of tokens.
type TokenList struct {
	Items      []Token `json:"items" nullable:"false"`
	NextCursor *string `json:"next_cursor" doc:"Pass it as cursor to get the next page; null on the last one."`
}

// Caller is the JSON of who makes a request.
type Caller struct {
	ID             string            `json:"id" doc:"As in the audit trail."`
	Name           string            `json:"name" doc:"For people."`
	Role           role              `json:"role" doc:"What the caller may do; each role may do what the ones before it may."`
	Labels         map[string]string `json:"labels" nullable:"false" doc:"The caller sees only definitions that have all of these; empty for no limit."`
	MaxDefinitions int               `json:"max_definitions" doc:"How many definitions the caller may have made that are not deleted; 0 for no limit."`
	ExpiresAt      *time.Time        `json:"expires_at" nullable:"true" doc:"When the credential ends; null where that is not known."`
}

// The words of these types describe themselves with every one that there is.
type (
	role       access.Role
	tokenState access.TokenState

	runStatus      definition.RunStatus
	triggerKind    definition.TriggerKind
	backfillStatus definition.BackfillStatus

	deadLetterStatus definition.DeadLetterStatus
	rejectReason     string
	replayStatus     definition.ReplayStatus
)

func (deadLetterStatus) Schema(huma.Registry) *huma.Schema {
	return enumSchema(definition.DeadLetterStatuses...)
}

func (rejectReason) Schema(huma.Registry) *huma.Schema {
	return enumSchema(definition.RejectReasons...)
}

func (replayStatus) Schema(huma.Registry) *huma.Schema {
	return enumSchema(definition.ReplayStatuses...)
}

func (role) Schema(huma.Registry) *huma.Schema { return enumSchema(access.Roles...) }

func (tokenState) Schema(huma.Registry) *huma.Schema { return enumSchema(access.TokenStates...) }

func (runStatus) Schema(huma.Registry) *huma.Schema { return enumSchema(definition.RunStatuses...) }

func (triggerKind) Schema(huma.Registry) *huma.Schema { return enumSchema(definition.TriggerKinds...) }

func (backfillStatus) Schema(huma.Registry) *huma.Schema {
	return enumSchema(definition.BackfillActive, definition.BackfillCompleted, definition.BackfillCanceled)
}

func definitionJSON(s definition.Stored) Definition {
	out := Definition{
		ID: s.ID, Revision: s.Revision, Document: s.Document, CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC(),
	}
	if s.Sync.State != "" {
		out.Sync = &Sync{
			State: s.Sync.State, Desired: s.Sync.Desired, Observed: s.Sync.Observed,
			LastError: optional(s.Sync.LastError), Since: s.Sync.Since.UTC(),
		}
	}
	return out
}

func runSummaryJSON(r definition.Run) RunSummary {
	out := RunSummary{
		ID: r.ID, DefinitionID: r.DefinitionID, DefinitionName: r.DefinitionName, Revision: r.Revision, Trigger: triggerKind(r.Kind),
		OccurrenceKey: r.Key, Status: runStatus(r.Status), Reason: optional(string(r.Reason)), Error: optional(r.Error),
		EventID: optional(r.EventID), EventType: optional(r.EventType), TraceID: optional(r.TraceID),
		SlotAt: utc(r.SlotAt), CatchUp: r.CatchUp, RerunOf: optional(r.RerunOf), BackfillID: optional(r.BackfillID),
		ReplayID: optional(r.ReplayID), ConcurrencyKey: optional(r.ConcurrencyKey), Depth: r.Depth,
		StopRequested: optional(string(r.Stop.How)), AcceptedAt: r.AcceptedAt.UTC(), StartedAt: utc(r.StartedAt), FinishedAt: utc(r.FinishedAt),
		WorkflowID: r.WorkflowID, WorkflowRunID: optional(r.WorkflowRunID),
	}
	out.DurationMS = duringMS(r.StartedAt, r.FinishedAt)
	return out
}

func backfillJSON(b definition.Backfill) Backfill {
	out := Backfill{
		ID: optional(b.ID), DefinitionID: b.DefinitionID, DefinitionName: b.DefinitionName, Revision: b.Revision,
		From: b.From.UTC(), To: b.To.UTC(), OnlyMissing: b.OnlyMissing, MaxConcurrent: b.MaxConcurrent,
		Status: backfillStatus(b.Status), Total: b.Total, CreatedAt: b.CreatedAt.UTC(), FinishedAt: utc(b.FinishedAt),
		Runs: make(map[string]int, len(b.Runs)),
	}
	for status, n := range b.Runs {
		out.Runs[string(status)] = n
	}
	return out
}

func (a *API) runJSON(r definition.RunDetail) Run {
	out := Run{
		RunSummary: runSummaryJSON(r.Run), Because: because(&r.Run), Input: jsonOrText(r.Input), Tasks: make([]TaskResult, len(r.Tasks)),
	}
	if r.QueuePosition > 0 {
		out.QueuePosition = &r.QueuePosition
	}
	if a.temporalUI != "" {
		address := a.temporalUI + "/workflows/" + url.PathEscape(r.WorkflowID)
		if r.WorkflowRunID != "" {
			address += "/" + url.PathEscape(r.WorkflowRunID) + "/history"
		}
		out.TemporalURL = &address
	}
	for i, t := range r.Tasks {
		out.Tasks[i] = taskJSON(t)
	}
	return out
}

// because says what led to a run, and what was asked of it.
func because(r *definition.Run) []Cause {
	list := []Cause{}
	add := func(kind, id, format string, args ...any) {
		list = append(list, Cause{Kind: kind, ID: optional(id), Text: fmt.Sprintf(format, args...)})
	}
	if r.SlotAt != nil {
		add(causeSlot, "", "it was due at %s", r.SlotAt.UTC().Format(time.RFC3339))
	}
	if r.EventID != "" {
		add(causeEvent, r.EventID, "the event %s of the type %s made it due", r.EventID, r.EventType)
		if id, err := definition.ParseID(r.EventID); err == nil && definition.IsRunEvent(r.EventType) {
			add(causeRun, id, "that event told that run %s had %s", id, endedHow(r.EventType))
		}
	}
	if r.Kind == definition.KindManual {
		add(causeRequest, "", "somebody asked for it")
	}
	switch {
	case r.RerunOf != "" && r.Kind == definition.KindRerun:
		add(causeRerun, r.RerunOf, "somebody asked for run %s again", r.RerunOf)
	case r.RerunOf != "":
		add(causeRerun, r.RerunOf, "it makes up for run %s", r.RerunOf)
	}
	if r.BackfillID != "" {
		add(causeBackfill, r.BackfillID, "the backfill %s made it", r.BackfillID)
	}
	if r.ReplayID != "" {
		add(causeReplay, r.ReplayID, "the replay %s made it", r.ReplayID)
	}
	switch {
	case r.Stop.Reason == definition.ReasonReplaced, r.Stop.How == "":
		if r.Stop.How != "" {
			add(causeStop, "", "%s", r.Stop.Note)
		}
	default:
		text := "somebody asked to " + string(r.Stop.How) + " it"
		if r.Stop.Note != "" {
			text += ": " + r.Stop.Note
		}
		add(causeStop, "", "%s", text)
	}
	return list
}

func endedHow(eventType string) string {
	return strings.ReplaceAll(strings.TrimPrefix(eventType, definition.RunEventPrefix), "_", " ")
}

func taskJSON(t definition.TaskDetail) TaskResult {
	return TaskResult{
		Name: t.Name, Type: t.Type, Status: t.Status, Attempts: t.Attempts, Error: optional(t.Error),
		Input: jsonOrText(t.Input), InputTruncated: len(t.Input) < t.InputBytes, InputBytes: t.InputBytes,
		Output: jsonOrText(t.Output), OutputTruncated: t.OutputTruncated || len(t.Output) < t.OutputBytes, OutputBytes: t.OutputBytes,
		StartedAt: t.StartedAt.UTC(), FinishedAt: utc(t.FinishedAt), DurationMS: duringMS(&t.StartedAt, t.FinishedAt),
		ItemsTotal: t.Items, ItemsBegun: t.ItemsBegun, WaitUntil: utc(t.WaitUntil),
	}
}

func itemJSON(i definition.ItemDetail) TaskItem {
	return TaskItem{
		Item: i.Item, Status: i.Status, Attempts: i.Attempts, Error: optional(i.Error), Value: jsonOrText(i.Value),
		ValueTruncated: len(i.Value) < i.ValueBytes, Output: jsonOrText(i.Output),
		OutputTruncated: i.OutputTruncated || len(i.Output) < i.OutputBytes, OutputBytes: i.OutputBytes,
		StartedAt: i.StartedAt.UTC(), FinishedAt: utc(i.FinishedAt),
	}
}

// duringMS is the time between two moments in milliseconds, nil while one of them is not known.
func duringMS(from, to *time.Time) *int64 {
	if from == nil || to == nil {
		return nil
	}
	ms := to.Sub(*from).Milliseconds()
	return &ms
}

// jsonOrText shows bytes as the JSON that they are, and as a string when they are not: an output that was cut, for one.
func jsonOrText(data []byte) any {
	switch {
	case len(data) == 0:
		return nil
	case json.Valid(data):
		return json.RawMessage(data)
	}
	return strings.ToValidUTF8(string(data), "\uFFFD")
}

// textOf returns data as text, when it is UTF-8. Data that was cut may end within a character, which then is left out.
func textOf(data []byte, cut bool) (string, bool) {
	if cut {
		for n := 0; n < utf8.UTFMax && len(data) > n; n++ {
			if start := len(data) - 1 - n; utf8.RuneStart(data[start]) {
				if !utf8.FullRune(data[start:]) {
					data = data[:start]
				}
				break
			}
		}
	}
	return string(data), utf8.Valid(data)
}

// optional is null for the empty string.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
