package match

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"unique"

	"github.com/activity-core/activity-core/internal/condition"
	"github.com/activity-core/activity-core/internal/definition"
)

// entry is one definition and what an event is compared with.
type entry struct {
	definition.Routable
	clauses []clause
	// condition is nil when there is none, or nothing in it but equalities.
	condition *lazyCondition
}

// clause is one equality of a definition, of a filter or at the top level of the condition.
type clause struct {
	// path names the member, from the envelope on.
	path []string
	// key is the loose form of the value that the member must have. Only for a number is the key of a value not enough.
	key string
	// form is the canonical form of a filter's number, empty otherwise.
	form string
	// equality is that of the condition; nil for a filter.
	equality *condition.Equality
}

// holds tells whether a number whose key is the clause's is equal.
func (c *clause) holds(number []byte) bool {
	if c.equality != nil {
		return c.equality.Holds(number)
	}
	var room [64]byte
	return string(appendNumber(room[:0], number)) == c.form
}

// lazyCondition compiles a condition when it is evaluated for the first time.
type lazyCondition struct {
	text     string
	once     sync.Once
	compiled *condition.Condition
	err      error
}

func (l *lazyCondition) eval(e *condition.Event) (bool, error) {
	l.once.Do(func() { l.compiled, l.err = condition.Compile(l.text) })
	if l.err != nil {
		return false, fmt.Errorf("the condition cannot be compiled: %w", l.err)
	}
	return l.compiled.Eval(e)
}

// newEntries makes the entries of the changes, nil for a definition that is not live or cannot be matched. Reading
// conditions is what takes time, so all processors do it.
func newEntries(changes []definition.Routable) ([]*entry, []error) {
	entries, errs := make([]*entry, len(changes)), make([]error, len(changes))
	const atOnce = 256
	var wg sync.WaitGroup
	starts := make(chan int)
	for range min(runtime.GOMAXPROCS(0), (len(changes)+atOnce-1)/atOnce) {
		wg.Go(func() {
			for start := range starts {
				for i := start; i < min(start+atOnce, len(changes)); i++ {
					if changes[i].Live {
						entries[i], errs[i] = newEntry(changes[i])
					}
				}
			}
		})
	}
	for start := 0; start < len(changes); start += atOnce {
		starts <- start
	}
	close(starts)
	wg.Wait()
	return entries, errs
}

func newEntry(r definition.Routable) (*entry, error) {
	fail := func(err error) (*entry, error) {
		return nil, fmt.Errorf("definition %s (%s) revision %d cannot be matched: %w", r.ID, r.Name, r.Revision, err)
	}
	if r.Unreadable != nil {
		return fail(r.Unreadable)
	}
	if fault := definition.CheckEventPattern(r.EventType); fault != "" {
		return fail(fmt.Errorf("event_type %s", fault))
	}
	e := &entry{Routable: r}
	places, err := definition.FilterPlaces(r.Filters)
	if err != nil {
		return fail(err)
	}
	for _, place := range places {
		c, err := filterClause(place)
		if err != nil {
			return fail(fmt.Errorf("filter %q: %w", place.Name(), err))
		}
		e.clauses = append(e.clauses, c)
	}
	if r.Condition == "" {
		return e, nil
	}
	equalities, all, err := condition.Equalities(r.Condition)
	if err != nil {
		return fail(fmt.Errorf("condition: %w", err))
	}
	for _, q := range equalities {
		e.clauses = append(e.clauses, clause{path: q.Path, key: unique.Make(literalKey(q.Literal())).Value(), equality: &q})
	}
	if !all {
		e.condition = &lazyCondition{text: r.Condition}
	}
	return e, nil
}

func filterClause(place definition.FilterPlace) (clause, error) {
	c := clause{path: slices.Concat([]string{"payload"}, place.Path)}
	key, err := appendKey(nil, place.Value, true)
	if err != nil {
		return c, err
	}
	if c.key = unique.Make(string(key)).Value(); c.key[0] == numberKey {
		form, err := Canonical(nil, place.Value)
		c.form = string(form)
		return c, err
	}
	return c, nil
}
