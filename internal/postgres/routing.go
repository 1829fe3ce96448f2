package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// ChangedDefinitions returns what event routing must know of the definitions that changed since the look that returned
// the snapshot prev, and the snapshot of this look. With prev "" it returns every routable definition.
//
// It is exact. A row is returned when the transaction that last wrote it was not visible to prev and is to this
// statement; both judgements are Postgres' own, made on one snapshot, so a transaction that began early and committed
// late is not passed over. The join is an outer one so that a look that finds nothing still moves the snapshot on.
func (s *Store) ChangedDefinitions(ctx context.Context, prev string) (string, []definition.Routable, error) {
	const columns = `
		SELECT look.snapshot::text, d.id::text, d.name, d.revision, d.document::text, d.enabled_since,
		       d.deleted_at IS NULL AND d.enabled AND d.trigger_type = 'event'
		FROM (SELECT pg_current_snapshot() AS snapshot) look LEFT JOIN definitions d ON `
	var (
		rows pgx.Rows
		err  error
	)
	if prev == "" {
		rows, err = s.pool.Query(ctx, columns+`d.deleted_at IS NULL AND d.enabled AND d.trigger_type = 'event'`)
	} else {
		rows, err = s.pool.Query(ctx, columns+`
			d.changed_xid >= pg_snapshot_xmin($1::text::pg_snapshot)
			AND NOT pg_visible_in_snapshot(d.changed_xid, $1::text::pg_snapshot)`, prev)
	}
	if err != nil {
		return "", nil, translate("look for changed definitions", err)
	}
	var snapshot string
	var changed []definition.Routable
	var (
		id, name, document *string
		revision           *int
		since              *time.Time
		live               *bool
	)
	_, err = pgx.ForEachRow(rows, []any{&snapshot, &id, &name, &revision, &document, &since, &live}, func() error {
		if id == nil {
			return nil
		}
		r := definition.Routable{ID: *id, Name: *name, Revision: *revision, Live: *live, EnabledSince: *since}
		if r.Live {
			doc, err := definition.DecodeStored([]byte(*document))
			r.EventType, r.Filters = doc.Trigger.EventType, doc.Trigger.Filters
			// One that this version cannot read must not stop the routing of all others.
			r.Unreadable = err
		}
		changed = append(changed, r)
		return nil
	})
	return snapshot, changed, translate("look for changed definitions", err)
}

// AcceptDeadLetters commits messages that cannot be routed. A message that is there already stays as it is.
func (s *Store) AcceptDeadLetters(ctx context.Context, letters []definition.DeadLetter) error {
	batch := &pgx.Batch{}
	for _, l := range letters {
		batch.Queue(`
			INSERT INTO dead_letters (id, stream, stream_seq, subject, event_id, reason, detail, data, data_size, deliveries,
			                          published_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
			ON CONFLICT (stream, stream_seq, published_at) DO NOTHING`,
			definition.NewID(), l.Stream, int64(l.StreamSeq), bound(l.Subject), bound(l.EventID), l.Reason, bound(l.Detail),
			l.Data[:min(len(l.Data), definition.MaxDeadLetterData)], l.DataSize, l.Deliveries, l.PublishedAt)
	}
	return translate("store dead letters", retried(func() error { return s.pool.SendBatch(ctx, batch).Close() }))
}
