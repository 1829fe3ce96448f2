package execution

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/activity-core/activity-core/internal/definition"
	"github.com/activity-core/activity-core/internal/expression"
)

// Limits on what a worker remembers. What it forgot is read and compiled again.
const (
	maxRevisions = 300
	maxLists     = 64
)

// revisions remembers definitions' revisions, which never change, with the expressions of their tasks compiled, and the lists of
// for_each tasks in progress. It is safe for concurrent use.
type revisions struct {
	store Store

	mu    sync.Mutex
	known map[revisionKey]*revision
	lists map[listKey][]json.RawMessage
}

type revisionKey struct {
	definition string
	revision   int
}

type listKey struct {
	runID string
	index int
}

// revision is one of a definition's.
type revision struct {
	doc   definition.Document
	plans []plan // of the tasks, and after them of the on_failure tasks
}

// plan is a task, compiled when it is needed for the first time.
type plan struct {
	task      definition.Task
	once      sync.Once
	fault     error
	with      *expression.Template
	output    *expression.Template   // of an http task; nil: the answer itself
	condition *expression.Expression // nil: always
	list      *expression.Expression // nil: no for_each
}

func newRevisions(store Store) *revisions {
	return &revisions{store: store, known: map[revisionKey]*revision{}, lists: map[listKey][]json.RawMessage{}}
}

func newRevision(doc definition.Document) *revision {
	r := &revision{doc: doc, plans: make([]plan, len(doc.Tasks)+len(doc.OnFailure))}
	for i := range r.plans {
		if i < len(doc.Tasks) {
			r.plans[i].task = doc.Tasks[i]
		} else {
			r.plans[i].task = doc.OnFailure[i-len(doc.Tasks)]
		}
	}
	return r
}

func (p *plan) compile() error {
	p.once.Do(func() {
		if p.with, p.fault = p.task.Template(); p.fault != nil {
			return
		}
		if p.output, p.fault = p.task.OutputTemplate(); p.fault != nil {
			return
		}
		if p.condition, p.fault = p.task.Condition(); p.fault != nil {
			return
		}
		p.list, p.fault = p.task.Items()
	})
	return p.fault
}

// put remembers a revision.
func (r *revisions) put(definitionID string, number int, doc definition.Document) *revision {
	key := revisionKey{definitionID, number}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.known[key]; known != nil {
		return known
	}
	forgetOne(r.known, maxRevisions)
	rev := newRevision(doc)
	r.known[key] = rev
	return rev
}

// forgetOne makes room in a full map. Any of them will do: which is in the order of maps, that is, none.
func forgetOne[K comparable, V any](m map[K]V, most int) {
	if len(m) < most {
		return
	}
	for key := range m {
		delete(m, key)
		return
	}
}

// plan returns a task of a run. The error is one of the ledger's, or, made by permanently, that of a task which this version cannot
// read.
func (r *revisions) plan(ctx context.Context, in taskInput) (*revision, *plan, error) {
	rev := r.get(revisionKey{in.Definition, in.Revision})
	if rev == nil {
		doc, err := r.store.RunDocument(ctx, in.RunID)
		if err != nil {
			return nil, nil, err
		}
		if in.Revision == 0 {
			rev = newRevision(doc)
		} else {
			rev = r.put(in.Definition, in.Revision, doc)
		}
	}
	if in.Index < 0 || in.Index >= len(rev.plans) {
		return nil, nil, definition.ErrNotFound
	}
	p := &rev.plans[in.Index]
	if err := p.compile(); err != nil {
		return rev, p, undecodable(err)
	}
	return rev, p, nil
}

func (r *revisions) get(key revisionKey) *revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[key]
}

func (r *revisions) list(key listKey) []json.RawMessage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lists[key]
}

func (r *revisions) putList(key listKey, items []json.RawMessage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	forgetOne(r.lists, maxLists)
	r.lists[key] = items
}

func (r *revisions) forgetList(key listKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.lists, key)
}
