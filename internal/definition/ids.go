package definition

import (
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Names of the search attributes that activity-core uses. All are Keywords, so at most 255 characters on Postgres.
const (
	// SearchAttributeID carries the definition's id, on every run.
	SearchAttributeID = "ActivityId"
	// SearchAttributeName carries the definition's name, on every run.
	SearchAttributeName = "ActivityName"
	// SearchAttributeSpecHash carries the installation and the hash of the specification, on every schedule.
	SearchAttributeSpecHash = "ActivitySpecHash"
)

// Default names, each of which can be changed by configuration so that installations can share servers.
const (
	DefaultOrchestratorTaskQueue = "orchestrator-tq"
	DefaultTaskTaskQueue         = "task-execution-tq"
	DefaultStream                = "ACTIVITY_EVENTS"
	DefaultSubjectPrefix         = "activity"
	DefaultDurable               = "activity-core-event-router"
)

// RunWorkflow is the name of the workflow type that carries out a run.
const RunWorkflow = "RunActivity"

// SignalAdmitted tells the workflow of a queued run that the ledger has marked the run running. It has no argument, and
// a lost or repeated one does no harm: the workflow asks the ledger in any case.
const SignalAdmitted = "admitted"

// SignalDecided tells the workflow of a run that somebody has decided about an approval. The decision is in the ledger: the signal
// has no argument, and a lost one costs time only.
const SignalDecided = "decided"

// NewID returns a fresh identifier for a definition or a run: a UUID of version 7, so that ids sort by time.
func NewID() string {
	return uuid.Must(uuid.NewV7()).String()
}

// ParseID checks the text form of an identifier and returns its canonical form. The error names the field "id".
func ParseID(text string) (string, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return "", Invalid("id", "uuid", "%q is not an id: an id is a UUID such as 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b",
			clip(text, 60))
	}
	return id.String(), nil
}

// ScheduleID is the id of the Temporal Schedule that belongs to a cron definition.
func ScheduleID(definitionID string) string {
	return "activity-schedule-" + definitionID
}

// ScheduleDefinitionID is the inverse of ScheduleID; false when the id is not one of ours.
func ScheduleDefinitionID(scheduleID string) (string, bool) {
	rest, ok := strings.CutPrefix(scheduleID, "activity-schedule-")
	if !ok {
		return "", false
	}
	id, err := ParseID(rest)
	return id, err == nil
}

// WorkflowID is the id of the workflow that carries out one occurrence. It is at most 1+8+36+1+134 characters, well
// under the 255 beyond which Temporal on Postgres times out instead of refusing.
func WorkflowID(definitionID, occurrenceKey string) string {
	return "activity-" + definitionID + ":" + occurrenceKey
}

// ParseWorkflowID is the inverse of WorkflowID; false when the id is not one of ours, as that of a run's child is not.
func ParseWorkflowID(workflowID string) (definitionID, occurrenceKey string, ok bool) {
	rest, ok := strings.CutPrefix(workflowID, "activity-")
	if !ok {
		return "", "", false
	}
	definitionID, occurrenceKey, ok = strings.Cut(rest, ":")
	if !ok || occurrenceKey == "" {
		return "", "", false
	}
	definitionID, err := ParseID(definitionID)
	return definitionID, occurrenceKey, err == nil
}

// ScheduleActionID is the workflow id given to a schedule's action. Temporal appends "-<slot>" to it, which makes it
// equal to WorkflowID(definitionID, CronKey(slot)).
func ScheduleActionID(definitionID string) string {
	return "activity-" + definitionID + ":cron"
}

// CronKey is the occurrence key of a slot.
func CronKey(slot time.Time) string {
	return "cron-" + slot.UTC().Format(time.RFC3339)
}

// EventKey is the occurrence key of an event.
func EventKey(eventID string) string {
	return "event-" + eventID
}

// ParseEventKey is the inverse of EventKey; false for another kind of key.
func ParseEventKey(key string) (eventID string, ok bool) { return strings.CutPrefix(key, "event-") }

// ManualKey is the occurrence key of a request by hand; each request is an occurrence of its own.
func ManualKey() string {
	return "manual-" + uuid.NewString()
}

// RerunKey is the occurrence key of the nth run that makes up for another run, counted from 1.
func RerunKey(runID string, n int) string {
	return "rerun-" + runID + "-" + strconv.Itoa(n)
}

// clip bounds text that is quoted in an error.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
