package definition

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
)

// RunEventPrefix begins the type of every event of a run's end; the run's status follows.
const RunEventPrefix = "run."

// DepthAttribute is the extension attribute in which the event of a run's end says how many runs led to that run.
const DepthAttribute = "activitydepth"

// RunEventType is the type of the event of a run's end.
func RunEventType(s RunStatus) string { return RunEventPrefix + string(s) }

// IsRunEvent reports whether an event type is that of a run's end. A wildcard in the place of its first word does not meet it: who
// follows all events would follow the runs that this makes.
func IsRunEvent(eventType string) bool {
	status, ok := strings.CutPrefix(eventType, RunEventPrefix)
	return ok && slices.Contains(RunStatuses, RunStatus(status)) && RunStatus(status).Final()
}

// RunEnd is the end of a run, for those who are to hear of it.
type RunEnd struct {
	// Run is the row, which is final.
	Run Run
	// Labels and Notify are those of the definition's revision that the run was pinned to.
	Labels map[string]string
	Notify []Notification
}

// DecodeStoredEnd reads what a stored revision says of the ends of its runs; nothing when this version cannot read it.
func DecodeStoredEnd(document []byte) (labels map[string]string, notify []Notification) {
	var d struct {
		Labels map[string]string `json:"labels"`
		Notify []Notification    `json:"notify"`
	}
	if jsonv2.Unmarshal(document, &d) != nil {
		return nil, nil
	}
	return d.Labels, d.Notify
}

// Silent reports whether the end makes no event: an event of it would make the chain longer that was just cut off.
func (e *RunEnd) Silent() bool { return e.Run.Reason == ReasonChainTooDeep }

// runEnded is the payload of the event of a run's end. It is made of nothing but the row and the revision, neither of which
// changes any more: an event that is published twice is the same event.
type runEnded struct {
	RunID        string            `json:"run_id"`
	Definition   string            `json:"definition"`
	DefinitionID string            `json:"definition_id"`
	Revision     int               `json:"revision"`
	Labels       map[string]string `json:"labels"`
	Trigger      TriggerKind       `json:"trigger"`
	Status       RunStatus         `json:"status"`
	Reason       Reason            `json:"reason"`
	Error        string            `json:"error"`
	DueAt        time.Time         `json:"due_at"`
	StartedAt    *time.Time        `json:"started_at,omitempty"`
	FinishedAt   *time.Time        `json:"finished_at,omitempty"`
	Depth        int               `json:"depth"`
	RerunOf      string            `json:"rerun_of,omitempty"`
	EventID      string            `json:"event_id,omitempty"`
	// Notification is what a notification tells of, empty in an event.
	Notification NotifyOn `json:"notification,omitempty"`
}

// Payload returns the payload of the end's event, as JSON. told is what a notification of the end tells; empty for the event.
func (e *RunEnd) Payload(told NotifyOn) (json.RawMessage, error) {
	r := &e.Run
	labels := e.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return json.Marshal(runEnded{
		RunID: r.ID, Definition: r.DefinitionName, DefinitionID: r.DefinitionID, Revision: r.Revision, Labels: labels,
		Trigger: r.Kind, Status: r.Status, Reason: r.Reason, Error: r.Error, DueAt: r.DueAt(), StartedAt: r.StartedAt,
		FinishedAt: r.FinishedAt, Depth: r.Depth, RerunOf: r.RerunOf, EventID: r.EventID, Notification: told,
	})
}

// Message is a message that is to be published.
type Message struct {
	Subject string
	// ID is the id by which the stream knows a repetition.
	ID     string
	Header map[string]string
	Data   []byte
}

// Message returns the event of the end, under the prefix of event subjects: a CloudEvent in binary mode, with the run's id as
// its own.
func (e *RunEnd) Message(prefix string) (Message, error) {
	data, err := e.Payload("")
	if err != nil {
		return Message{}, err
	}
	r := &e.Run
	m := Message{
		Subject: prefix + "." + RunEventType(r.Status), ID: r.ID, Data: data,
		Header: map[string]string{
			"ce-specversion": cloudEventsVersion, "ce-id": r.ID, "ce-type": RunEventType(r.Status),
			"ce-source": RunSource(r.DefinitionName), "ce-subject": r.ID, "Content-Type": "application/json",
			"ce-" + DepthAttribute: strconv.Itoa(r.Depth),
		},
	}
	if r.FinishedAt != nil {
		m.Header["ce-time"] = r.FinishedAt.UTC().Format(time.RFC3339Nano)
	}
	if trace := r.Traceparent(); trace != "" {
		m.Header[traceHeader] = trace
	}
	return m, nil
}

// RunSource is the source of the CloudEvents that come from a definition's runs.
func RunSource(definitionName string) string { return "activity-core/" + definitionName }

// DueAt is when the run was due: the time of its slot, and otherwise that of its acceptance.
func (r *Run) DueAt() time.Time {
	if r.SlotAt != nil {
		return r.SlotAt.UTC()
	}
	return r.AcceptedAt.UTC()
}

// Traceparent returns a W3C traceparent with the run's trace id and the run as parent; "" when the run's trace id is none of W3C's.
func (r *Run) Traceparent() string {
	parent := strings.ReplaceAll(r.ID, "-", "")
	if len(parent) != 32 {
		return ""
	}
	text := "00-" + r.TraceID + "-" + parent[16:] + "-01"
	if TraceID(text) == "" {
		return ""
	}
	return text
}

// claimedDepth reads the depth that the event of a run's end claims, and returns how many runs led to that event. What claims
// less than the truth, or nothing, still counts up from there with each run, so a chain ends whoever publishes into it.
func claimedDepth(extensions []Member) int {
	for _, m := range extensions {
		if string(m.Name) != DepthAttribute {
			continue
		}
		text, _, isString := readString(m.Value)
		if !isString {
			text = string(m.Value)
		}
		// Beyond the limit all depths are alike.
		if n, err := strconv.Atoi(text); err == nil && n > 0 {
			return min(n, MaxDepth) + 1
		}
	}
	return 1
}
