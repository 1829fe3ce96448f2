package definition

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

// Target names what something was done to. ID is "" where it was done to many.
type Target struct {
	Kind TargetKind
	ID   string
}
