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
	MaxEventDepth = 100
	// MaxEventMembers is the most members of all objects of an event together.
	MaxEventMembers = 10_000
)

// Event is an envelope that ParseEnvelope found to be legal. Its byte slices share memory with the message.
type Event struct {
	// ID names the event for good: 1 to MaxEventID characters of [A-Za-z0-9._:/+=@-]. A second event with the same id is
	// the same event.
	ID string
	// Type is one that CheckEventType allows, as in "user.created".
	Type string
	// Source, Subject and TraceID are the publisher's own words, empty when not given. Subject is the envelope's, not the
	// NATS subject.
	Source, Subject, TraceID string
	// OccurredAt is the publisher's time, zero when not given. Nothing is decided by it.
	OccurredAt time.Time
	// Payload holds the members of the payload in the order received, each name once. Empty when no payload was given.
	Payload []Member
	// Raw is the whole envelope as received.
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

// The fields of an envelope.
const (
	fieldEventID = iota
	fieldType
	fieldSource
	fieldSubject
	fieldTraceID
	fieldOccurredAt
	fieldPayload
	fieldCount
)

var envelopeFields = [fieldCount]string{"event_id", "type", "source", "subject", "trace_id", "occurred_at", "payload"}

// ParseEnvelope reads an event as it came on a NATS subject, which must be the prefix, a dot and the event's type: so
// that permissions on subjects are permissions on types. It is the only parser of events.
//
// The envelope is a JSON object with the fields event_id and type, and optionally source, subject, trace_id, occurred_at
// and payload. Fields that are not known are ignored, because envelopes come from other teams and may carry more than we
// read; a known name in another case is refused, because some readers take it for the field. Null means "not given",
// except for a payload, which is an object or absent; an absent payload has no members. Invalid UTF-8, a name twice in
// one object and trailing data are refused at any depth.
//
// With a Reject, the Event holds no more than its ID, where that is legal.
func ParseEnvelope(data []byte, subject, prefix string) (Event, *Reject) {
	if len(data) > MaxEvent {
		return Event{}, reject(RejectTooLarge, "the message has %d bytes; an event has at most %d", len(data), MaxEvent)
	}
	e := Event{Raw: data}
	values, payload, fault := splitEnvelope(data)
	if fault != nil {
		return Event{}, fault
	}
	if e.ID, fault = readEventID(values[fieldEventID]); fault != nil {
		return Event{}, fault
	}
	if fault = e.readFields(values, subject, prefix); fault != nil {
		return Event{ID: e.ID}, fault
	}
	e.Payload = payload
	return e, nil
}

func (e *Event) readFields(values [fieldCount][]byte, subject, prefix string) *Reject {
	var fault *Reject
	if e.Type, fault = readType(values[fieldType]); fault != nil {
		return fault
	}
	if e.Source, fault = readAttribute("source", values[fieldSource]); fault != nil {
		return fault
	}
	if e.Subject, fault = readAttribute("subject", values[fieldSubject]); fault != nil {
		return fault
	}
	if e.TraceID, fault = readAttribute("trace_id", values[fieldTraceID]); fault != nil {
		return fault
	}
	if e.OccurredAt, fault = readTime(values[fieldOccurredAt]); fault != nil {
		return fault
	}
	if v := values[fieldPayload]; v != nil {
		return reject(RejectPayloadNotObject, "payload must be an object, but is %s", kindName(jsontext.Value(v).Kind()))
	}
	if t, ok := strings.CutPrefix(subject, prefix+"."); !ok || t != e.Type {
		return reject(RejectSubjectMismatch, "the type is %q, so the subject must be %q, but is %q",
			e.Type, prefix+"."+e.Type, clip(subject, 300))
	}
	return nil
}

// envelopeReader is a decoder that is used again: making one costs more than reading a small envelope.
type envelopeReader struct {
	input   bytes.Buffer
	decoder jsontext.Decoder
}

var envelopeReaders = sync.Pool{New: func() any { return new(envelopeReader) }}

// splitEnvelope checks the whole text and cuts it, without copying, into the members of the payload and the values of the
// other known fields: nil where absent. The payload has a value only where it is not an object.
func splitEnvelope(data []byte) (values [fieldCount][]byte, payload []Member, fault *Reject) {
	r := envelopeReaders.Get().(*envelopeReader)
	defer func() {
		r.input = bytes.Buffer{}
		r.decoder.Reset(&r.input)
		envelopeReaders.Put(r)
	}()
	r.input = *bytes.NewBuffer(data)
	r.decoder.Reset(&r.input)
	d := &r.decoder

	if kind := d.PeekKind(); kind != '{' {
		if err := d.SkipValue(); err != nil {
			return values, nil, syntaxFault(err)
		}
		return values, nil, reject(RejectNotObject, "the message must be a JSON object, but is %s", kindName(kind))
	}
	var err error
	if _, err = d.ReadToken(); err != nil {
		return values, nil, syntaxFault(err)
	}
	var variant *Reject
	for d.PeekKind() == '"' {
		name, err := readName(d, data)
		if err != nil {
			return values, nil, syntaxFault(err)
		}
		field := fieldOf(name)
		if field < 0 && variant == nil {
			variant = caseVariant(name)
		}
		switch {
		case field == fieldPayload && d.PeekKind() == '{':
			payload, err = readMembers(d, data)
		case field >= 0:
			values[field], err = readValue(d, data)
		default:
			err = d.SkipValue()
		}
		if err != nil {
			return values, nil, syntaxFault(err)
		}
	}
	if _, err = d.ReadToken(); err != nil { // the closing brace
		return values, nil, syntaxFault(err)
	}
	if _, err = d.ReadToken(); err == nil {
		return values, nil, reject(RejectNotJSON, "the message holds more than one JSON value")
	} else if !errors.Is(err, io.EOF) {
		return values, nil, syntaxFault(err)
	}
	return values, payload, variant
}

func readMembers(d *jsontext.Decoder, data []byte) ([]Member, error) {
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	members := make([]Member, 0, 8)
	for d.PeekKind() == '"' {
		name, err := readName(d, data)
		if err != nil {
			return nil, err
		}
		value, err := readValue(d, data)
		if err != nil {
			return nil, err
		}
		members = append(members, Member{Name: name, Value: value})
	}
	_, err := d.ReadToken()
	return members, err
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

func fieldOf(name []byte) int {
	for i, known := range envelopeFields {
		if string(name) == known {
			return i
		}
	}
	return -1
}

func caseVariant(name []byte) *Reject {
	for _, known := range envelopeFields {
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

func readEventID(value []byte) (string, *Reject) {
	id, given, isString := readString(value)
	switch {
	case !given || (isString && id == ""):
		return "", reject(RejectMissingEventID, "event_id is required: it names the event for good, and is its own for each event")
	case !isString:
		return "", reject(RejectBadEventID, "event_id must be a string, but is %s", kindName(jsontext.Value(value).Kind()))
	case len(id) > MaxEventID:
		return "", reject(RejectBadEventID, "event_id has %d characters; it may have at most %d", len([]rune(id)), MaxEventID)
	}
	for _, c := range []byte(id) {
		if !eventIDByte(c) {
			return "", reject(RejectBadEventID, "event_id %q must consist of A-Z, a-z, 0-9 and . _ : / + = @ -", id)
		}
	}
	return id, nil
}

func eventIDByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._:/+=@-", c) >= 0
}

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

func readTime(value []byte) (time.Time, *Reject) {
	text, given, isString := readString(value)
	if !given {
		return time.Time{}, nil
	}
	var at time.Time
	if !isString || at.UnmarshalText([]byte(text)) != nil {
		return time.Time{}, reject(RejectBadTime, "occurred_at must be an RFC 3339 time, as in \"2026-01-31T09:00:00Z\", but is %s",
			clip(string(value), 60))
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
	// Live: an enabled, not deleted definition with an event trigger. Otherwise the other fields but ID mean nothing and
	// the definition is to be dropped.
	Live bool
	// EnabledSince is the earliest moment of an event that may meet the definition.
	EnabledSince time.Time
	// Unreadable is set when this version cannot read the stored document, so that the definition cannot be matched.
	Unreadable error
}
