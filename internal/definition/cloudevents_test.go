package definition

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

const (
	cloudEventData  = `{"amount" : 10, "to":{"x":[1,null]}}`
	structuredEvent = `{"specversion":"1.0","id":"o-1","source":"/shop","type":"order.paid","subject":"orders/7",` +
		`"time":"2026-01-31T09:00:00+01:00","datacontenttype":"application/json","dataschema":"https://x.org/s",` +
		`"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","tenant":"Euro € \"x\"","partitionkey":"p",` +
		`"data":` + cloudEventData + `}`
	rewrittenEvent = `{"event_id":"o-1","type":"order.paid","source":"/shop","subject":"orders/7",` +
		`"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","occurred_at":"2026-01-31T09:00:00+01:00",` +
		`"extensions":{"partitionkey":"p","tenant":"Euro € \"x\""},"payload":` + cloudEventData + `}`
)

// header makes the headers of a message of names and values in turn.
func header(fields ...string) map[string][]string {
	h := map[string][]string{}
	for i := 0; i < len(fields); i += 2 {
		h[fields[i]] = append(h[fields[i]], fields[i+1])
	}
	return h
}

func binaryHeader(more ...string) map[string][]string {
	return header(append([]string{"ce-specversion", "1.0", "ce-id", "o-1", "ce-source", "/shop", "ce-type", "order.paid"}, more...)...)
}

// TestModes: one event is the same however it is written.
func TestModes(t *testing.T) {
	t.Parallel()
	full := []string{"CE-Subject", "orders%2f7", "ce-time", "2026-01-31T09:00:00+01:00", "Ce-DataSchema", "https://x.org/s",
		"ce-traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "ce-tenant", "Euro%20%E2%82%AC%20%22x%22",
		"ce-PartitionKey", "p", "Nats-Msg-Id", "o-1"}
	want := Event{ID: "o-1", Type: "order.paid", Source: "/shop", Subject: "orders/7", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
		OccurredAt: time.Date(2026, 1, 31, 9, 0, 0, 0, time.FixedZone("", 3600)), Raw: []byte(rewrittenEvent),
		Payload: []Member{{Name: []byte("amount"), Value: []byte("10")}, {Name: []byte("to"), Value: []byte(`{"x":[1,null]}`)}}}
	for _, c := range []struct {
		name   string
		header map[string][]string
		data   string
	}{
		{"our own", nil, rewrittenEvent},
		{"structured, by its data", header("Nats-Msg-Id", "o-1"), structuredEvent},
		{"structured, by its header", header("Content-Type", "application/cloudevents+json; charset=utf-8"), structuredEvent},
		{"structured, in capitals", header("CONTENT-TYPE", " Application/CloudEvents+JSON "), structuredEvent},
		{"structured, without a suffix", header("Content-Type", "application/cloudevents"), structuredEvent},
		{"structured, beside headers that count for nothing", header("Content-Type", "application/cloudevents+json", "ce-specversion", "0.3",
			"ce-id", "x", "ce-id", "y"), structuredEvent},
		{"structured, sent as JSON", header("Content-Type", "application/json"), structuredEvent},
		{"binary", binaryHeader(full...), cloudEventData},
		{"binary, spaces around its data", binaryHeader(full...), "\n\t" + cloudEventData + "\r\n"},
		{"binary, a content type", binaryHeader(append(full, "Content-Type", "application/json;charset=utf-8")...), cloudEventData},
		{"binary, the attribute before the header", binaryHeader(append(full, "content-type", "text/plain", "ce-datacontenttype", "text/JSON")...), cloudEventData},
		{"binary, another JSON", binaryHeader(append(full, "ce-datacontenttype", "application/vnd.shop%2Bjson")...), cloudEventData},
		{"binary, a header twice", binaryHeader(append(full, "ce-id", "o-1", "CE-ID", "o-1")...), cloudEventData},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, fault := ParseMessage("p.order.paid", c.header, []byte(c.data), "p")
			if fault != nil {
				t.Fatalf("refused: %v", fault)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v\nRaw  %s", got, want, got.Raw)
			}
		})
	}
}

