package match

import (
	"cmp"
	"slices"
	"strings"

	"github.com/activity-core/activity-core/internal/definition"
)

// index finds definitions by event type. It never changes; nil is an empty one.
type index struct {
	byID map[string]*entry
	// exact holds the definitions of exact types, wild is the root of those with wildcards.
	exact map[string]*typeIndex
	wild  *word
}

// word is a word of patterns, in a tree: the patterns that begin alike share their first words.
type word struct {
	next map[string]*word // * is one of them
	// here are the definitions whose pattern ends here, rest those whose pattern goes on with > alone.
	here, rest *typeIndex
}

func (x *index) len() int {
	if x == nil {
		return 0
	}
	return len(x.byID)
}

func (x *index) has(id string) bool {
	if x == nil {
		return false
	}
	_, ok := x.byID[id]
	return ok
}

// newIndex takes the map over. It files the definitions in the order of their ids, so that an index depends on nothing
// but them.
func newIndex(byID map[string]*entry) *index {
	if len(byID) == 0 {
		return nil
	}
	x := &index{byID: byID, exact: map[string]*typeIndex{}}
	byPattern := map[string][]*entry{}
	for _, e := range byID {
		byPattern[e.EventType] = append(byPattern[e.EventType], e)
	}
	for pattern, entries := range byPattern {
		t := newTypeIndex(entries)
		if !strings.ContainsAny(pattern, "*>") {
			x.exact[pattern] = t
			continue
		}
		if x.wild == nil {
			x.wild = &word{}
		}
		x.wild.add(pattern, t)
	}
	return x
}

func (w *word) add(pattern string, t *typeIndex) {
	for name := range strings.SplitSeq(pattern, ".") {
		if name == ">" { // is the last one
			w.rest = t
			return
		}
		if w.next == nil {
			w.next = map[string]*word{}
		}
		if w.next[name] == nil {
			w.next[name] = &word{}
		}
		w = w.next[name]
	}
	w.here = t
}

func (x *index) match(s *scratch) error {
	if x == nil {
		return nil
	}
	if t := x.exact[s.event.Type]; t != nil {
		if err := t.match(s); err != nil {
			return err
		}
	}
	if x.wild == nil {
		return nil
	}
	if definition.IsRunEvent(s.event.Type) {
		first, left, _ := strings.Cut(s.event.Type, ".")
		if next := x.wild.next[first]; next != nil {
			return next.match(s, left)
		}
		return nil
	}
	return x.wild.match(s, s.event.Type)
}

