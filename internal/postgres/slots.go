package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// SlotSweep is how long after a slot, jitter aside, the sweeper leaves its start to Temporal's schedule.
	SlotSweep = 15 * time.Second

	// settleSlots is the most slots that one transaction judges of one definition.
	settleSlots = 2000
)

// SlotsDue reports whether a definition has a slot that is not judged yet: one indexed question.
func (s *Store) SlotsDue(ctx context.Context) (bool, error) {
	var due bool
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM cron_state WHERE next_slot_at <= clock_timestamp())`).Scan(&due)
	return due, translate("look for due slots", err)
}

// SettleDue judges the due slots of up to limit definitions, in one transaction, and returns how many definitions it took.
// What another process is judging is passed over.
func (s *Store) SettleDue(ctx context.Context, limit int) (int, error) {
	var ids []string
	var judged []definition.Judged
	err := s.tx(ctx, "settle due slots", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT definition_id::text FROM cron_state WHERE next_slot_at <= clock_timestamp()
			ORDER BY next_slot_at LIMIT $1 FOR UPDATE SKIP LOCKED`, limit)
		if err != nil {
			return err
		}
		if ids, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(ids) == 0 {
			return err
		}
		states, err := readStates(ctx, tx, ids)
		if err != nil {
			return err
		}
		judged, err = settle(ctx, tx, states)
		return err
	})
	s.tell(judged, err)
	return len(ids), err
}

// AdoptSlots takes charge of the slots of definitions that an older version of the service wrote, which knows nothing of
// them, and returns how many there were.
func (s *Store) AdoptSlots(ctx context.Context) (int, error) {
	tag, err := s.pool.Exec(ctx, `
		INSERT INTO cron_state (definition_id, revision, cursor, next_slot_at)
		SELECT d.id, d.revision, d.updated_at, now() FROM definitions d
		WHERE d.deleted_at IS NULL AND d.trigger_type IN ('cron', 'scheduled')
		  AND NOT EXISTS (SELECT FROM cron_state c WHERE c.definition_id = d.id AND c.revision = d.revision)
		ON CONFLICT (definition_id) DO UPDATE SET next_slot_at = now()`)
	return int(tag.RowsAffected()), translate("adopt slots", err)
}

// OnJudged has every verdict that this store commits told to a function, which must not block. Set it before use.
func (s *Store) OnJudged(told func([]definition.Judged)) { s.judged = told }

func (s *Store) tell(judged []definition.Judged, err error) {
	if err == nil && s.judged != nil && len(judged) > 0 {
		s.judged(judged)
	}
}

// state is a locked row of cron_state with what its slots are judged by.
type state struct {
	id         string
	cursor     time.Time
	now        time.Time // Postgres' clock, read after the lock was taken
	catchingUp bool
	// Of the definition in force; live is false when it was deleted.
	live       bool
	name       string
	revision   int
	document   string
	runLimit   int
	runTimeout time.Duration
}

// lockState locks and reads the state of one definition. pgx.ErrNoRows: there is none.
func lockState(ctx context.Context, tx pgx.Tx, id string) (*state, error) {
	// The lock first and what depends on it by a second statement, whose snapshot is younger than the lock: otherwise a
	// change that was committed while this waited would be half seen.
	if err := tx.QueryRow(ctx, `SELECT definition_id::text FROM cron_state WHERE definition_id = $1 FOR UPDATE`, id).
		Scan(&id); err != nil {
		return nil, err
	}
	states, err := readStates(ctx, tx, []string{id})
	if err != nil {
		return nil, err
	}
	return states[0], nil
}

// readStates reads states whose rows the transaction has locked.
func readStates(ctx context.Context, tx pgx.Tx, ids []string) ([]*state, error) {
	rows, err := tx.Query(ctx, `
		SELECT c.definition_id::text, c.cursor, clock_timestamp(), d.id IS NOT NULL, COALESCE(d.name, ''), COALESCE(d.revision, 0),
		       COALESCE(d.document::text, ''), COALESCE(v.run_limit, 0), COALESCE(v.run_timeout, interval '0'),
		       EXISTS (SELECT FROM runs r WHERE r.definition_id = c.definition_id AND r.catch_up
		                 AND r.status IN ('accepted', 'queued', 'running'))
		FROM cron_state c
		LEFT JOIN definitions d ON d.id = c.definition_id AND d.deleted_at IS NULL
		LEFT JOIN definition_revisions v ON v.definition_id = d.id AND v.revision = d.revision
		WHERE c.definition_id = ANY($1::uuid[])`, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*state, error) {
		var st state
		err := row.Scan(&st.id, &st.cursor, &st.now, &st.live, &st.name, &st.revision, &st.document, &st.runLimit,
			&st.runTimeout, &st.catchingUp)
		if st.now.Before(st.cursor) {
			st.now = st.cursor // the server's clock was set back
		}
		return &st, err
	})
}

