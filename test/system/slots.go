package system

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/testenv"
)

// Slots are the whole multiples of a duration since 1970 in [from, to], by the arithmetic of time alone: the list that the
// ledger is held to has to be independent of the code that makes the ledger's.
func Slots(from, to time.Time, every time.Duration) []time.Time {
	var out []time.Time
	for at := from.UTC().Add(every - 1).Truncate(every); !at.After(to); at = at.Add(every) {
		out = append(out, at)
	}
	return out
}

// Run is a row of the ledger, as the API tells it.
type Run struct {
	Key, Status, Reason         string
	Slot                        time.Time
	Revision                    int
	WorkflowID                  string
	Accepted, Started, Finished time.Time
	// Scheduled: Temporal's schedule started its workflow, and not the sweeper.
	Scheduled bool
}

// Outcome is its status, with the reason when there is one.
func (r Run) Outcome() string {
	if r.Reason == "" {
		return r.Status
	}
	return r.Status + "/" + r.Reason
}

// Account is what the ledger has to say about the slots of a definition.
type Account struct {
	Name, Definition string // the definition's name, for messages, and its id
	// Slots each have one row, which is final in the end.
	Slots []time.Time
	// Perhaps are slots that may have a row: by the test's clock, a change took effect about then.
	Perhaps []time.Time
	// Outcome is the one outcome that a slot's row may have, by its policy; nil when each has to have succeeded. Outcomes that
	// are equally right are separated by "|".
	Outcome func(Run) string
	// Ghosts says that somebody made Temporal fire what is no slot, so that there are rows that say so.
	Ghosts bool
	// Within is how long after the last slot everything has to be settled.
	Within time.Duration
}

// Accounted waits until every slot has its row and every row is final, holds the ledger and Temporal to the account, and
// returns the rows of the slots, in the order of slots.
func (s *System) Accounted(a Account) []Run {
	s.T.Helper()
	wanted := map[string]bool{}
	for _, slot := range a.Slots {
		wanted[definition.CronKey(slot)] = true
	}
	perhaps := map[string]bool{}
	for _, slot := range a.Perhaps {
		perhaps[definition.CronKey(slot)] = true
	}
	last := a.Slots[len(a.Slots)-1]
	var rows []Run
	missing := "the last slot is still to come"
	look := throttled(func(ctx context.Context) (bool, error) {
		list, err := s.TryRuns(ctx, a.Definition)
		if err != nil {
			return false, nil // the deadline judges
		}
		rows = readRuns(list)
		missing = unsettled(rows, wanted)
		return missing == "", nil
	})
	s.T.Cleanup(func() {
		if s.T.Failed() && missing != "" {
			s.T.Logf("%s: %s", a.Name, missing)
		}
	})
	testenv.Eventually(s.T, max(time.Until(last), 0)+a.Within, a.Name+": every slot has its final row",
		func(ctx context.Context) (bool, error) {
			if time.Now().Before(last) {
				return false, nil
			}
			return look(ctx)
		})

	counts, slots := map[string]int{}, make([]Run, 0, len(wanted))
	seen := map[string]int{}
	for _, row := range rows {
		seen[row.Key]++
		counts[row.Outcome()]++
		if !wanted[row.Key] && !perhaps[row.Key] {
			if !a.Ghosts || row.Outcome() != "skipped/not_due" {
				s.T.Errorf("%s: row %s is none of its slots: %s, accepted %s", a.Name, row.Key, row.Outcome(), row.Accepted)
			}
			continue
		}
		slots = append(slots, row)
		want := "succeeded"
		if a.Outcome != nil {
			want = a.Outcome(row)
		}
		if !slices.Contains(strings.Split(want, "|"), row.Outcome()) {
			s.T.Errorf("%s: slot %s, judged %s later, is %s, want %s", a.Name, row.Key, row.Accepted.Sub(row.Slot), row.Outcome(), want)
		}
		if key := definition.CronKey(row.Slot); key != row.Key {
			s.T.Errorf("%s: row %s has the slot %s", a.Name, row.Key, row.Slot)
		}
	}
	for key, n := range seen {
		if n != 1 {
			s.T.Errorf("%s: %s has %d rows", a.Name, key, n)
		}
	}
	slices.SortFunc(slots, func(x, y Run) int { return x.Slot.Compare(y.Slot) })
	recovered := s.oneWorkflowEach(a.Name, a.Definition, rows, slots)
	var told []string
	for _, outcome := range slices.Sorted(maps.Keys(counts)) {
		told = append(told, fmt.Sprintf("%d %s", counts[outcome], outcome))
	}
	s.T.Logf("%s: %d slots, %d rows: %s; %d not started by their schedule", a.Name, len(a.Slots), len(rows),
		strings.Join(told, ", "), recovered)
	return slots
}

