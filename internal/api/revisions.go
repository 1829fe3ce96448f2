package api

import (
	"context"
	"net/url"

	"github.com/activity-core/activity-core/internal/definition"
)

type listRevisionsInput struct {
	ID     string     `path:"id" format:"uuid" doc:"The definition's id."`
	Limit  limitParam `query:"limit" doc:"How many to return at most."`
	Cursor string     `query:"cursor" doc:"next_cursor of the page before."`
}

type revisionListOutput struct {
	Body RevisionList
}

// RevisionPath names a revision. It is exported because huma looks into exported types only.
type RevisionPath struct {
	ID       string        `path:"id" format:"uuid" doc:"The definition's id."`
	Revision revisionParam `path:"revision" doc:"The revision's number."`
}

type revisionOutput struct {
	Body Revision
}

type diffRevisionInput struct {
	RevisionPath
	Against revisionParam `query:"against" doc:"The revision to compare with. Default: the one before."`
}

type revisionDiffOutput struct {
	Body RevisionDiff
}

type rollbackInput struct {
	fieldsBody[struct{}]
	RevisionPath
	IfMatch ifMatchParam `header:"If-Match" doc:"Only if this is the ETag, or * for any; several with commas between them."`
}

func (in *RevisionPath) parse(f *faults) (id string, revision int, err error) {
	if id, err = definition.ParseID(in.ID); err == nil {
		revision = in.Revision.parse("revision", f)
	}
	return id, revision, err
}

func (a *API) listRevisions(ctx context.Context, in *listRevisionsInput) (*revisionListOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	var f faults
	limit := in.Limit.parse(&f)
	place := cursor{list: "revisions", filters: url.Values{"definition": {id}}.Encode()}
	before := place.parse(in.Cursor, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	rows, err := a.store.ListRevisions(ctx, definition.ListRevisions{DefinitionID: id, Before: int(before), Limit: limit + 1})
	if err != nil {
		return nil, missing(err, "definition", id)
	}
	rows, next := nextCursor(rows, limit, place, func(r definition.RevisionSummary) int64 { return int64(r.Revision) })
	out := RevisionList{Items: make([]ListedRevision, len(rows)), NextCursor: next}
	for i, row := range rows {
		out.Items[i] = ListedRevision{RevisionSummary: revisionJSON(row), Changed: row.Changed}
	}
	return &revisionListOutput{Body: out}, nil
}

func (a *API) getRevision(ctx context.Context, in *RevisionPath) (*revisionOutput, error) {
	var f faults
	id, n, err := in.parse(&f)
	if err != nil {
		return nil, err
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	r, err := a.store.GetRevision(ctx, id, n)
	if err != nil {
		return nil, missingRevision(err, id)
	}
	return &revisionOutput{Body: Revision{DefinitionID: id, RevisionSummary: revisionJSON(r.RevisionSummary),
		Document: pastDocument{r.Document}}}, nil
}

func (a *API) diffRevision(ctx context.Context, in *diffRevisionInput) (*revisionDiffOutput, error) {
	var f faults
	id, n, err := in.parse(&f)
	if err != nil {
		return nil, err
	}
	against := in.Against.parse("against", &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	if in.Against == "" {
		against = n - 1
	}
	r, err := a.store.GetRevision(ctx, id, n)
	if err != nil {
		return nil, missingRevision(err, id)
	}
	out := RevisionDiff{DefinitionID: id, Revision: n}
	var old *definition.Document // none before the first
	if against > 0 {
		other, err := a.store.GetRevision(ctx, id, against)
		if err != nil {
			return nil, missingRevision(err, id)
		}
		old, out.Against = &other.Document, &against
	}
	changes, err := definition.Diff(old, &r.Document)
	if err != nil {
		return nil, err
	}
	out.Changes = differencesJSON(changes)
	return &revisionDiffOutput{Body: out}, nil
}

// rollbackDefinition reads the revision first: revisions never change.
func (a *API) rollbackDefinition(ctx context.Context, in *rollbackInput) (*definitionOutput, error) {
	var f faults
	id, n, err := in.parse(&f)
	if err != nil {
		return nil, err
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	// Of a deleted definition there is nothing to change, whatever is still kept of it.
	if _, err := a.store.GetDefinition(ctx, id); err != nil {
		return nil, missing(err, "definition", id)
	}
	r, err := a.store.GetRevision(ctx, id, n)
	if err != nil {
		return nil, missingRevision(err, id)
	}
	return a.changeDefinition(ctx, id, in.IfMatch, definition.Change{Action: definition.ActionRollback, RolledBackTo: n},
		func(d definition.Document) (definition.Document, error) { return d.Rollback(r.Document) })
}

func revisionJSON(r definition.RevisionSummary) RevisionSummary {
	return RevisionSummary{Revision: r.Revision, CreatedAt: r.CreatedAt, Actor: optional(r.Actor), Action: optional(string(r.Action)),
		RolledBackTo: positive(r.RolledBackTo)}
}

// positive is a number of which 0 means that there is none.
func positive(n int) *int {
	if n == 0 {
		return nil
	}
	return &n
}

func differencesJSON(list []definition.Difference) []Difference {
	out := make([]Difference, len(list))
	for i, d := range list {
		out[i] = Difference{Path: d.Path, Op: diffOp(d.Op), Before: jsonOrNull(d.Before), After: jsonOrNull(d.After)}
	}
	return out
}
