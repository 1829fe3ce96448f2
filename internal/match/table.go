// Package match decides which definitions an event meets. It is pure: no I/O, no clock.
//
// A [Table] never changes; [Table.Apply] makes a new one. Within an event type it is an index: each definition is filed
// under the rarest of its filters, so that an event is compared only with the definitions whose rarest filter it fulfils,
// and then with the rest of their filters. Values are compared by their canonical form (see [Canonical]).
package match

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

// Skew is how much older than a definition's EnabledSince an event may be and still meet it: the stream's clock and
// Postgres' are not the same.
const Skew = 2 * time.Minute

// Table is an immutable set of routable definitions. The zero value is empty. It is safe for concurrent use.
type Table struct {
	byID   map[string]*entry
	byType map[string]*typeIndex
}

// entry is one definition with its filters in canonical form, by name.
type entry struct {
	definition.Routable
	clauses []clause
}

type clause struct{ name, form string }

// typeIndex holds the definitions of one event type.
type typeIndex struct {
	all []*entry
	// unfiltered meet every event of the type.
	unfiltered []*entry
	// fields numbers the members that filters name.
	fields map[string]int
	// filed holds, by field and by canonical form, the definitions that are filed under that equality.
	filed []map[string][]candidate
}

// candidate is a definition and the filters that are left to verify once it is found.
type candidate struct {
	*entry
	rest []equality
}

type equality struct {
	field int
	form  string
}

// Len returns the number of definitions.
func (t *Table) Len() int { return len(t.byID) }

// Apply returns the table with the changes made; a definition that is not live is dropped. What did not change is shared
// with the old table. The error names each definition that cannot be matched because it, or a filter of it, cannot be
// read; the table is good without them.
func (t *Table) Apply(changes []definition.Routable) (*Table, error) {
	if len(changes) == 0 {
		return t, nil
	}
	next := &Table{byID: maps.Clone(t.byID), byType: maps.Clone(t.byType)}
	if next.byID == nil {
		next.byID, next.byType = map[string]*entry{}, map[string]*typeIndex{}
	}
	added := map[string][]*entry{} // by type; a type that only lost definitions has an empty list
	var errs []error
	for _, change := range changes {
		if old := next.byID[change.ID]; old != nil {
			added[old.EventType] = append(added[old.EventType], nil...)
			delete(next.byID, change.ID)
		}
		if !change.Live {
			continue
		}
		e, err := newEntry(change)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		next.byID[change.ID] = e
		added[change.EventType] = append(added[change.EventType], e)
	}
	for eventType, fresh := range added {
		var entries []*entry
		if old := t.byType[eventType]; old != nil {
			entries = slices.Clone(old.all)
		}
		// Only the newest form of a definition counts, and only under its present type.
		entries = slices.DeleteFunc(append(entries, fresh...), func(e *entry) bool { return next.byID[e.ID] != e })
		if len(entries) == 0 {
			delete(next.byType, eventType)
		} else {
			next.byType[eventType] = newTypeIndex(entries)
		}
	}
	return next, errors.Join(errs...)
}

func newEntry(r definition.Routable) (*entry, error) {
	e := &entry{Routable: r}
	if r.Unreadable != nil {
		return nil, fmt.Errorf("definition %s revision %d: %w", r.ID, r.Revision, r.Unreadable)
	}
	for name, value := range r.Filters {
		form, err := Canonical(nil, value)
		if err != nil {
			return nil, fmt.Errorf("definition %s (%s) cannot be matched: filter %q: %w", r.ID, r.Name, name, err)
		}
		e.clauses = append(e.clauses, clause{name, string(form)})
	}
	slices.SortFunc(e.clauses, func(a, b clause) int { return cmp.Compare(a.name, b.name) })
	return e, nil
}

func newTypeIndex(entries []*entry) *typeIndex {
	x := &typeIndex{all: entries, fields: map[string]int{}}
	popularity := map[clause]int{}
	for _, e := range entries {
		for _, c := range e.clauses {
			popularity[c]++
			if _, known := x.fields[c.name]; !known {
				x.fields[c.name] = len(x.filed)
				x.filed = append(x.filed, map[string][]candidate{})
			}
		}
	}
	for _, e := range entries {
		if len(e.clauses) == 0 {
			x.unfiltered = append(x.unfiltered, e)
			continue
		}
		rarest := slices.MinFunc(e.clauses, func(a, b clause) int { return cmp.Compare(popularity[a], popularity[b]) })
		found := candidate{entry: e}
		for _, c := range e.clauses {
			if c != rarest {
				found.rest = append(found.rest, equality{x.fields[c.name], c.form})
			}
		}
		under := x.filed[x.fields[rarest.name]]
		under[rarest.form] = append(under[rarest.form], found)
	}
	return x
}

// Met is a definition that an event meets, or of which that cannot be told.
type Met struct {
	*definition.Routable
	// Err is why the definition's condition could not be evaluated for the event; nil when it is true.
	Err error
}

// Match returns the definitions that the event meets, in no particular order: those of its type whose filters all equal
// the payload's members of the same names, and that were enabled when it was published (give or take Skew).
func (t *Table) Match(e *definition.Event, publishedAt time.Time) ([]Met, error) {
	x := t.byType[e.Type]
	if x == nil {
		return nil, nil
	}
	latest := publishedAt.Add(Skew)
	var met []Met
	meet := func(found *entry) {
		if !found.EnabledSince.After(latest) {
			met = append(met, Met{Routable: &found.Routable})
		}
	}
	for _, found := range x.unfiltered {
		meet(found)
	}
	if len(x.fields) == 0 {
		return met, nil
	}
	forms, err := x.forms(e)
	if err != nil {
		return nil, err
	}
	for field, form := range forms {
		if form == nil {
			continue // absent: equals nothing, not even null
		}
		for _, c := range x.filed[field][string(form)] {
			if !slices.ContainsFunc(c.rest, func(q equality) bool { return string(forms[q.field]) != q.form }) {
				meet(c.entry)
			}
		}
	}
	return met, nil
}

// forms returns the canonical form of each member that a filter of this type names, by field; nil where absent.
func (x *typeIndex) forms(e *definition.Event) ([][]byte, error) {
	forms := make([][]byte, len(x.fields))
	for _, m := range e.Payload {
		field, named := x.fields[string(m.Name)]
		if !named {
			continue
		}
		form, err := Canonical(nil, m.Value)
		if err != nil {
			return nil, fmt.Errorf("payload.%s: %w", m.Name, err)
		}
		forms[field] = form
	}
	return forms, nil
}
