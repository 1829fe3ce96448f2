package postgres

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// CreateDefinition stores a new definition, its first revision and its audit row, and marks its schedule to be made.
// The error is ErrNameTaken when a live definition has the name, ErrTooManyDefinitions when the caller has as many as it may have, and
// an InvalidError when its only due time is past, or when it would be out of the caller's scope.
func (s *Store) CreateDefinition(ctx context.Context, doc definition.Document) (definition.Stored, error) {
	id := definition.NewID()
	data, err := encode(doc)
	if err != nil {
		return definition.Stored{}, err
	}
	var stored definition.Stored
	err = s.tx(ctx, "create definition "+doc.Name, func(tx pgx.Tx) error {
		if err := definition.CheckScope(&doc, nil, access.From(ctx).Labels); err != nil {
			return err
		}
		if err := mayMakeOneMore(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO definitions (id, name, revision, enabled, enabled_since, trigger_type, event_type, document, made_by,
			                         created_at, updated_at)
			VALUES ($1, $2, 1, $3, now(), $4, NULLIF($5, ''), $6, $7, now(), now())`,
			id, doc.Name, doc.Enabled, doc.Trigger.Type, doc.Trigger.EventType, data, access.From(ctx).ID)
		if err != nil {
			return err
		}
		if err := followDefinition(ctx, tx, id, 1, nil, &doc, nil); err != nil {
			return err
		}
		if err := recordChange(ctx, tx, change{id: id, action: definition.ActionCreate, revision: 1, doc: &doc, after: data}); err != nil {
			return err
		}
		if stored, err = readDefinition(ctx, tx, id, false); err != nil {
			return err
		}
		return rememberMade(ctx, tx, id)
	})
	return stored, err
}

// mayMakeOneMore refuses the caller who has made as many definitions as it may have. Whoever makes one under such a limit waits for
// the same caller's transactions before, so that those of one moment count each other.
func mayMakeOneMore(ctx context.Context, tx pgx.Tx) error {
	caller := access.From(ctx)
	if caller.MaxDefinitions == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('definitions made by ' || $1, 0))`, caller.ID); err != nil {
		return err
	}
	// A statement of its own: it sees what was committed while the lock was waited for. made_by <> '' is the index's condition.
	var made int
	err := tx.QueryRow(ctx, `SELECT count(*) FROM definitions WHERE made_by = $1 AND made_by <> '' AND deleted_at IS NULL`,
		caller.ID).Scan(&made)
	if err != nil {
		return err
	}
	if made >= caller.MaxDefinitions {
		return definition.ErrTooManyDefinitions
	}
	return nil
}

// GetDefinition returns a live definition; ErrNotFound for others. As in every method that the API calls, what is outside of the caller's
// scope is not there (see scope.go).
func (s *Store) GetDefinition(ctx context.Context, id string) (definition.Stored, error) {
	stored, err := readDefinition(ctx, s.pool, id, false)
	return stored, translate("get definition "+id, err)
}

// ListDefinitions returns a page of live definitions in the order of creation.
func (s *Store) ListDefinitions(ctx context.Context, q definition.ListDefinitions) ([]definition.Stored, error) {
	const attempt = "list definitions"
	sql, args := listDefinitions(q, labelsOf(ctx, q.Labels))
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, translate(attempt, err)
	}
	list, err := pgx.CollectRows(rows, scanDefinition)
	return list, translate(attempt, err)
}

// listDefinitions writes the statement of a page. As those of runs (see listRuns), definitions with some state are a merge of the first
// of each state, by an index whose order no other one has (see migrations 11 and 13). Labels have indexes by the state of their
// definitions: what has several labels is met by walks along all of these, side by side.
func listDefinitions(q definition.ListDefinitions, labels []label) (string, []any) {
	args := []any{q.Limit, q.AfterSeq}
	arg := func(value any) string {
		args = append(args, value)
		return fmt.Sprintf("$%d", len(args))
	}
	column, values, enabled := "trigger_type", any(definition.TriggerTypes), []bool{false, true}
	switch {
	case q.EventType != "" && (q.TriggerType == "" || q.TriggerType == definition.TriggerEvent):
		column, values = "event_type", []string{q.EventType}
	case q.EventType != "":
		values = []string{} // no other trigger has one
	case q.TriggerType != "":
		values = []definition.TriggerType{q.TriggerType}
	}
	if q.Enabled != nil {
		enabled = []bool{*q.Enabled}
	}
	var from string
	switch {
	case q.Name != "":
		var conditions []string
		conditions, args = hasLabels("d.id", labels, args)
		conditions = append(conditions, "d.name = "+arg(q.Name), "d."+column+" = ANY("+arg(values)+")", "d.enabled = ANY("+arg(enabled)+")")
		from = "definitions d WHERE d.deleted_at IS NULL AND d.seq + 0 > $2 AND " + strings.Join(conditions, " AND ")
	case len(labels) == 0 && q.TriggerType == "" && q.EventType == "" && q.Enabled == nil:
		from = "definitions d WHERE d.deleted_at IS NULL AND d.seq > $2 ORDER BY d.seq LIMIT $1"
	default:
		from = "unnest(" + arg(values) + "::text[]) v (wanted) CROSS JOIN unnest(" + arg(enabled) + "::bool[]) e (wanted) CROSS JOIN LATERAL ("
		state := "%[1]s." + column + " = v.wanted AND %[1]s.enabled = e.wanted"
		if len(labels) == 0 {
			from += fmt.Sprintf("SELECT d.* FROM definitions d WHERE d.deleted_at IS NULL AND 0 + d.seq > $2 AND "+state+
				" ORDER BY 0 + d.seq LIMIT $1) d", "d")
			break
		}
		var walks, conditions []string
		for i, l := range labels {
			walk := fmt.Sprintf("l%d", i)
			walks = append(walks, "definition_labels "+walk)
			conditions = append(conditions, fmt.Sprintf("%[1]s.live AND %[1]s.key = %[2]s AND %[1]s.value = %[3]s AND %[1]s.seq > $2 AND "+state,
				walk, arg(l.key), arg(l.value)))
			if i > 0 {
				conditions = append(conditions, walk+".seq = l0.seq")
			}
		}
		from += "SELECT l0.definition_id FROM " + strings.Join(walks, ", ") + " WHERE " + strings.Join(conditions, " AND ") +
			" ORDER BY l0.seq LIMIT $1) l JOIN definitions d ON d.id = l.definition_id"
	}
	return fmt.Sprintf(selectDefinition, "(SELECT d.* FROM "+from+") d") + " ORDER BY d.seq LIMIT $1", args
}

// UpdateDefinition changes a live definition in one transaction: edit receives the document in force and returns the
// wanted one. A document that means the same makes no revision. Errors: ErrNotFound, ErrNameTaken, an InvalidError when the wanted one
// would be out of the caller's scope, those of edit, and a RevisionError when the revision in force is none of those that when names.
func (s *Store) UpdateDefinition(
	ctx context.Context, id string, by definition.Change, edit func(definition.Document) (definition.Document, error),
	when ...definition.Match,
) (definition.Stored, error) {
	var stored definition.Stored
	var judged []definition.Judged
	err := s.tx(ctx, "update definition "+id, func(tx pgx.Tx) error {
		judged = nil
		now, err := matchingDefinition(ctx, tx, id, when)
		if err != nil {
			return err
		}
		stored = now
		doc, err := edit(now.Document)
		if err != nil {
			return err
		}
		if err := definition.CheckScope(&doc, &now.Document, access.From(ctx).Labels); err != nil {
			return err
		}
		if doc.Equal(now.Document) {
			return rememberMade(ctx, tx, id)
		}
		before, err := encode(now.Document)
		if err != nil {
			return err
		}
		after, err := encode(doc)
		if err != nil {
			return err
		}
		// What has become due until now is judged by the revision that it became due under.
		var state *state
		if state, judged, err = settleFully(ctx, tx, id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE definitions
			SET name = $2, revision = revision + 1, enabled = $3, trigger_type = $4, event_type = NULLIF($5, ''),
			    document = $6, updated_at = now(),
			    enabled_since = CASE WHEN $3 AND NOT enabled THEN now() ELSE enabled_since END
			WHERE id = $1`,
			id, doc.Name, doc.Enabled, doc.Trigger.Type, doc.Trigger.EventType, after)
		if err != nil {
			return err
		}
		if err := followDefinition(ctx, tx, id, now.Revision+1, &now.Document, &doc, state); err != nil {
			return err
		}
		err = recordChange(ctx, tx, change{id: id, action: cmp.Or(by.Action, definition.ActionUpdate), rolledBackTo: by.RolledBackTo,
			revision: now.Revision + 1, doc: &doc, before: before, after: after, hadSchedule: now.Trigger.FollowsClock()})
		if err != nil {
			return err
		}
		if doc.Limits(definition.KindEvent).Limit != now.Limits(definition.KindEvent).Limit {
			if err := wakeFirst(ctx, tx, id); err != nil {
				return err
			}
		}
		if stored, err = readDefinition(ctx, tx, id, false); err != nil {
			return err
		}
		return rememberMade(ctx, tx, id)
	})
	s.tell(judged, err)
	return stored, err
}

// matchingDefinition locks a live definition to change it. A RevisionError: its revision is none of those that are wanted.
func matchingDefinition(ctx context.Context, tx pgx.Tx, id string, when []definition.Match) (definition.Stored, error) {
	now, err := readDefinition(ctx, tx, id, true)
	if err != nil {
		return now, err
	}
	for _, match := range when {
		if err := match.Check(now.Revision); err != nil {
			return now, err
		}
	}
	return now, nil
}

// DeleteDefinition deletes a live definition; ErrNotFound for others, and a RevisionError as of UpdateDefinition. Its runs, revisions
// and audit trail stay.
func (s *Store) DeleteDefinition(ctx context.Context, id string, when ...definition.Match) error {
	var judged []definition.Judged
	err := s.tx(ctx, "delete definition "+id, func(tx pgx.Tx) error {
		judged = nil
		now, err := matchingDefinition(ctx, tx, id, when)
		if err != nil {
			return err
		}
		before, err := encode(now.Document)
		if err != nil {
			return err
		}
		var state *state
		if state, judged, err = settleFully(ctx, tx, id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE definitions SET deleted_at = now(), updated_at = now(), revision = revision + 1 WHERE id = $1`, id)
		if err != nil {
			return err
		}
		if err := followDefinition(ctx, tx, id, now.Revision+1, &now.Document, nil, state); err != nil {
			return err
		}
		err = recordChange(ctx, tx, change{id: id, action: definition.ActionDelete, revision: now.Revision + 1, before: before,
			hadSchedule: now.Trigger.FollowsClock()})
		if err != nil {
			return err
		}
		return rememberMade(ctx, tx, id)
	})
	s.tell(judged, err)
	return err
}

// CountDefinitions counts live definitions by trigger type.
func (s *Store) CountDefinitions(ctx context.Context) (map[definition.TriggerType]int, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT trigger_type, count(*) FROM definitions WHERE deleted_at IS NULL GROUP BY trigger_type`)
	if err != nil {
		return nil, translate("count definitions", err)
	}
	counts := map[definition.TriggerType]int{}
	for _, t := range definition.TriggerTypes {
		counts[t] = 0
	}
	var trigger definition.TriggerType
	var n int
	_, err = pgx.ForEachRow(rows, []any{&trigger, &n}, func() error {
		counts[trigger] = n
		return nil
	})
	return counts, translate("count definitions", err)
}

// change is what every write of a definition leaves behind besides the row itself.
type change struct {
	id           string
	action       definition.Action
	rolledBackTo int // a revision; 0 for none
	revision     int
	doc          *definition.Document // nil for a deletion
	before       []byte
	after        []byte
	hadSchedule  bool
}

func recordChange(ctx context.Context, tx pgx.Tx, c change) error {
	if c.doc != nil {
		_, err := tx.Exec(ctx, `
			INSERT INTO definition_revisions (definition_id, revision, document, run_limit, run_timeout, actor, action, rolled_back_to, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, NULLIF($8, 0), now())`,
			c.id, c.revision, c.after, c.doc.Limits(definition.KindEvent).Limit, c.doc.RunTimeout(), access.From(ctx).Name, c.action,
			c.rolledBackTo)
		if err != nil {
			return err
		}
		if err := keepLabels(ctx, tx, c.id, c.doc.Labels); err != nil {
			return err
		}
	}
	if c.hadSchedule || (c.doc != nil && c.doc.Trigger.FollowsClock()) {
		_, err := tx.Exec(ctx, `
			INSERT INTO schedule_sync (definition_id, desired) VALUES ($1, $2)
			ON CONFLICT (definition_id) DO UPDATE
			SET desired = excluded.desired, next_attempt_at = now(), attempts = 0, last_error = '',
			    since = CASE WHEN schedule_sync.dirty THEN schedule_sync.since ELSE now() END, dirty = true`,
			c.id, c.revision)
		if err != nil {
			return err
		}
	}
	after := c.after
	if c.rolledBackTo > 0 {
		var err error
		if after, err = withMember(c.after, rolledBackTo, c.rolledBackTo); err != nil {
			return err
		}
	}
	return audited{action: c.action, target: definition.Target{Kind: definition.TargetDefinition, ID: c.id}, id: c.id,
		revision: c.revision, before: c.before, after: after}.record(ctx, tx)
}

// rolledBackTo is the member of the audit trail's document that says which revision came back.
const rolledBackTo = "rolled_back_to"

// withMember returns a JSON object with one more member.
func withMember(data []byte, name string, value any) ([]byte, error) {
	members := map[string]jsontext.Value{}
	encoded, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(data, &members)
	}
	if err != nil {
		return nil, fmt.Errorf("add %s to a document: %w", name, err)
	}
	members[name] = encoded
	return json.Marshal(members, json.Deterministic(true))
}

// keepLabels makes the table by which runs are found by labels say what the definition does. A deleted definition keeps its own.
func keepLabels(ctx context.Context, tx pgx.Tx, id string, labels map[string]string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM definition_labels WHERE definition_id = $1`, id); err != nil || len(labels) == 0 {
		return err
	}
	var keys, values []string
	for key, value := range labels {
		// A value with U+0000, which text cannot hold, is one that nobody can ask for.
		if !strings.ContainsRune(value, 0) {
			keys, values = append(keys, key), append(values, value)
		}
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO definition_labels (definition_id, key, value)
		SELECT $1, l.key, l.value FROM unnest($2::text[], $3::text[]) AS l (key, value)`, id, keys, values)
	return err
}

// selectDefinition takes where the definitions come from, as d.
const selectDefinition = `
	SELECT d.id::text, d.revision, d.document::text, d.created_at, d.updated_at, d.enabled_since, d.seq,
	       s.definition_id IS NOT NULL, COALESCE(s.dirty, false), COALESCE(s.desired, 0), COALESCE(s.observed, 0),
	       COALESCE(s.last_error, ''), COALESCE(s.since, d.created_at)
	FROM %s LEFT JOIN schedule_sync s ON s.definition_id = d.id`

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// readDefinition reads a live definition of the caller's scope, and may lock its row; pgx.ErrNoRows for others.
func readDefinition(ctx context.Context, q querier, id string, lock bool) (definition.Stored, error) {
	scope, args := within(ctx, "d.id", []any{id})
	sql := fmt.Sprintf(selectDefinition, "definitions d") + ` WHERE d.id = $1 AND d.deleted_at IS NULL` + scope
	if lock {
		sql += ` FOR UPDATE OF d`
	}
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return definition.Stored{}, err
	}
	stored, err := pgx.CollectExactlyOneRow(rows, scanDefinition)
	// A statement that waited for the lock has read the row as it is now, but the labels beside it as they were before.
	if err == nil && lock && !access.From(ctx).Sees(stored.Labels) {
		return definition.Stored{}, pgx.ErrNoRows
	}
	return stored, err
}

func scanDefinition(row pgx.CollectableRow) (definition.Stored, error) {
	var (
		d         definition.Stored
		document  string
		scheduled bool
		dirty     bool
		sync      definition.SyncStatus
	)
	err := row.Scan(&d.ID, &d.Revision, &document, &d.CreatedAt, &d.UpdatedAt, &d.EnabledSince, &d.Seq, &scheduled,
		&dirty, &sync.Desired, &sync.Observed, &sync.LastError, &sync.Since)
	if err != nil {
		return d, err
	}
	if d.Document, err = definition.DecodeStored([]byte(document)); err != nil {
		return d, fmt.Errorf("definition %s revision %d: %w", d.ID, d.Revision, err)
	}
	if scheduled {
		sync.State = syncState(dirty, sync.LastError)
		d.Sync = sync
	}
	return d, nil
}

func syncState(dirty bool, lastError string) definition.SyncState {
	switch {
	case !dirty:
		return definition.SyncSynced
	case lastError != "":
		return definition.SyncError
	}
	return definition.SyncPending
}

func encode(doc definition.Document) ([]byte, error) {
	data, err := json.Marshal(doc, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode definition %s: %w", doc.Name, err)
	}
	return data, nil
}

// utc drops the session's zone from a time that was read.
func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
