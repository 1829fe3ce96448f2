package definition

import (
	"strings"
	"time"
)

// TargetKind is what kind of thing a row of the audit trail is about.
type TargetKind string

// The kinds of targets.
const (
	TargetDefinition TargetKind = "definition"
	TargetRun        TargetKind = "run"
	TargetBackfill   TargetKind = "backfill"
	TargetReplay     TargetKind = "replay"
	TargetDeadLetter TargetKind = "dead_letter"
	TargetToken      TargetKind = "token"
	TargetSchedules  TargetKind = "schedules"
)

// TargetKinds lists every kind.
var TargetKinds = []TargetKind{TargetDefinition, TargetRun, TargetBackfill, TargetReplay, TargetDeadLetter, TargetToken, TargetSchedules}

// Target names what something was done to. ID is "" where it was done to many.
type Target struct {
	Kind TargetKind
	ID   string
}

// Action is what was done, as the audit trail and the revisions of definitions name it.
type Action string

// The actions. Their names begin with what they were done to; those without a dot were done to a definition.
const (
	ActionCreate            Action = "create"
	ActionUpdate            Action = "update"
	ActionPause             Action = "pause"
	ActionResume            Action = "resume"
	ActionRollback          Action = "rollback"
	ActionDelete            Action = "delete"
	ActionRunTrigger        Action = "run.trigger"
	ActionRunCancel         Action = "run.cancel"
	ActionRunTerminate      Action = "run.terminate"
	ActionRunRerun          Action = "run.rerun"
	ActionRunApprove        Action = "run.approve"
	ActionRunReject         Action = "run.reject"
	ActionBackfillCreate    Action = "backfill.create"
	ActionBackfillCancel    Action = "backfill.cancel"
	ActionReplayCreate      Action = "replay.create"
	ActionReplayCancel      Action = "replay.cancel"
	ActionDeadLetterRetry   Action = "dead_letter.retry"
	ActionDeadLetterDiscard Action = "dead_letter.discard"
	ActionTokenCreate       Action = "token.create"
	ActionTokenRotate       Action = "token.rotate"
	ActionTokenRevoke       Action = "token.revoke"
	ActionSchedulesSync     Action = "schedules.sync"
)

// Actions lists every action.
var Actions = []Action{ActionCreate, ActionUpdate, ActionPause, ActionResume, ActionRollback, ActionDelete, ActionRunTrigger,
	ActionRunCancel, ActionRunTerminate, ActionRunRerun, ActionRunApprove, ActionRunReject, ActionBackfillCreate, ActionBackfillCancel,
	ActionReplayCreate, ActionReplayCancel, ActionDeadLetterRetry, ActionDeadLetterDiscard, ActionTokenCreate,
	ActionTokenRotate, ActionTokenRevoke, ActionSchedulesSync}

// TargetKind is what the action is done to. It holds for actions of newer versions, too.
func (a Action) TargetKind() TargetKind {
	if kind, _, ok := strings.Cut(string(a), "."); ok {
		return TargetKind(kind)
	}
	return TargetDefinition
}

// AuditEntry is a row of the audit trail.
type AuditEntry struct {
	ID int64 // order of writing
	At time.Time
	// Actor is a name for people, ActorID names the caller for ever; "" for entries from before callers were known.
	Actor, ActorID string
	// Address and RequestID are those of the request; "" for what our own programs did.
	Address, RequestID string
	Action             Action
	Target             Target
	// DefinitionID is the definition that it is about, "" for none or several, and DefinitionName that definition's name now or its
	// last one, "" when it is not kept any more.
	DefinitionID, DefinitionName string
	// Revision is that of the definition; 0 where it does not matter.
	Revision int
	// Before and After are JSON, nil where there is none: for a definition the documents, for others what there is to tell. Lists leave
	// them out.
	Before, After []byte
}

// ListAudit selects a page of the audit trail, newest first. Zero values do not filter.
type ListAudit struct {
	BeforeID int64
	Limit    int

	DefinitionID string
	Actor        string
	Action       Action
	Target       Target // either field may be zero
	// Since (inclusive) and Until (exclusive) bound the time.
	Since, Until time.Time
}
