package api

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

type runIDInput struct {
	ID string `path:"id" format:"uuid" doc:"The run's id."`
}

type runOutput struct {
	Body Run
}

type getTaskInput struct {
	ID     string     `path:"id" format:"uuid" doc:"The run's id."`
	Name   string     `path:"name" doc:"The task's name."`
	Limit  limitParam `query:"limit" doc:"How many items to return at most."`
	Cursor string     `query:"cursor" doc:"next_cursor of the page before."`
}

type taskOutput struct {
	Body RunTask
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
	Status     statusParam      `query:"status" doc:"Only those with one of these statuses."`
	Reason     reasonParam      `query:"reason" doc:"Only those with this reason."`
	Trigger    triggerKindParam `query:"trigger" doc:"Only those that one of these kinds of triggers made due."`
	Since      timeParam        `query:"since" doc:"Only those that were accepted then or later."`
	Until      timeParam        `query:"until" doc:"Only those that were accepted before."`
	RerunOf    idParam          `query:"rerun_of" doc:"Only those that make up for this run."`
	BackfillID idParam          `query:"backfill_id" doc:"Only those of this backfill."`
	ReplayID   idParam          `query:"replay_id" doc:"Only those of this replay."`
	EventID    eventIDParam     `query:"event_id" doc:"Only those that this event made due."`
}

type listRunsInput struct {
	RunFilter
	DefinitionID idParam      `query:"definition_id" doc:"Only those of this definition, deleted or not."`
	Definition   string       `query:"definition" doc:"Only those of the definitions that have this name, or had it when they were deleted."`
	Label        []labelParam `query:"label,explode" doc:"Only those of definitions that have this label now, as in team=growth; given several times, all of them."`
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
	if run := madeBefore(ctx); run != "" {
		return a.startedBefore(ctx, run)
	}
	stored, err := a.store.GetDefinition(ctx, id)
	if err != nil {
		return nil, missing(err, "definition", id)
	}
	occurrence := definition.Occurrence{
		DefinitionID: id, Revision: stored.Revision, Kind: definition.KindManual, Key: definition.ManualKey(), Input: in.data,
		TraceID: in.traceID,
	}
	stored.Keyer().Set(ctx, &occurrence)
	starts, err := a.ledger.Record(ctx, []definition.Occurrence{occurrence})
	if err != nil {
		return nil, missing(err, "definition", id)
	}
	if len(starts) == 0 {
		return nil, notFound("definition", id)
	}
	return a.started(ctx, starts[0], definition.Run{Input: in.data, TraceID: in.traceID}), nil
}

