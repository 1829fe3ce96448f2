package definition

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const goodEnvelope = `{"event_id":"01J9-a.b_c:d/e+f=g@h","type":"user.created","source":"signup","occurred_at":"2026-01-31T09:00:00.25+01:00",` +
	`"subject":"user 7","trace_id":"4bf92f3577b34da6","payload":{"tier":"pro","\u0061ge":7,"deep":{"a":[1,{"b":null}]}},"extra":{"any":"thing"}}`

func TestParseEnvelope(t *testing.T) {
	t.Parallel()
	e, fault := ParseEnvelope([]byte(goodEnvelope), "activity.user.created", "activity")
	if fault != nil {
		t.Fatalf("refused: %v", fault)
	}
	if e.ID != "01J9-a.b_c:d/e+f=g@h" || e.Type != "user.created" || e.Source != "signup" || e.Subject != "user 7" ||
		e.TraceID != "4bf92f3577b34da6" || !e.OccurredAt.Equal(time.Date(2026, 1, 31, 8, 0, 0, 25e7, time.UTC)) ||
		string(e.Raw) != goodEnvelope {
		t.Errorf("got %+v", e)
	}
	want := [][2]string{{"tier", `"pro"`}, {"age", `7`}, {"deep", `{"a":[1,{"b":null}]}`}}
	if len(e.Payload) != len(want) {
		t.Fatalf("payload has %d members, want %d", len(e.Payload), len(want))
	}
	for i, w := range want {
		if m := e.Payload[i]; string(m.Name) != w[0] || string(m.Value) != w[1] {
			t.Errorf("member %d = %s: %s, want %s: %s", i, m.Name, m.Value, w[0], w[1])
		}
	}
}

