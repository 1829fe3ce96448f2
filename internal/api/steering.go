package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// maxNote is the most characters of a note or comment.
	maxNote = 500
	// maxBy is the most characters of the name of whoever decides.
	maxBy = 100
	// steerConcurrency is how many workflows one request starts at once, and steerTimeout how long it goes on telling and starting them.
	// The others are left to the workers.
	steerConcurrency = 16
	steerTimeout     = 3 * time.Second
)

type stopInput struct {
	fieldsBody[stopFields]
	ID string `path:"id" format:"uuid" doc:"The run's id."`
}

type stopFields struct {
	Note *string `json:"note"`
}

type steeredOutput struct {
	Body Run
}

type rerunInput struct {
	fieldsBody[rerunFields]
	ID string `path:"id" format:"uuid" doc:"The run's id."`
}

type rerunFields struct {
	From *string `json:"from"`
}

type decideInput struct {
	fieldsBody[decideFields]
	ID   string `path:"id" format:"uuid" doc:"The run's id."`
	Name string `path:"name" doc:"The task's name."`
}

type decideFields struct {
	Comment *string `json:"comment"`
	By      *string `json:"by"`
}

type stopRunsInput struct {
	fieldsBody[stopRunsFields]
}

type stopRunsFields struct {
	Filter *runFilterFields `json:"filter"`
	Note   *string          `json:"note"`
	DryRun bool             `json:"dry_run"`
}

type rerunRunsInput struct {
	fieldsBody[rerunRunsFields]
}

type rerunRunsFields struct {
	Filter *runFilterFields `json:"filter"`
	From   *string          `json:"from"`
	DryRun bool             `json:"dry_run"`
}

// runFilterFields is the filter of a request about many runs: at least one of them.
type runFilterFields struct {
	DefinitionID *string           `json:"definition_id"`
	Definition   *string           `json:"definition"`
	Labels       map[string]string `json:"labels"`
	Status       []string          `json:"status"`
	Reason       *string           `json:"reason"`
	Trigger      []string          `json:"trigger"`
	Since        *time.Time        `json:"since"`
	Until        *time.Time        `json:"until"`
	RerunOf      *string           `json:"rerun_of"`
	BackfillID   *string           `json:"backfill_id"`
	ReplayID     *string           `json:"replay_id"`
	EventID      *string           `json:"event_id"`
}

// runsSteeredOutput answers 202, and 200 for the count of a dry run.
type runsSteeredOutput struct {
	Status int
	Body   RunCount
}

func (a *API) cancelRun(ctx context.Context, in *stopInput) (*steeredOutput, error) {
	return a.stopRun(ctx, in, definition.StopCancel)
}

func (a *API) terminateRun(ctx context.Context, in *stopInput) (*steeredOutput, error) {
	return a.stopRun(ctx, in, definition.StopTerminate)
}

// stopRun commits the request first; telling Temporal is done at once, and again by a worker until the run has ended.
func (a *API) stopRun(ctx context.Context, in *stopInput, how definition.StopHow) (*steeredOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	var f faults
	req := definition.StopRequest{How: how, Note: words("note", in.given.Note, maxNote, &f)}
	if err := f.err(); err != nil {
		return nil, err
	}
	if madeBefore(ctx) == "" {
		stopped, err := a.store.StopRun(ctx, id, req)
		if errors.Is(err, definition.ErrRunFinal) {
			return nil, a.alreadyEnded(ctx, id, how)
		}
		if err != nil {
			return nil, missing(err, "run", id)
		}
		a.tell(ctx, stopped)
	}
	run, err := a.store.GetRunDetail(ctx, id)
	if err != nil {
		return nil, missing(err, "run", id)
	}
	return &steeredOutput{Body: a.runJSON(run)}, nil
}

