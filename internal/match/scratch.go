package match

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/activity-core/activity-core/internal/condition"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/go-json-experiment/json/jsontext"
)

// scratch is what matching one event needs. It is used again, so that an event that meets nothing costs no memory.
type scratch struct {
	event  *definition.Event
	latest time.Time // what may be enabled since then, and not later
	hidden map[string]struct{}
	met    []Met
	// decoded is the event for conditions, nil until one is evaluated.
	decoded *condition.Event

	// values are those of the members of one typeIndex, by number; found are the numbers of those that are there and equal
	// what some definition wants.
	values []memberValue
	found  []int
	// key is where the key of a value is written.
	key     []byte
	input   bytes.Buffer
	decoder jsontext.Decoder
}

// memberValue is the value of a member, and what equalities want of it; the key is -1 where the member is not found.
type memberValue struct {
	wanted
	value []byte
}

var notFound = memberValue{wanted: wanted{key: -1}}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) begin(e *definition.Event, publishedAt time.Time) {
	s.event, s.latest = e, publishedAt.Add(Skew)
}

// mostKept bounds what is kept of one large event for the next ones.
const mostKept = 64 << 10

func (s *scratch) release() {
	s.forget()
	clear(s.met)
	s.event, s.hidden, s.met, s.decoded = nil, nil, s.met[:0], nil
	s.input = bytes.Buffer{}
	s.decoder.Reset(&s.input)
	if cap(s.key) > mostKept {
		s.key = nil
	}
	scratches.Put(s)
}

// forget drops the values of a typeIndex.
func (s *scratch) forget() {
	for _, p := range s.found {
		s.values[p] = notFound
	}
	s.found = s.found[:0]
}

// read takes from the event the values of the members that equalities of the type name.
func (s *scratch) read(x *typeIndex) error {
	s.forget()
	for len(s.values) < len(x.places) {
		s.values = append(s.values, notFound)
	}
	payload := x.root.next["payload"]
	if payload != nil {
		// The payload itself equals nothing that an equality may name: it is an object, and filters name what is in it.
		for _, m := range s.event.Payload {
			if next := payload.next[string(m.Name)]; next != nil {
				if err := s.take(x, next, m.Value); err != nil {
					return fmt.Errorf("payload.%s: %w", m.Name, err)
				}
			}
		}
		if len(x.root.next) == 1 {
			return nil
		}
	}
	// The parser has cut the payload into its members, and not the rest of the envelope, which is seldom asked for.
	if err := s.walk(x, x.root, s.event.Raw, payload); err != nil {
		return fmt.Errorf("read the envelope: %w", err)
	}
	return nil
}

// take takes the value of a member, or those in it.
func (s *scratch) take(x *typeIndex, m *member, value []byte) error {
	if len(m.next) == 0 || value[0] != '{' {
		return s.note(x, m, value)
	}
	return s.walk(x, m, value, nil)
}

// note keeps the value of a member when an equality names it.
func (s *scratch) note(x *typeIndex, m *member, value []byte) error {
	if m.place < 0 {
		return nil
	}
	p := &x.places[m.place]
	var err error
	if s.key, err = appendKey(s.key[:0], value, p.lists); err != nil {
		return err
	}
	if w, ok := p.keys[string(s.key)]; ok {
		s.values[m.place] = memberValue{w, value}
		s.found = append(s.found, m.place)
	}
	return nil
}

// walk takes the members of an object that are named in the tree below m, except those of one that has been taken.
func (s *scratch) walk(x *typeIndex, m *member, object []byte, taken *member) error {
	s.input = *bytes.NewBuffer(object)
	s.decoder.Reset(&s.input, jsontext.AllowDuplicateNames(true)) // the parser has looked for them
	return s.descend(x, m, object, taken)
}

// descend reads the object that the decoder, which reads data, comes to. Its recursion is bounded by the depth of an event.
func (s *scratch) descend(x *typeIndex, m *member, data []byte, taken *member) error {
	d := &s.decoder
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	// Only an object without members can equal anything.
	if d.PeekKind() == '}' {
		if err := s.note(x, m, []byte(emptyObjectKey)); err != nil {
			return err
		}
	}
	for d.PeekKind() == '"' {
		next, err := s.readName(m, data)
		if err != nil {
			return err
		}
		switch {
		case next == nil || next == taken:
			err = d.SkipValue()
		case len(next.next) > 0 && d.PeekKind() == '{':
			err = s.descend(x, next, data, taken)
		default:
			var value []byte
			if value, err = d.ReadValue(); err == nil {
				// The decoder's own slice is only valid until its next call.
				end := d.InputOffset()
				err = s.note(x, next, data[end-int64(len(value)):end:end])
			}
		}
		if err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

// readName reads a name and returns the member of it in the tree; nil when there is none.
func (s *scratch) readName(m *member, data []byte) (*member, error) {
	quoted, err := s.decoder.ReadValue()
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(quoted, '\\') < 0 {
		return m.next[string(quoted[1:len(quoted)-1])], nil
	}
	name, err := jsontext.AppendUnquote([]byte(nil), quoted)
	return m.next[string(name)], err
}

// holds tells whether all tests hold.
func (s *scratch) holds(tests []test) bool {
	for i := range tests {
		q := &tests[i]
		v := &s.values[q.place]
		if v.key != q.key || (q.number != nil && !q.number.holds(v.value)) {
			return false
		}
	}
	return true
}

// meet adds a definition whose equalities all hold, unless something else of it does not.
func (s *scratch) meet(c *candidate) {
	if latest := s.latest.UnixMicro(); c.since > latest || (c.since == latest && c.entry.EnabledSince.After(s.latest)) {
		return
	}
	if len(s.hidden) > 0 {
		if _, hidden := s.hidden[c.entry.ID]; hidden {
			return
		}
	}
	var err error
	if c.conditional {
		if s.decoded == nil {
			s.decoded = condition.NewEvent(s.event.Raw)
		}
		var holds bool
		if holds, err = c.entry.condition.eval(s.decoded); err == nil && !holds {
			return
		}
	}
	s.met = append(s.met, Met{Routable: &c.entry.Routable, Err: err})
}
