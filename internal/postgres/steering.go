package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"

	"github.com/activity-core/activity-core/internal/access"
	"github.com/activity-core/activity-core/internal/definition"
)

const (
	// firstStop is how long after a request the stopper leaves a run to the process that was asked, and stopPause how long after
	// each time that it told the run's workflow.
	firstStop = 10 * time.Second
	stopPause = 30 * time.Second
)

// OnStops has a function told whenever a run took the place of others, which are to be stopped. It must not block. Set it before use.
func (s *Store) OnStops(told func()) { s.stops = told }

// chosen is a run that was chosen to be stopped, and its line.
type chosen struct {
	id   string
	open bool // it waits, and is in a line
	line line
}

// StopRun asks for the end of a run. What waits ends at once; what runs is marked, and its workflow has to be told. A run that
// was asked before stays as it is, unless it is to be terminated now. Errors: ErrNotFound, ErrRunFinal.
func (s *Store) StopRun(ctx context.Context, id string, req definition.StopRequest) (definition.Stopped, error) {
	attempt := fmt.Sprintf("%s run %s", req.How, id)
	scope, args := within(ctx, "definition_id", []any{id})
	rows, err := s.pool.Query(ctx, selectChosen+` WHERE id = $1`+scope, args...)
	if err != nil {
		return definition.Stopped{}, translate(attempt, err)
	}
	run, err := pgx.CollectExactlyOneRow(rows, scanChosen)
	if err != nil {
		return definition.Stopped{}, translate(attempt, err)
	}
	stopped, err := s.stop(ctx, attempt, []chosen{run}, req)
	if err != nil || len(stopped.Runs) > 0 {
		return stopped, err
	}
	// It has ended, or was asked before: then it is told again.
	var before definition.Stopping
	var status definition.RunStatus
	err = s.pool.QueryRow(ctx, `
		SELECT id::text, workflow_id, definition_name, stop_requested, stop_note, status FROM runs WHERE id = $1`, id).
		Scan(&before.RunID, &before.WorkflowID, &before.Definition, &before.How, &before.Note, &status)
	if err == nil && status.Final() {
		err = definition.ErrRunFinal
	}
	stopped.Runs = []definition.Stopping{before}
	return stopped, translate(attempt, err)
}

// StopRuns does what StopRun does for runs that have not ended, oldest first and at most so many; Left tells how many more there are.
// Those that were asked before in the same way are not among them. In a dry run they are only counted.
func (s *Store) StopRuns(ctx context.Context, which definition.ListRuns, req definition.StopRequest, most int, dryRun bool) (
	definition.Stopped, int, error) {
	ctx = access.WithoutClaim(ctx) // asking twice stops nothing twice
	attempt := string(req.How) + " runs"
	var w whereRuns
	w.all(ctx, which)
	w.conditions = append(w.conditions, "status IN ('accepted', 'queued', 'running')")
	if req.How == definition.StopCancel {
		w.conditions = append(w.conditions, "stop_requested = ''")
	} else {
		w.conditions = append(w.conditions, "stop_requested <> 'terminate'")
	}
	var total int
	err := s.pool.QueryRow(ctx, `SELECT count(*) FROM runs WHERE `+w.text(), w.args...).Scan(&total)
	if err != nil || dryRun || total == 0 {
		return definition.Stopped{}, total, translate(attempt, err)
	}
	where := w.text()
	rows, err := s.pool.Query(ctx, selectChosen+` WHERE `+where+` ORDER BY seq LIMIT `+w.arg(most), w.args...)
	if err != nil {
		return definition.Stopped{}, 0, translate(attempt, err)
	}
	list, err := pgx.CollectRows(rows, scanChosen)
	if err != nil {
		return definition.Stopped{}, 0, translate(attempt, err)
	}
	stopped, err := s.stop(ctx, attempt, list, req)
	stopped.Left = max(0, total-len(list))
	return stopped, len(stopped.Runs), err
}