// slotRows collects ledger rows of slots for one statement.
type slotRows struct {
	ids, definitions, names, keys, workflows []string
	statuses, reasons, faults, concurrency   []string
	revisions, limits                        []int32
	timeouts, jitters                        []time.Duration
	slots                                    []time.Time
	catchUp                                  []bool
}

// add adds a row. A slot that is to run gets its concurrency key; keyer is nil for a definition without one.
func (r *slotRows) add(ctx context.Context, st *state, v definition.Verdict, jitter time.Duration, keyer *definition.Keyer) {
	key := definition.CronKey(v.Slot)
	o := definition.Occurrence{DefinitionID: st.id, Revision: st.revision, Kind: definition.KindCron, Key: key}
	if v.Status == definition.RunAccepted {
		if keyer.Set(ctx, &o); o.KeyError != "" {
			v = definition.Verdict{Slot: v.Slot, Status: definition.RunFailed, Reason: definition.ReasonConcurrencyKey}
		}
	}
	r.faults, r.concurrency = append(r.faults, bound(o.KeyError)), append(r.concurrency, o.ConcurrencyKey)
	r.ids, r.definitions, r.names = append(r.ids, definition.NewID()), append(r.definitions, st.id), append(r.names, st.name)
	r.keys, r.workflows = append(r.keys, key), append(r.workflows, definition.WorkflowID(st.id, key))
	r.statuses, r.reasons = append(r.statuses, string(v.Status)), append(r.reasons, string(v.Reason))
	r.revisions, r.limits = append(r.revisions, int32(st.revision)), append(r.limits, int32(st.runLimit))
	r.timeouts, r.jitters = append(r.timeouts, st.runTimeout), append(r.jitters, jitter)
	r.slots, r.catchUp = append(r.slots, v.Slot), append(r.catchUp, v.CatchUp)
}

// insert writes the rows and returns what is new among them. A slot that has a row already keeps it.
func (r *slotRows) insert(ctx context.Context, tx pgx.Tx) ([]definition.Judged, error) {
	rows, err := tx.Query(ctx, `
		INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, reason, slot_at, catch_up,
		                  run_limit, run_timeout, workflow_id, start_after, finished_at, error, concurrency_key)
		SELECT o.id, o.definition_id, o.name, o.revision, 'cron', o.key, o.status, o.reason, o.slot, o.catch_up, o.run_limit,
		       o.run_timeout, o.workflow_id, o.slot + o.jitter + $13,
		       CASE WHEN o.status <> 'accepted' THEN now() END, o.fault, o.concurrency_key
		FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
		            $9::bool[], $10::int[], $11::interval[], $12::text[], $14::interval[], $15::text[], $16::text[])
		     WITH ORDINALITY AS o (id, definition_id, name, revision, key, status, reason, slot, catch_up, run_limit, run_timeout,
		                           workflow_id, jitter, fault, concurrency_key, place)
		ORDER BY o.place
		ON CONFLICT (definition_id, occurrence_key) DO NOTHING
		RETURNING definition_name, status, reason, catch_up`,
		r.ids, r.definitions, r.names, r.revisions, r.keys, r.statuses, r.reasons, r.slots, r.catchUp, r.limits, r.timeouts,
		r.workflows, SlotSweep, r.jitters, r.faults, r.concurrency)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (j definition.Judged, err error) {
		err = row.Scan(&j.DefinitionName, &j.Status, &j.Reason, &j.CatchUp)
		return j, err
	})
}

