package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits on an event.
const (
	// MaxEvent is the most bytes of an envelope. A larger message is a dead letter, and is not decoded.
	MaxEvent = 1 << 20
	// MaxEventID is the most characters of an event id.
	MaxEventID = 128
	// MaxAttribute is the most bytes of an envelope's source, subject or trace id.
	MaxAttribute = 1024
	// MaxEventDepth is how deep an event's objects and lists may be nested; the envelope itself is the first level.
	MaxEventDepth = MaxNesting
	// MaxEventMembers is the most members of all objects of an event together.
	MaxEventMembers = 10_000
)

// Event is a message that ParseMessage found to be legal. Its byte slices share memory with the message.
type Event struct {
	// ID names the event for good: 1 to MaxEventID characters of [A-Za-z0-9._:/+=@-]. A second event with the same id is
	// the same event.
	ID string
	// Type is one that CheckEventType allows, as in "user.created".
	Type string
	// Source and Subject are the publisher's own words, empty when not given. Subject is the envelope's, not the NATS
	// subject.
	Source, Subject string
	// TraceID is the trace id of the message's traceparent header, or else the envelope's own; empty when there is neither.
	TraceID string
	// OccurredAt is the publisher's time, zero when not given. Nothing is decided by it.
	OccurredAt time.Time
	// Depth is how many runs led to the event, by the events of their ends; 0 for an event that is not of a run's end.
	Depth int
	// Payload holds the members of the payload in the order received, each name once. Empty when no payload was given.
	Payload []Member
	// Raw is the event as an envelope of our own, so that whoever reads it knows one shape. It is the message itself where
	// that is one, with the publisher's trace_id. A CloudEvent is written anew, with TraceID as its trace_id, extension
	// attributes as members of "extensions", and the payload as received; ParseEnvelope reads the same event from it.
	Raw []byte
}

// Member is one member of a JSON object.
type Member struct {
	// Name is the name itself, without quotes and escapes.
	Name []byte
	// Value is the value as received: valid JSON without duplicate names at any depth.
	Value []byte
}

// The reasons of dead letters. The list is closed: every value is documented in docs/events.md.
const (
	RejectTooLarge         = "too_large"          // larger than MaxEvent
	RejectNotJSON          = "not_json"           // not one JSON value in UTF-8
	RejectNotObject        = "not_object"         // JSON, but not an object
	RejectDuplicateName    = "duplicate_name"     // a name twice in one object, at any depth
	RejectMissingEventID   = "missing_event_id"   // event_id absent, null or empty
	RejectBadEventID       = "bad_event_id"       // event_id not a string, too long, or with other characters
	RejectMissingType      = "missing_type"       // type absent, null or empty
	RejectBadType          = "bad_type"           // type not a string, or not an event type
	RejectPayloadNotObject = "payload_not_object" // payload given, but not an object
	RejectBadTime          = "bad_time"           // occurred_at given, but not an RFC 3339 time
	RejectBadField         = "bad_field"          // another field has a wrong type or value, or a name in the wrong case
	RejectSubjectMismatch  = "subject_mismatch"   // the NATS subject is not the prefix and the type
	RejectTooDeep          = "too_deep"           // nested deeper than MaxEventDepth
	RejectTooManyMembers   = "too_many_members"   // more than MaxEventMembers members in all its objects
	RejectBadCloudEvent    = "bad_cloud_event"    // a CloudEvent of another version, or with data that is no JSON
	RejectEventIDReused    = "event_id_reused"    // an event with this id and another source, type or payload came before
	RejectCrashLoop        = "crash_loop"         // the router died at it, again and again
	RejectInternalError    = "internal_error"     // the router failed at it
	RejectNotStorable      = "not_storable"       // legal, but refused by the database
)

// RejectReasons lists every reason of a dead letter.
var RejectReasons = []string{RejectTooLarge, RejectNotJSON, RejectNotObject, RejectDuplicateName, RejectMissingEventID,
	RejectBadEventID, RejectMissingType, RejectBadType, RejectPayloadNotObject, RejectBadTime, RejectBadField,
	RejectSubjectMismatch, RejectTooDeep, RejectTooManyMembers, RejectBadCloudEvent, RejectEventIDReused, RejectCrashLoop,
	RejectInternalError, RejectNotStorable}

