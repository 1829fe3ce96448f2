package definition

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"mime"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// CloudEvents 1.0 (https://cloudevents.io) come in two modes. Structured: the data is a JSON object with the attributes and
// the event's data; the header Content-Type begins with application/cloudevents, or there is none, as before version 1.0.3
// of the NATS binding, and the object has a specversion and no event_id. Binary: the attributes are headers with the prefix
// ce-, and the message's data is the event's.

// MaxEventHeader is the most bytes of the names and values of a CloudEvent's ce- headers together.
const MaxEventHeader = 16 << 10

const cloudEventsVersion = "1.0"

var cloudEventWords = vocabulary{own: fieldCount, extensible: true, names: []string{
	"id", "type", "source", "subject", "traceparent", "time", "data",
	"specversion", "datacontenttype", "dataschema", "data_base64"}}

// headers is what a message's headers say about its event.
type headers struct {
	// structured and binary say how a CloudEvent is written; neither is set where the data has to tell.
	structured, binary bool
	contentType        string
	traceID            string
	// attributes are the ce- headers of binary mode, sorted, with the prefix cut off.
	attributes []headerField
}

type headerField struct{ name, value string }

const (
	contentTypeHeader = "content-type"
	traceHeader       = "traceparent"
	attributePrefix   = "ce-"
)

func readHeaders(header map[string][]string) (headers, *Reject) {
	var h headers
	fields := knownHeaders(header)
	if fields == nil {
		return h, nil
	}
	fields, clash := uniqueHeaders(fields)
	for _, f := range fields {
		switch name := strings.TrimPrefix(f.name, attributePrefix); {
		case f.name == contentTypeHeader:
			h.contentType = f.value
		case f.name == traceHeader && !slices.Contains(clash, traceHeader):
			h.traceID = TraceID(f.value)
		case name != f.name:
			h.attributes = append(h.attributes, headerField{name, f.value})
			h.binary = h.binary || name == "specversion"
		}
	}
	if slices.Contains(clash, contentTypeHeader) {
		return h, clashFault(contentTypeHeader)
	}
	media, _, _ := strings.Cut(strings.ToLower(h.contentType), ";")
	switch media = strings.TrimSpace(media); {
	case media == "application/cloudevents" || media == "application/cloudevents+json":
		// The ce- headers may be there too, but count for nothing.
		return headers{structured: true, traceID: h.traceID}, nil
	case strings.HasPrefix(media, "application/cloudevents"):
		return h, reject(RejectBadCloudEvent, "the Content-Type is %q, but a CloudEvent must be sent by itself and as JSON: "+
			"application/cloudevents+json", clip(media, 100))
	case !h.binary:
		return h, nil
	}
	for _, name := range clash {
		if strings.HasPrefix(name, attributePrefix) {
			return h, clashFault(name)
		}
	}
	size := 0
	for _, a := range h.attributes {
		size += len(attributePrefix) + len(a.name) + len(a.value)
	}
	if size > MaxEventHeader {
		return h, reject(RejectBadField, "the ce- headers have %d bytes together; they may have at most %d", size, MaxEventHeader)
	}
	return h, nil
}

// knownHeaders returns the headers that say something about the event, with their names in lower case.
func knownHeaders(header map[string][]string) []headerField {
	var fields []headerField
	for name, values := range header {
		prefixed := len(name) >= len(attributePrefix) && strings.EqualFold(name[:len(attributePrefix)], attributePrefix)
		if !prefixed && !strings.EqualFold(name, contentTypeHeader) && !strings.EqualFold(name, traceHeader) {
			continue
		}
		for _, v := range values {
			fields = append(fields, headerField{lowerASCII(name), strings.Trim(v, " \t")})
		}
	}
	return fields
}

// uniqueHeaders sorts the fields, keeps one of those that are equal, and returns the names that are given twice with
// different values.
func uniqueHeaders(fields []headerField) (unique []headerField, clash []string) {
	slices.SortFunc(fields, func(a, b headerField) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.value, b.value))
	})
	fields = slices.Compact(fields)
	for i := 1; i < len(fields); i++ {
		if fields[i].name == fields[i-1].name {
			clash = append(clash, fields[i].name)
		}
	}
	return fields, clash
}

func clashFault(name string) *Reject {
	return reject(RejectBadField, "the header %q is given twice with different values", clip(name, 100))
}

