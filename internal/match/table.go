// Package match decides which definitions an event meets. It is pure: no I/O, no clock.
//
// An event meets a definition when all of these hold:
//
//   - Its type is the definition's, or meets its wildcards (see [TypeMeets]).
//   - It was published when the definition was enabled, or later, give or take [Skew].
//   - Each place of the payload that the filters name holds the value given there, by JSON equality (see [Canonical]). An
//     absent member equals nothing, not even null.
//   - The condition is true. Its top-level equalities (see [condition.Equalities]) are decided like filters: one whose member
//     is absent, or lies in something that is not an object, does not hold, and then nothing else of the condition counts.
//     If they all hold and the rest cannot be evaluated, the match is one with an error, never none.
//
// A [Table] never changes; [Table.Apply] makes a new one. Within an event type it is an index: each definition is filed
// under the rarest of its equalities, those of the filters and those of the condition, so that an event is compared only
// with the definitions whose rarest equality it fulfils. Conditions are evaluated last, and compiled when that happens for
// the first time: reading a table of many must not take longer than its equalities do.
package match

import (
	"errors"
	"slices"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// Skew is how much older than a definition's EnabledSince an event may be and still meet it: the stream's clock and
// Postgres' are not the same.
const Skew = 2 * time.Minute

// Table is an immutable set of routable definitions. The zero value is empty. It is safe for concurrent use.
//
// Most definitions are in base, which is large and seldom made anew. What changed since then is in recent, which is made
// anew for each change, and hides base's definitions of the same ids.
type Table struct {
	base, recent *index
	// hidden are the ids of base that are gone or have a newer form in recent.
	hidden map[string]struct{}
}

// Len returns the number of definitions.
func (t *Table) Len() int { return t.base.len() - len(t.hidden) + t.recent.len() }

// foldAt is how large the changes may grow before they are folded into base, as a part of base and at least. Each change
// costs as much as there are recent ones, and each fold as much as there are definitions.
const (
	foldPart  = 64
	foldLeast = 64
)

// Apply returns the table with the changes made; a definition that is not live is dropped. What did not change is shared
// with the old table. The error names each definition that cannot be matched because it, a filter or the condition of it
// cannot be read; the table is good without them.
func (t *Table) Apply(changes []definition.Routable) (*Table, error) {
	if len(changes) == 0 {
		return t, nil
	}
	entries, errs := newEntries(changes)
	next := &Table{base: t.base, hidden: make(map[string]struct{}, len(t.hidden)+len(changes))}
	for id := range t.hidden {
		next.hidden[id] = struct{}{}
	}
	// The last change of a definition counts; the entry of one that is dropped is nil.
	recent := make(map[string]*entry, t.recent.len()+len(changes))
	if t.recent != nil {
		for id, e := range t.recent.byID {
			recent[id] = e
		}
	}
	for i, change := range changes {
		if next.base.has(change.ID) {
			next.hidden[change.ID] = struct{}{}
		}
		if recent[change.ID] = entries[i]; entries[i] == nil {
			delete(recent, change.ID)
		}
	}
	if len(recent)+len(next.hidden) <= max(foldLeast, t.base.len()/foldPart) {
		next.recent = newIndex(recent)
		return next, errors.Join(errs...)
	}
	all := make(map[string]*entry, t.base.len()+len(recent))
	if t.base != nil {
		for id, e := range t.base.byID {
			if _, hidden := next.hidden[id]; !hidden {
				all[id] = e
			}
		}
	}
	for id, e := range recent {
		all[id] = e
	}
	return &Table{base: newIndex(all)}, errors.Join(errs...)
}

// Met is a definition that an event meets, or of which that cannot be told.
type Met struct {
	*definition.Routable
	// Err is why the definition's condition could not be evaluated for the event; nil when it is true.
	Err error
}

// Match returns the definitions that the event meets, in no particular order, and those that it would meet if their
// conditions could be evaluated for it. The package's comment says what it is to meet a definition. It fails only for an
// event that did not come from the parser.
func (t *Table) Match(e *definition.Event, publishedAt time.Time) ([]Met, error) {
	if t.Len() == 0 {
		return nil, nil
	}
	s := scratches.Get().(*scratch)
	defer s.release()
	s.begin(e, publishedAt)
	s.hidden = t.hidden
	if err := t.base.match(s); err != nil {
		return nil, err
	}
	s.hidden = nil
	if err := t.recent.match(s); err != nil {
		return nil, err
	}
	return slices.Clone(s.met), nil
}
