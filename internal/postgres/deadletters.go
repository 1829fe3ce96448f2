package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// AcceptDeadLetters commits messages that cannot be routed. A message that is there already stays as it is, unless a router was
// asked to route it again: then it is open again, with the reason of this time.
func (s *Store) AcceptDeadLetters(ctx context.Context, letters []definition.DeadLetter) error {
	batch := &pgx.Batch{}
	for _, l := range letters {
		header, err := json.Marshal(boundHeader(l.Header))
		if err != nil {
			return fmt.Errorf("store dead letters: encode headers: %w", err)
		}
		batch.Queue(`
			INSERT INTO dead_letters (id, stream, stream_seq, subject, header, event_id, reason, detail, data, data_size, deliveries,
			                          published_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
			ON CONFLICT (stream, stream_seq, published_at) DO UPDATE
			SET status = 'open', retries = dead_letters.retries + 1, lease_until = NULL, event_id = excluded.event_id,
			    reason = excluded.reason, detail = excluded.detail
			WHERE dead_letters.status = 'retrying'`,
			definition.NewID(), l.Stream, int64(l.StreamSeq), bound(l.Subject), header, bound(l.EventID), l.Reason, bound(l.Detail),
			append([]byte{}, l.Data[:min(len(l.Data), definition.MaxDeadLetterData)]...), l.DataSize, l.Deliveries, l.PublishedAt)
	}
	return translate("store dead letters", retried(func() error { return s.pool.SendBatch(ctx, batch).Close() }))
}

// boundHeader keeps as many headers as are kept, in the order of their names.
func boundHeader(header map[string][]string) map[string][]string {
	out, left := map[string][]string{}, definition.MaxDeadLetterHeader
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			if left -= len(name) + len(value); left < 0 {
				return out
			}
			out[name] = append(out[name], value)
		}
	}
	return out
}

const deadLetterColumns = `id::text, seq, stream, stream_seq, published_at, subject, header::text, event_id, reason, detail, data_size,
	deliveries, status, retries, created_at, settled_at, runs`

func scanDeadLetter(row pgx.CollectableRow, more ...any) (l definition.StoredDeadLetter, err error) {
	var seq int64
	var header []byte
	err = row.Scan(append([]any{&l.ID, &l.Seq, &l.Stream, &seq, &l.PublishedAt, &l.Subject, &header, &l.EventID, &l.Reason, &l.Detail,
		&l.DataSize, &l.Deliveries, &l.Status, &l.Retries, &l.CreatedAt, &l.SettledAt, &l.Runs}, more...)...)
	if err != nil {
		return l, err
	}
	l.StreamSeq, l.PublishedAt, l.CreatedAt, l.SettledAt = uint64(seq), l.PublishedAt.UTC(), l.CreatedAt.UTC(), utc(l.SettledAt)
	return l, json.Unmarshal(header, &l.Header)
}

// GetDeadLetter returns a dead letter with what is kept of its data; ErrNotFound when there is none.
func (s *Store) GetDeadLetter(ctx context.Context, id string) (definition.StoredDeadLetter, error) {
	attempt := "get dead letter " + id
	rows, err := s.pool.Query(ctx, `SELECT `+deadLetterColumns+`, data FROM dead_letters WHERE id = $1`, id)
	if err != nil {
		return definition.StoredDeadLetter{}, translate(attempt, err)
	}
	l, err := pgx.CollectExactlyOneRow(rows, scanWithData)
	return l, translate(attempt, err)
}

func scanWithData(row pgx.CollectableRow) (definition.StoredDeadLetter, error) {
	var data []byte
	l, err := scanDeadLetter(row, &data)
	l.Data = data
	return l, err
}

// ListDeadLetters returns a page of dead letters, newest first, without their data.
func (s *Store) ListDeadLetters(ctx context.Context, q definition.ListDeadLetters) ([]definition.StoredDeadLetter, error) {
	where, args := whereDeadLetters(q.SelectDeadLetters)
	args = append(args, q.BeforeSeq, q.Limit)
	rows, err := s.pool.Query(ctx, fmt.Sprintf(`SELECT %s FROM dead_letters WHERE %s AND ($%d = 0 OR seq < $%d) ORDER BY seq DESC LIMIT $%d`,
		deadLetterColumns, where, len(args)-1, len(args)-1, len(args)), args...)
	if err != nil {
		return nil, translate("list dead letters", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.StoredDeadLetter, error) { return scanDeadLetter(row) })
	return list, translate("list dead letters", err)
}

// whereDeadLetters returns a condition and its arguments.
func whereDeadLetters(q definition.SelectDeadLetters) (string, []any) {
	conditions, args := []string{"true"}, []any{}
	where := func(condition string, value any) {
		args = append(args, value)
		conditions = append(conditions, fmt.Sprintf(condition, len(args)))
	}
	if q.ID != "" {
		where("id = $%d", q.ID)
	}
	if q.Reason != "" {
		where("reason = $%d", q.Reason)
	}
	if q.EventID != "" {
		where("event_id = $%d AND event_id <> ''", q.EventID)
	}
	if q.Status != "" {
		where("status = $%d", q.Status)
	}
	if !q.From.IsZero() {
		where("created_at >= $%d", q.From)
	}
	if !q.To.IsZero() {
		where("created_at < $%d", q.To)
	}
	return strings.Join(conditions, " AND "), args
}

