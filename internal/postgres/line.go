package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// line is the line of one value of a definition's concurrency key: the runs that have a place, and those that wait for one.
type line struct {
	definitionID string
	key          string
	// limit is how many may run at once: that of the newest revision of a definition that is live, otherwise the run's own. It is only
	// meaningful for a run that has a limit itself; 0 when there is none any more.
	limit int
	// own is the limit that the run was accepted under; 0 for none. A run without one passes by, unless it is caught up with.
	own     int
	catchUp bool
}

// lineOf returns the line of a run.
func lineOf(ctx context.Context, tx pgx.Tx, runID string) (line, error) {
	var l line
	err := tx.QueryRow(ctx, `
		SELECT r.definition_id::text, r.concurrency_key, r.run_limit, r.catch_up,
		       COALESCE((SELECT v.run_limit FROM definitions d
		                 JOIN definition_revisions v ON v.definition_id = d.id AND v.revision = d.revision
		                 WHERE d.id = r.definition_id AND d.deleted_at IS NULL), r.run_limit)
		FROM runs r WHERE r.id = $1`, runID).Scan(&l.definitionID, &l.key, &l.own, &l.catchUp, &l.limit)
	return l, err
}

// limited reports whether there is a line at all.
func (l *line) limited() bool { return l.own > 0 || l.catchUp }