const selectChosen = `
	SELECT id::text, status IN ('accepted', 'queued') AND (run_limit > 0 OR catch_up), definition_id::text, concurrency_key, run_limit,
	       catch_up
	FROM runs`

func scanChosen(row pgx.CollectableRow) (c chosen, err error) {
	err = row.Scan(&c.id, &c.open, &c.line.definitionID, &c.line.key, &c.line.own, &c.line.catchUp)
	return c, err
}

// stop ends those that wait, line by line, and then marks those that run: nobody is admitted who is to be stopped as well.
func (s *Store) stop(ctx context.Context, attempt string, list []chosen, req definition.StopRequest) (definition.Stopped, error) {
	var out definition.Stopped
	var loose []string
	lines := map[line][]string{}
	for _, c := range list {
		if c.open {
			lines[c.line] = append(lines[c.line], c.id)
		} else {
			loose = append(loose, c.id)
		}
	}
	for at, ids := range lines {
		var wake []string
		var ended []definition.Stopping
		err := s.tx(ctx, attempt, func(tx pgx.Tx) (err error) {
			l, err := lineOf(ctx, tx, ids[0])
			if err != nil {
				return err
			}
			if err = l.lock(ctx, tx); err != nil {
				return err
			}
			if ended, err = endWaiting(ctx, tx, ids, req); err != nil {
				return err
			}
			if len(ended) > 0 {
				if err := rememberMade(ctx, tx, ended[0].RunID); err != nil {
					return err
				}
			}
			if wake, err = l.admitNext(ctx, tx); err != nil {
				return err
			}
			return l.forget(ctx, tx)
		})
		if err != nil {
			return out, err
		}
		out.Runs, out.Wake = append(out.Runs, ended...), append(out.Wake, wake...)
		if len(ended) < len(ids) {
			loose = append(loose, lines[at]...) // some began meanwhile
		}
	}
	if len(loose) == 0 {
		return out, nil
	}
	var done []definition.Stopping
	err := s.tx(ctx, attempt, func(tx pgx.Tx) error {
		ended, err := endWaiting(ctx, tx, loose, req)
		if err != nil {
			return err
		}
		marked, err := markStopping(ctx, tx, loose, req)
		if err != nil {
			return err
		}
		if done = append(ended, marked...); len(done) == 0 {
			return nil
		}
		return rememberMade(ctx, tx, done[0].RunID)
	})
	if err == nil {
		out.Runs = append(out.Runs, done...)
	}
	return out, err
}

// steered is what every statement of steering ends with: it writes a row of the audit trail for each row of changed, which has the
// columns id, definition_id and revision.
const steered = `, noted AS (
	INSERT INTO audit (` + auditWho + `, action, target_kind, target_id, definition_id, revision, after)
	SELECT ($1::text[])[1], ($1::text[])[2], ($1::text[])[3], ($1::text[])[4], $2, 'run', id::text, definition_id, revision,
	       json_build_object('run_id', id, 'note', $3::text) FROM changed)`

// endWaiting ends the ones that have not begun.
func endWaiting(ctx context.Context, tx pgx.Tx, ids []string, req definition.StopRequest) ([]definition.Stopping, error) {
	rows, err := tx.Query(ctx, `
		WITH changed AS (
			UPDATE runs SET status = 'canceled', reason = $5, error = $6, finished_at = now(), stop_requested = $7, stop_reason = $5,
			       stop_note = $3
			WHERE id = ANY($4::uuid[]) AND (status = 'queued' OR status = 'accepted')
			RETURNING id, definition_id, revision, workflow_id, definition_name, workflow_run_id)`+steered+`
		SELECT id::text, CASE WHEN workflow_run_id <> '' THEN workflow_id ELSE '' END, definition_name FROM changed`,
		who(ctx), "run."+string(req.How), bound(req.Note), ids, req.Reason(), bound(req.Text()), req.How)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.Stopping, error) {
		st := definition.Stopping{How: req.How, Note: req.Note, Ended: true}
		return st, row.Scan(&st.RunID, &st.WorkflowID, &st.Definition)
	})
}

