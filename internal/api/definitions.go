package api

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"unicode/utf8"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/failpoint"
)

type definitionOutput struct {
	Body Definition
}

type createdOutput struct {
	Location string `header:"Location" doc:"The path of the new definition."`
	Body     Definition
}

type definitionIDInput struct {
	ID string `path:"id" format:"uuid" doc:"The definition's id."`
}

type createInput struct {
	definitionBody
}

type changeInput struct {
	definitionBody
	ID string `path:"id" format:"uuid" doc:"The definition's id."`
}

type pauseInput struct {
	fieldsBody[pauseFields]
	ID string `path:"id" format:"uuid" doc:"The definition's id."`
}

type pauseFields struct {
	Reason *string `json:"reason"`
}

type resumeInput struct {
	fieldsBody[struct{}]
	ID string `path:"id" format:"uuid" doc:"The definition's id."`
}

type listDefinitionsInput struct {
	Limit       limitParam       `query:"limit" doc:"How many to return at most."`
	Cursor      string           `query:"cursor" doc:"next_cursor of the page before, with the same filters."`
	TriggerType triggerTypeParam `query:"trigger_type" doc:"Only those with this type of trigger."`
	Enabled     boolParam        `query:"enabled" doc:"Only those that are enabled, or only those that are not."`
	Name        string           `query:"name" doc:"Only the one with exactly this name."`
}

type definitionListOutput struct {
	Body DefinitionList
}

func (a *API) listDefinitions(ctx context.Context, in *listDefinitionsInput) (*definitionListOutput, error) {
	var f faults
	limit := in.Limit.parse(&f)
	query := definition.ListDefinitions{
		Limit:       limit + 1, // one more tells whether there is a next page
		TriggerType: in.TriggerType.parse("trigger_type", &f),
		Enabled:     in.Enabled.parse("enabled", &f),
		Name:        in.Name,
	}
	place := cursor{list: "definitions", filters: url.Values{
		"trigger_type": {string(in.TriggerType)}, "enabled": {string(in.Enabled)}, "name": {in.Name},
	}.Encode()}
	query.AfterSeq = place.parse(in.Cursor, &f)
	if err := f.err(); err != nil {
		return nil, err
	}

	rows, err := a.store.ListDefinitions(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, next := nextCursor(rows, limit, place, func(s definition.Stored) int64 { return s.Seq })
	out := DefinitionList{Items: make([]Definition, len(rows)), NextCursor: next}
	for i, row := range rows {
		out.Items[i] = definitionJSON(row)
	}
	return &definitionListOutput{Body: out}, nil
}

func (a *API) createDefinition(ctx context.Context, in *createInput) (*createdOutput, error) {
	doc, err := definition.ParseDocument(in.data)
	if err != nil {
		return nil, err
	}
	stored, err := a.store.CreateDefinition(ctx, doc)
	if errors.Is(err, definition.ErrNameTaken) {
		return nil, nameTaken(doc.Name)
	}
	if errors.Is(err, definition.ErrTooManyDefinitions) {
		return nil, tooManyDefinitions(access.From(ctx))
	}
	if err != nil {
		return nil, err
	}
	a.syncSchedule(ctx, &stored)
	return &createdOutput{Location: "/activity-definitions/" + stored.ID, Body: definitionJSON(stored)}, nil
}

func (a *API) getDefinition(ctx context.Context, in *definitionIDInput) (*definitionOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	stored, err := a.store.GetDefinition(ctx, id)
	if err != nil {
		return nil, missing(err, "definition", id)
	}
	return &definitionOutput{Body: definitionJSON(stored)}, nil
}

func (a *API) replaceDefinition(ctx context.Context, in *changeInput) (*definitionOutput, error) {
	return a.changeDefinition(ctx, in.ID, func(d definition.Document) (definition.Document, error) { return d.Replace(in.data) })
}

func (a *API) mergeDefinition(ctx context.Context, in *changeInput) (*definitionOutput, error) {
	return a.changeDefinition(ctx, in.ID, func(d definition.Document) (definition.Document, error) { return d.Merge(in.data) })
}

// pauseDefinition keeps the reason of an earlier pause unless another one is given, so that asking twice changes nothing.
func (a *API) pauseDefinition(ctx context.Context, in *pauseInput) (*definitionOutput, error) {
	reason := in.given.Reason
	if reason != nil && utf8.RuneCountInString(*reason) > definition.MaxPauseReason {
		return nil, definition.Invalid("reason", "max_length", "must be at most %d characters long", definition.MaxPauseReason)
	}
	return a.changeDefinition(ctx, in.ID, func(d definition.Document) (definition.Document, error) {
		if reason == nil {
			return d.Pause(d.PauseReason)
		}
		return d.Pause(*reason)
	})
}

func (a *API) resumeDefinition(ctx context.Context, in *resumeInput) (*definitionOutput, error) {
	return a.changeDefinition(ctx, in.ID, definition.Document.Resume)
}

func (a *API) changeDefinition(ctx context.Context, idText string,
	change func(definition.Document) (definition.Document, error)) (*definitionOutput, error) {
	id, err := definition.ParseID(idText)
	if err != nil {
		return nil, err
	}
	var wanted definition.Document
	stored, err := a.store.UpdateDefinition(ctx, id, func(d definition.Document) (definition.Document, error) {
		var err error
		wanted, err = change(d)
		return wanted, err
	})
	if errors.Is(err, definition.ErrNameTaken) {
		return nil, nameTaken(wanted.Name)
	}
	if err != nil {
		return nil, missing(err, "definition", id)
	}
	a.syncSchedule(ctx, &stored)
	return &definitionOutput{Body: definitionJSON(stored)}, nil
}

func (a *API) deleteDefinition(ctx context.Context, in *definitionIDInput) (*struct{}, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	before, err := a.store.GetDefinition(ctx, id)
	if err == nil {
		err = a.store.DeleteDefinition(ctx, id)
	}
	if err != nil {
		return nil, missing(err, "definition", id)
	}
	if before.Sync.State != "" {
		before.Sync.State = definition.SyncPending // its schedule has to go
		a.syncSchedule(ctx, &before)
	}
	return nil, nil
}

// syncSchedule has the definition's schedule brought up to date, unless it is, and notes how that went in stored. The
// definition is committed by now, so failing is no failure of the request: a worker goes on trying. Neither is a client
// that has gone a reason to leave the schedule behind.
func (a *API) syncSchedule(ctx context.Context, stored *definition.Stored) {
	failpoint.Hit("api-committed")
	if stored.Sync.State == "" || stored.Sync.State == definition.SyncSynced {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syncTimeout)
	defer cancel()
	status, err := a.syncer.SyncNow(ctx, stored.ID)
	if err != nil {
		a.log.LogAttrs(ctx, slog.LevelWarn, "schedule not synced yet, a worker goes on trying",
			slog.String("definition_id", stored.ID), slog.String("request_id", requestID(ctx)), slog.Any("error", err))
	}
	if !status.Since.IsZero() { // otherwise less is known than the storage told
		stored.Sync = status
	}
}

// missing names what was not found, and leaves other errors as they are.
func missing(err error, what, id string) error {
	if errors.Is(err, definition.ErrNotFound) {
		return notFound(what, id)
	}
	return err
}
