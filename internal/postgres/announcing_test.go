package postgres

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

const announced = `{"name": "told", "labels": {"team": "a\u0000b"}, "trigger_config": {"trigger_type": "event", "event_type": "a.b"},
	"notify": [{"on": ["failed", "recovered"], "type": "http", "with": {"url": "https://example.com/"}}]}`

// endings makes a run for each of the ends that a row can come to by the ways of this package, and returns their ids by status.
func endings(t *testing.T, s *Store) map[definition.RunStatus]string {
	t.Helper()
	ctx := t.Context()
	d := create(t, s, announced)
	of := map[definition.RunStatus]string{}
	accept := func(o definition.Occurrence) definition.Start {
		t.Helper()
		o.DefinitionID, o.Kind, o.Key = d.ID, definition.KindManual, definition.ManualKey()
		starts, err := s.AcceptRuns(ctx, []definition.Occurrence{o})
		if err != nil {
			t.Fatal(err)
		}
		if len(starts) == 0 {
			return definition.Start{}
		}
		return starts[0]
	}
	for _, status := range []definition.RunStatus{definition.RunSucceeded, definition.RunTimedOut, definition.RunCanceled} {
		st := accept(definition.Occurrence{})
		begin := definition.Begin{RunID: st.RunID, DefinitionID: d.ID, WorkflowID: definition.WorkflowID(d.ID, st.Key), FirstRunID: st.RunID}
		if _, err := s.BeginRun(ctx, begin); err != nil {
			t.Fatal(err)
		}
		if _, err := s.FinishRun(ctx, definition.Finish{RunID: st.RunID, Status: status}); err != nil {
			t.Fatal(err)
		}
		of[status] = st.RunID
	}
	accept(definition.Occurrence{ConditionError: "no such key"})
	row := `SELECT id::text FROM runs WHERE status = $1`
	var id string
	if err := s.pool.QueryRow(ctx, row, definition.RunFailed).Scan(&id); err != nil {
		t.Fatal(err)
	}
	of[definition.RunFailed] = id

	// A slot that is found an hour late.
	cron := create(t, s, `{"name": "late", "trigger_config": {"trigger_type": "cron", "cron_expression": "@hourly"}}`)
	if _, err := s.pool.Exec(ctx, `
		UPDATE cron_state SET cursor = date_trunc('hour', now()) - interval '90 min', next_slot_at = date_trunc('hour', now()) - interval '1 h'
		WHERE definition_id = $1`, cron.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SettleDue(ctx, 10); err != nil {
		t.Fatal(err)
	}
	if err := s.pool.QueryRow(ctx, row+` LIMIT 1`, definition.RunMissed).Scan(&id); err != nil {
		t.Fatal(err)
	}
	of[definition.RunMissed] = id
	if _, err := s.pool.Exec(ctx, `DELETE FROM runs WHERE definition_id = $1 AND id <> $2`, cron.ID, id); err != nil {
		t.Fatal(err)
	}
	accept(definition.Occurrence{}) // one that has not ended
	return of
}

func ids(ends []definition.RunEnd) []string {
	var out []string
	for _, e := range ends {
		out = append(out, e.Run.ID)
	}
	slices.Sort(out)
	return out
}

// Whatever ends a run leaves an end to be told, in the order of the ends and once until it is given back.
func TestEveryEndIsClaimedOnce(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	of := endings(t, s)
	var want []string
	for _, id := range of {
		want = append(want, id)
	}
	slices.Sort(want)

	const lease = time.Hour
	ends, err := s.ClaimEnds(ctx, 100, lease)
	if err != nil || fmt.Sprint(ids(ends)) != fmt.Sprint(want) {
		t.Fatalf("claimed %v, %v; want %v", ids(ends), err, want)
	}
	if !slices.IsSortedFunc(ends, func(a, b definition.RunEnd) int { return a.Run.FinishedAt.Compare(*b.Run.FinishedAt) }) {
		t.Error("the ends are not in the order in which the runs ended")
	}
	for _, e := range ends {
		labels, notify := "map[team:a\x00b]", 1
		if e.Run.Status == definition.RunMissed {
			labels, notify = "map[]", 0
		}
		if fmt.Sprint(e.Labels) != labels || len(e.Notify) != notify || !e.Run.Status.Final() {
			t.Errorf("%s has the labels %v and %d notifications", e.Run.Status, e.Labels, len(e.Notify))
		}
	}
	if again, err := s.ClaimEnds(ctx, 100, lease); err != nil || len(again) != 0 {
		t.Errorf("within the lease %v were claimed again, %v", ids(again), err)
	}
	back := []string{of[definition.RunFailed], of[definition.RunMissed]}
	slices.Sort(back)
	if err := s.ReturnEnds(ctx, back, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkAnnounced(ctx, []string{of[definition.RunSucceeded], of[definition.RunTimedOut], of[definition.RunCanceled]}); err != nil {
		t.Fatal(err)
	}
	ends, err = s.ClaimEnds(ctx, 1, 0)
	if err != nil || len(ends) != 1 {
		t.Fatalf("claimed %d, %v; want 1", len(ends), err)
	}
	ends, err = s.ClaimEnds(ctx, 100, 0)
	if err != nil || fmt.Sprint(ids(ends)) != fmt.Sprint(back) {
		t.Errorf("claimed %v, %v; want what was given back, %v", ids(ends), err, back)
	}
	if err := s.MarkAnnounced(ctx, back); err != nil {
		t.Fatal(err)
	}
	if ends, err := s.ClaimEnds(ctx, 100, 0); err != nil || len(ends) != 0 {
		t.Errorf("%v are left, %v", ids(ends), err)
	}
	// An end that is told is told for good: nothing that is still written to the row brings it back.
	if _, err := s.pool.Exec(ctx, `UPDATE runs SET finished_at = now() WHERE finished_at IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	if ends, err := s.ClaimEnds(ctx, 100, 0); err != nil || len(ends) != 0 {
		t.Errorf("%v came back, %v", ids(ends), err)
	}
}

func TestEndedBefore(t *testing.T) {
	t.Parallel()
	s, ctx := newStore(t), t.Context()
	d := create(t, s, manual)
	other := create(t, s, everyMinute)
	// In the order of acceptance, which is not that of the ends.
	rows := []struct {
		definition, kind, status string
		ended                    int // minutes from a begin, 0 for not at all
	}{
		{d.ID, "manual", "failed", 10},
		{other.ID, "manual", "missed", 29},
		{d.ID, "cron", "timed_out", 28},
		{d.ID, "manual", "succeeded", 20},
		{d.ID, "manual", "skipped", 26},
		{d.ID, "manual", "canceled", 27},
		{d.ID, "manual", "running", 0},
		{d.ID, "manual", "succeeded", 30},
		{d.ID, "manual", "timed_out", 25},
		{d.ID, "manual", "failed", 40},
	}
	var runs []string
	for i, r := range rows {
		id := definition.NewID()
		_, err := s.pool.Exec(ctx, `
			INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, run_limit, run_timeout,
			                  workflow_id, start_after, finished_at)
			VALUES ($1, $2, 'd', 1, $3, $4, $5, 0, '1 h', $4, now(),
			        CASE WHEN $6 > 0 THEN '2026-01-01Z'::timestamptz + $6 * interval '1 min' END)`,
			id, r.definition, r.kind, fmt.Sprint("key-", i), r.status, r.ended)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, id)
	}
	for _, c := range []struct {
		row  int
		want definition.RunStatus
	}{{0, ""}, {3, definition.RunFailed}, {8, definition.RunSucceeded}, {7, definition.RunTimedOut}, {9, definition.RunSucceeded}} {
		end, err := s.GetEnd(ctx, runs[c.row])
		if err != nil {
			t.Fatal(err)
		}
		got, found, err := s.EndedBefore(ctx, &end.Run)
		if err != nil || got != c.want || found != (c.want != "") {
			t.Errorf("before row %d ended %q, %v, %v; want %q", c.row, got, found, err, c.want)
		}
	}
	if _, err := s.GetEnd(ctx, runs[6]); err == nil {
		t.Error("a run that runs has an end")
	}
}