// markStopping marks the ones that run. Their workflows end them, or the stopper, which comes back to them until they have ended.
func markStopping(ctx context.Context, tx pgx.Tx, ids []string, req definition.StopRequest) ([]definition.Stopping, error) {
	rows, err := tx.Query(ctx, `
		WITH changed AS (
			UPDATE runs SET stop_requested = $6, stop_reason = $5, stop_note = $7, stop_after = now() + $8
			WHERE id = ANY($4::uuid[]) AND status = 'running' AND (stop_requested = '' OR stop_requested = 'cancel' AND $6 = 'terminate')
			RETURNING id, definition_id, revision, workflow_id, definition_name)`+steered+`
		SELECT id::text, workflow_id, definition_name FROM changed`,
		who(ctx), "run."+string(req.How), bound(req.Note), ids, req.Reason(), req.How, bound(req.Text()), firstStop)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (definition.Stopping, error) {
		st := definition.Stopping{How: req.How, Note: req.Text()}
		return st, row.Scan(&st.RunID, &st.WorkflowID, &st.Definition)
	})
}

// ClaimStops claims runs whose workflows are to be told, again if need be, that they are to end. Nobody else gets them for a while.
// Nothing is locked when it returns.
func (s *Store) ClaimStops(ctx context.Context, limit int) ([]definition.Stopping, error) {
	rows, err := s.pool.Query(ctx, `
		UPDATE runs SET stop_after = now() + $2
		WHERE id IN (SELECT id FROM runs
		             WHERE stop_requested <> '' AND status IN ('accepted', 'queued', 'running') AND stop_after <= now()
		             ORDER BY stop_after LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING id::text, workflow_id, definition_name, stop_requested, stop_note`, limit, stopPause)
	if err != nil {
		return nil, translate("claim runs to stop", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (st definition.Stopping, err error) {
		err = row.Scan(&st.RunID, &st.WorkflowID, &st.Definition, &st.How, &st.Note)
		return st, err
	})
	return list, translate("claim runs to stop", err)
}

// all adds every condition of a filter, for a statement that does not need them newest first.
func (w *whereRuns) all(ctx context.Context, q definition.ListRuns) {
	w.bounds(q, plain)
	w.few(q)
	w.states(q)
	w.conditions = append(w.conditions, w.ofDefinitions(q, labelsOf(ctx, q.Labels)))
}

// RerunRun makes a run that makes up for another one that has ended: with its input, from the start by the revision in force, or by its
// own revision without the tasks that are done. The answer's Status tells whether it is to be started. Errors: ErrNotFound, ErrRunOpen,
// ErrRunNotFailed, ErrDefinitionGone.
func (s *Store) RerunRun(ctx context.Context, id string, from definition.RerunFrom) (definition.Start, error) {
	var start definition.Start
	err := s.tx(ctx, fmt.Sprintf("rerun run %s from %s", id, from), func(tx pgx.Tx) (err error) {
		if start, err = rerun(ctx, tx, id, from); err != nil {
			return err
		}
		return rememberMade(ctx, tx, start.RunID)
	})
	return start, err
}

// rerunnable is the condition that a run is worth another one: it did not succeed, no rerun of it was made yet, and its definition
// is there.
const rerunnable = `status IN ('failed', 'timed_out', 'canceled', 'skipped', 'missed')
	AND NOT EXISTS (SELECT FROM runs m WHERE m.rerun_of = runs.id)
	AND EXISTS (SELECT FROM definitions d WHERE d.id = runs.definition_id AND d.deleted_at IS NULL)`

// RerunRuns does what RerunRun does for runs that ended without success and were not run again yet, oldest first and at most so many,
// or as many as there is time for; left tells how many more there are. Without statuses, those that failed or timed out are meant. In a
// dry run they are only counted, as left.
func (s *Store) RerunRuns(ctx context.Context, which definition.ListRuns, from definition.RerunFrom, most int, dryRun bool) (
	starts []definition.Start, left int, err error) {
	ctx = access.WithoutClaim(ctx) // what was run again is not run again by asking twice
	const attempt = "rerun runs"
	if len(which.Statuses) == 0 {
		which.Statuses = []definition.RunStatus{definition.RunFailed, definition.RunTimedOut}
	}
	if from == definition.RerunFailed {
		which.Statuses = slices.DeleteFunc(slices.Clone(which.Statuses), func(s definition.RunStatus) bool { return !continuable(s) })
		if len(which.Statuses) == 0 {
			return nil, 0, nil
		}
	}
	var w whereRuns
	w.all(ctx, which)
	w.conditions = append(w.conditions, rerunnable)
	err = s.pool.QueryRow(ctx, `SELECT count(*) FROM runs WHERE `+w.text(), w.args...).Scan(&left)
	if err != nil || dryRun || left == 0 {
		return nil, left, translate(attempt, err)
	}
	where := w.text()
	rows, err := s.pool.Query(ctx, `SELECT id::text FROM runs WHERE `+where+` ORDER BY seq LIMIT `+w.arg(most), w.args...)
	if err != nil {
		return nil, 0, translate(attempt, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, 0, translate(attempt, err)
	}
	for _, id := range ids {
		if until, ok := ctx.Deadline(); ok && len(starts) > 0 && time.Until(until) < rerunReserve {
			break
		}
		start, err := s.RerunRun(ctx, id, from)
		switch {
		case errors.Is(err, definition.ErrDefinitionGone), errors.Is(err, definition.ErrNotFound):
			left-- // meanwhile
		case err != nil:
			return starts, left, err
		default:
			starts, left = append(starts, start), left-1
		}
	}
	return starts, left, nil
}

// rerunReserve is how much time is left for starting what RerunRuns made.
const rerunReserve = 4 * time.Second

func continuable(s definition.RunStatus) bool {
	return s == definition.RunFailed || s == definition.RunTimedOut || s == definition.RunCanceled
}

func rerun(ctx context.Context, tx pgx.Tx, id string, from definition.RerunFrom) (definition.Start, error) {
	var none definition.Start
	// The lock makes two requests number their runs one after the other.
	scope, args := within(ctx, "definition_id", []any{id})
	rows, err := tx.Query(ctx, `SELECT `+runColumns+`, input FROM runs WHERE id = $1`+scope+` FOR NO KEY UPDATE`, args...)
	if err != nil {
		return none, err
	}
	run, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (definition.Run, error) { return scanRun(row, true) })
	switch {
	case err != nil:
		return none, err
	case !run.Status.Final():
		return none, definition.ErrRunOpen
	case from == definition.RerunFailed && !continuable(run.Status):
		return none, definition.ErrRunNotFailed
	}
	stored, err := readDefinition(ctx, tx, run.DefinitionID, false)
	if errors.Is(err, pgx.ErrNoRows) {
		return none, definition.ErrDefinitionGone
	}
	if err != nil {
		return none, err
	}
	doc, revision := stored.Document, stored.Revision
	if from == definition.RerunFailed {
		revision = run.Revision
		var document string
		err := tx.QueryRow(ctx, `SELECT document::text FROM definition_revisions WHERE definition_id = $1 AND revision = $2`,
			run.DefinitionID, revision).Scan(&document)
		if err != nil {
			return none, err
		}
		if doc, err = definition.DecodeStored([]byte(document)); err != nil {
			return none, err
		}
	}
	var n int
	err = tx.QueryRow(ctx, `
		SELECT COALESCE(max(substring(occurrence_key FROM '[0-9]+$')::int), 0) + 1 FROM runs
		WHERE rerun_of = $1 AND occurrence_key LIKE 'rerun-%'`, id).Scan(&n)
	if err != nil {
		return none, err
	}
	for ; ; n++ { // a backfill or a replay may take the same number at this moment
		start, err := insertRerun(ctx, tx, &run, &doc, stored.Name, revision, n)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err == nil && from == definition.RerunFailed {
			err = copyDone(ctx, tx, &run, &doc, start.RunID)
		}
		if err == nil {
			err = recordRerun(ctx, tx, &run, from, start.RunID)
		}
		return start, err
	}
}

func recordRerun(ctx context.Context, tx pgx.Tx, run *definition.Run, from definition.RerunFrom, newID string) error {
	after, err := json.Marshal(map[string]string{"run_id": run.ID, "from": string(from), "new_run_id": newID})
	if err != nil {
		return err
	}
	return audited{action: definition.ActionRunRerun, target: definition.Target{Kind: definition.TargetRun, ID: run.ID}, id: run.DefinitionID,
		revision: run.Revision, after: after}.record(ctx, tx)
}

// insertRerun writes the row of the nth rerun; pgx.ErrNoRows: there is one.
func insertRerun(ctx context.Context, tx pgx.Tx, run *definition.Run, doc *definition.Document, name string, revision, n int) (
	definition.Start, error) {
	key := definition.RerunKey(run.ID, n)
	o := definition.Occurrence{
		DefinitionID: run.DefinitionID, Revision: revision, Kind: definition.KindRerun, Key: key, Input: run.Input,
		EventID: run.EventID, EventType: run.EventType, TraceID: run.TraceID, RerunOf: run.ID, Depth: run.Depth,
	}
	doc.Keyer().Set(ctx, &o)
	rows, err := tx.Query(ctx, `
		INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, reason, error, finished_at, input,
		                  event_id, event_type, trace_id, slot_at, run_limit, run_timeout, workflow_id, start_after, concurrency_key, depth,
		                  rerun_of)
		SELECT $1, $2, $3, $4, 'rerun', $5, CASE WHEN $6 = '' THEN 'accepted' ELSE 'failed' END,
		       CASE WHEN $6 = '' THEN '' ELSE 'concurrency_key_error' END, $6, CASE WHEN $6 <> '' THEN now() END, r.input,
		       r.event_id, r.event_type, r.trace_id, r.slot_at, v.run_limit, v.run_timeout, $7, now() + $8, $9, r.depth, r.id
		FROM runs r JOIN definition_revisions v ON v.definition_id = r.definition_id AND v.revision = $4
		WHERE r.id = $10
		ON CONFLICT (definition_id, occurrence_key) DO NOTHING
		RETURNING `+startColumns+`, status`,
		definition.NewID(), run.DefinitionID, name, revision, key, bound(o.KeyError), definition.WorkflowID(run.DefinitionID, key),
		FirstSweep, o.ConcurrencyKey, run.ID)
	if err != nil {
		return definition.Start{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scanAccepted)
}

// copyDone gives a rerun the results of the tasks that are done, and of those items of the others whose lists are the same again: every
// task that such a list may be made of is done.
func copyDone(ctx context.Context, tx pgx.Tx, run *definition.Run, doc *definition.Document, to string) error {
	rows, err := tx.Query(ctx, `
		INSERT INTO task_results (run_id, index, name, type, status, error, attempts, output, output_truncated, started_at, finished_at,
		                          input, items, items_begun, wait_until)
		SELECT $2, index, name, type, status, error, attempts, output, output_truncated, started_at, finished_at, input, items, items_begun,
		       wait_until
		FROM task_results WHERE run_id = $1 AND index < $3 AND status IN ('succeeded', 'skipped')
		RETURNING index`, run.ID, to, len(doc.Tasks))
	if err != nil {
		return err
	}
	done, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return err
	}
	same := slices.Clone(done)
	for i := range doc.Tasks {
		if doc.Tasks[i].ForEach != "" && !slices.Contains(done, i) && needsOnly(doc.Tasks, i, done) {
			same = append(same, i)
		}
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO task_items (run_id, index, item, status, error, attempts, value, output, output_truncated, started_at, finished_at)
		SELECT $2, index, item, status, error, attempts, value, output, output_truncated, started_at, finished_at
		FROM task_items WHERE run_id = $1 AND index = ANY($3::int[]) AND (status = 'succeeded' OR index = ANY($4::int[]))`,
		run.ID, to, same, done)
	return err
}

// needsOnly reports whether a task needs, directly or not, none but these.
func needsOnly(tasks []definition.Task, index int, done []int) bool {
	for _, name := range tasks[index].Needs {
		at := slices.IndexFunc(tasks, func(t definition.Task) bool { return t.Name == name })
		if at < 0 || !slices.Contains(done, at) || !needsOnly(tasks, at, done) {
			return false
		}
	}
	return true
}

// DecideTask writes somebody's decision about a task that waits for approval, and returns the run's workflow, which is to hear of it.
// The first decision stands. Errors: ErrNotFound for an unknown run or task, ErrNotWaiting for a task that does not wait for a
// decision, or not any more: then the task is returned if it was reached.
func (s *Store) DecideTask(ctx context.Context, d definition.Decision) (workflowID string, task definition.TaskResult, err error) {
	attempt := fmt.Sprintf("decide about task %s of run %s", d.Task, d.RunID)
	var document string
	var now time.Time
	scope, args := within(ctx, "definition_id", []any{d.RunID})
	err = s.pool.QueryRow(ctx, `
		SELECT v.document::text, now() FROM runs JOIN definition_revisions v USING (definition_id, revision) WHERE runs.id = $1`+scope, args...).
		Scan(&document, &now)
	if err != nil {
		return "", task, translate(attempt, err)
	}
	doc, err := definition.DecodeStored([]byte(document))
	if err != nil {
		return "", task, translate(attempt, err)
	}
	tasks := doc.AllTasks()
	index := slices.IndexFunc(tasks, func(t definition.Task) bool { return t.Name == d.Task })
	if index < 0 {
		return "", task, translate(attempt, definition.ErrNotFound)
	}
	var with definition.WaitTask
	if tasks[index].Type != definition.TaskWait || tasks[index].Decode(&with) != nil || with.Approval == nil {
		return "", task, translate(attempt, definition.ErrNotWaiting)
	}
	output, err := json.Marshal(definition.Decided{Approved: d.Approved, By: d.By, Comment: d.Comment, At: now.UTC()})
	if err != nil {
		return "", task, translate(attempt, err)
	}
	status, action, text := definition.TaskSucceeded, definition.ActionRunApprove, ""
	if !d.Approved {
		status, action, text = definition.TaskFailed, definition.ActionRunReject, rejectedText(d)
	}
	const decide = `
		WITH decided AS (
			UPDATE task_results t SET status = $3, output = $4, error = $5, attempts = 1, finished_at = now()
			FROM runs r WHERE t.run_id = $1 AND t.index = $2 AND t.status = 'running'
			  AND r.id = t.run_id AND r.status = 'running' AND r.stop_requested = ''
			RETURNING r.definition_id, r.revision, r.workflow_id),
		noted AS (
			INSERT INTO audit (` + auditWho + `, action, target_kind, target_id, definition_id, revision, after)
			SELECT ($6::text[])[1], ($6::text[])[2], ($6::text[])[3], ($6::text[])[4], $7, 'run', $1::uuid::text, definition_id, revision,
			       json_build_object('run_id', $1::uuid, 'task', $8::text, 'by', $9::text, 'comment', $10::text)
			FROM decided)
		SELECT workflow_id FROM decided`
	err = s.tx(ctx, attempt, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, decide, d.RunID, index, status, output, bound(text), who(ctx), action, d.Task, d.By, d.Comment).
			Scan(&workflowID)
		if err != nil {
			return err
		}
		return rememberMade(ctx, tx, d.RunID)
	})
	if !errors.Is(err, definition.ErrNotFound) {
		return workflowID, task, err
	}
	detail, _, err := s.GetTask(ctx, d.RunID, d.Task, 0, 0)
	if err == nil || errors.Is(err, definition.ErrNotFound) {
		err = definition.ErrNotWaiting
	}
	return "", detail.TaskResult, translate(attempt, err)
}

func rejectedText(d definition.Decision) string {
	text := "rejected"
	if d.By != "" {
		text += " by " + d.By
	}
	if d.Comment != "" {
		text += ": " + d.Comment
	}
	return text
}
