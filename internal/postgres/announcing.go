package postgres

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// ClaimEnds claims ends of runs that nobody was told of, those first that were never claimed before. Nobody else gets them until the
// lease has passed. Nothing is locked when it returns.
func (s *Store) ClaimEnds(ctx context.Context, limit int, lease time.Duration) ([]definition.RunEnd, error) {
	const attempt = "claim the ends of runs"
	rows, err := s.pool.Query(ctx, `
		WITH mine AS (
			UPDATE run_ends SET claim_after = now() + $2::interval
			WHERE run_id IN (SELECT run_id FROM run_ends WHERE claim_after <= now()
			                 ORDER BY claim_after, ended_at LIMIT $1 FOR UPDATE SKIP LOCKED)
			RETURNING run_id)
		SELECT `+runColumns+` FROM runs WHERE id IN (SELECT run_id FROM mine)`, limit, lease)
	if err != nil {
		return nil, translate(attempt, err)
	}
	ends, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e definition.RunEnd, err error) {
		e.Run, err = scanRun(row, false)
		return e, err
	})
	if err != nil || len(ends) == 0 {
		return nil, translate(attempt, err)
	}
	slices.SortFunc(ends, func(a, b definition.RunEnd) int {
		return cmp.Or(a.Run.FinishedAt.Compare(*b.Run.FinishedAt), cmp.Compare(a.Run.Seq, b.Run.Seq))
	})
	return ends, translate(attempt, s.describeEnds(ctx, ends))
}

// describeEnds adds what the revisions say that the runs were pinned to.
func (s *Store) describeEnds(ctx context.Context, ends []definition.RunEnd) error {
	type key struct {
		id       string
		revision int
	}
	at := map[key][]int{}
	var ids []string
	var revisions []int32
	for i := range ends {
		k := key{ends[i].Run.DefinitionID, ends[i].Run.Revision}
		if at[k] == nil {
			ids, revisions = append(ids, k.id), append(revisions, int32(k.revision))
		}
		at[k] = append(at[k], i)
	}
	rows, err := s.pool.Query(ctx, `
		SELECT definition_id::text, revision, document::text FROM definition_revisions
		WHERE (definition_id, revision) IN (SELECT * FROM unnest($1::uuid[], $2::int[]))`, ids, revisions)
	if err != nil {
		return err
	}
	var k key
	var document []byte
	_, err = pgx.ForEachRow(rows, []any{&k.id, &k.revision, &document}, func() error {
		labels, notify := definition.DecodeStoredEnd(document)
		for _, i := range at[k] {
			ends[i].Labels, ends[i].Notify = labels, notify
		}
		return nil
	})
	return err
}

// MarkAnnounced notes that those who are to hear of the ends of these runs do.
func (s *Store) MarkAnnounced(ctx context.Context, runIDs []string) error {
	return translate("mark the ends of runs as told", retried(func() error {
		_, err := s.pool.Exec(ctx, `DELETE FROM run_ends WHERE run_id = ANY($1::uuid[])`, runIDs)
		return err
	}))
}

// ReturnEnds gives claimed ends back, to be claimed again after a pause.
func (s *Store) ReturnEnds(ctx context.Context, runIDs []string, pause time.Duration) error {
	return translate("return the ends of runs", retried(func() error {
		_, err := s.pool.Exec(ctx, `
			UPDATE run_ends SET claim_after = now() + $2::interval WHERE run_id = ANY($1::uuid[])`, runIDs, pause)
		return err
	}))
}

// endedBeforeWindow is how many rows, accepted before and as many accepted after a run, EndedBefore looks at.
const endedBeforeWindow = 500

// EndedBefore returns how the run of the same definition and kind ended that ended last before this one; false when there is
// none. Runs that were canceled or skipped say nothing, and are passed over. It looks at the rows around the run alone.
func (s *Store) EndedBefore(ctx context.Context, run *definition.Run) (definition.RunStatus, bool, error) {
	var status definition.RunStatus
	err := s.pool.QueryRow(ctx, `
		SELECT status FROM (
			(SELECT seq, kind, status, finished_at FROM runs WHERE definition_id = $1 AND -1 * seq > -$2::bigint ORDER BY -1 * seq LIMIT $5)
			UNION ALL
			(SELECT seq, kind, status, finished_at FROM runs WHERE definition_id = $1 AND -1 * seq < -$2::bigint ORDER BY -1 * seq DESC LIMIT $5)) around
		WHERE kind = $3 AND status IN ('succeeded', 'failed', 'timed_out', 'missed') AND (finished_at, seq) < ($4, $2::bigint)
		ORDER BY finished_at DESC, seq DESC LIMIT 1`,
		run.DefinitionID, run.Seq, run.Kind, run.FinishedAt, endedBeforeWindow).Scan(&status)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", false, nil
	}
	return status, err == nil, translate("look for the run before run "+run.ID, err)
}

// GetEnd returns the end of a run, with its input; ErrNotFound when there is no such run or it has not ended.
func (s *Store) GetEnd(ctx context.Context, runID string) (definition.RunEnd, error) {
	attempt := "get the end of run " + runID
	rows, err := s.pool.Query(ctx, `SELECT `+runColumns+`, input FROM runs WHERE id = $1 AND finished_at IS NOT NULL`, runID)
	if err != nil {
		return definition.RunEnd{}, translate(attempt, err)
	}
	run, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, true) })
	if err != nil {
		return definition.RunEnd{}, translate(attempt, err)
	}
	ends := []definition.RunEnd{{Run: run}}
	err = s.describeEnds(ctx, ends)
	return ends[0], translate(attempt, err)
}
