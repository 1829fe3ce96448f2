package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// silentFor is how long a schedule has to have started nothing, over two slots or more, to be taken for dead: after an
	// outage of Temporal's it needs some time of its own.
	silentFor = 2 * time.Minute
	// remadeAgain keeps a schedule from being made anew over and over: when Temporal is merely slow, that would not help.
	remadeAgain = time.Hour
)

// LeaseSync leases up to limit definitions whose schedules are due to be brought up to date, for the time ttl. What
// another process has leased is passed over. With nothing due it is one indexed statement.
func (s *Store) LeaseSync(ctx context.Context, ttl time.Duration, limit int) ([]definition.SyncItem, error) {
	items, err := s.leaseSync(ctx, `
		dirty AND next_attempt_at <= now() AND (lease_until IS NULL OR lease_until < now())
		ORDER BY next_attempt_at LIMIT $2`, ttl, limit)
	return items, translate("lease schedules", err)
}

// LeaseSyncOf leases one definition's schedule, dirty or not. False means that another process holds it, or that the
// definition never had a schedule.
func (s *Store) LeaseSyncOf(ctx context.Context, definitionID string, ttl time.Duration) (definition.SyncItem, bool, error) {
	items, err := s.leaseSync(ctx, `definition_id = $2 AND (lease_until IS NULL OR lease_until < now())`, ttl, definitionID)
	if err != nil || len(items) == 0 {
		return definition.SyncItem{}, false, translate("lease schedule of "+definitionID, err)
	}
	return items[0], true, nil
}

func (s *Store) leaseSync(ctx context.Context, which string, ttl time.Duration, arg any) ([]definition.SyncItem, error) {
	// The definition is read by the same statement, so by the same snapshot as "desired": a later change raises "desired"
	// and leaves the row dirty whatever this lease settles.
	rows, err := s.pool.Query(ctx, `
		WITH leased AS (
			UPDATE schedule_sync SET lease = lease + 1, lease_until = now() + $1
			WHERE definition_id IN (SELECT definition_id FROM schedule_sync WHERE `+which+` FOR UPDATE SKIP LOCKED)
			RETURNING definition_id, lease, desired, attempts)
		SELECT l.definition_id::text, l.lease, l.desired, l.attempts,
		       d.id IS NOT NULL, COALESCE(d.revision, 0), COALESCE(d.document::text, ''), COALESCE(d.created_at, now()),
		       COALESCE(d.updated_at, now()), COALESCE(d.enabled_since, now()),
		       COALESCE(c.recovered >= 2 AND c.recovered_since < now() - $3::interval
		                AND (c.remade_at IS NULL OR c.remade_at < now() - $4::interval), false)
		FROM leased l LEFT JOIN definitions d ON d.id = l.definition_id AND d.deleted_at IS NULL
		LEFT JOIN cron_state c ON c.definition_id = l.definition_id`, ttl, arg, silentFor, remadeAgain)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.SyncItem, error) {
		var (
			item     definition.SyncItem
			d        definition.Definition
			live     bool
			document string
		)
		err := row.Scan(&item.DefinitionID, &item.Lease, &item.Desired, &item.Attempts, &live, &d.Revision, &document,
			&d.CreatedAt, &d.UpdatedAt, &d.EnabledSince, &item.Silent)
		if err != nil || !live {
			return item, err
		}
		d.ID = item.DefinitionID
		// One that this version cannot read is its own item's fault: the others go on.
		d.Document, item.Unreadable = definition.DecodeStored([]byte(document))
		item.Definition = &d
		return item, nil
	})
}

// SettleSync records that the schedule was confirmed to be as the revision observed wants it, and gives the lease back.
// The row stays dirty when the definition changed meanwhile. ErrLeaseLost: somebody else has the lease now; nothing was
// written.
func (s *Store) SettleSync(ctx context.Context, item definition.SyncItem, observed int, specHash string) error {
	return s.fenced(ctx, item, `
		observed = $3, spec_hash = $4, dirty = desired <> $3, attempts = 0, last_error = '', next_attempt_at = now(),
		since = CASE WHEN dirty AND desired = $3 THEN now() ELSE since END`, observed, specHash)
}

// FailSync records a failed try, gives the lease back and plans the next try. ErrLeaseLost as for SettleSync.
func (s *Store) FailSync(ctx context.Context, item definition.SyncItem, next time.Duration, lastError string) error {
	return s.fenced(ctx, item, `
		dirty = true, attempts = attempts + 1, next_attempt_at = now() + $3, last_error = $4`, next, lastError)
}

func (s *Store) fenced(ctx context.Context, item definition.SyncItem, set string, args ...any) error {
	attempt := "settle schedule of " + item.DefinitionID
	tag, err := s.pool.Exec(ctx, `UPDATE schedule_sync SET lease_until = NULL, `+set+`
		WHERE definition_id = $1 AND lease = $2 AND lease_until IS NOT NULL`,
		append([]any{item.DefinitionID, item.Lease}, args...)...)
	if err == nil && tag.RowsAffected() == 0 {
		err = definition.ErrLeaseLost
	}
	return translate(attempt, err)
}

// MarkSync asks for a look at the schedules of these definitions as soon as possible.
func (s *Store) MarkSync(ctx context.Context, definitionIDs []string) error {
	_, err := s.pool.Exec(ctx, markSync, definitionIDs)
	return translate("mark schedules", err)
}

const markSync = `
	INSERT INTO schedule_sync (definition_id, desired)
	SELECT id, COALESCE((SELECT revision FROM definitions d WHERE d.id = o.id), 0) FROM unnest($1::uuid[]) o (id)
	ON CONFLICT (definition_id) DO UPDATE
	SET since = CASE WHEN schedule_sync.dirty THEN schedule_sync.since ELSE now() END, dirty = true, next_attempt_at = now()`

// SyncSnapshot returns a page of the table of schedules by definition id, after the given one; "" for the first page.
func (s *Store) SyncSnapshot(ctx context.Context, afterID string, limit int) ([]definition.SyncEntry, error) {
	if afterID == "" {
		afterID = "00000000-0000-0000-0000-000000000000"
	}
	rows, err := s.pool.Query(ctx, `
		SELECT s.definition_id::text, s.desired, s.observed, s.spec_hash, s.dirty,
		       COALESCE(d.trigger_type IN ('cron', 'scheduled') AND d.deleted_at IS NULL, false)
		FROM schedule_sync s LEFT JOIN definitions d ON d.id = s.definition_id
		WHERE s.definition_id > $1 ORDER BY s.definition_id LIMIT $2`, afterID, limit)
	if err != nil {
		return nil, translate("read the table of schedules", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e definition.SyncEntry, err error) {
		err = row.Scan(&e.DefinitionID, &e.Desired, &e.Observed, &e.SpecHash, &e.Dirty, &e.Wanted)
		return e, err
	})
	return list, translate("read the table of schedules", err)
}