func TestCloudEventAccepts(t *testing.T) {
	t.Parallel()
	structured := func(more string) string {
		return `{"specversion":"1.0","id":"1","source":"s","type":"a"` + more + `}`
	}
	least := []string{"ce-specversion", "1.0", "ce-id", "1", "ce-source", "s", "ce-type", "a"}
	const raw = `{"event_id":"1","type":"a","source":"s"`
	for _, c := range []struct {
		name   string
		header map[string][]string
		data   string
		raw    string
	}{
		{"no data", nil, structured(``), raw + `}`},
		{"null data", nil, structured(`,"data":null,"data_base64":null`), raw + `}`},
		{"empty data", nil, structured(`,"data":{}`), raw + `,"payload":{}}`},
		{"nulls mean not given", nil, structured(`,"subject":null,"time":null,"datacontenttype":null,"dataschema":null,"traceparent":null,"ext":null`), raw + `}`},
		{"extensions of each type", nil, structured(`,"z":true,"y":false,"x":-12,"w":"","extensions":"e"`),
			raw + `,"extensions":{"extensions":"e","w":"","x":-12,"y":false,"z":true}}`},
		{"escapes", nil, structured(`,"\u0061":"\u0062\/","subject":"\""`), raw + `,"subject":"\"","extensions":{"a":"b/"}}`},
		{"odd data as received", nil, structured(`,"data":{"\u0061":1.0,"b":1e400000,"c":"\u0000"}`), raw + `,"payload":{"\u0061":1.0,"b":1e400000,"c":"\u0000"}}`},
		{"a malformed traceparent is none", nil, structured(`,"traceparent":"00-0-0-0"`), raw + `}`},
		{"binary, no data", header(least...), "", raw + `}`},
		{"binary, blank data", header(least...), " \n", raw + `}`},
		{"binary, null data", header(least...), "null", raw + `}`},
		{"binary, quoted with escapes", header(append(least, "ce-x", `"a \"b\" %20 \\"`)...), "{}", raw + `,"extensions":{"x":"a \"b\"   \\"},"payload":{}}`},
		{"binary, blanks around", header("ce-specversion", " 1.0\t", "ce-id", " 1", "ce-source", "s ", "ce-type", "a"), "", raw + `}`},
		{"binary, a plus is a plus", header(append(least, "ce-x", `a+b`)...), "{}", raw + `,"extensions":{"x":"a+b"},"payload":{}}`},
		{"binary, an integer is its digits", header(append(least, "ce-x", `12`)...), "{}", raw + `,"extensions":{"x":"12"},"payload":{}}`},
		{"binary, data that looks like an envelope", header(least...), `{"event_id":"2","specversion":"0.3"}`, raw + `,"payload":{"event_id":"2","specversion":"0.3"}}`},
		{"ce- headers without a specversion", header("ce-id", "x", "ce-id", "y"), `{"event_id":"1","type":"a","source":"s"}`, raw + `}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, fault := ParseMessage("p.a", c.header, []byte(c.data), "p")
			if fault != nil {
				t.Fatalf("refused: %v", fault)
			}
			if string(e.Raw) != c.raw || e.ID != "1" || e.Type != "a" || e.Source != "s" {
				t.Errorf("got %+v\nraw  %s\nwant %s", e, e.Raw, c.raw)
			}
			again, fault := ParseEnvelope(e.Raw, "p.a", "p")
			if fault != nil || !reflect.DeepEqual(again, e) {
				t.Errorf("Raw is read as %+v (%v), want %+v", again, fault, e)
			}
		})
	}
}

func TestCloudEventRefuses(t *testing.T) {
	t.Parallel()
	const least = `{"specversion":"1.0","id":"1","source":"s","type":"a"`
	long := strings.Repeat("x", MaxAttribute+1)
	binary := func(more ...string) map[string][]string {
		return header(append([]string{"ce-specversion", "1.0", "ce-id", "1", "ce-source", "s", "ce-type", "a"}, more...)...)
	}
	without := func(name string) map[string][]string {
		h := binary()
		delete(h, name)
		return h
	}
	cloud := header("Content-Type", "application/cloudevents+json")
	many := func(n int) string { // members of all objects together
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%d":0`, i)
		}
		return b.String()[1:]
	}
	for _, c := range []struct {
		name   string
		header map[string][]string
		data   string
		reason string
		detail string
		id     string
	}{
		{"a batch", header("Content-Type", "application/cloudevents-batch+json"), `[]`, RejectBadCloudEvent,
			`the Content-Type is "application/cloudevents-batch+json", but a CloudEvent must be sent by itself and as JSON: application/cloudevents+json`, ""},
		{"another format", header("content-type", "application/cloudevents+avro"), `x`, RejectBadCloudEvent,
			`the Content-Type is "application/cloudevents+avro", but a CloudEvent must be sent by itself and as JSON: application/cloudevents+json`, ""},
		{"two content types", header("content-type", "application/json", "Content-Type", "text/plain"), `{"event_id":"1","type":"a"}`, RejectBadField,
			`the header "content-type" is given twice with different values`, ""},
		{"empty", cloud, ``, RejectNotJSON, "the message is empty", ""},
		{"a list", cloud, `[]`, RejectNotObject, "the message must be a JSON object, but is a list", ""},
		{"no specversion", cloud, `{"id":"1","source":"s","type":"a"}`, RejectBadCloudEvent, `specversion must be "1.0", but is not given`, ""},
		{"our own said to be a CloudEvent", cloud, `{"event_id":"1","type":"a"}`, RejectBadCloudEvent, `specversion must be "1.0", but is not given`, ""},
		{"our own said to be one in capitals", header("CONTENT-TYPE", " Application/CloudEvents "), `{"event_id":"1","type":"a"}`, RejectBadCloudEvent,
			`specversion must be "1.0", but is not given`, ""},
		{"an older version", nil, `{"specversion":"0.3","id":"1","source":"s","type":"a"}`, RejectBadCloudEvent, `specversion must be "1.0", but is "0.3"`, ""},
		{"a number as version", nil, `{"specversion":1.0,"id":"1","source":"s","type":"a"}`, RejectBadCloudEvent, `specversion must be "1.0", but is 1.0`, ""},
		{"no id", nil, `{"specversion":"1.0","source":"s","type":"a"}`, RejectMissingEventID, "id is required: it names the event for good, and is its own for each event", ""},
		{"a space in id", nil, `{"specversion":"1.0","id":"a b","source":"s","type":"a"}`, RejectBadEventID, `id "a b" must consist of A-Z, a-z, 0-9 and . _ : / + = @ -`, ""},
		{"a long id", nil, `{"specversion":"1.0","id":"` + long + `","source":"s","type":"a"}`, RejectBadEventID, `id has 1025 characters; it may have at most 128`, ""},
		{"a number as id", nil, `{"specversion":"1.0","id":1,"source":"s","type":"a"}`, RejectBadEventID, `id must be a string, but is a number`, ""},
		{"no type", nil, `{"specversion":"1.0","id":"1","source":"s"}`, RejectMissingType, "type is required, as in user.created", "1"},
		{"upper-case type", nil, `{"specversion":"1.0","id":"1","source":"s","type":"User"}`, RejectBadType,
			`type "User" must be lower-case words of a-z, 0-9, _ and - joined by dots, as in user.created`, "1"},
		{"no source", nil, `{"specversion":"1.0","id":"1","type":"a"}`, RejectBadField, "source is required in a CloudEvent", "1"},
		{"empty source", nil, `{"specversion":"1.0","id":"1","type":"a","source":""}`, RejectBadField, "source is required in a CloudEvent", "1"},
		{"a number as source", nil, `{"specversion":"1.0","id":"1","type":"a","source":1}`, RejectBadField, "source must be a string, but is a number", "1"},
		{"a long subject", nil, least + `,"subject":"` + long + `"}`, RejectBadField, "subject has 1025 bytes; it may have at most 1024", "1"},
		{"a control character", nil, least + `,"subject":"\n"}`, RejectBadField, "subject must not hold control characters", "1"},
		{"a number as traceparent", nil, least + `,"traceparent":1}`, RejectBadField, "traceparent must be a string, but is a number", "1"},
		{"a bad time", nil, least + `,"time":"now"}`, RejectBadTime, `time must be an RFC 3339 time, as in "2026-01-31T09:00:00Z", but is "now"`, "1"},
		{"XML", nil, least + `,"datacontenttype":"application/xml","data":"<a/>"}`, RejectBadCloudEvent,
			`datacontenttype is "application/xml", but data that is not JSON cannot be matched`, "1"},
		{"no media type", nil, least + `,"datacontenttype":"json"}`, RejectBadCloudEvent, `datacontenttype is "json", but data that is not JSON cannot be matched`, "1"},
		{"a list as content type", nil, least + `,"datacontenttype":[]}`, RejectBadField, `datacontenttype must be a string, but is a list`, "1"},
		{"a list as schema", nil, least + `,"dataschema":[]}`, RejectBadField, `dataschema must be a string, but is a list`, "1"},
		{"base64", nil, least + `,"data_base64":"e30="}`, RejectBadCloudEvent, "data_base64 cannot be matched: send the data as JSON in data", "1"},
		{"data a list", nil, least + `,"data":[]}`, RejectPayloadNotObject, "data must be an object, but is a list", "1"},
		{"data a string", nil, least + `,"data":"{}"}`, RejectPayloadNotObject, "data must be an object, but is a string", "1"},
		{"a known attribute in another case", nil, least + `,"Subject":"x"}`, RejectBadField, `"Subject" is not a field: it must be written "subject"`, ""},
		{"an attribute with other characters", nil, least + `,"my_ext":"x"}`, RejectBadField, `"my_ext" is not an attribute: names of attributes consist of a-z and 0-9`, "1"},
		{"an attribute without a name", nil, least + `,"":"x"}`, RejectBadField, `an attribute must have a name`, "1"},
		{"an object as extension", nil, least + `,"ext":{}}`, RejectBadField, `ext must be a string, a boolean or a whole number`, "1"},
		{"a fraction as extension", nil, least + `,"ext":1.5}`, RejectBadField, `ext must be a string, a boolean or a whole number`, "1"},
		{"a long extension", nil, least + `,"ext":"` + long + `"}`, RejectBadField, `ext has 1025 bytes; it may have at most 1024`, "1"},
		{"a long number", nil, least + `,"ext":` + strings.Repeat("1", 1025) + `}`, RejectBadField, `ext has 1025 bytes; it may have at most 1024`, "1"},
		{"given twice", nil, least + `,"type":"b"}`, RejectDuplicateName, `"type" is given twice`, ""},
		{"given twice in the data", cloud, least + `,"data":{"x":{"y":1,"y":1}}}`, RejectDuplicateName, `"data.x.y" is given twice`, ""},
		{"another subject", cloud, `{"specversion":"1.0","id":"1","source":"s","type":"b"}`, RejectSubjectMismatch,
			`the type is "b", so the subject must be "p.b", but is "p.a"`, "1"},
		{"a level too deep", nil, least + `,"data":{"x":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}}`, RejectTooDeep,
			"the event is nested deeper than 100 levels", ""},
		{"a member too many", nil, least + `,"data":{` + many(MaxEventMembers-4) + `}}`, RejectTooManyMembers,
			"the event has more than 10000 members in all its objects", ""},
		{"grown too large", nil, `{"specversion":"1.0","id":"1","source":"s","type":"a","ext":1,"time":"2026-01-01T00:00:00Z","data":{"x":"` + strings.Repeat("x", MaxEvent-118) + `"}}`,
			RejectTooLarge, "the event has 1048577 bytes with its attributes; an event has at most 1048576", "1"},

		{"binary, an older version", header("ce-specversion", "0.3"), `{}`, RejectBadCloudEvent, `specversion must be "1.0", but is "0.3"`, ""},
		{"binary, no id", without("ce-id"), `{}`, RejectMissingEventID, "id is required: it names the event for good, and is its own for each event", ""},
		{"binary, no type", without("ce-type"), `{}`, RejectMissingType, "type is required, as in user.created", "1"},
		{"binary, no source", without("ce-source"), `{}`, RejectBadField, "source is required in a CloudEvent", "1"},
		{"binary, two ids", binary("Ce-Id", "2"), `{}`, RejectBadField, `the header "ce-id" is given twice with different values`, ""},
		{"binary, two versions", binary("ce-specversion", "0.3"), `{}`, RejectBadField, `the header "ce-specversion" is given twice with different values`, ""},
		{"binary, bad percent-encoding", binary("ce-ext", "100%"), `{}`, RejectBadField, `the header "ce-ext" must be percent-encoded UTF-8`, ""},
		{"binary, overlong UTF-8", binary("ce-ext", "%C0%A0"), `{}`, RejectBadField, `the header "ce-ext" must be percent-encoded UTF-8`, ""},
		{"binary, a control character", binary("ce-ext", "%00"), `{}`, RejectBadField, `ext must not hold control characters`, "1"},
		{"binary, an attribute with other characters", binary("ce-my_ext", "x"), `{}`, RejectBadField, `"my_ext" is not an attribute: names of attributes consist of a-z and 0-9`, "1"},
		{"binary, Kelvin is no k", binary("ce-\u212a", "x"), `{}`, RejectBadField, "\"\u212a\" is not an attribute: names of attributes consist of a-z and 0-9", "1"},
		{"binary, data in a header", binary("ce-data", "{}"), `{}`, RejectBadField, `the header "ce-data" is not one of binary mode: the data is the message's body`, ""},
		{"binary, long headers", binary("ce-ext", strings.Repeat("x", MaxEventHeader)), `{}`, RejectBadField, `the ce- headers have 16431 bytes together; they may have at most 16384`, ""},
		{"binary, text", binary("Content-Type", "text/plain"), `hello`, RejectBadCloudEvent, `datacontenttype is "text/plain", but data that is not JSON cannot be matched`, "1"},
		{"binary, text by attribute", binary("Content-Type", "application/json", "ce-datacontenttype", "text/plain"), `{}`, RejectBadCloudEvent,
			`datacontenttype is "text/plain", but data that is not JSON cannot be matched`, "1"},
		{"binary, not JSON", binary(), `hello`, RejectNotJSON, `the message is not valid JSON at byte 0: invalid character 'h' at start of value`, ""},
		{"binary, two values", binary(), `{}{}`, RejectNotJSON, `the message holds more than one JSON value`, ""},
		{"binary, a byte order mark", binary(), "\xef\xbb\xbf{}", RejectNotJSON, `the message begins with a byte order mark, which JSON must not have`, ""},
		{"binary, a list", binary(), `[]`, RejectPayloadNotObject, `data must be an object, but is a list`, "1"},
		{"binary, given twice", binary(), `{"x":1,"x":1}`, RejectDuplicateName, `"x" is given twice`, ""},
		{"binary, another subject", header("ce-specversion", "1.0", "ce-id", "1", "ce-source", "s", "ce-type", "b"), `{}`, RejectSubjectMismatch,
			`the type is "b", so the subject must be "p.b", but is "p.a"`, "1"},
		{"binary, a level too deep", binary(), `{"x":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`, RejectTooDeep,
			"the event is nested deeper than 100 levels", ""},
		{"binary, a member too many", binary(), `{` + many(MaxEventMembers-4) + `}`, RejectTooManyMembers,
			"the event has more than 10000 members in all its objects", ""},
		{"binary, too large with its attributes", binary(), `{"x":"` + strings.Repeat("x", MaxEvent-8) + `"}`, RejectTooLarge,
			"the event has 1048627 bytes with its attributes; an event has at most 1048576", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, fault := ParseMessage("p.a", c.header, []byte(c.data), "p")
			if fault == nil {
				t.Fatalf("accepted as %+v", e)
			}
			if fault.Reason != c.reason || fault.Detail != c.detail {
				t.Errorf("got  %s: %s\nwant %s: %s", fault.Reason, fault.Detail, c.reason, c.detail)
			}
			if !reflect.DeepEqual(e, Event{ID: c.id}) {
				t.Errorf("beside the refusal came %+v, want the id %q alone", e, c.id)
			}
		})
	}
	// One member and one level fewer are legal.
	for mode, m := range map[string]struct {
		header     map[string][]string
		head, tail string
	}{"structured": {nil, least + `,"data":`, `}`}, "binary": {binary(), "", ""}} {
		for name, data := range map[string]string{
			"members": `{` + many(MaxEventMembers-5) + `}`, "levels": `{"x":` + strings.Repeat("[", 98) + strings.Repeat("]", 98) + `}`} {
			e, fault := ParseMessage("p.a", m.header, []byte(m.head+data+m.tail), "p")
			if fault != nil {
				t.Errorf("%s, the most %s: %v", mode, name, fault)
			} else if _, fault = ParseEnvelope(e.Raw, "p.a", "p"); fault != nil {
				t.Errorf("%s, the most %s: Raw: %v", mode, name, fault)
			}
		}
	}
}

