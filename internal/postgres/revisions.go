package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/definition"
)

const revisionColumns = `v.definition_id::text, v.revision, v.created_at, v.actor, v.action, COALESCE(v.rolled_back_to, 0)`

func scanRevision(row pgx.Row, more ...any) (r definition.RevisionSummary, err error) {
	err = row.Scan(append([]any{&r.DefinitionID, &r.Revision, &r.CreatedAt, &r.Actor, &r.Action, &r.RolledBackTo}, more...)...)
	r.CreatedAt = r.CreatedAt.UTC()
	return r, err
}

// ListRevisions returns a page of a definition's revisions, newest first, deleted or not; ErrNotFound when the definition is not kept
// any more, or is not one of the caller's. What changed is told of all but the last of the page, which is the one to compare with.
func (s *Store) ListRevisions(ctx context.Context, q definition.ListRevisions) ([]definition.RevisionSummary, error) {
	attempt := "list the revisions of definition " + q.DefinitionID
	scope, args := within(ctx, "v.definition_id", []any{q.DefinitionID, q.Before, q.Limit})
	rows, err := s.pool.Query(ctx, `
		SELECT `+revisionColumns+`, v.document::text FROM definition_revisions v
		WHERE v.definition_id = $1 AND ($2 = 0 OR v.revision < $2)`+scope+`
		ORDER BY v.revision DESC LIMIT $3`, args...)
	if err != nil {
		return nil, translate(attempt, err)
	}
	var newer []byte
	var list []definition.RevisionSummary
	for rows.Next() {
		var document []byte
		r, err := scanRevision(rows, &document)
		if n := len(list); err == nil && n > 0 {
			list[n-1].Changed, err = definition.ChangedFields(document, newer)
		}
		if err != nil {
			rows.Close()
			return nil, translate(attempt, err)
		}
		list, newer = append(list, r), document
	}
	if err := rows.Err(); err != nil || len(list) > 0 {
		return list, translate(attempt, err)
	}
	_, err = s.revisionsKept(ctx, q.DefinitionID, q.Before)
	return list, translate(attempt, err)
}

// GetRevision returns a revision of a definition, deleted or not. Errors: ErrNotFound when the definition is not kept any more, or is
// not one of the caller's; a RevisionMissingError when it has no such revision.
func (s *Store) GetRevision(ctx context.Context, definitionID string, revision int) (definition.Revision, error) {
	attempt := fmt.Sprintf("get revision %d of definition %s", revision, definitionID)
	scope, args := within(ctx, "v.definition_id", []any{definitionID, revision})
	rows, err := s.pool.Query(ctx, `
		SELECT `+revisionColumns+`, v.document::text FROM definition_revisions v
		WHERE v.definition_id = $1 AND v.revision = $2`+scope, args...)
	if err != nil {
		return definition.Revision{}, translate(attempt, err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (r definition.Revision, err error) {
		var document string
		if r.RevisionSummary, err = scanRevision(row, &document); err != nil {
			return r, err
		}
		r.Document, err = definition.DecodeStored([]byte(document))
		return r, err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		var missing *definition.RevisionMissingError
		if missing, err = s.revisionsKept(ctx, definitionID, revision); err == nil {
			err = missing
		}
	}
	return r, translate(attempt, err)
}

// revisionsKept tells what is there instead of a revision that is not; pgx.ErrNoRows when the caller sees nothing of the definition.
func (s *Store) revisionsKept(ctx context.Context, definitionID string, revision int) (*definition.RevisionMissingError, error) {
	missing := &definition.RevisionMissingError{Revision: revision}
	scope, args := within(ctx, "v.definition_id", []any{definitionID, revision})
	err := s.pool.QueryRow(ctx, `
		SELECT COALESCE(min(v.revision) FILTER (WHERE v.revision > $2), 0), max(v.revision) FROM definition_revisions v
		WHERE v.definition_id = $1`+scope+` HAVING count(*) > 0`, args...).Scan(&missing.Next, &missing.Newest)
	return missing, err
}
