package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/activity-core/activity-core/internal/definition"
)

// Outcome is what a look at one definition's schedule led to.
type Outcome string

// The outcomes.
const (
	Created   Outcome = "created"
	Updated   Outcome = "updated"
	Paused    Outcome = "paused"
	Unpaused  Outcome = "unpaused"
	Deleted   Outcome = "deleted"
	Unchanged Outcome = "unchanged"
	Failed    Outcome = "failed"
)

// Outcomes lists every outcome, in the order in which they are told.
var Outcomes = []Outcome{Created, Updated, Paused, Unpaused, Deleted, Unchanged, Failed}

// Result is what a full reconcile did, or in a dry run would do. Every schedule counts once: an update that also pauses
// or unpauses counts as that.
type Result struct {
	Created   int `json:"created"`
	Updated   int `json:"updated"`
	Paused    int `json:"paused"`
	Unpaused  int `json:"unpaused"`
	Deleted   int `json:"deleted"`
	Unchanged int `json:"unchanged"`
	Failed    int `json:"failed"`
	// Failures says why, for each one that failed, by definition id.
	Failures []Failure `json:"failures"`
}

// Failure is one definition whose schedule could not be brought up to date.
type Failure struct {
	DefinitionID string `json:"definition_id"`
	Error        string `json:"error"`
}

// Count returns how many schedules had the outcome.
func (res *Result) Count(o Outcome) int { return *res.counter(o) }

func (res *Result) counter(o Outcome) *int {
	switch o {
	case Created:
		return &res.Created
	case Updated:
		return &res.Updated
	case Paused:
		return &res.Paused
	case Unpaused:
		return &res.Unpaused
	case Deleted:
		return &res.Deleted
	case Unchanged:
		return &res.Unchanged
	}
	return &res.Failed
}

// SyncAll compares all schedules once and brings them up to date, or in a dry run only says what it would do. A schedule
// that fails is part of the result; the error is for the comparison as a whole, and the result then says how far it got.
func (r *Reconciler) SyncAll(ctx context.Context, dryRun bool) (Result, error) {
	res := Result{Failures: []Failure{}}
	n, err := r.nominate(ctx, nil)
	if err == nil && n.suspects > 0 {
		n, err = r.nominate(ctx, nil) // what is an orphan at the second sight too is one
	}
	if err != nil {
		return res, err
	}
	res.Unchanged = n.unchanged
	if !dryRun {
		// What the table does not know has no row to lease yet.
		if err := r.mark(ctx, n.unknown()); err != nil {
			return res, err
		}
	}
	// What Temporal was too busy for is tried once more, after everything else.
	again := r.attendAll(ctx, n.candidates, dryRun, &res)
	if len(again) > 0 && len(again) < max(len(n.candidates)/2, parallel) && ctx.Err() == nil {
		res.Failed -= len(again)
		res.Failures = slices.DeleteFunc(res.Failures, func(f Failure) bool {
			return slices.ContainsFunc(again, func(c candidate) bool { return c.id == f.DefinitionID })
		})
		for i := range again {
			again[i].absent = false // it may have been made although nobody was told
		}
		r.attendAll(ctx, again, dryRun, &res)
	}
	slices.SortFunc(res.Failures, func(a, b Failure) int { return strings.Compare(a.DefinitionID, b.DefinitionID) })
	if err := ctx.Err(); err != nil {
		return res, fmt.Errorf("sync all schedules: %w", context.Cause(ctx))
	}
	return res, nil
}