// RetryDeadLetters asks the routers to route the open ones of these dead letters again, and returns how many there are; in a dry
// run it only counts them.
func (s *Store) RetryDeadLetters(ctx context.Context, q definition.SelectDeadLetters, dryRun bool) (int, error) {
	return s.moveDeadLetters(ctx, definition.ActionDeadLetterRetry, definition.DeadLetterRetrying, q, dryRun, `claims = 0, lease_until = NULL`)
}

// DiscardDeadLetters marks the open ones of these dead letters as of no use, and returns how many there are; in a dry run it only
// counts them.
func (s *Store) DiscardDeadLetters(ctx context.Context, q definition.SelectDeadLetters, dryRun bool) (int, error) {
	return s.moveDeadLetters(ctx, definition.ActionDeadLetterDiscard, definition.DeadLetterDiscarded, q, dryRun, `settled_at = now()`)
}

func (s *Store) moveDeadLetters(ctx context.Context, action definition.Action, to definition.DeadLetterStatus,
	q definition.SelectDeadLetters, dryRun bool, set string) (int, error) {
	attempt := "move dead letters to " + string(to)
	q.Status = definition.DeadLetterOpen
	where, args := whereDeadLetters(q)
	if dryRun {
		var n int
		err := s.pool.QueryRow(ctx, fmt.Sprintf(`SELECT count(*) FROM dead_letters WHERE %s`, where), args...).Scan(&n)
		return n, translate(attempt, err)
	}
	moved := 0
	err := s.tx(ctx, attempt, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, fmt.Sprintf(`UPDATE dead_letters SET status = $%d, %s WHERE %s`, len(args)+1, set, where), append(args, to)...)
		if moved = int(tag.RowsAffected()); err != nil || moved == 0 {
			return err
		}
		row := audited{action: action, target: definition.Target{Kind: definition.TargetDeadLetter, ID: q.ID}}
		after := map[string]any{"status": to}
		if q.ID == "" {
			after["count"], after["filter"] = moved, filterOfDeadLetters(q)
		}
		if row.before, row.after, err = told(map[string]any{"status": definition.DeadLetterOpen}, after); err != nil {
			return err
		}
		if err := row.record(ctx, tx); err != nil || q.ID == "" {
			return err // to move many of them twice moves none twice
		}
		return rememberMade(ctx, tx, q.ID)
	})
	return moved, err
}

// filterOfDeadLetters is a choice of dead letters as the API takes it.
func filterOfDeadLetters(q definition.SelectDeadLetters) map[string]any {
	out := map[string]any{}
	for name, value := range map[string]string{"reason": q.Reason, "event_id": q.EventID} {
		if value != "" {
			out[name] = value
		}
	}
	for name, at := range map[string]time.Time{"from": q.From, "to": q.To} {
		if !at.IsZero() {
			out[name] = at.UTC()
		}
	}
	return out
}

// claimedFor is how long a router has for the dead letters that it claimed, before another one takes them.
const claimedFor = 30 * time.Second

// maxClaims is how often a dead letter is claimed before it counts as one that kills routers.
const maxClaims = 3

// ClaimDeadLetters claims some of the dead letters that are to be routed again, with their data. One that was claimed before
// without an end is claimed alone, after the others, so that those at which routers die take no others with them; one that was
// claimed several times so is open again instead.
func (s *Store) ClaimDeadLetters(ctx context.Context, limit int) ([]definition.StoredDeadLetter, error) {
	const attempt = "claim dead letters"
	const due = `SELECT id FROM dead_letters
		WHERE status = 'retrying' AND (lease_until IS NULL OR lease_until < now()) AND claims BETWEEN $1 AND $2
		ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED`
	_, err := s.pool.Exec(ctx, `
		UPDATE dead_letters SET status = 'open', retries = retries + 1, reason = $4, detail = $5, lease_until = NULL
		WHERE id IN (`+due+`)`, maxClaims, math.MaxInt32, limit, definition.RejectCrashLoop,
		fmt.Sprintf("the router ended %d times while it routed the message again", maxClaims))
	if err != nil {
		return nil, translate(attempt, err)
	}
	for _, part := range []struct{ from, to, limit int }{{0, 0, limit}, {1, maxClaims - 1, 1}} {
		rows, err := s.pool.Query(ctx, `
			UPDATE dead_letters SET claims = claims + 1, lease_until = now() + $4::interval WHERE id IN (`+due+`)
			RETURNING `+deadLetterColumns+`, data`, part.from, part.to, part.limit, claimedFor)
		if err != nil {
			return nil, translate(attempt, err)
		}
		list, err := pgx.CollectRows(rows, scanWithData)
		if err != nil || len(list) > 0 {
			return list, translate(attempt, err)
		}
	}
	return nil, nil
}

// DeadLettersRouted marks claimed dead letters as routed; runs has how many runs each of them made.
func (s *Store) DeadLettersRouted(ctx context.Context, ids []string, runs []int) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE dead_letters d SET status = 'routed', runs = r.runs, settled_at = now(), lease_until = NULL
		FROM unnest($1::uuid[], $2::int[]) AS r (id, runs) WHERE d.id = r.id AND d.status = 'retrying'`, ids, runs)
	return translate("settle dead letters", err)
}

// RoutingAsked reports whether dead letters are to be routed again, and whether replays are active. It is one cheap question.
func (s *Store) RoutingAsked(ctx context.Context) (letters, replays bool, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM dead_letters WHERE status = 'retrying' AND (lease_until IS NULL OR lease_until < now())),
		       EXISTS (SELECT FROM replays WHERE status IN ('pending', 'counting', 'running')
		               AND (lease_until IS NULL OR lease_until < now()))`).Scan(&letters, &replays)
	return letters, replays, translate("look for what routers are asked to do", err)
}
