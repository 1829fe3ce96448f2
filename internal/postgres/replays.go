package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

// CreateReplay stores a replay for a router to do. Errors: an InvalidError for a definition that is not live or has no event
// trigger, and for a range that lies ahead; ErrReplayActive when one of the definitions has an active replay.
func (s *Store) CreateReplay(ctx context.Context, req definition.ReplayRequest) (definition.Replay, error) {
	id := definition.NewID()
	var replay definition.Replay
	err := s.tx(ctx, "create replay", func(tx pgx.Tx) error {
		// Locked in one order, so that two requests for the same definitions see each other.
		scope, args := within(ctx, "id", []any{req.DefinitionIDs})
		rows, err := tx.Query(ctx, `
			SELECT id::text FROM definitions WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL AND trigger_type = 'event'`+scope+`
			ORDER BY id FOR UPDATE`, args...)
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for i, wanted := range req.DefinitionIDs {
			if !slices.Contains(found, wanted) {
				return definition.Invalid(fmt.Sprintf("definition_ids[%d]", i), "event_definition",
					"%s is not a definition with an event trigger", wanted)
			}
		}
		var ahead, active bool
		err = tx.QueryRow(ctx, `
			SELECT $1::timestamptz > now(), NOT $3 AND EXISTS (
				SELECT FROM replays WHERE status IN ('pending', 'counting', 'running') AND NOT dry_run AND definition_ids && $2::uuid[])`,
			req.To, req.DefinitionIDs, req.DryRun).Scan(&ahead, &active)
		switch {
		case err != nil:
			return err
		case ahead:
			return definition.Invalid("to", "past", "must not lie in the future: what is to come is routed by itself")
		case active:
			return definition.ErrReplayActive
		}
		types := req.EventTypes
		if types == nil {
			types = []string{}
		}
		rows, err = tx.Query(ctx, `
			INSERT INTO replays (id, from_at, to_at, event_types, definition_ids, dry_run, status)
			VALUES ($1, $2, $3, $4, $5, $6, 'pending')
			RETURNING `+replayColumns, id, req.From, req.To, types, req.DefinitionIDs, req.DryRun)
		if err != nil {
			return err
		}
		replay, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Replay, error) { return scanReplay(row) })
		if err != nil {
			return err
		}
		if !req.DryRun {
			err = recordReplay(ctx, tx, definition.ActionReplayCreate, id, req.DefinitionIDs, nil,
				map[string]any{"from": req.From.UTC(), "to": req.To.UTC(), "event_types": types, "definition_ids": req.DefinitionIDs})
			if err != nil {
				return err
			}
		}
		return rememberMade(ctx, tx, id)
	})
	return replay, err
}

// recordReplay writes a row of the audit trail about a replay. It is about a definition where the replay is of that one alone.
func recordReplay(ctx context.Context, tx pgx.Tx, action definition.Action, id string, definitionIDs []string,
	before, after map[string]any) error {
	row := audited{action: action, target: definition.Target{Kind: definition.TargetReplay, ID: id}}
	if len(definitionIDs) == 1 {
		row.id = definitionIDs[0]
	}
	var err error
	if row.before, row.after, err = told(before, after); err != nil {
		return err
	}
	return row.record(ctx, tx)
}

const replayColumns = `id::text, seq, from_at, to_at, event_types, definition_ids::text[], dry_run, status, error, next_seq, counted::text,
	done::text, created_at, finished_at`

func scanReplay(row pgx.CollectableRow, more ...any) (r definition.Replay, err error) {
	var next int64
	var counted, done []byte
	err = row.Scan(append([]any{&r.ID, &r.Seq, &r.From, &r.To, &r.EventTypes, &r.DefinitionIDs, &r.DryRun, &r.Status, &r.Error, &next,
		&counted, &done, &r.CreatedAt, &r.FinishedAt}, more...)...)
	if err != nil {
		return r, err
	}
	r.NextStreamSeq = uint64(next)
	r.From, r.To, r.CreatedAt, r.FinishedAt = r.From.UTC(), r.To.UTC(), r.CreatedAt.UTC(), utc(r.FinishedAt)
	return r, errors.Join(json.Unmarshal(counted, &r.Counted), json.Unmarshal(done, &r.Done))
}

// GetReplay returns a replay with its progress; ErrNotFound when there is none. A replay is in the scope of a caller who sees all of its
// definitions.
func (s *Store) GetReplay(ctx context.Context, id string) (definition.Replay, error) {
	scope, args := allWithin(ctx, "definition_ids", []any{id})
	rows, err := s.pool.Query(ctx, `SELECT `+replayColumns+` FROM replays WHERE id = $1`+scope, args...)
	if err != nil {
		return definition.Replay{}, translate("get replay "+id, err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Replay, error) { return scanReplay(row) })
	return r, translate("get replay "+id, err)
}