// Reject says why a message is a dead letter.
type Reject struct {
	// Reason is one of the Reject* words.
	Reason string
	// Detail is one sentence for a person: what is wrong and what would be right.
	Detail string
}

func (r *Reject) Error() string { return r.Reason + ": " + r.Detail }

// The fields of an event. The last four are those of CloudEvents alone.
const (
	fieldEventID = iota
	fieldType
	fieldSource
	fieldSubject
	fieldTraceID
	fieldOccurredAt
	fieldPayload
	fieldSpecVersion
	fieldDataContentType
	fieldDataSchema
	fieldDataBase64
	fieldCount
)

// vocabulary is the names that one kind of envelope has for the fields, in their order.
type vocabulary struct {
	names []string
	// own is how many of the names are the envelope's own: these must not be written in another case.
	own int
	// extensible: other members are extension attributes, which are kept.
	extensible bool
}

// Our own envelope has no specversion, but that member tells a CloudEvent that came without headers.
var envelopeWords = vocabulary{own: fieldPayload + 1, names: []string{
	"event_id", "type", "source", "subject", "trace_id", "occurred_at", "payload", "specversion"}}

// parts is a message cut into pieces of its text, without copying.
type parts struct {
	words *vocabulary
	// values holds the value of each field, nil where it is absent.
	values [fieldCount][]byte
	// members are those of the payload, where that is an object.
	members []Member
	// extensions are the other members of a CloudEvent.
	extensions []Member
	// variant is set when a name of a field is given in another case.
	variant *Reject
}

// ParseEnvelope reads an event from a message that came without headers; see ParseMessage.
func ParseEnvelope(data []byte, subject, prefix string) (Event, *Reject) {
	return ParseMessage(subject, nil, data, prefix)
}

// ParseMessage reads an event from a message: from its NATS subject, which must be the prefix, a dot and the event's type,
// so that permissions on subjects are permissions on types; from its headers, whose names may be written in any case; and
// from its data. It is the only parser of events.
//
// The data is our own envelope: a JSON object with the fields event_id and type, and optionally source, subject, trace_id,
// occurred_at and payload. Fields that are not known are ignored, because envelopes come from other teams and may carry
// more than we read; a known name in another case is refused, because some readers take it for the field. Null means "not
// given", except for a payload, which is an object or absent; an absent payload has no members. Or the message is a
// CloudEvent 1.0 in structured or binary mode, to whose attributes the rules of our fields apply; see cloudevents.go.
//
// Invalid UTF-8, a name twice in one object and trailing data are refused at any depth. A valid traceparent header gives
// the trace id, whatever the envelope says.
//
// With a Reject, the Event holds no more than its ID, where that is legal.
func ParseMessage(subject string, header map[string][]string, data []byte, prefix string) (Event, *Reject) {
	if len(data) > MaxEvent {
		return Event{}, reject(RejectTooLarge, "the message has %d bytes; an event has at most %d", len(data), MaxEvent)
	}
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		return Event{}, reject(RejectNotJSON, "the message begins with a byte order mark, which JSON must not have")
	}
	h, fault := readHeaders(header)
	if fault != nil {
		return Event{}, fault
	}
	var p parts
	if fault = p.cut(&h, data); fault != nil {
		return Event{}, fault
	}
	var e Event
	if fault = p.read(&e, subject, prefix); fault != nil {
		return Event{ID: e.ID}, fault
	}
	if h.traceID != "" {
		e.TraceID = h.traceID
	}
	if IsRunEvent(e.Type) {
		e.Depth = claimedDepth(p.extensions)
	}
	e.Payload, e.Raw = p.members, data
	if p.words.extensible {
		if e.Raw, fault = p.rewrite(&e); fault != nil {
			return Event{ID: e.ID}, fault
		}
	}
	return e, nil
}