// settle judges the due slots of definitions whose states are locked, writes their rows and moves the states on. It is the
// only place where a slot gets its row, besides the ghosts that Temporal invents. The states are left as they are then.
func settle(ctx context.Context, tx pgx.Tx, states []*state) ([]definition.Judged, error) {
	var due slotRows
	next := make([]*time.Time, len(states))
	for i, st := range states {
		if !st.live {
			st.cursor = st.now
			continue
		}
		doc, err := definition.DecodeStored([]byte(st.document))
		var settled definition.Settlement
		if err == nil {
			settled, err = definition.Settle(definition.Unsettled{
				Document: &doc, Cursor: st.cursor, Now: st.now, CatchingUp: st.catchingUp, Limit: settleSlots,
			})
		}
		if err != nil {
			// This version cannot read it. Its slots wait for one that can, and those of others do not.
			again := st.now.Add(unreadablePause)
			next[i] = &again
			continue
		}
		keyer := doc.Keyer()
		for _, v := range settled.Verdicts {
			due.add(ctx, st, v, time.Duration(doc.Trigger.Jitter), keyer)
		}
		st.cursor = settled.Cursor
		if !settled.Next.IsZero() {
			next[i] = &settled.Next
		}
	}
	var judged []definition.Judged
	if len(due.ids) > 0 {
		var err error
		if judged, err = due.insert(ctx, tx); err != nil {
			return nil, fmt.Errorf("write slots: %w", err)
		}
	}
	ids, revisions, cursors := make([]string, len(states)), make([]int32, len(states)), make([]time.Time, len(states))
	for i, st := range states {
		ids[i], revisions[i], cursors[i] = st.id, int32(st.revision), st.cursor
	}
	_, err := tx.Exec(ctx, `
		UPDATE cron_state c SET revision = o.revision, cursor = o.cursor, next_slot_at = o.next
		FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::timestamptz[]) AS o (id, revision, cursor, next)
		WHERE c.definition_id = o.id`, ids, revisions, cursors, next)
	return judged, err
}

// unreadablePause is how long the slots of a definition wait that this version cannot read.
const unreadablePause = time.Minute