// TestTraceHeader: a valid header wins over what the event itself says.
func TestTraceHeader(t *testing.T) {
	t.Parallel()
	const (
		parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		trace  = "0af7651916cd43dd8448eb211c80319c"
		other  = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		own    = `{"event_id":"1","type":"a","source":"s","trace_id":"mine"}`
		cloud  = `{"specversion":"1.0","id":"1","source":"s","type":"a","traceparent":"` + other + `"}`
	)
	for _, c := range []struct {
		name       string
		header     map[string][]string
		data       string
		trace, raw string
	}{
		{"own, no header", nil, own, "mine", own},
		{"own", header("traceparent", parent), own, trace, own},
		{"own, any case", header("TraceParent", " "+parent+" "), own, trace, own},
		{"own, malformed", header("traceparent", "00-x"), own, "mine", own},
		{"own, the same twice", header("traceparent", parent, "Traceparent", parent), own, trace, own},
		{"own, two that differ are none", header("traceparent", parent, "Traceparent", other), own, "mine", own},
		{"structured", header("traceparent", parent, "content-type", "application/cloudevents+json"), cloud, trace,
			`{"event_id":"1","type":"a","source":"s","trace_id":"` + trace + `"}`},
		{"structured, malformed", header("traceparent", "00-x"), cloud, "4bf92f3577b34da6a3ce929d0e0e4736",
			`{"event_id":"1","type":"a","source":"s","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}`},
		{"binary", header("traceparent", parent, "ce-traceparent", other, "ce-specversion", "1.0", "ce-id", "1", "ce-source", "s", "ce-type", "a"), "", trace,
			`{"event_id":"1","type":"a","source":"s","trace_id":"` + trace + `"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, fault := ParseMessage("p.a", c.header, []byte(c.data), "p")
			if fault != nil || e.TraceID != c.trace || string(e.Raw) != c.raw {
				t.Errorf("trace id %q (%v) of %s\nwant %q of %s", e.TraceID, fault, e.Raw, c.trace, c.raw)
			}
		})
	}
}

func TestTraceID(t *testing.T) {
	t.Parallel()
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, c := range []struct{ traceparent, want string }{
		{"00-" + trace + "-" + parent + "-01", trace},
		{"00-" + trace + "-" + parent + "-00", trace},
		{"\t00-" + trace + "-" + parent + "-01 ", trace},
		{"cc-" + trace + "-" + parent + "-01", trace},
		{"cc-" + trace + "-" + parent + "-01-what-the-future-will-be-like", trace},
		{"00-" + trace + "-" + parent + "-01-more", ""},
		{"ff-" + trace + "-" + parent + "-01", ""},
		{"0-" + trace + "-" + parent + "-01", ""},
		{"0g-" + trace + "-" + parent + "-01", ""},
		{"00-" + strings.ToUpper(trace) + "-" + parent + "-01", ""},
		{"00-" + strings.Repeat("0", 32) + "-" + parent + "-01", ""},
		{"00-" + trace[1:] + "-" + parent + "-01", ""},
		{"00-" + trace + "-" + strings.Repeat("0", 16) + "-01", ""},
		{"00-" + trace + "-" + parent[1:] + "-01", ""},
		{"00-" + trace + "-" + parent + "-1", ""},
		{"00-" + trace + "-" + parent, ""},
		{trace, ""},
		{"", ""},
	} {
		if got := TraceID(c.traceparent); got != c.want {
			t.Errorf("%q: %q, want %q", c.traceparent, got, c.want)
		}
	}
}

// FuzzMessage holds what must be true of every message, with headers that the fuzzer writes: a line "name: value" each.
func FuzzMessage(f *testing.F) {
	const binary = "ce-specversion: 1.0\nce-id: o-1\nce-source: /shop\nce-type: order.paid"
	f.Add("content-type: application/cloudevents+json", []byte(structuredEvent), "activity.order.paid")
	f.Add("", []byte(structuredEvent), "activity.order.paid")
	f.Add("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", []byte(rewrittenEvent), "activity.order.paid")
	f.Add(binary+"\nce-ext: %E2%82%AC\nce-time: 2026-01-31T09:00:00Z", []byte(cloudEventData), "activity.order.paid")
	f.Add(binary+"\nCe-Subject: \"a \\\"b\"\nContent-Type: application/json\nce-TraceParent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		[]byte(" null "), "activity.order.paid")
	f.Add(binary+"\nContent-Type: text/plain\nce-id: 2", []byte("x"), "activity.order.paid")
	f.Fuzz(func(t *testing.T, lines string, data []byte, subject string) {
		h := map[string][]string{}
		for line := range strings.SplitSeq(lines, "\n") {
			name, value, _ := strings.Cut(line, ":")
			h[name] = append(h[name], value)
		}
		checkParsed(t, subject, h, data)
	})
}

func BenchmarkParseMessage(b *testing.B) {
	for _, c := range []struct {
		name   string
		header map[string][]string
		data   string
	}{
		{"own", header("Nats-Msg-Id", "o-1"), rewrittenEvent},
		{"structured", header("Nats-Msg-Id", "o-1", "Content-Type", "application/cloudevents+json"), structuredEvent},
		{"binary", binaryHeader("Nats-Msg-Id", "o-1", "ce-subject", "orders/7", "ce-tenant", "x", "Content-Type", "application/json"), cloudEventData},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, fault := ParseMessage("activity.order.paid", c.header, []byte(c.data), "activity"); fault != nil {
					b.Fatal(fault)
				}
			}
		})
	}
}