// lowerASCII leaves letters beyond ASCII as they are: some of them have one of ASCII as their lower case.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// cutBinary takes the attributes from the headers, written as JSON strings like those of a structured event, and the
// payload from the data.
func (p *parts) cutBinary(h *headers, data []byte) *Reject {
	p.words = &cloudEventWords
	for _, a := range h.attributes {
		value, fault := decodeHeader(a)
		if fault != nil {
			return fault
		}
		switch field := p.words.fieldOf([]byte(a.name)); {
		case field == fieldPayload || field == fieldDataBase64:
			return reject(RejectBadField, "the header %q is not one of binary mode: the data is the message's body",
				attributePrefix+a.name)
		case field >= 0:
			p.values[field] = value
		default:
			p.extensions = append(p.extensions, Member{Name: []byte(a.name), Value: value})
		}
	}
	if p.values[fieldDataContentType] == nil && h.contentType != "" {
		var fault *Reject
		if p.values[fieldDataContentType], fault = decodeHeader(headerField{"datacontenttype", h.contentType}); fault != nil {
			return fault
		}
	}
	// Other data is refused for what it is, not for being bad JSON, once the id is known.
	if p.checkContentType() != nil {
		return nil
	}
	// The same event has the same bounds in either mode: there, each attribute and the data would be members.
	if fault := checkShape(data, MaxEventDepth-1, MaxEventMembers-len(h.attributes)-1); fault != nil {
		return fault
	}
	return p.cutBody(data)
}

// decodeHeader returns the value of an attribute as a JSON string.
func decodeHeader(a headerField) ([]byte, *Reject) {
	value := a.value
	// Older versions of the binding let publishers quote instead of percent-encoding.
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = unescapeQuoted(value[1 : len(value)-1])
	}
	text, err := url.PathUnescape(value)
	var quoted []byte
	if err == nil {
		quoted, err = jsontext.AppendQuote(nil, text)
	}
	if err != nil {
		return nil, reject(RejectBadField, "the header %q must be percent-encoded UTF-8", clip(attributePrefix+a.name, 100))
	}
	return quoted, nil
}

// unescapeQuoted takes the backslashes out of the inside of an HTTP quoted string.
func unescapeQuoted(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// cutBody reads the data of binary mode: one JSON value or nothing.
func (p *parts) cutBody(data []byte) *Reject {
	r := openReader(data)
	defer r.close()
	d := &r.decoder
	var err error
	if d.PeekKind() == '{' {
		p.values[fieldPayload], p.members, err = readMembers(d, data)
	} else {
		p.values[fieldPayload], err = readValue(d, data)
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return syntaxFault(err)
	}
	return checkEnd(d)
}

func (p *parts) checkVersion() *Reject {
	value := p.values[fieldSpecVersion]
	if version, given, isString := readString(value); !given || !isString || version != cloudEventsVersion {
		return reject(RejectBadCloudEvent, "specversion must be %q, but is %s", cloudEventsVersion,
			cmp.Or(clip(string(value), 60), "not given"))
	}
	return nil
}

// checkContentType refuses data that is not said to be JSON. No filter could look into it.
func (p *parts) checkContentType() *Reject {
	contentType, fault := p.attribute(fieldDataContentType)
	if fault != nil || contentType == "" {
		return fault
	}
	media, _, err := mime.ParseMediaType(contentType)
	_, kind, _ := strings.Cut(media, "/")
	if err != nil || kind != "json" && !strings.HasSuffix(kind, "+json") {
		return reject(RejectBadCloudEvent, "datacontenttype is %q, but data that is not JSON cannot be matched",
			clip(contentType, 100))
	}
	return nil
}

// checkCloudEvent checks what our own envelope does not have.
func (p *parts) checkCloudEvent() *Reject {
	if source, given, _ := readString(p.values[fieldSource]); !given || source == "" {
		return reject(RejectBadField, "source is required in a CloudEvent")
	}
	if fault := p.checkContentType(); fault != nil {
		return fault
	}
	if _, fault := p.attribute(fieldDataSchema); fault != nil {
		return fault
	}
	if v := p.values[fieldDataBase64]; v != nil && v[0] != 'n' {
		return reject(RejectBadCloudEvent, "data_base64 cannot be matched: send the data as JSON in data")
	}
	// Null means "not given".
	p.extensions = slices.DeleteFunc(p.extensions, func(m Member) bool { return m.Value[0] == 'n' })
	slices.SortFunc(p.extensions, func(a, b Member) int { return bytes.Compare(a.Name, b.Name) })
	for _, m := range p.extensions {
		if fault := checkExtension(m); fault != nil {
			return fault
		}
	}
	return nil
}

func checkExtension(m Member) *Reject {
	for _, c := range m.Name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return reject(RejectBadField, "%q is not an attribute: names of attributes consist of a-z and 0-9",
				clip(string(m.Name), 60))
		}
	}
	if len(m.Name) == 0 {
		return reject(RejectBadField, "an attribute must have a name")
	}
	name := clip(string(m.Name), 60)
	switch kind := jsontext.Value(m.Value).Kind(); {
	case kind == '"':
		_, fault := readAttribute(name, m.Value)
		return fault
	case kind == 't' || kind == 'f':
	case kind != '0' || bytes.ContainsAny(m.Value, ".eE"):
		return reject(RejectBadField, "%s must be a string, a boolean or a whole number", name)
	case len(m.Value) > MaxAttribute:
		return reject(RejectBadField, "%s has %d bytes; it may have at most %d", name, len(m.Value), MaxAttribute)
	}
	return nil
}

