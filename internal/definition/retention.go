package definition

import "time"

// DefaultRetention is how long what is over is kept.
const DefaultRetention = 30 * 24 * time.Hour

// Tables from which retention removes rows. Those of a run's tasks go with the run, and the revisions of a deleted definition with
// the definition.
const (
	TableRuns        = "runs"
	TableEvents      = "events"
	TableDeadLetters = "dead_letters"
	TableReplays     = "replays"
	TableBackfills   = "backfills"
	TableAudit       = "audit"
	TableAttempts    = "delivery_attempts"
	TableDefinitions = "definitions"
	TableRevisions   = "definition_revisions"
	TableConcurrency = "concurrency"
	TableKeys        = "idempotency_keys"
)

// RetentionTables lists them, in the order in which they are gone through: what refers to others first.
var RetentionTables = []string{TableRuns, TableEvents, TableDeadLetters, TableReplays, TableBackfills, TableAudit, TableAttempts,
	TableDefinitions, TableRevisions, TableConcurrency, TableKeys}

// Removed is what became of one batch of old rows.
type Removed struct {
	// Rows is how many were removed.
	Rows int
	// More: there may be more, from From on.
	More bool
	From int64
}
