package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// audited is one row of the audit trail: something was done to the target. Who did it, and from where, is what the context says.
type audited struct {
	action   definition.Action
	target   definition.Target // what it was done to
	id       string            // of the definition that it is about; "" for none
	revision int               // of that definition; 0 where it does not matter
	before   []byte            // JSON; nil where there was nothing, or nothing that could be said
	after    []byte
}

// auditWho are the columns that say who did something, in the order of who.
const auditWho = "actor, actor_id, address, request_id"

// who tells a statement who does what it does.
func who(ctx context.Context) []string {
	c := access.From(ctx)
	return []string{c.Name, c.ID, c.Address, c.RequestID}
}

type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// record writes a row of the audit trail. It belongs into the transaction that does what the row tells of.
func (a audited) record(ctx context.Context, q execer) error {
	_, err := q.Exec(ctx, `
		INSERT INTO audit (`+auditWho+`, action, target_kind, target_id, definition_id, revision, before, after)
		SELECT ($1::text[])[1], ($1::text[])[2], ($1::text[])[3], ($1::text[])[4], $2, $3, $4, NULLIF($5, '')::uuid, NULLIF($6, 0), $7::json, $8::json`,
		who(ctx), a.action, a.target.Kind, a.target.ID, a.id, a.revision, a.before, a.after)
	return err
}

// told encodes what there is to tell of the time before an action and after it; nil is nothing.
func told(before, after map[string]any) (dataBefore, dataAfter []byte, err error) {
	for _, part := range []struct {
		values map[string]any
		data   *[]byte
	}{{before, &dataBefore}, {after, &dataAfter}} {
		if part.values == nil {
			continue
		}
		if *part.data, err = json.Marshal(part.values); err != nil {
			return nil, nil, fmt.Errorf("describe a change: %w", err)
		}
	}
	return dataBefore, dataAfter, nil
}

// RecordSync notes that all schedules are about to be compared and corrected.
func (s *Store) RecordSync(ctx context.Context) error {
	a := audited{action: definition.ActionSchedulesSync, target: definition.Target{Kind: definition.TargetSchedules}}
	return translate("note the comparison of all schedules", a.record(ctx, s.pool))
}

// withinLabels is a condition that keeps what is about one of the caller's definitions; the two arguments are those of callersLabels.
func withinLabels(definitionID, keys, values string) string {
	return fmt.Sprintf(` AND NOT EXISTS (
		SELECT FROM unnest(%s::text[], %s::text[]) AS wanted (key, value)
		WHERE NOT EXISTS (SELECT FROM definition_labels l
		                  WHERE l.definition_id = %s AND l.key = wanted.key AND l.value = wanted.value))`, keys, values, definitionID)
}

// callersLabels are the labels that the caller is limited to, as two arguments: their keys and their values, NULL for no limit.
func callersLabels(ctx context.Context) []any {
	keys, values := access.From(ctx).LabelPairs()
	return []any{keys, values}
}

const auditColumns = `a.id, a.at, a.actor, a.actor_id, a.address, a.request_id, a.action, a.target_kind, a.target_id,
	COALESCE(a.definition_id::text, ''), COALESCE(d.name, ''), COALESCE(a.revision, 0)`

func scanAudit(row pgx.CollectableRow, more ...any) (e definition.AuditEntry, err error) {
	err = row.Scan(append([]any{&e.ID, &e.At, &e.Actor, &e.ActorID, &e.Address, &e.RequestID, &e.Action, &e.Target.Kind, &e.Target.ID,
		&e.DefinitionID, &e.DefinitionName, &e.Revision}, more...)...)
	e.At = e.At.UTC()
	return e, err
}

// GetAudit returns a row of the audit trail; ErrNotFound when there is none, or when it is not about one of the caller's definitions.
func (s *Store) GetAudit(ctx context.Context, id int64) (definition.AuditEntry, error) {
	attempt := fmt.Sprintf("get entry %d of the audit trail", id)
	rows, err := s.pool.Query(ctx, `
		SELECT `+auditColumns+`, a.before::text, a.after::text FROM audit a LEFT JOIN definitions d ON d.id = a.definition_id
		WHERE a.id = $1`+withinLabels("a.definition_id", "$2", "$3"), append([]any{id}, callersLabels(ctx)...)...)
	if err != nil {
		return definition.AuditEntry{}, translate(attempt, err)
	}
	e, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.AuditEntry, error) {
		var before, after *string
		e, err := scanAudit(row, &before, &after)
		e.Before, e.After = optionalBytes(before), optionalBytes(after)
		return e, err
	})
	return e, translate(attempt, err)
}

