package postgres

import (
	"context"
	"strings"
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
//
// The snapshot ends with "@" and the names of the server and of its timeline: to another server, as after a failover, the
// transactions of this one mean nothing.
func (s *Store) ChangedDefinitions(ctx context.Context, prev string) (string, []definition.Routable, error) {
	const columns = `
		SELECT look.snapshot || '@' || look.server || '/' || look.timeline,
		       d.id::text, d.name, d.revision, d.document::text, d.enabled_since,
		       d.deleted_at IS NULL AND d.enabled AND d.trigger_type = 'event'
		FROM (SELECT pg_current_snapshot()::text AS snapshot, (SELECT system_identifier FROM pg_control_system()) AS server,
		             left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline) look
		     LEFT JOIN definitions d ON `
	var (
		rows pgx.Rows
		err  error
	)
	if prev == "" {
		rows, err = s.pool.Query(ctx, columns+`d.deleted_at IS NULL AND d.enabled AND d.trigger_type = 'event'`)
	} else {
		prev, _, _ = strings.Cut(prev, "@")
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
		id, name *string
		document []byte
		revision *int
		since    *time.Time
		live     *bool
	)
	_, err = pgx.ForEachRow(rows, []any{&snapshot, &id, &name, &revision, &document, &since, &live}, func() error {
		if id == nil {
			return nil
		}
		r := definition.Routable{ID: *id, Name: *name, Revision: *revision, Live: *live, EnabledSince: *since}
		if r.Live {
			readTrigger(&r, document)
		}
		changed = append(changed, r)
		return nil
	})
	return snapshot, changed, translate("look for changed definitions", err)
}

// CountAttempts returns how often routers began with each of these messages alone, in their order.
func (s *Store) CountAttempts(ctx context.Context, messages []definition.Delivery) ([]int, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT COALESCE(a.attempts, 0)
		FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) WITH ORDINALITY AS m (stream, seq, published_at, place)
		LEFT JOIN delivery_attempts a ON a.stream = m.stream AND a.stream_seq = m.seq AND a.published_at = m.published_at
		ORDER BY m.place`, messageKeys(messages)...)
	if err != nil {
		return nil, translate("count attempts", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowTo[int])
	return counts, translate("count attempts", err)
}

// AddAttempt notes that a router is about to begin with a message alone, and returns how often that was so, this time included.
func (s *Store) AddAttempt(ctx context.Context, d *definition.Delivery) (n int, err error) {
	err = retried(func() error {
		return s.pool.QueryRow(ctx, `
			INSERT INTO delivery_attempts (stream, stream_seq, published_at, attempts) VALUES ($1, $2, $3, 1)
			ON CONFLICT (stream, stream_seq, published_at)
			DO UPDATE SET attempts = delivery_attempts.attempts + 1, attempted_at = now()
			RETURNING attempts`, d.Stream, int64(d.StreamSeq), d.PublishedAt).Scan(&n)
	})
	return n, translate("note an attempt", err)
}

// ForgetAttempts removes the attempts of messages that are done with.
func (s *Store) ForgetAttempts(ctx context.Context, messages []definition.Delivery) error {
	_, err := s.pool.Exec(ctx, `
		DELETE FROM delivery_attempts a
		USING unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS m (stream, seq, published_at)
		WHERE a.stream = m.stream AND a.stream_seq = m.seq AND a.published_at = m.published_at`, messageKeys(messages)...)
	return translate("forget attempts", err)
}

// messageKeys returns what names messages, as three lists.
func messageKeys(messages []definition.Delivery) []any {
	n := len(messages)
	streams, seqs, published := make([]string, n), make([]int64, n), make([]time.Time, n)
	for i := range messages {
		streams[i], seqs[i], published[i] = messages[i].Stream, int64(messages[i].StreamSeq), messages[i].PublishedAt
	}
	return []any{streams, seqs, published}
}
