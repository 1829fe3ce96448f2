package definition

import "time"

// SyncState tells whether a definition's Temporal Schedule is as Postgres wants it.
type SyncState string

// The states of a schedule's synchronisation.
const (
	// SyncSynced: the schedule was read back and is as wanted (or is absent, as wanted).
	SyncSynced SyncState = "synced"
	// SyncPending: a change waits to be carried out; a worker goes on trying.
	SyncPending SyncState = "pending"
	// SyncError: the last try failed; a worker goes on trying.
	SyncError SyncState = "error"
)

// SyncStatus is what a client sees of the synchronisation.
type SyncStatus struct {
	State SyncState
	// Desired and Observed are revisions: what Postgres wants and what was last confirmed in Temporal.
	Desired, Observed int
	// LastError is the text of the last failed try, empty when there is none.
	LastError string
	// Since is when the state was entered.
	Since time.Time
}

// SyncItem is one definition whose schedule is to be brought up to date, under a lease.
type SyncItem struct {
	DefinitionID string
	// Lease is the fencing token of this lease.
	Lease int64
	// Desired is the revision that the lease saw.
	Desired  int
	Attempts int
	// Definition is the definition to follow; nil when it was deleted, so that its schedule has to go.
	Definition *Definition
	// Silent: the schedule has not started its last slots, so it has to be made anew.
	Silent bool
	// Unreadable is set when this version cannot read the stored document; Definition then holds no more than its ids.
	Unreadable error
}

// Stored is a definition with what is known of its schedule, and its place in the list of all definitions.
type Stored struct {
	Definition
	Sync SyncStatus
	// Seq orders definitions by creation; a page continues after the last one's.
	Seq int64
}

// SyncEntry is one row of the table of schedules, for a full reconcile.
type SyncEntry struct {
	DefinitionID      string
	Desired, Observed int
	SpecHash          string
	Dirty             bool
	// Wanted: a definition of the clock that is not deleted, so that a schedule has to exist while it has a slot to come.
	Wanted bool
}

// ListDefinitions selects a page of definitions, in the order of creation. Zero values do not filter.
type ListDefinitions struct {
	AfterSeq    int64
	Limit       int
	TriggerType TriggerType
	Name        string
	Enabled     *bool
	// EventType is that of an event trigger as it is written: a wildcard is found by itself alone.
	EventType string
	// Labels are labels that the definition has, all of them.
	Labels map[string]string
}
