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
	ETag string `header:"ETag" doc:"The revision, for If-Match. It does not change with sync."`
	Body Definition
}

func definitionAnswer(stored definition.Stored) *definitionOutput {
	return &definitionOutput{ETag: etag(stored.Revision), Body: definitionJSON(stored)}
}

type createdOutput struct {
	Location string `header:"Location" doc:"The path of the new definition."`
	ETag     string `header:"ETag" doc:"The revision, for If-Match. It does not change with sync."`
	Body     Definition
}

func createdAnswer(stored definition.Stored) *createdOutput {
	return &createdOutput{Location: "/activity-definitions/" + stored.ID, ETag: etag(stored.Revision), Body: definitionJSON(stored)}
}

type definitionIDInput struct {
	ID string `path:"id" format:"uuid" doc:"The definition's id."`
}

type createInput struct {
	definitionBody
}

type changeInput struct {
	definitionBody
	ID      string       `path:"id" format:"uuid" doc:"The definition's id."`
	IfMatch ifMatchParam `header:"If-Match" doc:"Only if this is the ETag, or * for any; several with commas between them."`
}

type deleteInput struct {
	ID      string       `path:"id" format:"uuid" doc:"The definition's id."`
	IfMatch ifMatchParam `header:"If-Match" doc:"Only if this is the ETag, or * for any; several with commas between them."`
}

type pauseInput struct {
	fieldsBody[pauseFields]
	ID      string       `path:"id" format:"uuid" doc:"The definition's id."`
	IfMatch ifMatchParam `header:"If-Match" doc:"Only if this is the ETag, or * for any; several with commas between them."`
}

type pauseFields struct {
	Reason *string `json:"reason"`
}

type resumeInput struct {
	fieldsBody[struct{}]
	ID      string       `path:"id" format:"uuid" doc:"The definition's id."`
	IfMatch ifMatchParam `header:"If-Match" doc:"Only if this is the ETag, or * for any; several with commas between them."`
}

type listDefinitionsInput struct {
	Limit       limitParam       `query:"limit" doc:"How many to return at most."`
	Cursor      string           `query:"cursor" doc:"next_cursor of the page before, with the same filters."`
	TriggerType triggerTypeParam `query:"trigger_type" doc:"Only those with this type of trigger."`
	Enabled     boolParam        `query:"enabled" doc:"Only those that are enabled, or only those that are not."`
	Name        string           `query:"name" doc:"Only the one with exactly this name."`
	EventType   eventTypeParam   `query:"event_type" doc:"Only those with an event trigger of this type, as it is written there: * and > stand for themselves."`
	Label       []labelParam     `query:"label,explode" doc:"Only those with this label, as in team=growth; given several times, with all of them."`
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
		EventType:   in.EventType.parse("event_type", &f),
		Labels:      parseLabels(in.Label, &f),
	}
	filters := url.Values{"trigger_type": {string(in.TriggerType)}, "enabled": {string(in.Enabled)}, "name": {in.Name}}
	// Filters of a later time: cursors that were given out without them stay good.
	if query.EventType != "" {
		filters.Set("event_type", query.EventType)
	}
	for key, value := range query.Labels {
		filters.Set("label:"+key, "="+value)
	}
	place := cursor{list: "definitions", filters: filters.Encode()}
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
	if id := madeBefore(ctx); id != "" {
		stored, err := a.store.GetDefinition(ctx, id)
		if err != nil {
			return nil, missing(err, "definition", id)
		}
		a.syncSchedule(ctx, &stored)
		return createdAnswer(stored), nil
	}
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
	return createdAnswer(stored), nil
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
	return definitionAnswer(stored), nil
}

func (a *API) replaceDefinition(ctx context.Context, in *changeInput) (*definitionOutput, error) {
	return a.changeDefinition(ctx, in.ID, in.IfMatch, definition.Change{Action: definition.ActionUpdate},
		func(d definition.Document) (definition.Document, error) { return d.Replace(in.data) })
}

func (a *API) mergeDefinition(ctx context.Context, in *changeInput) (*definitionOutput, error) {
	return a.changeDefinition(ctx, in.ID, in.IfMatch, definition.Change{Action: definition.ActionUpdate},
		func(d definition.Document) (definition.Document, error) { return d.Merge(in.data) })
}

// pauseDefinition keeps the reason of an earlier pause unless another one is given, so that asking twice changes nothing.
func (a *API) pauseDefinition(ctx context.Context, in *pauseInput) (*definitionOutput, error) {
	reason := in.given.Reason
	if reason != nil && utf8.RuneCountInString(*reason) > definition.MaxPauseReason {
		return nil, definition.Invalid("reason", "max_length", "must be at most %d characters long", definition.MaxPauseReason)
	}
	return a.changeDefinition(ctx, in.ID, in.IfMatch, definition.Change{Action: definition.ActionPause},
		func(d definition.Document) (definition.Document, error) {
			if reason == nil {
				return d.Pause(d.PauseReason)
			}
			return d.Pause(*reason)
		})
}

func (a *API) resumeDefinition(ctx context.Context, in *resumeInput) (*definitionOutput, error) {
	return a.changeDefinition(ctx, in.ID, in.IfMatch, definition.Change{Action: definition.ActionResume}, definition.Document.Resume)
}

func (a *API) changeDefinition(ctx context.Context, idText string, ifMatch ifMatchParam, by definition.Change,
	edit func(definition.Document) (definition.Document, error)) (*definitionOutput, error) {
	id, err := definition.ParseID(idText)
	if err != nil {
		return nil, err
	}
	var f faults
	match := ifMatch.parse(&f)
	if err := f.err(); err != nil {
		return nil, err
	}
	var wanted definition.Document
	var stored definition.Stored
	if madeBefore(ctx) == "" {
		stored, err = a.store.UpdateDefinition(ctx, id, by, func(d definition.Document) (definition.Document, error) {
			var err error
			wanted, err = edit(d)
			return wanted, err
		}, match)
	} else { // changed already; whatever others did to it since then stays
		stored, err = a.store.GetDefinition(ctx, id)
	}
	if errors.Is(err, definition.ErrNameTaken) {
		return nil, nameTaken(wanted.Name)
	}
	if err != nil {
		return nil, missing(err, "definition", id)
	}
	a.syncSchedule(ctx, &stored)
	return definitionAnswer(stored), nil
}

func (a *API) deleteDefinition(ctx context.Context, in *deleteInput) (*struct{}, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	var f faults
	match := in.IfMatch.parse(&f)
	if err := f.err(); err != nil {
		return nil, err
	}
	if madeBefore(ctx) != "" {
		return nil, nil
	}
	before, err := a.store.GetDefinition(ctx, id)
	if err == nil {
		err = a.store.DeleteDefinition(ctx, id, match)
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
	// The schedule follows whatever labels the definition has by now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(access.Unlimited(ctx)), syncTimeout)
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
