package api

import (
	"context"
	"log/slog"
	"net/url"

	"github.com/activity-core/activity-core/internal/definition"
)

type runIDInput struct {
	ID string `path:"id" format:"uuid" doc:"The run's id."`
}

type runOutput struct {
	Body Run
}

type triggerInput struct {
	inputBody
	ID string `path:"id" format:"uuid" doc:"The definition's id."`
}

type acceptedOutput struct {
	Location string `header:"Location" doc:"The path of the new run."`
	Body     Run
}

// RunFilter are the parameters of every list of runs. It is exported because huma looks into exported types only.
type RunFilter struct {
	Limit      limitParam       `query:"limit" doc:"How many to return at most."`
	Cursor     string           `query:"cursor" doc:"next_cursor of the page before, with the same filters."`
	Status     statusParam      `query:"status" doc:"Only those with this status."`
	Trigger    triggerKindParam `query:"trigger" doc:"Only those that this kind of trigger made due."`
	BackfillID idParam          `query:"backfill_id" doc:"Only those of this backfill."`
	ReplayID   idParam          `query:"replay_id" doc:"Only those of this replay."`
	EventID    eventIDParam     `query:"event_id" doc:"Only those that this event made due."`
}

type listRunsInput struct {
	RunFilter
	DefinitionID idParam `query:"definition_id" doc:"Only those of this definition, deleted or not."`
}

type listDefinitionRunsInput struct {
	RunFilter
	ID string `path:"id" format:"uuid" doc:"The definition's id."`
}

type runListOutput struct {
	Body RunList
}

// triggerDefinition commits the occurrence first. From then on there is a run, whatever happens to this request: a start
// that fails is made up for by the sweeper.
func (a *API) triggerDefinition(ctx context.Context, in *triggerInput) (*acceptedOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	occurrence := definition.Occurrence{
		DefinitionID: id, Kind: definition.KindManual, Key: definition.ManualKey(), Input: in.data, TraceID: in.traceID,
	}
	starts, err := a.ledger.Record(ctx, []definition.Occurrence{occurrence})
	if err != nil {
		return nil, missing(err, "definition", id)
	}
	if len(starts) == 0 {
		return nil, notFound("definition", id)
	}
	start := starts[0]

	ctx = context.WithoutCancel(ctx)
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := a.ledger.Start(starting, start); err != nil {
		a.log.LogAttrs(ctx, slog.LevelWarn, "run not started yet, a worker goes on trying",
			slog.String("run_id", start.RunID), slog.String("request_id", requestID(ctx)), slog.Any("error", err))
	}
	reading, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	run, err := a.store.GetRun(reading, start.RunID)
	if err != nil {
		// An error now would make the client trigger a second run. Tell it what is certain.
		a.log.LogAttrs(ctx, slog.LevelWarn, "run accepted, but not read back", slog.String("run_id", start.RunID),
			slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		run = definition.Run{
			ID: start.RunID, DefinitionID: id, DefinitionName: start.DefinitionName, Kind: definition.KindManual,
			Key: start.Key, Status: definition.RunAccepted, Input: in.data, TraceID: in.traceID, AcceptedAt: start.AcceptedAt,
			WorkflowID: definition.WorkflowID(id, start.Key),
		}
	}
	return &acceptedOutput{Location: "/runs/" + run.ID, Body: runJSON(run)}, nil
}

func (a *API) getRun(ctx context.Context, in *runIDInput) (*runOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	run, err := a.store.GetRun(ctx, id)
	if err != nil {
		return nil, missing(err, "run", id)
	}
	return &runOutput{Body: runJSON(run)}, nil
}

func (a *API) listRuns(ctx context.Context, in *listRunsInput) (*runListOutput, error) {
	var f faults
	return a.pageOfRuns(ctx, in.RunFilter, in.DefinitionID.parse("definition_id", &f), &f)
}

func (a *API) listDefinitionRuns(ctx context.Context, in *listDefinitionRunsInput) (*runListOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	out, err := a.pageOfRuns(ctx, in.RunFilter, id, &faults{})
	if err != nil || len(out.Body.Items) > 0 {
		return out, err
	}
	// Nothing to show: because there is nothing, or because there is no such definition?
	if _, err := a.store.GetDefinition(ctx, id); err != nil {
		return nil, missing(err, "definition", id)
	}
	return out, nil
}

func (a *API) pageOfRuns(ctx context.Context, in RunFilter, definitionID string, f *faults) (*runListOutput, error) {
	limit := in.Limit.parse(f)
	query := definition.ListRuns{
		Limit:        limit + 1, // one more tells whether there is a next page
		DefinitionID: definitionID,
		Status:       in.Status.parse(f),
		Kind:         in.Trigger.parse("trigger", f),
		BackfillID:   in.BackfillID.parse("backfill_id", f),
		ReplayID:     in.ReplayID.parse("replay_id", f),
		EventID:      in.EventID.parse("event_id", f),
	}
	filters := url.Values{"definition_id": {definitionID}, "status": {string(in.Status)}, "trigger": {string(in.Trigger)}}
	// Filters of a later time: cursors that were given out without them stay good.
	later := map[string]string{"backfill_id": query.BackfillID, "replay_id": query.ReplayID, "event_id": query.EventID}
	for name, value := range later {
		if value != "" {
			filters.Set(name, value)
		}
	}
	place := cursor{list: "runs", filters: filters.Encode()}
	query.BeforeSeq = place.parse(in.Cursor, f)
	if err := f.err(); err != nil {
		return nil, err
	}

	rows, err := a.store.ListRuns(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, next := nextCursor(rows, limit, place, func(r definition.Run) int64 { return r.Seq })
	out := RunList{Items: make([]RunSummary, len(rows)), NextCursor: next}
	for i, row := range rows {
		out.Items[i] = runSummaryJSON(row)
	}
	return &runListOutput{Body: out}, nil
}
