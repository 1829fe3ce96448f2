package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// maxReplayTypes is the most event types of one replay.
const maxReplayTypes = 50

type replayIDInput struct {
	ID string `path:"id" format:"uuid" doc:"The replay's id."`
}

type replayOutput struct {
	Body Replay
}

type replayedOutput struct {
	Location string `header:"Location" doc:"The path of the new replay."`
	Body     Replay
}

type replayInput struct {
	fieldsBody[replayFields]
}

type replayFields struct {
	From          *time.Time `json:"from"`
	To            *time.Time `json:"to"`
	EventTypes    []string   `json:"event_types"`
	DefinitionIDs []string   `json:"definition_ids"`
	DryRun        bool       `json:"dry_run"`
}

type cancelReplayInput struct {
	fieldsBody[struct{}]
	ID string `path:"id" format:"uuid" doc:"The replay's id."`
}

type listReplaysInput struct {
	Limit  limitParam `query:"limit" doc:"How many to return at most."`
	Cursor string     `query:"cursor" doc:"next_cursor of the page before."`
}

type replayListOutput struct {
	Body ReplayList
}

func (in *replayInput) request() (definition.ReplayRequest, error) {
	given := in.given
	req := definition.ReplayRequest{EventTypes: given.EventTypes, DryRun: given.DryRun}
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
		req.From, req.To = given.From.Truncate(time.Microsecond).UTC(), given.To.Truncate(time.Microsecond).UTC()
		checkRange(req.From, req.To, &f)
	}
	if n := len(given.EventTypes); n > maxReplayTypes {
		f.add("event_types", "max_items", "has %d types; at most %d are allowed", n, maxReplayTypes)
	}
	for i, t := range given.EventTypes[:min(len(given.EventTypes), maxReplayTypes)] {
		field := fmt.Sprintf("event_types[%d]", i)
		if fault := definition.CheckEventPattern(t); fault != "" {
			f.add(field, "event_type", "%s", fault)
		} else if slices.Contains(given.EventTypes[:i], t) {
			f.add(field, "unique", "is given twice")
		}
	}
	switch n := len(given.DefinitionIDs); {
	case n == 0:
		f.add("definition_ids", "required", "is required: the ids of the definitions that the events are routed to again")
	case n > definition.MaxReplayDefinitions:
		f.add("definition_ids", "max_items", "has %d ids; at most %d are allowed", n, definition.MaxReplayDefinitions)
	}
	for i, text := range given.DefinitionIDs[:min(len(given.DefinitionIDs), definition.MaxReplayDefinitions)] {
		field := fmt.Sprintf("definition_ids[%d]", i)
		id, err := definition.ParseID(text)
		switch {
		case err != nil:
			f.add(field, "uuid", "%q is not an id: an id is a UUID", clip(text, 60))
		case slices.Contains(req.DefinitionIDs, id):
			f.add(field, "unique", "is given twice")
		}
		req.DefinitionIDs = append(req.DefinitionIDs, id)
	}
	if err := f.err(); err != nil {
		return definition.ReplayRequest{}, err
	}
	return req, nil
}

// createReplay only commits: a router reads the events.
func (a *API) createReplay(ctx context.Context, in *replayInput) (*replayedOutput, error) {
	req, err := in.request()
	if err != nil {
		return nil, err
	}
	if id := madeBefore(ctx); id != "" {
		r, err := a.store.GetReplay(ctx, id)
		if err != nil {
			return nil, missing(err, "replay", id)
		}
		return &replayedOutput{Location: "/replays/" + id, Body: replayJSON(r)}, nil
	}
	r, err := a.store.CreateReplay(ctx, req)
	if errors.Is(err, definition.ErrReplayActive) {
		return nil, a.replayActive(ctx, req.DefinitionIDs)
	}
	if err != nil {
		return nil, err
	}
	return &replayedOutput{Location: "/replays/" + r.ID, Body: replayJSON(r)}, nil
}

// replayActive is the answer to a second replay of a definition. It names the first one, when that can be found.
func (a *API) replayActive(ctx context.Context, definitionIDs []string) *Problem {
	const kind = kindReplayActive
	list, err := a.store.ListReplays(ctx, definition.ListReplays{Limit: maxLimit})
	if err == nil {
		for _, r := range list {
			if !r.Status.Active() || r.DryRun {
				continue
			}
			for _, id := range definitionIDs {
				if slices.Contains(r.DefinitionIDs, id) {
					return newProblem(http.StatusConflict, kind, "a replay (%s) of definition %s is active already: wait until it "+
						"has ended, or cancel it with POST /replays/%s/cancel", r.ID, id, r.ID)
				}
			}
		}
	}
	return newProblem(http.StatusConflict, kind, "a replay of one of these definitions is active already: wait until it has "+
		"ended, or cancel it with POST /replays/{id}/cancel")
}

func (a *API) listReplays(ctx context.Context, in *listReplaysInput) (*replayListOutput, error) {
	var f faults
	limit := in.Limit.parse(&f)
	place := cursor{list: "replays"}
	query := definition.ListReplays{
		BeforeSeq: place.parse(in.Cursor, &f),
		Limit:     limit + 1, // one more tells whether there is a next page
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	rows, err := a.store.ListReplays(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, next := nextCursor(rows, limit, place, func(r definition.Replay) int64 { return r.Seq })
	out := ReplayList{Items: make([]Replay, len(rows)), NextCursor: next}
	for i, row := range rows {
		out.Items[i] = replayJSON(row)
	}
	return &replayListOutput{Body: out}, nil
}

func (a *API) getReplay(ctx context.Context, in *replayIDInput) (*replayOutput, error) {
	return replayAnswer(ctx, in.ID, a.store.GetReplay)
}

func (a *API) cancelReplay(ctx context.Context, in *cancelReplayInput) (*replayOutput, error) {
	return replayAnswer(ctx, in.ID, a.store.CancelReplay)
}

func replayAnswer(ctx context.Context, idText string,
	do func(context.Context, string) (definition.Replay, error)) (*replayOutput, error) {
	id, err := definition.ParseID(idText)
	if err != nil {
		return nil, err
	}
	r, err := do(ctx, id)
	if err != nil {
		return nil, missing(err, "replay", id)
	}
	return &replayOutput{Body: replayJSON(r)}, nil
}

func replayJSON(r definition.Replay) Replay {
	return Replay{
		ID: r.ID, Status: replayStatus(r.Status), From: r.From.UTC(), To: r.To.UTC(),
		EventTypes:    append([]string{}, r.EventTypes...),
		DefinitionIDs: append([]string{}, r.DefinitionIDs...), DryRun: r.DryRun, Error: optional(r.Error),
		Counted: ReplayCounts(r.Counted), Done: ReplayCounts(r.Done), CreatedAt: r.CreatedAt.UTC(), FinishedAt: utc(r.FinishedAt),
	}
}