// ListReplays returns a page of replays, newest first.
func (s *Store) ListReplays(ctx context.Context, q definition.ListReplays) ([]definition.Replay, error) {
	scope, args := allWithin(ctx, "definition_ids", []any{q.BeforeSeq, q.Limit})
	rows, err := s.pool.Query(ctx, `SELECT `+replayColumns+` FROM replays WHERE ($1 = 0 OR seq < $1)`+scope+` ORDER BY seq DESC LIMIT $2`,
		args...)
	if err != nil {
		return nil, translate("list replays", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.Replay, error) { return scanReplay(row) })
	return list, translate("list replays", err)
}

// CancelReplay ends an active replay: the router that works on it stops at its next step, and the runs that were made go on. A
// replay that has ended stays as it is. ErrNotFound: there is none.
func (s *Store) CancelReplay(ctx context.Context, id string) (definition.Replay, error) {
	err := s.tx(ctx, "cancel replay "+id, func(tx pgx.Tx) error {
		var before definition.ReplayStatus
		var definitionIDs []string
		scope, args := allWithin(ctx, "definition_ids", []any{id})
		err := tx.QueryRow(ctx, `
			WITH before AS (SELECT id, status FROM replays WHERE id = $1 AND status IN ('pending', 'counting', 'running')`+scope+`
			                FOR UPDATE)
			UPDATE replays r SET status = 'canceled', finished_at = now() FROM before WHERE r.id = before.id
			RETURNING before.status, r.definition_ids::text[]`, args...).Scan(&before, &definitionIDs)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // GetReplay tells whether there is one
		}
		if err != nil {
			return err
		}
		return recordReplay(ctx, tx, definition.ActionReplayCancel, id, definitionIDs, map[string]any{"status": before},
			map[string]any{"status": definition.ReplayCanceled})
	})
	if err != nil {
		return definition.Replay{}, err
	}
	return s.GetReplay(ctx, id)
}

// replayLease is how long a router has for one step of a replay, before another one goes on with it.
const replayLease = 20 * time.Second

// ClaimReplay takes the oldest replay that nobody works on; ok is false when there is none.
func (s *Store) ClaimReplay(ctx context.Context) (r definition.ClaimedReplay, ok bool, err error) {
	rows, err := s.pool.Query(ctx, `
		UPDATE replays SET lease = lease + 1, lease_until = now() + $1::interval,
		       status = CASE status WHEN 'pending' THEN 'counting' ELSE status END
		WHERE id = (SELECT id FROM replays WHERE status IN ('pending', 'counting', 'running')
		            AND (lease_until IS NULL OR lease_until < now()) ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING `+replayColumns+`, lease, from_seq, to_seq`, replayLease)
	if err != nil {
		return r, false, translate("claim a replay", err)
	}
	r, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (c definition.ClaimedReplay, err error) {
		var from, to int64
		c.Replay, err = scanReplay(row, &c.Lease, &from, &to)
		c.FromStreamSeq, c.ToStreamSeq = uint64(from), uint64(to)
		return c, err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return r, false, nil
	}
	return r, err == nil, translate("claim a replay", err)
}

// ReplayDefinitions returns definitions as the router matches them for a replay: enabled or not, whatever their age.
func (s *Store) ReplayDefinitions(ctx context.Context, ids []string) ([]definition.Routable, error) {
	return s.routables(ctx, "get the definitions of a replay", `
		SELECT id::text, name, revision, document::text, '1970-01-01'::timestamptz, true FROM definitions
		WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL AND trigger_type = 'event'`, ids)
}

// UpdateReplay writes what a router found out about its replay: all of it but what was asked for. ErrLeaseLost: the replay was
// canceled, or is another router's by now.
func (s *Store) UpdateReplay(ctx context.Context, r definition.ClaimedReplay) error {
	return s.tx(ctx, "update replay "+r.ID, func(tx pgx.Tx) error { return updateReplay(ctx, tx, r) })
}

func updateReplay(ctx context.Context, tx pgx.Tx, r definition.ClaimedReplay) error {
	counted, errA := json.Marshal(r.Counted)
	done, errB := json.Marshal(r.Done)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `
		UPDATE replays SET status = $3, error = $4, from_seq = $5, to_seq = $6, next_seq = $7, counted = $8, done = $9,
		       lease_until = now() + $10::interval,
		       finished_at = CASE WHEN $3 IN ('completed', 'canceled', 'failed') THEN now() END
		WHERE id = $1 AND lease = $2 AND status IN ('counting', 'running')`,
		r.ID, r.Lease, r.Status, bound(r.Error), int64(r.FromStreamSeq), int64(r.ToStreamSeq), int64(r.NextStreamSeq), counted, done,
		replayLease)
	if err == nil && tag.RowsAffected() == 0 {
		return definition.ErrLeaseLost
	}
	return err
}

// CountReplayed tells what would become of occurrences of past events: of those that are new, that would be run again, and that
// have run. An occurrence with a ConditionError is none of these.
func (s *Store) CountReplayed(ctx context.Context, occurrences []definition.Occurrence) (definition.ReplayCounts, error) {
	var counts definition.ReplayCounts
	_, err := wantedReplays(ctx, s.pool, occurrences, &counts)
	return counts, translate("count replayed events", err)
}

