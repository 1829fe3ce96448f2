package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/activity-core/activity-core/internal/definition"
)

type listAuditInput struct {
	Limit        limitParam      `query:"limit" doc:"How many to return at most."`
	Cursor       string          `query:"cursor" doc:"next_cursor of the page before, with the same filters."`
	DefinitionID idParam         `query:"definition_id" doc:"Only what is about this definition or its runs, deleted or not."`
	Actor        string          `query:"actor" doc:"Only what this one did, by the name for people."`
	Action       actionParam     `query:"action" doc:"Only this action."`
	TargetKind   targetKindParam `query:"target_kind" doc:"Only what was done to things of this kind."`
	TargetID     idParam         `query:"target_id" doc:"Only what was done to the thing with this id."`
	Since        timeParam       `query:"since" doc:"Only what was done then or later."`
	Until        timeParam       `query:"until" doc:"Only what was done before."`
}

type auditListOutput struct {
	Body AuditList
}

type auditIDInput struct {
	ID auditIDParam `path:"id" doc:"The entry's number."`
}

type auditOutput struct {
	Body AuditDetail
}

func (a *API) listAudit(ctx context.Context, in *listAuditInput) (*auditListOutput, error) {
	var f faults
	limit := in.Limit.parse(&f)
	query := definition.ListAudit{
		Limit:        limit + 1, // one more tells whether there is a next page
		DefinitionID: in.DefinitionID.parse("definition_id", &f),
		Actor:        in.Actor,
		Action:       in.Action.parse(&f),
		Target:       definition.Target{Kind: in.TargetKind.parse(&f), ID: in.TargetID.parse("target_id", &f)},
		Since:        in.Since.parse("since", &f),
		Until:        in.Until.parse("until", &f),
	}
	checkSince(query.Since, query.Until, &f)
	place := cursor{list: "audit", filters: url.Values{
		"definition_id": {query.DefinitionID}, "actor": {in.Actor}, "action": {string(in.Action)}, "target_kind": {string(in.TargetKind)},
		"target_id": {query.Target.ID}, "since": {string(in.Since)}, "until": {string(in.Until)},
	}.Encode()}
	query.BeforeID = place.parse(in.Cursor, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	rows, err := a.store.ListAudit(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, next := nextCursor(rows, limit, place, func(e definition.AuditEntry) int64 { return e.ID })
	out := AuditList{Items: make([]AuditEntry, len(rows)), NextCursor: next}
	for i, row := range rows {
		out.Items[i] = auditJSON(row)
	}
	return &auditListOutput{Body: out}, nil
}

func (a *API) getAudit(ctx context.Context, in *auditIDInput) (*auditOutput, error) {
	id, err := strconv.ParseInt(string(in.ID), 10, 64)
	if err != nil || id < 1 {
		return nil, definition.Invalid("id", "range", "%q is not the number of an entry: it must be a whole number from 1 on",
			clip(string(in.ID), 20))
	}
	e, err := a.store.GetAudit(ctx, id)
	if err != nil {
		return nil, missingEntry(err, id)
	}
	out := AuditDetail{AuditEntry: auditJSON(e), Before: jsonOrNull(e.Before), After: jsonOrNull(e.After)}
	if e.Target.Kind == definition.TargetDefinition && e.Before != nil && e.After != nil {
		out.Changes = changesOf(e)
	}
	return &auditOutput{Body: out}, nil
}

// changesOf tells in what the documents of an entry differ; nil when they cannot be read by this version.
func changesOf(e definition.AuditEntry) []Difference {
	before, errA := definition.DecodeStored(e.Before)
	after, errB := definition.DecodeStored(e.After)
	if errA != nil || errB != nil {
		return nil
	}
	changes, err := definition.Diff(&before, &after)
	if err != nil {
		return nil
	}
	return differencesJSON(changes)
}

func auditJSON(e definition.AuditEntry) AuditEntry {
	return AuditEntry{
		ID: e.ID, At: e.At, Actor: e.Actor, ActorID: optional(e.ActorID), Action: auditAction(e.Action),
		TargetKind: targetKind(e.Target.Kind), TargetID: optional(e.Target.ID), DefinitionID: optional(e.DefinitionID),
		DefinitionName: optional(e.DefinitionName), Revision: positive(e.Revision), Address: optional(e.Address),
		RequestID: optional(e.RequestID),
	}
}

// missingEntry names the entry that was not found.
func missingEntry(err error, id int64) error {
	if !errors.Is(err, definition.ErrNotFound) {
		return err
	}
	return newProblem(http.StatusNotFound, kindNotFound, "there is no entry %d in the audit trail; it may have been removed because of its age", id)
}

// jsonOrNull is JSON as it is, or null for none.
func jsonOrNull(data []byte) any {
	if data == nil {
		return nil
	}
	return json.RawMessage(data)
}