// started starts the workflow of a new row, unless that was closed at once, and answers with the run. known is what is certain of the run
// besides the start, should it not be readable.
func (a *API) started(ctx context.Context, start definition.Start, known definition.Run) *acceptedOutput {
	ctx = context.WithoutCancel(ctx)
	a.start(ctx, start)
	reading, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	run, err := a.store.GetRunDetail(reading, start.RunID)
	if err != nil {
		// An error now would make the client ask for a second run. Tell it what is certain.
		a.log.LogAttrs(ctx, slog.LevelWarn, "run accepted, but not read back", slog.String("run_id", start.RunID),
			slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		known.ID, known.DefinitionID, known.DefinitionName, known.Kind = start.RunID, start.DefinitionID, start.DefinitionName, start.Kind
		known.Key, known.Status, known.AcceptedAt = start.Key, cmp.Or(start.Status, definition.RunAccepted), start.AcceptedAt
		known.WorkflowID = definition.WorkflowID(start.DefinitionID, start.Key)
		run = definition.RunDetail{Run: known}
	}
	return &acceptedOutput{Location: "/runs/" + run.ID, Body: a.runJSON(run)}
}

// startedBefore answers with a run that an earlier request with the same Idempotency-Key made. If that request did not start it, a
// worker does.
func (a *API) startedBefore(ctx context.Context, id string) (*acceptedOutput, error) {
	run, err := a.store.GetRunDetail(ctx, id)
	if err != nil {
		return nil, missing(err, "run", id)
	}
	return &acceptedOutput{Location: "/runs/" + id, Body: a.runJSON(run)}, nil
}

// start starts the workflow of a row that was accepted. What fails is made up for by a worker.
func (a *API) start(ctx context.Context, start definition.Start) {
	if start.Status != "" && start.Status != definition.RunAccepted {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := a.ledger.Start(ctx, start); err != nil {
		a.log.LogAttrs(ctx, slog.LevelWarn, "run not started yet, a worker goes on trying",
			slog.String("run_id", start.RunID), slog.String("request_id", requestID(ctx)), slog.Any("error", err))
	}
}

func (a *API) getRun(ctx context.Context, in *runIDInput) (*runOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	run, err := a.store.GetRunDetail(ctx, id)
	if err != nil {
		return nil, missing(err, "run", id)
	}
	return &runOutput{Body: a.runJSON(run)}, nil
}

// getTask answers with the whole task, and a page of its items.
func (a *API) getTask(ctx context.Context, in *getTaskInput) (*taskOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	var f faults
	limit := in.Limit.parse(&f)
	place := cursor{list: "items", filters: url.Values{"run": {id}, "task": {in.Name}}.Encode()}
	from := place.parse(in.Cursor, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	task, items, err := a.store.GetTask(ctx, id, in.Name, int(from), limit+1)
	if err != nil {
		return nil, missing(err, "task "+clip(in.Name, 63)+" that was reached in run", id)
	}
	// The place is the number of the next item, which is never 0.
	items, next := nextCursor(items, limit, place, func(i definition.ItemDetail) int64 { return int64(i.Item) + 1 })
	out := RunTask{TaskResult: taskJSON(task), NextCursor: next, Items: make([]TaskItem, len(items))}
	for i, item := range items {
		out.Items[i] = itemJSON(item)
	}
	return &taskOutput{Body: out}, nil
}

func (a *API) listRuns(ctx context.Context, in *listRunsInput) (*runListOutput, error) {
	var f faults
	id, labels := in.DefinitionID.parse("definition_id", &f), parseLabels(in.Label, &f)
	query := in.query(&f)
	query.DefinitionID, query.Definition, query.Labels = id, in.Definition, labels
	return a.pageOfRuns(ctx, in.RunFilter, query, &f)
}

func (a *API) listDefinitionRuns(ctx context.Context, in *listDefinitionRunsInput) (*runListOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	var f faults
	query := in.query(&f)
	query.DefinitionID = id
	out, err := a.pageOfRuns(ctx, in.RunFilter, query, &f)
	if err != nil || len(out.Body.Items) > 0 {
		return out, err
	}
	// Nothing to show: because there is nothing, or because there is no such definition?
	if _, err := a.store.GetDefinition(ctx, id); err != nil {
		return nil, missing(err, "definition", id)
	}
	return out, nil
}

func (in *RunFilter) query(f *faults) definition.ListRuns {
	query := definition.ListRuns{
		Statuses:   in.Status.parse(f),
		Reason:     in.Reason.parse(f),
		Kinds:      in.Trigger.parse("trigger", f),
		Since:      in.Since.parse("since", f),
		Until:      in.Until.parse("until", f),
		RerunOf:    in.RerunOf.parse("rerun_of", f),
		BackfillID: in.BackfillID.parse("backfill_id", f),
		ReplayID:   in.ReplayID.parse("replay_id", f),
		EventID:    in.EventID.parse("event_id", f),
	}
	checkSince(query.Since, query.Until, f)
	return query
}

// checkSince refuses a range that holds nothing because its ends are swapped. Zero times leave it open.
func checkSince(since, until time.Time, f *faults) {
	if !since.IsZero() && !until.IsZero() && until.Before(since) {
		f.add("until", "after_since", "must not be before since")
	}
}

func (a *API) pageOfRuns(ctx context.Context, in RunFilter, query definition.ListRuns, f *faults) (*runListOutput, error) {
	limit := in.Limit.parse(f)
	query.Limit = limit + 1 // one more tells whether there is a next page
	filters := url.Values{"definition_id": {query.DefinitionID}, "status": {string(in.Status)}, "trigger": {string(in.Trigger)}}
	// Filters of a later time: cursors that were given out without them stay good.
	later := map[string]string{
		"backfill_id": query.BackfillID, "replay_id": query.ReplayID, "event_id": query.EventID, "reason": string(query.Reason),
		"since": string(in.Since), "until": string(in.Until), "rerun_of": query.RerunOf, "definition": query.Definition,
	}
	for key, value := range query.Labels {
		later["label:"+key] = "=" + value
	}
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