// cut finds out what the message speaks, checks the whole text and cuts it.
func (p *parts) cut(h *headers, data []byte) *Reject {
	if h.binary {
		return p.cutBinary(h, data)
	}
	if fault := checkShape(data, MaxEventDepth, MaxEventMembers); fault != nil {
		return fault
	}
	p.words = &envelopeWords
	if h.structured {
		p.words = &cloudEventWords
	}
	if fault := p.cutObject(data); fault != nil {
		return fault
	}
	if p.words == &envelopeWords && p.values[fieldEventID] == nil && p.values[fieldSpecVersion] != nil {
		*p = parts{words: &cloudEventWords}
		if fault := p.cutObject(data); fault != nil {
			return fault
		}
	}
	return p.variant
}

func (p *parts) read(e *Event, subject, prefix string) *Reject {
	cloudEvent := p.words.extensible
	if cloudEvent {
		if fault := p.checkVersion(); fault != nil {
			return fault
		}
	}
	var fault *Reject
	if e.ID, fault = readEventID(p.words.names[fieldEventID], p.values[fieldEventID]); fault != nil {
		return fault
	}
	if e.Type, fault = readType(p.values[fieldType]); fault != nil {
		return fault
	}
	if e.Source, fault = p.attribute(fieldSource); fault != nil {
		return fault
	}
	if e.Subject, fault = p.attribute(fieldSubject); fault != nil {
		return fault
	}
	if e.TraceID, fault = p.attribute(fieldTraceID); fault != nil {
		return fault
	}
	if e.OccurredAt, fault = readTime(p.words.names[fieldOccurredAt], p.values[fieldOccurredAt]); fault != nil {
		return fault
	}
	if cloudEvent {
		e.TraceID = TraceID(e.TraceID)
		if fault = p.checkCloudEvent(); fault != nil {
			return fault
		}
	}
	// Null data of a CloudEvent is none; our own payload is an object or absent.
	if v := p.values[fieldPayload]; v != nil && v[0] != '{' && (!cloudEvent || v[0] != 'n') {
		return reject(RejectPayloadNotObject, "%s must be an object, but is %s", p.words.names[fieldPayload],
			kindName(jsontext.Value(v).Kind()))
	}
	if t, ok := strings.CutPrefix(subject, prefix+"."); !ok || t != e.Type {
		return reject(RejectSubjectMismatch, "the type is %q, so the subject must be %q, but is %q",
			e.Type, prefix+"."+e.Type, clip(subject, 300))
	}
	return nil
}

// checkShape bounds the work on a text before any of it is decoded: how deep its objects and lists are nested, and how many
// members its objects have together. Counting bytes decides about nearly all texts; only where those bytes are too many
// does it have to be known which of them lie in strings.
func checkShape(data []byte, depth, members int) *Reject {
	opened := bytes.Count(data, []byte("{")) + bytes.Count(data, []byte("["))
	if opened <= depth && bytes.Count(data, []byte(":")) <= members {
		return nil
	}
	level, named, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
			if c == '\\' {
				i++
			}
		case c == '{' || c == '[':
			if level++; level > depth {
				return reject(RejectTooDeep, "the event is nested deeper than %d levels", MaxEventDepth)
			}
		case c == '}' || c == ']':
			level--
		case c == ':':
			if named++; named > members {
				return reject(RejectTooManyMembers, "the event has more than %d members in all its objects", MaxEventMembers)
			}
		}
	}
	return nil
}

// envelopeReader is a decoder that is used again: making one costs more than reading a small envelope.
type envelopeReader struct {
	input   bytes.Buffer
	decoder jsontext.Decoder
}

var envelopeReaders = sync.Pool{New: func() any { return new(envelopeReader) }}

func openReader(data []byte) *envelopeReader {
	r := envelopeReaders.Get().(*envelopeReader)
	r.input = *bytes.NewBuffer(data)
	r.decoder.Reset(&r.input)
	return r
}

func (r *envelopeReader) close() {
	r.input = bytes.Buffer{}
	r.decoder.Reset(&r.input)
	envelopeReaders.Put(r)
}