// attendAll decides about candidates, several at a time, adds what came of them to the result, and returns those that Temporal
// did not answer for.
func (r *Reconciler) attendAll(ctx context.Context, candidates []candidate, dryRun bool, res *Result) (away []candidate) {
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		queue = make(chan candidate)
	)
	for range hands {
		wg.Go(func() {
			for c := range queue {
				outcome, err := r.attend(ctx, c, dryRun)
				mu.Lock()
				*res.counter(outcome)++
				if err != nil {
					res.Failures = append(res.Failures, Failure{DefinitionID: c.id, Error: err.Error()})
				}
				if isOutage(err) {
					away = append(away, c)
				}
				mu.Unlock()
			}
		})
	}
	for _, c := range candidates {
		select {
		case queue <- c:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(queue)
	wg.Wait()
	return away
}

// attend decides about one candidate from its description, and does it unless this is a dry run.
func (r *Reconciler) attend(ctx context.Context, c candidate, dryRun bool) (Outcome, error) {
	var (
		change Change
		err    error
	)
	if dryRun {
		change, err = r.wouldDo(ctx, c.id)
	} else {
		change, err = r.inTurn(ctx, c)
	}
	if err != nil {
		return Failed, err
	}
	return change.Outcome(), nil
}

func (r *Reconciler) wouldDo(ctx context.Context, id string) (Change, error) {
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	at, err := r.place(ctx)
	if err != nil {
		return Change{}, err
	}
	var def *definition.Definition
	switch stored, err := r.store.GetDefinition(ctx, id); {
	case err == nil:
		def = &stored.Definition
	case !errors.Is(err, definition.ErrNotFound):
		return Change{}, err
	}
	want, err := Want(def, at, time.Now())
	if err != nil {
		return Change{}, err
	}
	return r.manager(at).look(ctx, id, want)
}

// inTurn takes the candidate's lease, after whoever holds it, and carries out what is to be done.
func (r *Reconciler) inTurn(ctx context.Context, c candidate) (Change, error) {
	limit := time.Now().Add(leaseTime + time.Second)
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		item, ok, err := func() (definition.SyncItem, bool, error) {
			ctx, cancel := context.WithTimeout(ctx, storeTime)
			defer cancel()
			return r.store.LeaseSyncOf(ctx, c.id, leaseTime)
		}()
		switch {
		case err != nil:
			return Change{}, err
		case ok:
			return r.carryOut(ctx, item, work{within: workTime, absent: c.absent, queues: true})
		case time.Now().After(limit):
			return Change{}, errors.New("another process keeps working on this schedule; run it again later")
		}
		if err := sleep(ctx, pause); err != nil {
			return Change{}, err
		}
	}
}

// nomination is the result of comparing the table of schedules with Temporal's list of them.
type nomination struct {
	candidates []candidate // by definition id
	unchanged  int         // schedules that are wanted and look right
	suspects   int         // schedules that look like orphans for the first time; they are not candidates yet
}

// candidate is a definition whose schedule has to be described.
type candidate struct {
	id string
	// absent: the list does not show a schedule.
	absent bool
	// dirty: it waits to be brought up to date anyway.
	dirty bool
	// unknown: the table has no row for it; its definition went long ago, or with a restored database.
	unknown bool
}