// oneWorkflowEach holds Temporal to one completed workflow for each row that ran, at most one for every other, and none
// without a row. It notes which were started by the schedule, and returns how many of those that ran were not.
func (s *System) oneWorkflowEach(name, definitionID string, rows, slots []Run) (recovered int) {
	s.T.Helper()
	ran := map[string]bool{}
	for _, row := range rows {
		ran[row.WorkflowID] = !row.Started.IsZero()
	}
	trouble := ""
	var found map[string]*started
	// A workflow closes a moment after its row, and the list lags behind both.
	look := throttled(func(ctx context.Context) (bool, error) {
		var err error
		if found, err = s.listWorkflows(ctx, definitionID); err != nil {
			return false, nil
		}
		trouble = ""
		for id, ran := range ran {
			w := found[id]
			switch {
			case w == nil && ran:
				trouble = id + " ran, and Temporal does not know its workflow"
			case w != nil && w.executions > 1:
				return false, fmt.Errorf("%s has %d workflows", id, w.executions)
			case w != nil && w.status != enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:
				trouble = fmt.Sprintf("%s is %s in Temporal", id, w.status)
			}
		}
		for id := range found {
			if _, known := ran[id]; !known {
				return false, fmt.Errorf("workflow %s has no row", id)
			}
		}
		return trouble == "", nil
	})
	s.T.Cleanup(func() {
		if s.T.Failed() && trouble != "" {
			s.T.Logf("%s: %s", name, trouble)
		}
	})
	testenv.Eventually(s.T, 30*time.Second, name+": one workflow for each run", look)
	for i := range slots {
		if w := found[slots[i].WorkflowID]; w != nil {
			slots[i].Scheduled = w.scheduled
		}
		if !slots[i].Started.IsZero() && !slots[i].Scheduled {
			recovered++
		}
	}
	return recovered
}

// started is what Temporal lists under one workflow id.
type started struct {
	executions int
	status     enumspb.WorkflowExecutionStatus
	scheduled  bool // by a schedule
}

func (s *System) listWorkflows(ctx context.Context, definitionID string) (map[string]*started, error) {
	found := map[string]*started{}
	for page := []byte(nil); ; {
		answer, err := s.Temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: s.Namespace, PageSize: 500, NextPageToken: page,
			Query: fmt.Sprintf("%s = '%s'", definition.SearchAttributeID, definitionID),
		})
		if err != nil {
			return nil, err
		}
		for _, e := range answer.GetExecutions() {
			id := e.GetExecution().GetWorkflowId()
			if found[id] == nil {
				found[id] = &started{}
			}
			found[id].executions++
			found[id].status = e.GetStatus()
			_, found[id].scheduled = e.GetSearchAttributes().GetIndexedFields()["TemporalScheduledById"]
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			return found, nil
		}
	}
}

func readRuns(list []Object) []Run {
	out := make([]Run, len(list))
	for i, o := range list {
		out[i] = Run{
			Key: o.Str("occurrence_key"), Status: o.Str("status"), Reason: o.Str("reason"), Slot: o.Time("slot_at"),
			Revision: o.Int("revision"), WorkflowID: o.Str("workflow_id"), Accepted: o.Time("accepted_at"),
			Started: o.Time("started_at"), Finished: o.Time("finished_at"),
		}
	}
	return out
}

// unsettled names a slot without a row, or a row that is not final; "" when there is neither.
func unsettled(rows []Run, wanted map[string]bool) string {
	seen := map[string]bool{}
	for _, row := range rows {
		seen[row.Key] = true
		if !definition.RunStatus(row.Status).Final() {
			return row.Key + " is " + row.Outcome()
		}
	}
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		if !seen[key] {
			return key + " has no row"
		}
	}
	return ""
}

// throttled makes a costly look one that is taken twice a second at most.
func throttled(look func(context.Context) (bool, error)) func(context.Context) (bool, error) {
	var next time.Time
	return func(ctx context.Context) (bool, error) {
		if time.Now().Before(next) {
			return false, nil
		}
		next = time.Now().Add(500 * time.Millisecond)
		return look(ctx)
	}
}