// cutObject cuts an envelope into its fields.
func (p *parts) cutObject(data []byte) *Reject {
	r := openReader(data)
	defer r.close()
	d := &r.decoder

	if kind := d.PeekKind(); kind != '{' {
		if err := d.SkipValue(); err != nil {
			return syntaxFault(err)
		}
		return reject(RejectNotObject, "the message must be a JSON object, but is %s", kindName(kind))
	}
	if _, err := d.ReadToken(); err != nil {
		return syntaxFault(err)
	}
	for d.PeekKind() == '"' {
		name, err := readName(d, data)
		if err != nil {
			return syntaxFault(err)
		}
		field := p.words.fieldOf(name)
		if field < 0 && p.variant == nil {
			p.variant = p.words.caseVariant(name)
		}
		switch {
		case field == fieldPayload && d.PeekKind() == '{':
			p.values[field], p.members, err = readMembers(d, data)
		case field >= 0:
			p.values[field], err = readValue(d, data)
		case p.words.extensible:
			var value []byte
			value, err = readValue(d, data)
			p.extensions = append(p.extensions, Member{Name: name, Value: value})
		default:
			err = d.SkipValue()
		}
		if err != nil {
			return syntaxFault(err)
		}
	}
	if _, err := d.ReadToken(); err != nil { // the closing brace
		return syntaxFault(err)
	}
	return checkEnd(d)
}

// checkEnd refuses what follows the message's one value.
func checkEnd(d *jsontext.Decoder) *Reject {
	switch _, err := d.ReadToken(); {
	case err == nil:
		return reject(RejectNotJSON, "the message holds more than one JSON value")
	case !errors.Is(err, io.EOF):
		return syntaxFault(err)
	}
	return nil
}

// readMembers reads an object and returns its text and its members.
func readMembers(d *jsontext.Decoder, data []byte) (text []byte, members []Member, err error) {
	if _, err = d.ReadToken(); err != nil {
		return nil, nil, err
	}
	start := d.InputOffset() - 1
	members = make([]Member, 0, 8)
	for d.PeekKind() == '"' {
		name, err := readName(d, data)
		if err != nil {
			return nil, nil, err
		}
		value, err := readValue(d, data)
		if err != nil {
			return nil, nil, err
		}
		members = append(members, Member{Name: name, Value: value})
	}
	if _, err = d.ReadToken(); err != nil {
		return nil, nil, err
	}
	end := d.InputOffset()
	return data[start:end:end], members, nil
}

// readValue reads one value and returns it as a part of data: what the decoder returns is only valid until its next call.
func readValue(d *jsontext.Decoder, data []byte) ([]byte, error) {
	v, err := d.ReadValue()
	if err != nil {
		return nil, err
	}
	end := d.InputOffset()
	return data[end-int64(len(v)) : end : end], nil
}

func readName(d *jsontext.Decoder, data []byte) ([]byte, error) {
	quoted, err := readValue(d, data)
	if err != nil {
		return nil, err
	}
	return unquote(quoted)
}

// unquote returns the text of a valid JSON string, without copying where it holds no escapes.
func unquote(quoted []byte) ([]byte, error) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1 : len(quoted)-1], nil
	}
	return jsontext.AppendUnquote([]byte(nil), quoted)
}

func (w *vocabulary) fieldOf(name []byte) int {
	for i, known := range w.names {
		if string(name) == known {
			return i
		}
	}
	return -1
}

func (w *vocabulary) caseVariant(name []byte) *Reject {
	for _, known := range w.names[:w.own] {
		if strings.EqualFold(string(name), known) {
			return reject(RejectBadField, "%q is not a field: it must be written %q", name, known)
		}
	}
	return nil
}

// readString returns the text of a field; given is false when it is absent or null.
func readString(value []byte) (text string, given, isString bool) {
	switch {
	case value == nil || value[0] == 'n':
		return "", false, false
	case value[0] != '"':
		return "", true, false
	}
	raw, err := unquote(value)
	return string(raw), true, err == nil
}