func (n *nomination) unknown() []string {
	var ids []string
	for _, c := range n.candidates {
		if c.unknown {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// nominate reads the table and the list, which lags behind a little, and nominates what does not fit: an error on the safe
// side costs one description.
func (r *Reconciler) nominate(ctx context.Context, p *patrol) (nomination, error) {
	at, err := r.place(ctx)
	if err != nil {
		return nomination{}, err
	}
	entries, dirty, err := r.snapshot(ctx)
	if err != nil {
		return nomination{}, err
	}
	r.dirty.Set(float64(dirty))

	seen := make([]bool, len(entries))
	var n nomination
	unknown := map[string]bool{}
	r.suspectsMu.Lock()
	suspects := r.suspects
	r.suspectsMu.Unlock()
	now := time.Now()
	err = r.list(ctx, at, func(e *client.ScheduleListEntry) {
		id, ours := definition.ScheduleDefinitionID(e.ID)
		if !ours {
			return
		}
		i, known := slices.BinarySearchFunc(entries, id, func(e definition.SyncEntry, id string) int {
			return strings.Compare(e.DefinitionID, id)
		})
		if known && seen[i] {
			return // shown twice, on two pages
		}
		if known {
			seen[i] = true
		}
		switch {
		case !known && suspects[id] && !unknown[id]:
			n.candidates = append(n.candidates, candidate{id: id, unknown: true})
			unknown[id] = true
		case !known:
			// The table was read before the list: a definition may have come between the two.
			if !unknown[id] {
				n.suspects++
			}
			unknown[id] = true
		case !entries[i].Wanted || entries[i].Dirty || p.picks(i) || !looksRight(e, entries[i], at, now):
			n.candidates = append(n.candidates, candidate{id: id, dirty: entries[i].Dirty})
		default:
			n.unchanged++
		}
	})
	if err != nil {
		return nomination{}, err
	}
	for i, e := range entries {
		switch {
		case seen[i]:
		case e.Wanted && !e.Dirty && e.SpecHash == hashAbsent:
			n.unchanged++ // no slot to come
		case e.Wanted || e.Dirty:
			n.candidates = append(n.candidates, candidate{id: e.DefinitionID, absent: true, dirty: e.Dirty})
		}
	}
	slices.SortFunc(n.candidates, func(a, b candidate) int { return strings.Compare(a.id, b.id) })
	r.suspectsMu.Lock()
	r.suspects = unknown
	r.suspectsMu.Unlock()
	p.next()
	return n, nil
}

// looksRight compares what the list shows of a schedule with what was recorded when it was last seen to be right.
func looksRight(e *client.ScheduleListEntry, known definition.SyncEntry, at Place, now time.Time) bool {
	shown, ok := listed(e)
	if !ok || shown.Mark != Mark(at.Installation, known.SpecHash) || shown.visible() != visibleOf(known.SpecHash) {
		return false
	}
	if made, _, _ := strings.Cut(known.SpecHash, "."); made != generation(at) {
		return false
	}
	over := !shown.EndAt.IsZero() && shown.EndAt.Before(now.Add(-CatchupWindow-shown.Jitter))
	return !over
}

// snapshot reads the table of schedules, in the order of ids, and counts the dirty ones.
func (r *Reconciler) snapshot(ctx context.Context) (entries []definition.SyncEntry, dirty int, err error) {
	after := ""
	for {
		page, err := func() ([]definition.SyncEntry, error) {
			ctx, cancel := context.WithTimeout(ctx, 10*storeTime)
			defer cancel()
			return r.store.SyncSnapshot(ctx, after, snapshotPage)
		}()
		if err != nil {
			return nil, 0, err
		}
		for _, e := range page {
			if e.Dirty {
				dirty++
			}
		}
		entries = append(entries, page...)
		if len(page) < snapshotPage {
			return entries, dirty, nil
		}
		after = page[len(page)-1].DefinitionID
	}
}

// list shows every schedule with this installation's mark. A schedule that has lost its mark is not among them; it counts
// as absent, and its description tells.
func (r *Reconciler) list(ctx context.Context, at Place, show func(*client.ScheduleListEntry)) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	it, err := r.temporal.ScheduleClient().List(ctx, client.ScheduleListOptions{
		PageSize: listPage,
		Query:    fmt.Sprintf("%s STARTS_WITH %q", definition.SearchAttributeSpecHash, Mark(at.Installation, "")),
	})
	if err != nil {
		return fmt.Errorf("list schedules: %w", err)
	}
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			return fmt.Errorf("list schedules: %w", err)
		}
		show(e)
	}
	return nil
}

// patrol picks a share of all schedules to be described although they look right, another one each round. A nil patrol
// picks none.
type patrol struct{ at int }

func (p *patrol) picks(i int) bool { return p != nil && i%PatrolRounds == p.at }

func (p *patrol) next() {
	if p != nil {
		p.at = (p.at + 1) % PatrolRounds
	}
}