func TestParseEnvelopeAccepts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, data string }{
		{"least", `{"event_id":"1","type":"a"}`},
		{"spaces", " {\n\t\"event_id\" : \"1\" , \"type\" : \"a\" , \"payload\" : { } }\r\n"},
		{"empty payload", `{"event_id":"1","type":"a","payload":{}}`},
		{"nulls mean not given", `{"event_id":"1","type":"a","source":null,"subject":null,"trace_id":null,"occurred_at":null}`},
		{"escaped names and values", `{"\u0065vent_id":"\u0031","typ\u0065":"a"}`},
		{"unknown field", `{"event_id":"1","type":"a","specversion":"1.0","data":[{"x":1e999}]}`},
		{"same name at different depths", `{"event_id":"1","type":"a","payload":{"type":"x","payload":{"type":"y"}}}`},
		{"case matters in the payload", `{"event_id":"1","type":"a","payload":{"tier":1,"TIER":2}}`},
		{"longest id", `{"event_id":"` + strings.Repeat("x", MaxEventID) + `","type":"a"}`},
		{"U+0000 in the payload", `{"event_id":"1","type":"a","payload":{"x":"\u0000"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, fault := ParseEnvelope([]byte(c.data), "p.q.a", "p.q")
			if fault != nil {
				t.Fatalf("refused: %v", fault)
			}
			if e.ID == "" || e.Type != "a" || string(e.Raw) != c.data {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestParseEnvelopeRefuses(t *testing.T) {
	t.Parallel()
	envelope := func(size int) string {
		const head, tail = `{"event_id":"1","type":"a","payload":{"x":"`, `"}}`
		return head + strings.Repeat("x", size-len(head)-len(tail)) + tail
	}
	nested := func(depth int) string {
		return `{"event_id":"1","type":"a","payload":{"x":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}}`
	}
	members := func(n int) string { // in all its objects
		var b strings.Builder
		b.WriteString(`{"event_id":"1","type":"a","payload":{"first":0`)
		for i := range n - 4 {
			fmt.Fprintf(&b, `,"%d":0`, i)
		}
		return b.String() + `}}`
	}
	for name, data := range map[string]string{
		"the most bytes": envelope(MaxEvent), "the deepest": nested(MaxEventDepth - 2), "the most members": members(MaxEventMembers),
		"brackets in a string": `{"event_id":"1","type":"a","payload":{"x":"\"` + strings.Repeat("[{", 1000) + `\\"}}`,
		"colons in a string":   `{"event_id":"1","type":"a","payload":{"x":"` + strings.Repeat(`\":`, MaxEventMembers) + `"}}`,
		"many lists":           `{"event_id":"1","type":"a","payload":{"x":[` + strings.Repeat("[],", 1000) + `{}]}}`,
	} {
		if _, fault := ParseEnvelope([]byte(data), "p.a", "p"); fault != nil {
			t.Errorf("%s: refused: %v", name, fault)
		}
	}
	for _, c := range []struct{ name, data, subject, reason, detail, id string }{
		{"over 1 MiB", envelope(MaxEvent + 1), "p.a", RejectTooLarge, "the message has 1048577 bytes; an event has at most 1048576", ""},
		{"empty", "", "p.a", RejectNotJSON, "the message is empty", ""},
		{"spaces only", " \n", "p.a", RejectNotJSON, "the message is empty", ""},
		{"not JSON", "hello", "p.a", RejectNotJSON, "not valid JSON at byte 0", ""},
		{"cut off", `{"event_id":"1","type":"a"`, "p.a", RejectNotJSON, "not valid JSON", ""},
		{"two values", `{"event_id":"1","type":"a"}{}`, "p.a", RejectNotJSON, "more than one JSON value", ""},
		{"trailing garbage", `{"event_id":"1","type":"a"}x`, "p.a", RejectNotJSON, "not valid JSON at byte 27", ""},
		{"NaN", `{"event_id":"1","type":"a","payload":{"x":NaN}}`, "p.a", RejectNotJSON, "not valid JSON", ""},
		{"invalid UTF-8", "{\"event_id\":\"1\",\"type\":\"a\",\"payload\":{\"x\":\"\xff\"}}", "p.a", RejectNotJSON, "UTF-8", ""},
		{"lone surrogate", `{"event_id":"1","type":"a","payload":{"x":"\ud800"}}`, "p.a", RejectNotJSON, "surrogate", ""},
		{"byte order mark", "\xef\xbb\xbf{}", "p.a", RejectNotJSON, "the message begins with a byte order mark, which JSON must not have", ""},
		{"a level too deep", nested(MaxEventDepth - 1), "p.a", RejectTooDeep, "the event is nested deeper than 100 levels", ""},
		{"nested 10,000 deep", nested(10_000), "p.a", RejectTooDeep, "the event is nested deeper than 100 levels", ""},
		{"never closed", strings.Repeat("[", 500_000), "p.a", RejectTooDeep, "the event is nested deeper than 100 levels", ""},
		{"a member too many", members(MaxEventMembers + 1), "p.a", RejectTooManyMembers, "the event has more than 10000 members in all its objects", ""},
		{"100,000 members", members(100_000), "p.a", RejectTooManyMembers, "the event has more than 10000 members in all its objects", ""},
		{"too many members in many objects", `{"event_id":"1","type":"a","payload":{"l":[` + strings.Repeat(`{"x":0},`, MaxEventMembers-4) + `{"x":0}]}}`, "p.a",
			RejectTooManyMembers, "the event has more than 10000 members in all its objects", ""},
		{"a list", `[{"event_id":"1","type":"a"}]`, "p.a", RejectNotObject, "must be a JSON object, but is a list", ""},
		{"null", `null`, "p.a", RejectNotObject, "but is null", ""},
		{"duplicate field", `{"event_id":"1","type":"a","type":"b"}`, "p.a", RejectDuplicateName, `"type" is given twice`, ""},
		{"duplicate by escape", `{"event_id":"1","type":"a","typ\u0065":"b"}`, "p.a", RejectDuplicateName, `"type" is given twice`, ""},
		{"duplicate in payload", `{"event_id":"1","type":"a","payload":{"x":1,"x":1}}`, "p.a", RejectDuplicateName, `"payload.x" is given twice`, ""},
		{"duplicate deep", `{"event_id":"1","type":"a","payload":{"l":[{"x":1,"x":1}]}}`, "p.a", RejectDuplicateName, `"payload.l[0].x"`, ""},
		{"duplicate in unknown field", `{"event_id":"1","type":"a","other":{"x":1,"x":1}}`, "p.a", RejectDuplicateName, `"other.x"`, ""},
		{"case variant", `{"event_id":"1","type":"a","TYPE":"b"}`, "p.a", RejectBadField, `"TYPE" is not a field: it must be written "type"`, ""},
		{"case variant alone", `{"Event_ID":"1","type":"a"}`, "p.a", RejectBadField, `must be written "event_id"`, ""},
		{"no event_id", `{"type":"a"}`, "p.a", RejectMissingEventID, "event_id is required", ""},
		{"null event_id", `{"event_id":null,"type":"a"}`, "p.a", RejectMissingEventID, "event_id is required", ""},
		{"empty event_id", `{"event_id":"","type":"a"}`, "p.a", RejectMissingEventID, "event_id is required", ""},
		{"number as event_id", `{"event_id":1,"type":"a"}`, "p.a", RejectBadEventID, "must be a string, but is a number", ""},
		{"long event_id", `{"event_id":"` + strings.Repeat("x", MaxEventID+1) + `","type":"a"}`, "p.a", RejectBadEventID, "has 129 characters; it may have at most 128", ""},
		{"space in event_id", `{"event_id":"a b","type":"a"}`, "p.a", RejectBadEventID, `"a b" must consist of`, ""},
		{"umlaut in event_id", `{"event_id":"ä","type":"a"}`, "p.a", RejectBadEventID, "must consist of", ""},
		{"U+0000 in event_id", `{"event_id":"\u0000","type":"a"}`, "p.a", RejectBadEventID, "must consist of", ""},
		{"no type", `{"event_id":"1"}`, "p.a", RejectMissingType, "type is required", "1"},
		{"null type", `{"event_id":"1","type":null}`, "p.a", RejectMissingType, "type is required", "1"},
		{"empty type", `{"event_id":"1","type":""}`, "p.a", RejectMissingType, "type is required", "1"},
		{"list as type", `{"event_id":"1","type":["a"]}`, "p.a", RejectBadType, "must be a string, but is a list", "1"},
		{"upper-case type", `{"event_id":"1","type":"User"}`, "p.User", RejectBadType, `type "User" must be lower-case words`, "1"},
		{"wildcard type", `{"event_id":"1","type":"user.*"}`, "p.user.*", RejectBadType, "wildcards", "1"},
		{"payload a list", `{"event_id":"1","type":"a","payload":[1]}`, "p.a", RejectPayloadNotObject, "payload must be an object, but is a list", "1"},
		{"payload a string", `{"event_id":"1","type":"a","payload":"{}"}`, "p.a", RejectPayloadNotObject, "but is a string", "1"},
		{"payload null", `{"event_id":"1","type":"a","payload":null}`, "p.a", RejectPayloadNotObject, "but is null", "1"},
		{"bad time", `{"event_id":"1","type":"a","occurred_at":"yesterday"}`, "p.a", RejectBadTime, `RFC 3339 time, as in "2026-01-31T09:00:00Z", but is "yesterday"`, "1"},
		{"time without zone", `{"event_id":"1","type":"a","occurred_at":"2026-01-31T09:00:00"}`, "p.a", RejectBadTime, "RFC 3339", "1"},
		{"time of 30 February", `{"event_id":"1","type":"a","occurred_at":"2026-02-30T09:00:00Z"}`, "p.a", RejectBadTime, "RFC 3339", "1"},
		{"time as number", `{"event_id":"1","type":"a","occurred_at":1767225600}`, "p.a", RejectBadTime, "but is 1767225600", "1"},
		{"empty time", `{"event_id":"1","type":"a","occurred_at":""}`, "p.a", RejectBadTime, "RFC 3339", "1"},
		{"source an object", `{"event_id":"1","type":"a","source":{}}`, "p.a", RejectBadField, "source must be a string, but is an object", "1"},
		{"long trace_id", `{"event_id":"1","type":"a","trace_id":"` + strings.Repeat("x", MaxAttribute+1) + `"}`, "p.a", RejectBadField, "trace_id has 1025 bytes", "1"},
		{"U+0000 in trace_id", `{"event_id":"1","type":"a","trace_id":"\u0000"}`, "p.a", RejectBadField, "trace_id must not hold control characters", "1"},
		{"subject of another type", `{"event_id":"1","type":"a"}`, "p.b", RejectSubjectMismatch, `the type is "a", so the subject must be "p.a", but is "p.b"`, "1"},
		{"subject longer than the type", `{"event_id":"1","type":"a"}`, "p.a.b", RejectSubjectMismatch, `but is "p.a.b"`, "1"},
		{"subject without the prefix", `{"event_id":"1","type":"a"}`, "x.a", RejectSubjectMismatch, `but is "x.a"`, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, fault := ParseEnvelope([]byte(c.data), c.subject, "p")
			if fault == nil {
				t.Fatalf("accepted as %+v", e)
			}
			if fault.Reason != c.reason || !strings.Contains(fault.Detail, c.detail) {
				t.Errorf("got %v, want reason %s and %q", fault, c.reason, c.detail)
			}
			if e.ID != c.id || e.Type != "" || e.Raw != nil {
				t.Errorf("beside the refusal came %+v, want the id %q alone", e, c.id)
			}
		})
	}
}

// FuzzEnvelope holds the parser against the standard library's: what it accepts is valid JSON with these very values.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(goodEnvelope), "activity.user.created")
	f.Add([]byte(`{"event_id":"1","type":"a","payload":{"x":[1,{"y":"\u0000"}]}}`), "activity.a")
	f.Add([]byte(`{"event_id":"1","type":"a","payload":{"x":1,"x":2}}`), "activity.a")
	f.Add([]byte(`{"event_id":"1","type":"a","occurred_at":"2026-01-31T09:00:00Z","TYPE":1}`), "activity.a")
	f.Add([]byte("{\"event_id\":\"\xff\"}"), "activity.")
	f.Add([]byte(strings.Repeat("[", MaxEventDepth+1)), "activity.a")
	f.Add([]byte(structuredEvent), "activity.order.paid")
	f.Fuzz(func(t *testing.T, data []byte, subject string) {
		e, ok := checkParsed(t, subject, nil, data)
		if !ok || !bytes.Equal(e.Raw, data) {
			return
		}
		var o map[string]json.RawMessage
		if err := json.Unmarshal(data, &o); err != nil {
			t.Fatalf("accepted, but encoding/json says %v", err)
		}
		for name, got := range map[string]string{"event_id": e.ID, "type": e.Type, "source": e.Source, "subject": e.Subject, "trace_id": e.TraceID} {
			var want string
			if err := json.Unmarshal(o[name], &want); o[name] != nil && (err != nil || want != got) {
				t.Fatalf("%s = %q, want %q (%v)", name, got, want, err)
			}
		}
		var payload map[string]json.RawMessage
		if err := json.Unmarshal(o["payload"], &payload); o["payload"] != nil && err != nil {
			t.Fatalf("payload: %v", err)
		}
		if len(payload) != len(e.Payload) {
			t.Fatalf("payload has %d members, want %d", len(e.Payload), len(payload))
		}
		for _, m := range e.Payload {
			if want, ok := payload[string(m.Name)]; !ok || !bytes.Equal(want, m.Value) {
				t.Fatalf("member %q = %s, want %s", m.Name, m.Value, want)
			}
		}
	})
}

// checkParsed parses a message and checks what holds for every one: the message is not changed; a refusal has one of the
// reasons and a sentence; and what is accepted is legal and is read again from its Raw.
func checkParsed(t *testing.T, subject string, header map[string][]string, data []byte) (Event, bool) {
	t.Helper()
	before := bytes.Clone(data)
	e, fault := ParseMessage(subject, header, data, "activity")
	if !bytes.Equal(data, before) {
		t.Fatal("the message was changed")
	}
	if fault != nil {
		if !slices.Contains(RejectReasons, fault.Reason) || fault.Detail == "" || strings.ContainsAny(fault.Detail, "\n\x00") {
			t.Fatalf("refusal %+v", fault)
		}
		if e.Type != "" || e.Raw != nil || e.Payload != nil || len(e.ID) > MaxEventID {
			t.Fatalf("beside the refusal came %+v", e)
		}
		return e, false
	}
	if subject != "activity."+e.Type || CheckEventType(e.Type) != "" || !regexp.MustCompile(`^[A-Za-z0-9._:/+=@-]{1,128}$`).MatchString(e.ID) {
		t.Fatalf("accepted %+v on %q", e, subject)
	}
	if !json.Valid(e.Raw) {
		t.Fatalf("Raw is not JSON: %s", e.Raw)
	}
	again, fault := ParseEnvelope(e.Raw, subject, "activity")
	if fault != nil {
		t.Fatalf("Raw %s is refused: %v", e.Raw, fault)
	}
	if bytes.Equal(e.Raw, data) {
		again.TraceID = e.TraceID // the header's word
	}
	if !reflect.DeepEqual(again, e) {
		t.Fatalf("Raw is read as %+v, want %+v", again, e)
	}
	return e, true
}

func BenchmarkParseEnvelope(b *testing.B) {
	for _, members := range []int{5, 215} {
		var payload []string
		for i := range members {
			payload = append(payload, fmt.Sprintf(`"member_%d":"the value of member %d"`, i, i))
		}
		data := []byte(`{"event_id":"0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b","type":"user.created","source":"signup",` +
			`"occurred_at":"2026-01-31T09:00:00Z","payload":{` + strings.Join(payload, ",") + `}}`)
		b.Run(fmt.Sprintf("%dB", len(data)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, fault := ParseEnvelope(data, "activity.user.created", "activity"); fault != nil {
					b.Fatal(fault)
				}
			}
		})
	}
}

func TestIsEventType(t *testing.T) {
	t.Parallel()
	rule := regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)*$`)
	for _, s := range []string{"", ".", "a", "a.b", "a..b", ".a", "a.", "user_1.created-2", "A", "a b", "a\n", "é", "a.*", "a.b.c.d", "-", "_.0"} {
		if got := isEventType(s); got != rule.MatchString(s) {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// TestReasonsAreDocumented: an operator finds each reason of a dead letter in the manual, and no other.
func TestReasonsAreDocumented(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(manual), "| reason | the message |")
	table, _, _ = strings.Cut(table, "\n\n")
	var documented []string
	for _, row := range strings.Split(table, "\n") {
		if cells := strings.Split(row, "|"); len(cells) > 1 {
			for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				documented = append(documented, m[1])
			}
		}
	}
	slices.Sort(documented)
	if want := slices.Sorted(slices.Values(RejectReasons)); !slices.Equal(documented, want) {
		t.Errorf("docs/events.md has the reasons %v, want %v", documented, want)
	}
}
