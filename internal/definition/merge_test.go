package definition

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// TestMergeExamples goes through the examples of RFC 7396, appendix A. Their documents stand in the filters of an event trigger, which
// may be any object; the ones whose document is a list have no counterpart, and a patch that is no object is refused.
func TestMergeExamples(t *testing.T) {
	t.Parallel()
	filters := func(text string) string { return `{"trigger_config": {"filters": ` + text + `}}` }
	for _, test := range []struct{ before, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		// Not in the appendix: what is no object is replaced by one, and one by what is none, deep in a document as well.
		{`{"a":1}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
		{`{"x":{"a":{"b":1,"c":2}}}`, `{"x":{"a":{"b":null},"d":{}}}`, `{"x":{"a":{"c":2},"d":{}}}`},
	} {
		before := parsed(t, `{"name": "a", "trigger_config": {"trigger_type": "event", "event_type": "a", "filters": `+test.before+`}}`)
		after, err := before.Merge([]byte(filters(test.patch)))
		if err != nil {
			t.Errorf("%s and %s: %v", test.before, test.patch, err)
			continue
		}
		got := map[string]any{}
		for name, value := range after.Trigger.Filters {
			var v any
			if err := json.Unmarshal(value, &v); err != nil {
				t.Fatal(err)
			}
			got[name] = v
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(test.want), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s and %s: %v, want %s", test.before, test.patch, got, test.want)
		}
	}
	// No filter may be null, so that this one is tried below the rules.
	merged := mergeObject(object{"e": []byte(`null`)}, object{"a": []byte(`1`)})
	if len(merged) != 2 || string(merged["e"]) != "null" || string(merged["a"]) != "1" {
		t.Errorf("a null that was there: %v", merged)
	}
	doc := parsed(t, `{"name": "a", "trigger_config": {"trigger_type": "manual"}}`)
	for _, patch := range []string{`["c"]`, `null`, `"bar"`} {
		var invalid *InvalidError
		if _, err := doc.Merge([]byte(patch)); !errors.As(err, &invalid) || invalid.Fields[0].Rule != "type" {
			t.Errorf("the patch %s: %v, want it refused", patch, err)
		}
	}
}