func readEventID(name string, value []byte) (string, *Reject) {
	id, given, isString := readString(value)
	switch {
	case !given || (isString && id == ""):
		return "", reject(RejectMissingEventID, "%s is required: it names the event for good, and is its own for each event", name)
	case !isString:
		return "", reject(RejectBadEventID, "%s must be a string, but is %s", name, kindName(jsontext.Value(value).Kind()))
	case len(id) > MaxEventID:
		return "", reject(RejectBadEventID, "%s has %d characters; it may have at most %d", name, len([]rune(id)), MaxEventID)
	}
	for _, c := range []byte(id) {
		if !eventIDBytes[c] {
			return "", reject(RejectBadEventID, "%s %q must consist of A-Z, a-z, 0-9 and . _ : / + = @ -", name, id)
		}
	}
	return id, nil
}

// eventIDBytes is a table because it is asked for each byte of each event's id.
var eventIDBytes = func() (legal [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/+=@-") {
		legal[c] = true
	}
	return legal
}()

func readType(value []byte) (string, *Reject) {
	t, given, isString := readString(value)
	switch {
	case !given || (isString && t == ""):
		return "", reject(RejectMissingType, "type is required, as in user.created")
	case !isString:
		return "", reject(RejectBadType, "type must be a string, but is %s", kindName(jsontext.Value(value).Kind()))
	}
	if fault := CheckEventType(t); fault != "" {
		return "", reject(RejectBadType, "type %q %s", clip(t, 60), fault)
	}
	return t, nil
}

func (p *parts) attribute(field int) (string, *Reject) {
	return readAttribute(p.words.names[field], p.values[field])
}

func readAttribute(name string, value []byte) (string, *Reject) {
	text, given, isString := readString(value)
	switch {
	case !given:
		return "", nil
	case !isString:
		return "", reject(RejectBadField, "%s must be a string, but is %s", name, kindName(jsontext.Value(value).Kind()))
	case len(text) > MaxAttribute:
		return "", reject(RejectBadField, "%s has %d bytes; it may have at most %d", name, len(text), MaxAttribute)
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", reject(RejectBadField, "%s must not hold control characters", name)
	}
	return text, nil
}

func readTime(name string, value []byte) (at time.Time, fault *Reject) {
	if value == nil || value[0] == 'n' {
		return at, nil
	}
	var text []byte
	if value[0] == '"' {
		text, _ = unquote(value) // of valid JSON
	}
	if at.UnmarshalText(text) != nil {
		return time.Time{}, reject(RejectBadTime, "%s must be an RFC 3339 time, as in \"2026-01-31T09:00:00Z\", but is %s",
			name, clip(string(value), 60))
	}
	return at, nil
}

func syntaxFault(err error) *Reject {
	if errors.Is(err, io.EOF) {
		return reject(RejectNotJSON, "the message is empty")
	}
	var syntactic *jsontext.SyntacticError
	if !errors.As(err, &syntactic) {
		return reject(RejectNotJSON, "the message is not valid JSON")
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return reject(RejectDuplicateName, "%q is given twice", clip(pointerPath(syntactic.JSONPointer), 200))
	}
	return reject(RejectNotJSON, "the message is not valid JSON at byte %d: %s", syntactic.ByteOffset, clip(plainSyntax(syntactic), 200))
}

func reject(reason, format string, args ...any) *Reject {
	return &Reject{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Routable is what the event router needs of a definition.
type Routable struct {
	ID       string
	Name     string
	Revision int
	// EventType, Filters and Condition are those of the trigger.
	EventType string
	Filters   map[string]json.RawMessage
	Condition string
	// Keyer gives its occurrences their concurrency keys.
	Keyer *Keyer
	// Live: an enabled, not deleted definition with an event trigger. Otherwise the other fields but ID mean nothing and
	// the definition is to be dropped.
	Live bool
	// EnabledSince is the earliest moment of an event that may meet the definition.
	EnabledSince time.Time
	// Unreadable is set when this version cannot read the stored document, so that the definition cannot be matched.
	Unreadable error
}
