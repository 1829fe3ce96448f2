package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
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
	scope, args := within(ctx, "a.definition_id", []any{id})
	rows, err := s.pool.Query(ctx, `
		SELECT `+auditColumns+`, a.before::text, a.after::text FROM audit a LEFT JOIN definitions d ON d.id = a.definition_id
		WHERE a.id = $1`+scope, args...)
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
	const attempt = "list the audit trail"
	if q.Action != "" && q.Target.Kind != "" { // the action says it all
		if q.Action.TargetKind() != q.Target.Kind {
			return nil, nil
		}
		q.Target.Kind = ""
	}
	filters, err := s.auditFilters(ctx, q)
	if err != nil {
		return nil, translate(attempt, err)
	}
	sql, args := listAudit(q, filters)
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, translate(attempt, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.AuditEntry, error) { return scanAudit(row) })
	return list, translate(attempt, err)
}

// auditFilter wants a column of the trail to have a value, or the definition to have the caller's labels. There is an index of each of
// these columns.
type auditFilter struct {
	column, value, as string
	labels            []label
	rows              int // how many are left, counted to maxProbes; 0 where nobody counted
}

// auditFilters returns what a page is to be filtered by, the filter first that leaves the fewest rows.
func (s *Store) auditFilters(ctx context.Context, q definition.ListAudit) ([]auditFilter, error) {
	filters := []auditFilter{{column: "target_id", value: q.Target.ID, as: "text"}, {column: "definition_id", value: q.DefinitionID, as: "uuid"},
		{column: "actor", value: q.Actor, as: "text"}, {column: "action", value: string(q.Action), as: "text"},
		{column: "target_kind", value: string(q.Target.Kind), as: "text"}}
	filters = slices.DeleteFunc(filters, func(f auditFilter) bool { return f.value == "" })
	labels, err := s.labels(ctx, nil)
	if err != nil {
		return nil, err
	}
	if len(labels) > 0 {
		filters = append(filters, auditFilter{labels: labels})
	}
	if len(filters) < 2 {
		return filters, nil
	}
	args, counts := []any{maxProbes}, make([]string, len(filters))
	for i, f := range filters {
		from := "audit a WHERE a." + f.column
		if f.labels == nil {
			args = append(args, f.value)
			from += fmt.Sprintf(" = $%d::%s", len(args), f.as)
		} else {
			var theirs string
			theirs, args = withLabels(f.labels, args)
			from = "(" + theirs + ") o (id) JOIN audit a ON a.definition_id = o.id"
		}
		counts[i] = "(SELECT count(*) FROM (SELECT FROM " + from + " LIMIT $1) a)"
	}
	found, err := s.counted(ctx, counts, args)
	if err != nil {
		return nil, err
	}
	for i := range filters {
		filters[i].rows = found[i]
	}
	slices.SortStableFunc(filters, func(a, b auditFilter) int { return cmp.Compare(a.rows, b.rows) })
	return filters, nil
}

// listAudit writes the statement of a page. It is read along one index, that of the first filter, from the page's place on, so that
// filters of which one is rare are fast; those that are all common and seldom meet are not. The bounds and the order are those of the
// index as a whole, (actor, id) say, and not of the id alone, for which the planner might walk the whole trail backwards to what is rare
// and old. What the caller's labels leave is a merge of the newest of each of the definitions, unless these are very many.
func listAudit(q definition.ListAudit, filters []auditFilter) (string, []any) {
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
	page := func(along, value string) string {
		order, bounds := "a.id DESC", "a.id > "+from+" AND a.id < "+to
		if along != "" {
			order, bounds = along+" DESC, a.id DESC", fmt.Sprintf("(%[1]s, a.id) > (%[2]s, %[3]s) AND (%[1]s, a.id) < (%[2]s, %[4]s)", along, value, from, to)
		}
		return "SELECT a.* FROM audit a WHERE " + strings.Join(append([]string{bounds}, conditions...), " AND ") +
			" ORDER BY " + order + " LIMIT $1"
	}
	along, value, merged := "", "", ""
	for i, f := range filters {
		switch {
		case f.labels != nil && i == 0 && f.labels[0].definitions <= maxProbes:
			merged, args = withLabels(f.labels, args)
			along, value = "a.definition_id", "o.id"
		case f.labels != nil:
			var more []string
			more, args = hasLabels("a.definition_id", f.labels, args)
			conditions = append(conditions, more...)
		case i == 0:
			along, value = "a."+f.column, arg(f.value)+"::"+f.as
		default:
			// Within COALESCE it does not look like a condition of another index.
			conditions = append(conditions, "COALESCE(a."+f.column+" = "+arg(f.value)+"::"+f.as+", false)")
		}
	}
	rows := page(along, value)
	if merged != "" {
		rows = "SELECT a.* FROM (" + merged + ") o (id) CROSS JOIN LATERAL (" + rows + ") a ORDER BY a.id DESC LIMIT $1"
	}
	return `SELECT ` + auditColumns + ` FROM (` + rows + `) a LEFT JOIN definitions d ON d.id = a.definition_id ORDER BY a.id DESC`, args
}