// AcceptReplayed commits a step of a replay: a row for each occurrence that has none, or none that stands for a run, and the
// replay's progress. It adds what it did to r.Done and returns what is needed to start the new rows. Errors: those of AcceptEvents;
// ErrLeaseLost when the replay was canceled or is another router's by now. After an error nothing is stored.
func (s *Store) AcceptReplayed(ctx context.Context, r *definition.ClaimedReplay, events []definition.EventRecord,
	occurrences []definition.Occurrence) ([]definition.Start, error) {
	var starts []definition.Start
	after := *r
	err := s.tx(ctx, "replay events", func(tx pgx.Tx) error {
		after = *r
		eventArgs := eventArgs(events)
		rows, err := tx.Query(ctx, acceptEvents, eventArgs...)
		if err != nil {
			return err
		}
		reused, err := reusedIDs(rows, events)
		if err != nil {
			return err
		}
		// An event whose id is another's is a dead letter, and stays one.
		ours := slices.DeleteFunc(slices.Clone(occurrences), func(o definition.Occurrence) bool { return slices.Contains(reused, o.EventID) })
		var counts definition.ReplayCounts
		wanted, err := wantedReplays(ctx, tx, ours, &counts)
		if err != nil {
			return err
		}
		if rows, err = tx.Query(ctx, acceptRuns+acceptEventsJoin+acceptOrder, append(acceptArgs(wanted), eventArgs[:4]...)...); err != nil {
			return err
		}
		if starts, err = collectAccepted(rows); err != nil {
			return err
		}
		n := len(wanted)
		definitions, keys, rerunOf := make([]string, n), make([]string, n), make([]string, n)
		for i, w := range wanted {
			definitions[i], keys[i], rerunOf[i] = w.DefinitionID, w.Key, w.RerunOf
		}
		// Those that were not judged are among the new rows, and not among the starts. What others made has its replay already.
		_, err = tx.Exec(ctx, `
			UPDATE runs SET replay_id = $1, rerun_of = NULLIF(n.rerun_of, '')::uuid
			FROM unnest($2::uuid[], $3::text[], $4::text[]) AS n (definition_id, key, rerun_of)
			WHERE runs.definition_id = n.definition_id AND runs.occurrence_key = n.key AND runs.kind = 'replay'
			      AND runs.replay_id IS NULL`, r.ID, definitions, keys, rerunOf)
		if err != nil {
			return err
		}
		after.Done.Add(counts)
		return updateReplay(ctx, tx, after)
	})
	if err != nil {
		return nil, err
	}
	*r = after
	return starts, nil
}

// wantedReplays returns the occurrences that are to get a row, with the key of that row, and counts all of them.
func wantedReplays(ctx context.Context, db querier, occurrences []definition.Occurrence, counts *definition.ReplayCounts) (
	[]definition.Occurrence, error) {
	n := len(occurrences)
	definitions, keys := make([]string, n), make([]string, n)
	for i, o := range occurrences {
		definitions[i], keys[i] = o.DefinitionID, o.Key
	}
	rows, err := db.Query(ctx, `
		SELECT COALESCE(r.id::text, ''), COALESCE((SELECT count(*) FROM runs m WHERE m.rerun_of = r.id), 0),
		       COALESCE(`+standsForNoRun("r")+` AND NOT EXISTS (SELECT FROM runs m WHERE m.rerun_of = r.id AND NOT `+standsForNoRun("m")+`), true)
		FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS o (definition_id, key, place)
		LEFT JOIN runs r ON r.definition_id = o.definition_id AND r.occurrence_key = o.key
		ORDER BY o.place`, definitions, keys)
	if err != nil {
		return nil, err
	}
	type known struct {
		runID   string
		reruns  int
		missing bool
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k known, err error) {
		err = row.Scan(&k.runID, &k.reruns, &k.missing)
		return k, err
	})
	if err != nil {
		return nil, err
	}
	var wanted []definition.Occurrence
	for i, o := range occurrences {
		k := list[i]
		switch {
		case o.ConditionError != "":
			counts.Failed++
			if k.runID != "" {
				continue // its row says so, or something better
			}
		case k.runID == "":
			counts.New++
		case k.missing:
			counts.Rerun++
			o.Key, o.RerunOf = definition.RerunKey(k.runID, k.reruns+1), k.runID
		default:
			counts.Ran++
			continue
		}
		o.Kind = definition.KindReplay
		wanted = append(wanted, o)
	}
	counts.Matched += int64(n)
	return wanted, nil
}

// standsForNoRun is the condition that an event's row never became a run: it may be made up for.
func standsForNoRun(alias string) string {
	return fmt.Sprintf(`(%[1]s.status IN ('missed', 'skipped')
		OR %[1]s.status = 'failed' AND %[1]s.reason IN ('condition_error', 'start_refused', 'start_lost'))`, alias)
}