// match follows what is left of the event's type.
func (w *word) match(s *scratch, left string) error {
	if w.rest != nil {
		if err := w.rest.match(s); err != nil {
			return err
		}
	}
	name, left, more := strings.Cut(left, ".")
	for _, next := range [...]*word{w.next[name], w.next["*"]} {
		switch {
		case next == nil:
		case more:
			if err := next.match(s, left); err != nil {
				return err
			}
		case next.here != nil:
			if err := next.here.match(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// typeIndex holds the definitions of one pattern of event types.
type typeIndex struct {
	// unfiled have no equality, and are compared with every event of the type.
	unfiled []candidate
	// root is the envelope in the tree of the members that equalities name.
	root *member
	// places are those members, in the order of their numbers.
	places []place
	// filed are the definitions that have equalities, those of one rarest equality side by side.
	filed []candidate
	// tests are those of all definitions, each one's side by side.
	tests []test
}

// member is a member of the event, or an object on the way to one.
type member struct {
	next map[string]*member
	// place is its number, -1 when no equality names it.
	place int
}

// place is a member that equalities name.
type place struct {
	// lists: an equality compares it with a list.
	lists bool
	// keys are those of the values that it is compared with.
	keys map[string]wanted
}

// wanted is a value that equalities compare a member with.
type wanted struct {
	// key numbers the values of one member.
	key int32
	// first and count are the definitions that are filed under this equality.
	first, count uint32
}

// candidate is a definition that is found by one of its clauses. It holds what decides about most of them, for reading an
// entry mostly means to wait for memory.
type candidate struct {
	entry *entry
	// since is the entry's EnabledSince in microseconds, rounded down.
	since int64
	// first and count are the tests that are left once it is found.
	first uint32
	count uint16
	// conditional: there is a condition to evaluate.
	conditional bool
}

// test is a clause of a definition in the numbers of its type: they are compared for many definitions of each event, and
// lie side by side in memory.
type test struct {
	place, key int32
	// number is the clause when equal keys do not decide it; nil otherwise.
	number *clause
}

func newTypeIndex(entries []*entry) *typeIndex {
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.ID, b.ID) })
	x := &typeIndex{root: &member{place: -1}}
	total := 0
	for _, e := range entries {
		total += len(e.clauses)
	}
	x.tests = make([]test, 0, total)
	var popularity [][]int // by place and key
	for _, e := range entries {
		for i := range e.clauses {
			t := x.test(&e.clauses[i])
			if int(t.place) == len(popularity) {
				popularity = append(popularity, nil)
			}
			if int(t.key) == len(popularity[t.place]) {
				popularity[t.place] = append(popularity[t.place], 0)
			}
			popularity[t.place][t.key]++
			x.tests = append(x.tests, t)
		}
	}
	filed := make([][][]candidate, len(popularity)) // by place and key
	for i := range filed {
		filed[i] = make([][]candidate, len(popularity[i]))
	}
	first := 0
	for _, e := range entries {
		c := candidate{entry: e, since: e.EnabledSince.UnixMicro(), first: uint32(first), count: uint16(len(e.clauses)),
			conditional: e.condition != nil}
		if c.count == 0 {
			x.unfiled = append(x.unfiled, c)
			continue
		}
		tests := x.tests[first : first+len(e.clauses)]
		first += len(e.clauses)
		slices.SortStableFunc(tests, func(a, b test) int {
			return cmp.Compare(popularity[a.place][a.key], popularity[b.place][b.key])
		})
		rarest := tests[0]
		if rarest.number == nil { // it is found by it, so it holds
			c.first++
			c.count--
		}
		under := &filed[rarest.place][rarest.key]
		*under = append(*under, c)
	}
	x.filed = make([]candidate, 0, len(entries)-len(x.unfiled))
	for i := range x.places {
		for key, w := range x.places[i].keys {
			w.first, w.count = uint32(len(x.filed)), uint32(len(filed[i][w.key]))
			x.places[i].keys[key] = w
			x.filed = append(x.filed, filed[i][w.key]...)
		}
	}
	return x
}

// test returns a clause in numbers, which may be new ones.
func (x *typeIndex) test(c *clause) test {
	t := test{place: int32(x.number(c.path))}
	p := &x.places[t.place]
	p.lists = p.lists || c.key[0] == listKey
	w, known := p.keys[c.key]
	if !known {
		w.key = int32(len(p.keys))
		p.keys[c.key] = w
	}
	t.key = w.key
	if c.key[0] == numberKey {
		t.number = c
	}
	return t
}

// number returns the number of the member that a path names.
func (x *typeIndex) number(path []string) int {
	m := x.root
	for _, name := range path {
		if m.next == nil {
			m.next = map[string]*member{}
		}
		if m.next[name] == nil {
			m.next[name] = &member{place: -1}
		}
		m = m.next[name]
	}
	if m.place < 0 {
		m.place = len(x.places)
		x.places = append(x.places, place{keys: map[string]wanted{}})
	}
	return m.place
}

func (x *typeIndex) match(s *scratch) error {
	for i := range x.unfiled {
		s.meet(&x.unfiled[i])
	}
	if len(x.places) == 0 {
		return nil
	}
	if err := s.read(x); err != nil {
		return err
	}
	for _, p := range s.found {
		v := &s.values[p]
		found := x.filed[v.first : v.first+v.count]
		for i := range found {
			if c := &found[i]; s.holds(x.tests[c.first : c.first+uint32(c.count)]) {
				s.meet(c)
			}
		}
	}
	return nil
}
