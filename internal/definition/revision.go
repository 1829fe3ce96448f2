package definition

import (
	"fmt"
	"time"
)

// Change says by which action a definition is changed.
type Change struct {
	// Action is what the revision and the audit trail call it; "" for ActionUpdate.
	Action Action
	// RolledBackTo is the revision whose document comes back, for ActionRollback.
	RolledBackTo int
}

// RevisionSummary is what a list tells of a revision.
type RevisionSummary struct {
	DefinitionID string
	Revision     int
	CreatedAt    time.Time
	// Actor and Action say who made it and how; "" for revisions from before that was kept.
	Actor  string
	Action Action
	// RolledBackTo is the revision that ActionRollback brought back; 0 for others.
	RolledBackTo int
	// Changed are the top-level fields in which it differs from the next older one that is kept, sorted; nil when that is not known.
	Changed []string
}

// Revision is a definition as it was.
type Revision struct {
	RevisionSummary // without Changed
	Document        Document
}

// ListRevisions selects a page of a definition's revisions, newest first.
type ListRevisions struct {
	DefinitionID string
	// Before is the revision that the page comes after; 0 for the first page.
	Before int
	Limit  int
}

// RevisionMissingError means that a definition has no such revision, or has it no more.
type RevisionMissingError struct {
	Revision int
	// Next is the next newer revision that is kept; 0 when there is none, because there never was such a revision.
	Next int
	// Newest is the newest one.
	Newest int
}

func (e *RevisionMissingError) Error() string {
	if e.Next == 0 {
		return fmt.Sprintf("there is no revision %d: the newest is %d", e.Revision, e.Newest)
	}
	return fmt.Sprintf("revision %d is not kept any more: the next one that is kept is %d", e.Revision, e.Next)
}

// Rollback returns another document in the place of this one, enabled or paused as this one is: what somebody paused must not start
// again because somebody else goes back. The other one has to be legal by today's rules, unless it is this one anyway.
func (d Document) Rollback(to Document) (Document, error) {
	to.Enabled, to.PauseReason = d.Enabled, d.PauseReason
	if to.Equal(d) {
		return d, nil
	}
	return to, to.Validate()
}
