package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// errDryRun rolls a transaction back that was made to find out what it would do.
var errDryRun = errors.New("dry run")

// wantedRun is one run that a backfill makes.
type wantedRun struct {
	slot time.Time
	// rerunOf and reruns are set when the slot has a row: the row, and how many reruns of it there are.
	rerunOf string
	reruns  int
}

// CreateBackfill stores a backfill and a row for each of its runs, or in a dry run only counts them. The runs wait for
// ReleaseBackfills. Errors: ErrNotFound when the definition is not live, ErrBackfillActive when it has an active backfill,
// and an InvalidError when the definition has no slots, the range lies ahead or holds too many.
func (s *Store) CreateBackfill(ctx context.Context, req definition.BackfillRequest, dryRun bool) (definition.Backfill, error) {
	var b definition.Backfill
	var judged []definition.Judged
	err := s.tx(ctx, "backfill definition "+req.DefinitionID, func(tx pgx.Tx) error {
		judged = nil
		stored, err := readDefinition(ctx, tx, req.DefinitionID, true)
		if err != nil {
			return err
		}
		if !stored.Trigger.FollowsClock() {
			return definition.Invalid("id", "no_slots", "names a definition of trigger type %s, which has no slots; use a cron or a "+
				"scheduled one", stored.Trigger.Type)
		}
		// Slots that are due get their rows first, so that none is taken for one that never had any.
		state, told, err := settleFully(ctx, tx, req.DefinitionID)
		if err != nil {
			return err
		}
		judged = told
		now := time.Now()
		if state != nil {
			now = state.now
		}
		if req.To.After(now) {
			return definition.Invalid("to", "past", "must not lie in the future: what is to come is due by itself")
		}
		wanted, err := wantedRuns(ctx, tx, req, &stored.Document)
		if err != nil {
			return err
		}
		b = definition.Backfill{
			ID: definition.NewID(), DefinitionID: stored.ID, DefinitionName: stored.Name, Revision: stored.Revision,
			From: req.From.UTC(), To: req.To.UTC(), OnlyMissing: req.OnlyMissing, MaxConcurrent: req.MaxConcurrent,
			Status: definition.BackfillActive, Total: len(wanted), CreatedAt: now.UTC(),
			Runs: map[definition.RunStatus]int{definition.RunAccepted: len(wanted)},
		}
		if dryRun {
			return errDryRun
		}
		var active bool
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM backfills WHERE definition_id = $1 AND status = 'active')`, stored.ID).
			Scan(&active)
		if err == nil && active {
			err = definition.ErrBackfillActive
		}
		if err == nil {
			err = writeBackfill(ctx, tx, &b, &stored.Document, wanted)
		}
		if err != nil {
			return err
		}
		err = recordBackfill(ctx, tx, definition.ActionBackfillCreate, &b, nil, map[string]any{"from": b.From, "to": b.To,
			"only_missing": b.OnlyMissing, "max_concurrent": b.MaxConcurrent, "total": b.Total})
		if err != nil {
			return err
		}
		return rememberMade(ctx, tx, b.ID)
	})
	if errors.Is(err, errDryRun) {
		b.ID, b.Runs = "", nil
		return b, nil // rolled back, the verdicts on due slots too: somebody else gives them
	}
	s.tell(judged, err)
	return b, err
}

// recordBackfill writes a row of the audit trail about a backfill.
func recordBackfill(ctx context.Context, tx pgx.Tx, action definition.Action, b *definition.Backfill, before, after map[string]any) error {
	row := audited{action: action, target: definition.Target{Kind: definition.TargetBackfill, ID: b.ID}, id: b.DefinitionID,
		revision: b.Revision}
	var err error
	if row.before, row.after, err = told(before, after); err != nil {
		return err
	}
	return row.record(ctx, tx)
}

// wantedRuns decides which runs a backfill makes: of the definition's slots in the range, and of the slots in the range that
// were missed or skipped under an earlier revision.
func wantedRuns(ctx context.Context, tx pgx.Tx, req definition.BackfillRequest, doc *definition.Document) ([]wantedRun, error) {
	slots, err := doc.Trigger.Slots()
	if err != nil {
		return nil, err
	}
	const most = definition.MaxBackfillSlots
	tooMany := definition.Invalid("to", "max_slots", "from and to hold more than %d slots: backfill a shorter range at a time", most)
	due := slots.Between(req.From, req.To, most+1)
	if len(due) > most {
		return nil, tooMany
	}
	// A slot's row, and the newest of its reruns: "missing" is what was missed, skipped or called off, and not made up for since.
	rows, err := tx.Query(ctx, `
		SELECT r.id::text, r.slot_at,
		       (SELECT count(*) FROM runs n WHERE n.rerun_of = r.id),
		       `+isMissing("r")+` AND NOT EXISTS (SELECT FROM runs n WHERE n.rerun_of = r.id AND NOT (`+isMissing("n")+`))
		FROM runs r
		WHERE r.definition_id = $1 AND r.slot_at BETWEEN $2 AND $3 AND r.rerun_of IS NULL AND r.reason <> 'not_due'
		ORDER BY r.slot_at LIMIT $4`, req.DefinitionID, req.From, req.To, 3*most)
	if err != nil {
		return nil, err
	}
	type known struct {
		wantedRun
		missing bool
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k known, err error) {
		err = row.Scan(&k.rerunOf, &k.slot, &k.reruns, &k.missing)
		k.slot = k.slot.UTC()
		return k, err
	})
	if err != nil {
		return nil, err
	}
	bySlot := make(map[time.Time]bool, len(list))
	var out []wantedRun
	for _, k := range list {
		bySlot[k.slot] = true
		if k.missing || !req.OnlyMissing {
			out = append(out, k.wantedRun)
		}
	}
	for _, slot := range due {
		if !bySlot[slot.UTC()] {
			out = append(out, wantedRun{slot: slot})
		}
	}
	if len(out) > most || len(list) == 3*most {
		return nil, tooMany
	}
	slices.SortFunc(out, func(a, b wantedRun) int { return a.slot.Compare(b.slot) })
	return out, nil
}

// isMissing is the condition that a slot's row, or a rerun of it, stands for no run.
func isMissing(alias string) string {
	return fmt.Sprintf(`(%[1]s.status IN ('missed', 'skipped') OR %[1]s.status = 'canceled' AND %[1]s.reason = 'backfill_canceled')`,
		alias)
}

func writeBackfill(ctx context.Context, tx pgx.Tx, b *definition.Backfill, doc *definition.Document, wanted []wantedRun) error {
	if len(wanted) == 0 {
		b.Status, b.FinishedAt, b.Runs = definition.BackfillCompleted, &b.CreatedAt, map[definition.RunStatus]int{}
	}
	err := tx.QueryRow(ctx, `
		INSERT INTO backfills (id, definition_id, definition_name, revision, from_at, to_at, only_missing, max_concurrent, status,
		                       total, created_at, finished_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING seq`,
		b.ID, b.DefinitionID, b.DefinitionName, b.Revision, b.From, b.To, b.OnlyMissing, b.MaxConcurrent, b.Status, b.Total,
		b.CreatedAt, b.FinishedAt).Scan(&b.Seq)
	if err != nil {
		return err
	}
	n := len(wanted)
	ids, keys, workflows := make([]string, n), make([]string, n), make([]string, n)
	slots, rerunOf := make([]time.Time, n), make([]*string, n)
	concurrency, faults := make([]string, n), make([]string, n)
	keyer := doc.Keyer()
	for i, w := range wanted {
		ids[i], slots[i], keys[i] = definition.NewID(), w.slot, definition.CronKey(w.slot)
		if w.rerunOf != "" {
			rerunOf[i], keys[i] = &w.rerunOf, definition.RerunKey(w.rerunOf, w.reruns+1)
		}
		workflows[i] = definition.WorkflowID(b.DefinitionID, keys[i])
		o := definition.Occurrence{DefinitionID: b.DefinitionID, Revision: b.Revision, Kind: definition.KindBackfill, Key: keys[i],
			RerunOf: w.rerunOf}
		keyer.Set(ctx, &o)
		concurrency[i], faults[i] = o.ConcurrencyKey, bound(o.KeyError)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, reason, error, finished_at,
		                  slot_at, rerun_of, backfill_id, run_limit, run_timeout, workflow_id, start_after, concurrency_key)
		SELECT o.id, $6, $7, $8, 'backfill', o.key, CASE WHEN o.fault = '' THEN 'accepted' ELSE 'failed' END,
		       CASE WHEN o.fault = '' THEN '' ELSE 'concurrency_key_error' END, o.fault, CASE WHEN o.fault <> '' THEN now() END,
		       o.slot, o.rerun_of, $9, $10, $11, o.workflow_id, 'infinity', o.concurrency_key
		FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::uuid[], $5::text[], $12::text[], $13::text[])
		     WITH ORDINALITY AS o (id, key, slot, rerun_of, workflow_id, concurrency_key, fault, place)
		ORDER BY o.place`,
		ids, keys, slots, rerunOf, workflows, b.DefinitionID, b.DefinitionName, b.Revision, b.ID,
		doc.Limits(definition.KindBackfill).Limit, doc.RunTimeout(), concurrency, faults)
	return err
}

// ReleaseBackfills lets the next runs of every active backfill begin, as many as its max_concurrent leaves room for, and
// returns what is needed to start them. Backfills whose runs have all ended become completed. active reports whether any is
// left. With none active it is one indexed question.
func (s *Store) ReleaseBackfills(ctx context.Context) (starts []definition.Start, active bool, err error) {
	const attempt = "release backfills"
	if err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM backfills WHERE status = 'active')`).Scan(&active); err != nil || !active {
		return nil, false, translate(attempt, err)
	}
	err = s.tx(ctx, attempt, func(tx pgx.Tx) error {
		// The lock first: the count of what runs has to be younger than the lock.
		rows, err := tx.Query(ctx, `SELECT id::text FROM backfills WHERE status = 'active' FOR UPDATE SKIP LOCKED`)
		if err != nil {
			return err
		}
		mine, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(mine) == 0 {
			return err
		}
		rows, err = tx.Query(ctx, `
			UPDATE runs SET start_after = now() + $2
			WHERE status = 'accepted' AND id IN (
				SELECT r.id FROM backfills b, LATERAL (
					SELECT id FROM runs WHERE backfill_id = b.id AND status = 'accepted' AND start_after = 'infinity'
					ORDER BY slot_at
					LIMIT GREATEST(b.max_concurrent - (
						SELECT count(*) FROM runs WHERE backfill_id = b.id
						  AND (status IN ('queued', 'running') OR status = 'accepted' AND start_after < 'infinity')), 0)) r
				WHERE b.id = ANY($1::uuid[]))
			RETURNING `+startColumns, mine, FirstSweep)
		if err != nil {
			return err
		}
		if starts, err = pgx.CollectRows(rows, scanStart); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE backfills b SET status = 'completed', finished_at = now()
			WHERE id = ANY($1::uuid[]) AND NOT EXISTS (
				SELECT FROM runs WHERE backfill_id = b.id AND status IN ('accepted', 'queued', 'running'))`, mine)
		return err
	})
	return starts, true, err
}