// rewrite writes a CloudEvent as an envelope of our own.
func (p *parts) rewrite(e *Event) ([]byte, *Reject) {
	size := 256 + len(e.ID) + len(e.Type) + len(e.Source) + len(e.Subject) + len(p.values[fieldPayload])
	for _, m := range p.extensions {
		size += len(m.Name) + len(m.Value) + 4
	}
	w := envelopeWriter(append(make([]byte, 0, size), '{'))
	occurredAt, _, _ := readString(p.values[fieldOccurredAt])
	for field, text := range [...]string{fieldEventID: e.ID, fieldType: e.Type, fieldSource: e.Source, fieldSubject: e.Subject,
		fieldTraceID: e.TraceID, fieldOccurredAt: occurredAt} {
		if text != "" {
			w.text(envelopeWords.names[field], text)
		}
	}
	if len(p.extensions) > 0 {
		w.name("extensions")
		w = append(w, '{')
		for _, m := range p.extensions {
			if text, _, isString := readString(m.Value); isString {
				w.text(string(m.Name), text)
				continue
			}
			w.name(string(m.Name))
			w = append(w, m.Value...)
		}
		w = append(w, '}')
	}
	if e.Payload != nil {
		w.name(envelopeWords.names[fieldPayload])
		w = append(w, p.values[fieldPayload]...)
	}
	w = append(w, '}')
	if len(w) > MaxEvent {
		return nil, reject(RejectTooLarge, "the event has %d bytes with its attributes; an event has at most %d", len(w), MaxEvent)
	}
	return w, nil
}

// envelopeWriter is the text of a JSON object that is being written.
type envelopeWriter []byte

func (w *envelopeWriter) name(name string) {
	if (*w)[len(*w)-1] != '{' {
		*w = append(*w, ',')
	}
	w.quote(name)
	*w = append(*w, ':')
}

func (w *envelopeWriter) text(name, text string) {
	w.name(name)
	w.quote(text)
}

func (w *envelopeWriter) quote(text string) {
	*w, _ = jsontext.AppendQuote(*w, text) // fails for what is not UTF-8 alone, and all of this was read from JSON
}

// TraceID returns the trace id of a W3C traceparent, 32 lower-case hexadecimal digits, or "" when it is not a valid one,
// which is to be treated like none.
func TraceID(traceparent string) string {
	parts := strings.Split(strings.Trim(traceparent, " \t"), "-")
	// Later versions may append parts.
	if len(parts) < 4 || parts[0] == "00" && len(parts) != 4 || parts[0] == "ff" {
		return ""
	}
	version, trace, parent, flags := parts[0], parts[1], parts[2], parts[3]
	if !isHex(version, 2) || !isHex(trace, 32) || !isHex(parent, 16) || !isHex(flags, 2) ||
		strings.Trim(trace, "0") == "" || strings.Trim(parent, "0") == "" {
		return ""
	}
	return trace
}

func isHex(s string, n int) bool { return len(s) == n && strings.Trim(s, "0123456789abcdef") == "" }