// alreadyEnded is the answer to stopping a run that has ended.
func (a *API) alreadyEnded(ctx context.Context, id string, how definition.StopHow) error {
	run, err := a.store.GetRunDetail(ctx, id)
	if err != nil {
		return missing(err, "run", id)
	}
	return newProblem(http.StatusConflict, kindRunEnded, "run %s has ended already (%s): there is nothing left to %s", id,
		outcomeText(&run.Run), how)
}

// outcomeText is a status with its reason.
func outcomeText(r *definition.Run) string {
	if r.Reason == definition.ReasonNone {
		return string(r.Status)
	}
	return fmt.Sprintf("%s: %s", r.Status, r.Reason)
}

// tell tells Temporal what was written, as far as there is time. The client may be gone by then.
func (a *API) tell(ctx context.Context, stopped definition.Stopped) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), steerTimeout)
	defer cancel()
	if err := a.stopper.StopAll(ctx, stopped.Runs); err != nil {
		a.log.LogAttrs(ctx, slog.LevelWarn, "runs not told yet that they are to end, a worker goes on trying",
			slog.String("request_id", requestID(ctx)), slog.Any("error", err))
	}
	a.stopper.Wake(ctx, stopped.Wake)
}

func (a *API) rerunRun(ctx context.Context, in *rerunInput) (*acceptedOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	var f faults
	from := rerunFrom(in.given.From, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	if run := madeBefore(ctx); run != "" {
		return a.startedBefore(ctx, run)
	}
	start, err := a.store.RerunRun(ctx, id, from)
	switch {
	case errors.Is(err, definition.ErrRunOpen):
		return nil, newProblem(http.StatusConflict, kindRunOpen,
			"run %s has not ended: wait for its end, or cancel it by POST /runs/%s/cancel, and ask again then", id, id)
	case errors.Is(err, definition.ErrRunNotFailed):
		return nil, newProblem(http.StatusConflict, kindRunNotFailed,
			"run %s did not fail, time out or get canceled, so there is no task to go on from: run it again from the start", id)
	case errors.Is(err, definition.ErrDefinitionGone):
		return nil, newProblem(http.StatusConflict, kindDefinitionDeleted,
			"the definition of run %s was deleted, so that it cannot run again: create it anew and trigger that", id)
	case err != nil:
		return nil, missing(err, "run", id)
	}
	return a.started(ctx, start, definition.Run{RerunOf: id}), nil
}

func rerunFrom(given *string, f *faults) definition.RerunFrom {
	if given == nil {
		return definition.RerunStart
	}
	if *given == "" {
		f.add("from", "not_empty", "is empty: give it a value or leave it out")
	}
	return oneOf("from", definition.RerunFrom(*given), definition.RerunFroms, f)
}

func (a *API) approveTask(ctx context.Context, in *decideInput) (*steeredOutput, error) {
	return a.decide(ctx, in, true)
}

func (a *API) rejectTask(ctx context.Context, in *decideInput) (*steeredOutput, error) {
	return a.decide(ctx, in, false)
}

func (a *API) decide(ctx context.Context, in *decideInput, approved bool) (*steeredOutput, error) {
	id, err := definition.ParseID(in.ID)
	if err != nil {
		return nil, err
	}
	var f faults
	d := definition.Decision{
		RunID: id, Task: in.Name, Approved: approved,
		Comment: words("comment", in.given.Comment, maxNote, &f), By: words("by", in.given.By, maxBy, &f),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if madeBefore(ctx) == "" {
		workflow, task, err := a.store.DecideTask(ctx, d)
		switch {
		case errors.Is(err, definition.ErrNotWaiting):
			return nil, notWaiting(&d, &task)
		case err != nil:
			return nil, missing(err, "task "+clip(in.Name, 63)+" in a run", id)
		}
		ctx = context.WithoutCancel(ctx)
		telling, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		if err := a.stopper.Decided(telling, workflow); err != nil {
			a.log.LogAttrs(ctx, slog.LevelWarn, "the run was not told of a decision yet; it asks by itself",
				slog.String("run_id", id), slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		}
	}
	run, err := a.store.GetRunDetail(ctx, id)
	if err != nil {
		return nil, missing(err, "run", id)
	}
	return &steeredOutput{Body: a.runJSON(run)}, nil
}

// notWaiting is the answer to a decision about a task that does not wait for one.
func notWaiting(d *definition.Decision, task *definition.TaskResult) *Problem {
	const kind = kindNotWaiting
	var before definition.Decided
	switch {
	case task.Name == "":
		return newProblem(http.StatusConflict, kind,
			"task %s of run %s does not wait for approval: it has not come to that yet, or never will", clip(d.Task, 63), d.RunID)
	case task.Type != definition.TaskWait:
		return newProblem(http.StatusConflict, kind, "task %s of run %s is of the type %s, which nobody has to approve",
			task.Name, d.RunID, task.Type)
	case task.Status == definition.TaskRunning:
		return newProblem(http.StatusConflict, kind,
			"task %s of run %s does not wait for approval any more: the run is being stopped, or has ended", task.Name, d.RunID)
	case json.Unmarshal(task.Output, &before) == nil && !before.At.IsZero():
		what, by := "rejected", before.By
		if before.Approved {
			what = "approved"
		}
		if by == "" {
			by = "somebody who gave no name"
		}
		return newProblem(http.StatusConflict, kindDecided, "task %s of run %s was %s already, by %s at %s: the first decision stands",
			task.Name, d.RunID, what, by, before.At.UTC().Format(time.RFC3339))
	}
	return newProblem(http.StatusConflict, kind, "task %s of run %s does not wait for approval: it is %s", task.Name, d.RunID,
		task.Status)
}

// words checks a text of a person's own; empty for none.
func words(field string, given *string, most int, f *faults) string {
	if given == nil {
		return ""
	}
	switch {
	case utf8.RuneCountInString(*given) > most:
		f.add(field, "max_length", "must be at most %d characters long", most)
	case strings.ContainsRune(*given, 0):
		f.add(field, "text", "must not hold the character U+0000")
	}
	return *given
}

func (a *API) cancelRuns(ctx context.Context, in *stopRunsInput) (*runsSteeredOutput, error) {
	return a.stopRuns(ctx, in, definition.StopCancel)
}

func (a *API) terminateRuns(ctx context.Context, in *stopRunsInput) (*runsSteeredOutput, error) {
	return a.stopRuns(ctx, in, definition.StopTerminate)
}

func (a *API) stopRuns(ctx context.Context, in *stopRunsInput, how definition.StopHow) (*runsSteeredOutput, error) {
	var f faults
	which := in.given.Filter.selection(&f)
	req := definition.StopRequest{How: how, Note: words("note", in.given.Note, maxNote, &f)}
	if err := f.err(); err != nil {
		return nil, err
	}
	stopped, n, err := a.store.StopRuns(ctx, which, req, definition.MaxSteered, in.given.DryRun)
	if err != nil {
		return nil, err
	}
	if in.given.DryRun {
		return counted(n), nil
	}
	a.tell(ctx, stopped)
	return &runsSteeredOutput{Status: http.StatusAccepted, Body: RunCount{Count: n, Left: stopped.Left}}, nil
}

func (a *API) rerunRuns(ctx context.Context, in *rerunRunsInput) (*runsSteeredOutput, error) {
	var f faults
	which := in.given.Filter.selection(&f)
	from := rerunFrom(in.given.From, &f)
	if err := f.err(); err != nil {
		return nil, err
	}
	starts, left, err := a.store.RerunRuns(ctx, which, from, definition.MaxSteered, in.given.DryRun)
	if in.given.DryRun && err == nil {
		return counted(left), nil
	}
	// What was made before an error is started all the same.
	starting, cancel := context.WithTimeout(context.WithoutCancel(ctx), steerTimeout)
	defer cancel()
	group := errgroup.Group{}
	group.SetLimit(steerConcurrency)
	for _, st := range starts {
		group.Go(func() error {
			if starting.Err() == nil {
				a.start(starting, st)
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
	if err != nil {
		return nil, err
	}
	return &runsSteeredOutput{Status: http.StatusAccepted, Body: RunCount{Count: len(starts), Left: left}}, nil
}

func counted(n int) *runsSteeredOutput {
	return &runsSteeredOutput{Status: http.StatusOK, Body: RunCount{Count: n, Left: max(0, n-definition.MaxSteered), DryRun: true}}
}

// maxNameFilter is the most characters of the name of a definition.
const maxNameFilter = 100

// selection reads the filter, which has to name something.
func (g *runFilterFields) selection(f *faults) definition.ListRuns {
	var q definition.ListRuns
	const rule = "must name which runs are meant: at least one of definition_id, definition, labels, status, reason, trigger, since, until, " +
		"rerun_of, backfill_id, replay_id and event_id"
	if g == nil || g.empty() {
		f.add("filter", "required", rule)
		return q
	}
	text := func(name string, given *string) string {
		if given == nil {
			return ""
		}
		if *given == "" {
			f.add("filter."+name, "not_empty", "is empty: give it a value or leave it out")
		}
		return *given
	}
	id := func(name string, given *string) string { return idParam(text(name, given)).parse("filter."+name, f) }
	q.DefinitionID, q.Definition, q.Labels = id("definition_id", g.DefinitionID), text("definition", g.Definition), g.Labels
	q.Statuses = listOf("filter.status", g.Status, definition.RunStatuses, f)
	q.Reason = oneOf("filter.reason", definition.Reason(text("reason", g.Reason)), definition.Reasons, f)
	q.Kinds = listOf("filter.trigger", g.Trigger, definition.TriggerKinds, f)
	q.RerunOf, q.BackfillID, q.ReplayID = id("rerun_of", g.RerunOf), id("backfill_id", g.BackfillID), id("replay_id", g.ReplayID)
	q.EventID = eventIDParam(text("event_id", g.EventID)).parse("filter.event_id", f)
	if len(g.Labels) > definition.MaxLabels {
		f.add("filter.labels", "max_items", "holds more than %d labels, and no definition has so many", definition.MaxLabels)
	}
	if g.Since != nil {
		q.Since = g.Since.UTC()
	}
	if g.Until != nil {
		q.Until = g.Until.UTC()
	}
	if g.Since != nil && g.Until != nil && q.Until.Before(q.Since) {
		f.add("filter.until", "after_since", "must not be before since")
	}
	if utf8.RuneCountInString(q.Definition) > maxNameFilter {
		f.add("filter.definition", "max_length", "must be at most %d characters long, as names are", maxNameFilter)
	}
	for _, key := range slices.Sorted(maps.Keys(q.Labels)) {
		if len(q.Labels[key]) > definition.MaxLabelValue {
			f.add("filter.labels."+clip(key, 60), "max_length", "must be at most %d bytes long, as labels are", definition.MaxLabelValue)
		}
	}
	for _, value := range []string{q.Definition, strings.Join(labelTexts(q.Labels), "")} {
		if strings.ContainsRune(value, 0) {
			f.add("filter", "text", "must not hold the character U+0000")
		}
	}
	return q
}

func labelTexts(labels map[string]string) []string {
	var out []string
	for key, value := range labels {
		out = append(out, key, value)
	}
	return out
}

func (g *runFilterFields) empty() bool {
	return g.DefinitionID == nil && g.Definition == nil && len(g.Labels) == 0 && len(g.Status) == 0 && g.Reason == nil &&
		len(g.Trigger) == 0 && g.Since == nil && g.Until == nil && g.RerunOf == nil && g.BackfillID == nil && g.ReplayID == nil &&
		g.EventID == nil
}