// CancelBackfill cancels an active backfill: what has not begun to be started never will. A backfill that has ended stays as
// it is. ErrNotFound: there is none.
func (s *Store) CancelBackfill(ctx context.Context, id string) (definition.Backfill, error) {
	err := s.tx(ctx, "cancel backfill "+id, func(tx pgx.Tx) error {
		b := definition.Backfill{ID: id}
		scope, args := within(ctx, "definition_id", []any{id})
		err := tx.QueryRow(ctx, `SELECT status, definition_id::text, revision FROM backfills WHERE id = $1`+scope+` FOR UPDATE`, args...).
			Scan(&b.Status, &b.DefinitionID, &b.Revision)
		if err != nil || b.Status != definition.BackfillActive {
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE runs SET status = 'canceled', reason = 'backfill_canceled', finished_at = now()
			WHERE backfill_id = $1 AND status = 'accepted' AND start_after = 'infinity'`, id)
		if err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `UPDATE backfills SET status = 'canceled', finished_at = now() WHERE id = $1`, id); err != nil {
			return err
		}
		return recordBackfill(ctx, tx, definition.ActionBackfillCancel, &b, map[string]any{"status": definition.BackfillActive},
			map[string]any{"status": definition.BackfillCanceled, "runs_canceled": tag.RowsAffected()})
	})
	if err != nil {
		return definition.Backfill{}, err
	}
	return s.GetBackfill(ctx, id)
}

const selectBackfill = `
	SELECT b.id::text, b.seq, b.definition_id::text, b.definition_name, b.revision, b.from_at, b.to_at, b.only_missing,
	       b.max_concurrent, b.status, b.total, b.created_at, b.finished_at,
	       COALESCE((SELECT jsonb_object_agg(status, n) FROM (
	           SELECT status, count(*) AS n FROM runs WHERE backfill_id = b.id GROUP BY status) c), '{}')
	FROM backfills b`

func scanBackfill(row pgx.CollectableRow) (b definition.Backfill, err error) {
	err = row.Scan(&b.ID, &b.Seq, &b.DefinitionID, &b.DefinitionName, &b.Revision, &b.From, &b.To, &b.OnlyMissing,
		&b.MaxConcurrent, &b.Status, &b.Total, &b.CreatedAt, &b.FinishedAt, &b.Runs)
	b.From, b.To, b.CreatedAt, b.FinishedAt = b.From.UTC(), b.To.UTC(), b.CreatedAt.UTC(), utc(b.FinishedAt)
	return b, err
}

// GetBackfill returns a backfill with its progress; ErrNotFound when there is none.
func (s *Store) GetBackfill(ctx context.Context, id string) (definition.Backfill, error) {
	scope, args := within(ctx, "b.definition_id", []any{id})
	rows, err := s.pool.Query(ctx, selectBackfill+` WHERE b.id = $1`+scope, args...)
	if err != nil {
		return definition.Backfill{}, translate("get backfill "+id, err)
	}
	b, err := pgx.CollectExactlyOneRow(rows, scanBackfill)
	return b, translate("get backfill "+id, err)
}

// ListBackfills returns a page of a definition's backfills, newest first.
func (s *Store) ListBackfills(ctx context.Context, q definition.ListBackfills) ([]definition.Backfill, error) {
	scope, args := within(ctx, "b.definition_id", []any{q.DefinitionID, q.BeforeSeq, q.Limit})
	rows, err := s.pool.Query(ctx, selectBackfill+`
		WHERE b.definition_id = $1 AND ($2 = 0 OR b.seq < $2)`+scope+` ORDER BY b.seq DESC LIMIT $3`, args...)
	if err != nil {
		return nil, translate("list backfills", err)
	}
	list, err := pgx.CollectRows(rows, scanBackfill)
	return list, translate("list backfills", err)
}