// settleFully judges all due slots of one definition, however many, within a transaction that is about to change it. The
// state is nil when the definition never had slots.
func settleFully(ctx context.Context, tx pgx.Tx, id string) (*state, []definition.Judged, error) {
	st, err := lockState(ctx, tx, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var all []definition.Judged
	for {
		before := st.cursor
		judged, err := settle(ctx, tx, []*state{st})
		if err != nil {
			return nil, nil, err
		}
		all = append(all, judged...)
		if !st.cursor.Before(st.now) || st.cursor.Equal(before) {
			return st, all, nil
		}
	}
}

// followDefinition makes the state follow a definition that has just been written: its slots are those after the cursor. before
// is the document that it had, nil for none; doc is nil when it was deleted. A single due time that is not after the cursor
// any more is refused.
func followDefinition(
	ctx context.Context, tx pgx.Tx, id string, revision int, before, doc *definition.Document, st *state,
) error {
	if st == nil && (doc == nil || !doc.Trigger.FollowsClock()) {
		return nil
	}
	var cursor time.Time
	if st != nil {
		cursor = st.cursor
	} else if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&cursor); err != nil {
		return err
	}
	if doc != nil {
		if err := doc.CheckStillDue(before, cursor); err != nil {
			return err
		}
	}
	var next *time.Time
	if doc != nil && doc.Enabled && doc.Trigger.FollowsClock() {
		slots, err := doc.Trigger.Slots()
		if err != nil {
			return err
		}
		if slot, ok := slots.Next(cursor); ok {
			next = &slot
		}
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO cron_state (definition_id, revision, cursor, next_slot_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (definition_id) DO UPDATE
		SET revision = excluded.revision, cursor = excluded.cursor, next_slot_at = excluded.next_slot_at, recovered = 0,
		    recovered_since = NULL`, id, revision, cursor, next)
	return err
}

// acceptSlot makes sure that the slot of a run that Temporal's schedule started has its row, and returns the row's id. The
// verdict is that of settle; a time that is no slot gets a row that says so.
func (s *Store) acceptSlot(ctx context.Context, b definition.Begin) (string, error) {
	key := definition.CronKey(b.Slot)
	attempt := "accept slot " + key + " of definition " + b.DefinitionID
	var id string
	var recovered int
	find := func(q interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}) error {
		return q.QueryRow(ctx, `
			SELECT r.id::text, COALESCE((SELECT recovered FROM cron_state c WHERE c.definition_id = r.definition_id), 0)
			FROM runs r WHERE r.definition_id = $1 AND r.occurrence_key = $2`, b.DefinitionID, key).Scan(&id, &recovered)
	}
	err := find(s.pool)
	if errors.Is(err, pgx.ErrNoRows) {
		var judged []definition.Judged
		err = s.tx(ctx, attempt, func(tx pgx.Tx) error {
			var err error
			judged, err = acceptSlotIn(ctx, tx, b)
			if err != nil {
				return err
			}
			return find(tx)
		})
		s.tell(judged, err)
	}
	if err == nil && recovered > 0 {
		// The schedule starts its slots itself.
		_, err = s.pool.Exec(ctx, `UPDATE cron_state SET recovered = 0, recovered_since = NULL WHERE definition_id = $1`,
			b.DefinitionID)
	}
	return id, translate(attempt, err)
}

func acceptSlotIn(ctx context.Context, tx pgx.Tx, b definition.Begin) ([]definition.Judged, error) {
	st, err := lockState(ctx, tx, b.DefinitionID)
	if errors.Is(err, pgx.ErrNoRows) {
		// A definition that an older version of the service wrote, or none at all.
		_, err = tx.Exec(ctx, `
			INSERT INTO cron_state (definition_id, revision, cursor, next_slot_at)
			SELECT id, revision, updated_at, now() FROM definitions WHERE id = $1
			ON CONFLICT DO NOTHING`, b.DefinitionID)
		if err != nil {
			return nil, err
		}
		st, err = lockState(ctx, tx, b.DefinitionID)
	}
	if err != nil {
		return nil, err
	}
	if b.Slot.After(st.now) {
		return nil, definition.ErrNotYet
	}
	judged, err := settle(ctx, tx, []*state{st})
	if err != nil {
		return nil, err
	}
	if st.cursor.Before(b.Slot) {
		return judged, definition.ErrNotYet // there were too many before it; they are committed by the watchdog
	}
	ghost, err := acceptGhost(ctx, tx, b, st)
	return append(judged, ghost...), err
}

// acceptGhost gives a time its row that Temporal fired and that is no slot, and asks for a look at the schedule. It does
// nothing when the time has a row.
func acceptGhost(ctx context.Context, tx pgx.Tx, b definition.Begin, st *state) ([]definition.Judged, error) {
	key := definition.CronKey(b.Slot)
	var facts definition.GhostFacts
	var document *string
	var deleted *time.Time
	var known bool
	err := tx.QueryRow(ctx, `
		SELECT d.name, d.revision, d.enabled, d.deleted_at,
		       (SELECT v.document::text FROM definition_revisions v
		        WHERE v.definition_id = d.id AND v.created_at <= $2 ORDER BY v.revision DESC LIMIT 1),
		       EXISTS (SELECT FROM runs WHERE definition_id = $1 AND occurrence_key = $3)
		FROM definitions d WHERE d.id = $1`, b.DefinitionID, b.Slot, key).
		Scan(&st.name, &st.revision, &facts.Enabled, &deleted, &document, &known)
	if err != nil || known {
		return nil, err
	}
	facts.Deleted = deleted != nil
	if document != nil {
		doc, err := definition.DecodeStored([]byte(*document))
		if err != nil {
			return nil, err
		}
		facts.InForce = &doc
	}
	var rows slotRows
	rows.add(ctx, st, definition.Verdict{Slot: b.Slot, Status: definition.RunSkipped, Reason: definition.GhostReason(facts)}, 0, nil)
	judged, err := rows.insert(ctx, tx)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, markSync, []string{b.DefinitionID})
	return judged, err
}

// SlotsRecovered notes that these definitions' slots were started by the sweeper and not by their schedules, and asks for a
// look at those.
func (s *Store) SlotsRecovered(ctx context.Context, definitionIDs []string) error {
	// Two sweepers may take the same rows in different orders.
	err := retried(func() error {
		_, err := s.pool.Exec(ctx, `
			UPDATE cron_state SET recovered = recovered + 1, recovered_since = COALESCE(recovered_since, now())
			WHERE definition_id = ANY($1::uuid[])`, definitionIDs)
		return err
	})
	if err == nil {
		err = retried(func() error {
			_, err := s.pool.Exec(ctx, markSync, definitionIDs)
			return err
		})
	}
	return translate("note recovered slots", err)
}

// ScheduleRemade notes that a definition's schedule was made anew because it had started nothing.
func (s *Store) ScheduleRemade(ctx context.Context, definitionID string) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE cron_state SET recovered = 0, recovered_since = NULL, remade_at = now() WHERE definition_id = $1`, definitionID)
	return translate("note a remade schedule", err)
}
