package postgres

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

// audited is one row of the audit trail: something was done to the target. Who did it, and from where, is what the context says.
type audited struct {
	action   string            // such as "update" or "run.cancel"
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
