package match

import (
	"cmp"
	"slices"
	"strings"
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
	unfiled []*entry
	// root is the envelope in the tree of the members that equalities name.
	root *member
	// places are those members, in the order of their numbers.
	places []place
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
	// filed are the definitions whose rarest equality names this member, by the key of the value.
	filed map[string][]candidate
}

// candidate is a definition that is found by one of its clauses.
type candidate struct {
	*entry
	// tests are all its clauses that have to be looked at once it is found.
	tests []test
}

// test is a clause of a definition and the number of the member it names.
type test struct {
	place int
	*clause
}

func newTypeIndex(entries []*entry) *typeIndex {
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.ID, b.ID) })
	x := &typeIndex{root: &member{place: -1}}
	type equality struct {
		place int
		key   string
	}
	popularity := map[equality]int{}
	total := 0
	for _, e := range entries {
		total += len(e.clauses)
	}
	all := make([]test, 0, total)
	for _, e := range entries {
		for i := range e.clauses {
			c := &e.clauses[i]
			p := x.number(c.path)
			x.places[p].lists = x.places[p].lists || c.key[0] == listKey
			popularity[equality{p, c.key}]++
			all = append(all, test{p, c})
		}
	}
	for _, e := range entries {
		if len(e.clauses) == 0 {
			x.unfiled = append(x.unfiled, e)
			continue
		}
		tests := all[:len(e.clauses):len(e.clauses)]
		all = all[len(e.clauses):]
		slices.SortStableFunc(tests, func(a, b test) int {
			return cmp.Compare(popularity[equality{a.place, a.key}], popularity[equality{b.place, b.key}])
		})
		filed := &x.places[tests[0].place].filed
		if *filed == nil {
			*filed = map[string][]candidate{}
		}
		key := tests[0].key
		if key[0] != numberKey {
			tests = tests[1:] // what it is filed under need not be verified
		}
		(*filed)[key] = append((*filed)[key], candidate{e, tests})
	}
	for i := range x.places {
		for key, candidates := range x.places[i].filed {
			x.places[i].filed[key] = slices.Clip(candidates)
		}
	}
	return x
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
		x.places = append(x.places, place{})
	}
	return m.place
}

func (x *typeIndex) match(s *scratch) error {
	for _, e := range x.unfiled {
		s.meet(e)
	}
	if len(x.places) == 0 {
		return nil
	}
	if err := s.read(x); err != nil {
		return err
	}
	for _, p := range s.found {
		for _, c := range x.places[p].filed[string(s.values[p].key)] {
			holds, err := s.holds(c.tests)
			if err != nil {
				return err
			}
			if holds {
				s.meet(c.entry)
			}
		}
	}
	return nil
}