// lock takes the lock of the line, which holds until the transaction ends. A row that is there is locked and not written.
func (l *line) lock(ctx context.Context, tx pgx.Tx) error {
	if !l.limited() {
		return nil
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO concurrency AS c (definition_id, key) VALUES ($1, $2)
		ON CONFLICT (definition_id, key) DO UPDATE SET key = excluded.key WHERE false`, l.definitionID, l.key)
	return err
}

// forget removes the lock of a line in which nobody is left: there may be as many keys as there are customers. Whoever waits for the
// lock makes it anew.
func (l *line) forget(ctx context.Context, tx pgx.Tx) error {
	if l.key == "" {
		return nil
	}
	_, err := tx.Exec(ctx, `
		DELETE FROM concurrency c WHERE definition_id = $1 AND key = $2
		  AND NOT EXISTS (SELECT FROM runs r WHERE r.definition_id = $1 AND r.concurrency_key = $2 AND r.status = 'running')
		  AND NOT EXISTS (SELECT FROM runs r WHERE r.definition_id = $1 AND r.concurrency_key = $2
		                    AND (r.run_limit > 0 OR r.catch_up) AND r.status IN ('accepted', 'queued'))`, l.definitionID, l.key)
	return err
}

const (
	// firstWake is how long whoever gave a run its place is left to tell its workflow, and wakePause how long after each time it is told
	// again: whoever did may have died before it came to that.
	firstWake = 5 * time.Second
	wakePause = 30 * time.Second
)

// wakeFirst has the first of every line of a definition asked to look again, after a change of the limit.
func wakeFirst(ctx context.Context, tx pgx.Tx, definitionID string) error {
	_, err := tx.Exec(ctx, `
		UPDATE runs SET wake_after = now() WHERE status = 'queued' AND id IN (
			SELECT DISTINCT ON (concurrency_key) id FROM runs WHERE definition_id = $1 AND `+waits+` AND status = 'queued'
			ORDER BY concurrency_key, seq)`, definitionID)
	return err
}

// heard notes that the workflow of a run that was given its place has heard of it.
func heard(ctx context.Context, tx pgx.Tx, runID string) error {
	_, err := tx.Exec(ctx, `UPDATE runs SET wake_after = NULL WHERE id = $1 AND wake_after IS NOT NULL`, runID)
	return err
}

// ClaimWakes claims runs that were given their places, or that may get them, and whose workflows have not heard of it, and returns the
// workflows. Nobody else gets them for a while. Nothing is locked when it returns.
func (s *Store) ClaimWakes(ctx context.Context, limit int) ([]string, error) {
	rows, err := s.pool.Query(ctx, `
		UPDATE runs SET wake_after = now() + $2
		WHERE id IN (SELECT id FROM runs WHERE wake_after <= now() AND status IN ('queued', 'running')
		             ORDER BY wake_after LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING workflow_id`, limit, wakePause)
	if err != nil {
		return nil, translate("claim runs to wake", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return list, translate("claim runs to wake", err)
}

// waits is the condition that a run of a line waits for its place. What a backfill holds back does not, nor does a slot before its
// workflow has begun: jitter may hold that back.
const waits = `(run_limit > 0 OR catch_up) AND status IN ('accepted', 'queued')
	AND (status = 'queued' OR kind <> 'cron' AND start_after < 'infinity')`

// load counts what the decision about one run needs.
func (l *line) load(ctx context.Context, tx pgx.Tx, run *definition.Run) (definition.Load, error) {
	var load definition.Load
	err := tx.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM runs WHERE definition_id = $1 AND concurrency_key = $2 AND status = 'running'),
		       (SELECT count(*) FROM (SELECT FROM runs WHERE definition_id = $1 AND concurrency_key = $2 AND seq < $3 AND `+waits+`
		                              ORDER BY seq LIMIT $4) w),
		       (SELECT count(*) FROM (SELECT FROM runs WHERE definition_id = $1 AND concurrency_key = $2 AND seq < $3 AND `+waits+`
		                                AND status = 'queued' ORDER BY seq LIMIT $4) w),
		       (SELECT count(*) FROM runs WHERE definition_id = $1 AND concurrency_key = $2 AND seq < $3 AND status = 'running'
		          AND stop_requested = ''),
		       (SELECT count(*) FROM runs WHERE definition_id = $1 AND concurrency_key = $2 AND seq > $3 AND status = 'running'
		          AND stop_requested = '')
		       + (SELECT count(*) FROM (SELECT FROM runs WHERE definition_id = $1 AND concurrency_key = $2 AND seq > $3 AND `+waits+`
		                                  AND status = 'queued' LIMIT $4) w),
		       (SELECT count(*) FROM runs WHERE $5 AND definition_id = $1 AND catch_up AND slot_at < $6
		          AND status IN ('accepted', 'queued', 'running'))`,
		l.definitionID, l.key, run.Seq, max(l.limit, 1), l.catchUp, run.SlotAt).
		Scan(&load.Running, &load.WaitingBefore, &load.QueuedBefore, &load.StayingBefore, &load.BegunAfter, &load.CaughtUpBefore)
	return load, err
}

// admit decides about a run that is accepted or queued. Where it takes the place of others it has those end: woken are the workflows
// of those that waited, and stops tells that some run that are to be stopped.
func (l *line) admit(ctx context.Context, tx pgx.Tx, r *beginRow, doc *definition.Document) (
	status definition.RunStatus, reason definition.Reason, woken []string, stops bool, err error) {
	limits, load := doc.Limits(r.run.Kind), definition.Load{}
	limits.Limit = 0
	if l.limited() {
		if load, err = l.load(ctx, tx, &r.run); err != nil {
			return "", "", nil, false, err
		}
		if l.own > 0 {
			limits.Limit = l.limit
		}
	}
	status, reason = definition.Admit(
		definition.Applicant{Kind: r.run.Kind, CatchUp: l.catchUp, Live: r.live, Enabled: r.enabled}, limits, load)
	if limits.Limit > 0 && limits.OnLimit == definition.OnLimitReplace && !l.catchUp && !status.Final() {
		woken, stops, err = l.replace(ctx, tx, &r.run, definition.Staying(limits.Limit, load))
	}
	return status, reason, woken, stops, err
}

// replace has the runs of the line end that a newer one takes the place of: all that were accepted before it, but the newest ones that
// may stay. Those that wait are skipped at once, those that run are stopped.
func (l *line) replace(ctx context.Context, tx pgx.Tx, by *definition.Run, staying int) (woken []string, stops bool, err error) {
	rows, err := tx.Query(ctx, `
		WITH before AS (
			SELECT id, seq FROM runs WHERE definition_id = $1 AND concurrency_key = $2 AND seq < $3 AND status = 'running'
			  AND stop_requested = ''
			UNION ALL
			SELECT id, seq FROM runs WHERE definition_id = $1 AND concurrency_key = $2 AND seq < $3 AND `+waits+`),
		go AS (SELECT id FROM before ORDER BY seq DESC OFFSET $4)
		UPDATE runs SET
			stop_requested = CASE status WHEN 'running' THEN 'cancel' ELSE stop_requested END,
			stop_reason = CASE status WHEN 'running' THEN 'replaced' ELSE stop_reason END,
			stop_note = CASE status WHEN 'running' THEN $5 ELSE stop_note END,
			stop_after = CASE status WHEN 'running' THEN now() END,
			reason = CASE status WHEN 'running' THEN reason ELSE 'replaced' END,
			error = CASE status WHEN 'running' THEN error ELSE $5 END,
			finished_at = CASE status WHEN 'running' THEN finished_at ELSE now() END,
			status = CASE status WHEN 'running' THEN status ELSE 'skipped' END
		FROM go WHERE runs.id = go.id AND runs.status IN ('accepted', 'queued', 'running')
		RETURNING runs.status = 'running', runs.workflow_id`,
		l.definitionID, l.key, by.Seq, staying, "run "+by.ID+" took its place")
	if err != nil {
		return nil, false, err
	}
	var running bool
	var workflow string
	_, err = pgx.ForEachRow(rows, []any{&running, &workflow}, func() error {
		if running {
			stops = true
		} else {
			woken = append(woken, workflow)
		}
		return nil
	})
	return woken, stops, err
}

// admitNext marks the next queued runs of the line as running, under its lock, and returns their workflows. They begin in the order of
// acceptance: one that is still to begin holds up those behind it. A run that is caught up with comes after all earlier ones, also after
// one whose workflow has yet to begin. A raised limit frees several at once, and one that is gone a thousand.
func (l *line) admitNext(ctx context.Context, tx pgx.Tx) ([]string, error) {
	places := 1000
	if l.limit > 0 {
		places = l.limit
	}
	rows, err := tx.Query(ctx, `
		WITH room AS (
			SELECT CASE WHEN $4 THEN GREATEST($3 - count(*), 0) ELSE $3 END AS places
			FROM runs WHERE definition_id = $1 AND concurrency_key = $2 AND status = 'running'),
		first AS (
			SELECT id, seq, status FROM runs q WHERE definition_id = $1 AND concurrency_key = $2 AND `+waits+`
			  AND NOT (catch_up AND EXISTS (
			      SELECT FROM runs e WHERE e.definition_id = $1 AND e.catch_up AND e.slot_at < q.slot_at
			        AND e.status IN ('accepted', 'queued', 'running')))
			ORDER BY seq LIMIT (SELECT places FROM room)),
		next AS (
			SELECT id FROM first WHERE status = 'queued'
			  AND (NOT $4 OR seq < COALESCE((SELECT min(seq) FROM first WHERE status = 'accepted'), seq + 1)))
		UPDATE runs SET status = 'running', started_at = clock_timestamp(), wake_after = now() + $5 FROM next WHERE runs.id = next.id
		RETURNING workflow_id`,
		l.definitionID, l.key, places, l.limit > 0, firstWake)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