func optionalBytes(text *string) []byte {
	if text == nil {
		return nil
	}
	return []byte(*text)
}

// ListAudit returns a page of the audit trail, newest first, without what was before and after. Of a caller who is limited to some
// definitions, it has only what is about these.
func (s *Store) ListAudit(ctx context.Context, q definition.ListAudit) ([]definition.AuditEntry, error) {
	sql, args := listAudit(ctx, q)
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, translate("list the audit trail", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.AuditEntry, error) { return scanAudit(row) })
	return list, translate("list the audit trail", err)
}

// listAudit writes the statement of a page. It is read along one index, that of the first filter which is given, from the page's place
// on: the bounds and the order are those of the index as a whole, (actor, id) say, and not of the id alone, for which the planner might
// walk the whole trail backwards to what is rare and old. Without a filter, a caller with labels gets a merge of the newest of each of
// the definitions.
func listAudit(ctx context.Context, q definition.ListAudit) (string, []any) {
	args := []any{q.Limit}
	arg := func(value any) string {
		args = append(args, value)
		return fmt.Sprintf("$%d", len(args))
	}
	var conditions []string
	// The time is first brought into ids, as in whereRuns.bounds. Requests take less than a minute.
	from, to := "0", "9223372036854775807"
	if q.BeforeID > 0 {
		to = arg(q.BeforeID) + "::bigint"
	}
	if !q.Since.IsZero() {
		since := arg(q.Since) + "::timestamptz"
		conditions = append(conditions, "a.at >= "+since)
		from = `COALESCE((SELECT id FROM audit WHERE at < ` + since + ` - interval '1 min' ORDER BY at DESC, id DESC LIMIT 1), 0)`
	}
	if !q.Until.IsZero() {
		until := arg(q.Until) + "::timestamptz"
		conditions = append(conditions, "a.at < "+until)
		to = `LEAST(` + to + `, (SELECT id FROM audit WHERE at >= ` + until + ` + interval '1 min' ORDER BY at, id LIMIT 1))`
	}
	along := "" // the column, and its value
	var value string
	for _, filter := range []struct {
		column, text, as string
	}{
		{"a.target_id", q.Target.ID, "text"}, {"a.definition_id", q.DefinitionID, "uuid"}, {"a.actor", q.Actor, "text"},
		{"a.action", string(q.Action), "text"}, {"a.target_kind", string(q.Target.Kind), "text"},
	} {
		switch {
		case filter.text == "":
		case along == "":
			along, value = filter.column, arg(filter.text)+"::"+filter.as
		default:
			conditions = append(conditions, filter.column+" = "+arg(filter.text)+"::"+filter.as)
		}
	}
	limited, labels := access.From(ctx).Limited(), callersLabels(ctx)
	within, theirs := "", ""
	if limited {
		keys, values := arg(labels[0]), arg(labels[1])
		within = withinLabels("a.definition_id", keys, values)
		theirs = fmt.Sprintf(`SELECT definition_id AS id FROM definition_labels
			JOIN unnest(%[1]s::text[], %[2]s::text[]) AS wanted (key, value) USING (key, value)
			GROUP BY definition_id HAVING count(*) = cardinality(%[1]s::text[])`, keys, values)
	}
	page := func(along, value, within string) string {
		order, bounds := "a.id DESC", "a.id > "+from+" AND a.id < "+to
		if along != "" {
			order, bounds = along+" DESC, a.id DESC", fmt.Sprintf("(%[1]s, a.id) > (%[2]s, %[3]s) AND (%[1]s, a.id) < (%[2]s, %[4]s)", along, value, from, to)
		}
		return "SELECT a.* FROM audit a WHERE " + strings.Join(append([]string{bounds}, conditions...), " AND ") + within +
			" ORDER BY " + order + " LIMIT $1"
	}
	rows := page(along, value, within)
	if limited && along == "" {
		rows = `SELECT a.* FROM (` + theirs + `) o CROSS JOIN LATERAL (` + page("a.definition_id", "o.id", "") + `) a
			ORDER BY a.id DESC LIMIT $1`
	}
	return `SELECT ` + auditColumns + ` FROM (` + rows + `) a LEFT JOIN definitions d ON d.id = a.definition_id ORDER BY a.id DESC`, args
}
