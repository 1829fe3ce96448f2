package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

type backfillIDInput struct {
	ID string `path:"id" format:"uuid" doc:"The backfill's id."`
}

type backfillOutput struct {
	Body Backfill
}

// backfilledOutput answers 202 for a backfill and 200 for the count of a dry run.
type backfilledOutput struct {
	Status   int
	Location string `header:"Location" doc:"The path of the new backfill; absent after a dry run."`
	Body     Backfill
}

type backfillInput struct {
	fieldsBody[backfillFields]
	ID string `path:"id" format:"uuid" doc:"The definition's id."`
}

type backfillFields struct {
	From          *time.Time `json:"from"`
	To            *time.Time `json:"to"`
	OnlyMissing   *bool      `json:"only_missing"`
	MaxConcurrent *int       `json:"max_concurrent"`
	DryRun        bool       `json:"dry_run"`
}

type cancelBackfillInput struct {
	fieldsBody[struct{}]
	ID string `path:"id" format:"uuid" doc:"The backfill's id."`
}

type listBackfillsInput struct {
	ID     string     `path:"id" format:"uuid" doc:"The definition's id."`
	Limit  limitParam `query:"limit" doc:"How many to return at most."`
	Cursor string     `query:"cursor" doc:"next_cursor of the page before."`
}

type backfillListOutput struct {
	Body BackfillList
}

func (in *backfillInput) request() (definition.BackfillRequest, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return definition.BackfillRequest{}, err
	}
	given := in.given
	req := definition.BackfillRequest{DefinitionID: id, OnlyMissing: true, MaxConcurrent: 1}
	var f faults
	switch {
	case given.From == nil:
		f.add("from", "required", `is required, as in "2026-01-31T09:00:00Z"`)
	case given.From.Unix() < 0:
		f.add("from", "range", "must not be before 1970")
	}
	if given.To == nil {
		f.add("to", "required", `is required, as in "2026-01-31T17:00:00Z"`)
	}
	if given.From != nil && given.To != nil {
		// Postgres keeps microseconds.
		req.From, req.To = given.From.Truncate(time.Microsecond), given.To.Truncate(time.Microsecond)
		if req.To.Before(req.From) {
			f.add("to", "after_from", "must not be before from")
		}
	}
	if given.OnlyMissing != nil {
		req.OnlyMissing = *given.OnlyMissing
	}
	if given.MaxConcurrent != nil {
		if req.MaxConcurrent = *given.MaxConcurrent; req.MaxConcurrent < 1 || req.MaxConcurrent > definition.MaxBackfillConcurrent {
			f.add("max_concurrent", "range", "must be from 1 to %d", definition.MaxBackfillConcurrent)
		}
	}
	if err := f.err(); err != nil {
		return definition.BackfillRequest{}, err
	}
	return req, nil
}

// backfillDefinition only commits: a worker starts the runs.
func (a *API) backfillDefinition(ctx context.Context, in *backfillInput) (*backfilledOutput, error) {
	req, err := in.request()
	if err != nil {
		return nil, err
	}
	if id := madeBefore(ctx); id != "" {
		b, err := a.store.GetBackfill(ctx, id)
		if err != nil {
			return nil, missing(err, "backfill", id)
		}
		return &backfilledOutput{Status: http.StatusAccepted, Location: "/backfills/" + id, Body: backfillJSON(b)}, nil
	}
	b, err := a.store.CreateBackfill(ctx, req, in.given.DryRun)
	var invalid *definition.InvalidError
	switch {
	case errors.Is(err, definition.ErrBackfillActive):
		return nil, a.backfillActive(ctx, req.DefinitionID)
	case errors.As(err, &invalid) && slices.ContainsFunc(invalid.Fields, func(f definition.FieldError) bool { return f.Rule == "no_slots" }):
		// Nothing is wrong with the request, so it gets the answer that next-fires gives.
		stored, err := a.store.GetDefinition(ctx, req.DefinitionID)
		if err != nil {
			return nil, missing(err, "definition", req.DefinitionID)
		}
		return nil, noSlots(stored.ID, stored.Trigger.Type)
	case err != nil:
		return nil, missing(err, "definition", req.DefinitionID)
	}
	out := &backfilledOutput{Status: http.StatusAccepted, Location: "/backfills/" + b.ID, Body: backfillJSON(b)}
	if in.given.DryRun {
		out.Status, out.Location, out.Body.DryRun = http.StatusOK, "", true
		if b.Total == 0 {
			out.Body.Status = backfillStatus(definition.BackfillCompleted)
		}
	}
	return out, nil
}

// backfillActive is the answer to a second backfill of a definition. It names the first one, when that can be found.
func (a *API) backfillActive(ctx context.Context, definitionID string) *Problem {
	which, cancel := "", "POST /backfills/{id}/cancel"
	list, err := a.store.ListBackfills(ctx, definition.ListBackfills{DefinitionID: definitionID, Limit: 1})
	if err == nil && len(list) > 0 && list[0].Status == definition.BackfillActive {
		which, cancel = " ("+list[0].ID+")", "POST /backfills/"+list[0].ID+"/cancel"
	}
	return newProblem(http.StatusConflict, kindBackfillActive,
		"a backfill of this definition is active already%s: wait until it has ended, or cancel it with %s", which, cancel)
}

func (a *API) listBackfills(ctx context.Context, in *listBackfillsInput) (*backfillListOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	var f faults
	limit := in.Limit.parse(&f)
	place := cursor{list: "backfills", filters: id}
	query := definition.ListBackfills{
		DefinitionID: id,
		BeforeSeq:    place.parse(in.Cursor, &f),
		Limit:        limit + 1, // one more tells whether there is a next page
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	rows, err := a.store.ListBackfills(ctx, query)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		// Because there is nothing to show, or because there is no such definition?
		if _, err := a.store.GetDefinition(ctx, id); err != nil {
			return nil, missing(err, "definition", id)
		}
	}
	rows, next := nextCursor(rows, limit, place, func(b definition.Backfill) int64 { return b.Seq })
	out := BackfillList{Items: make([]Backfill, len(rows)), NextCursor: next}
	for i, row := range rows {
		out.Items[i] = backfillJSON(row)
	}
	return &backfillListOutput{Body: out}, nil
}

func (a *API) getBackfill(ctx context.Context, in *backfillIDInput) (*backfillOutput, error) {
	return backfillAnswer(ctx, in.ID, a.store.GetBackfill)
}

func (a *API) cancelBackfill(ctx context.Context, in *cancelBackfillInput) (*backfillOutput, error) {
	return backfillAnswer(ctx, in.ID, a.store.CancelBackfill)
}

func backfillAnswer(ctx context.Context, idText string,
	do func(context.Context, string) (definition.Backfill, error)) (*backfillOutput, error) {
	id, err := definition.ParseID(idText)
	if err != nil {
		return nil, err
	}
	b, err := do(ctx, id)
	if err != nil {
		return nil, missing(err, "backfill", id)
	}
	return &backfillOutput{Body: backfillJSON(b)}, nil
}
