package definition

import (
	"errors"
	"fmt"
	"testing"
)

// TestCheckScope checks what a caller with labels may write.
func TestCheckScope(t *testing.T) {
	t.Parallel()
	growth := map[string]string{"team": "growth"}
	document := func(labels, trigger string) *Document {
		t.Helper()
		d, err := ParseDocument([]byte(`{"name": "x", "labels": {` + labels + `}, "trigger_config": {` + trigger + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		return &d
	}
	const (
		mine   = `"team": "growth", "tier": "1"`
		manual = `"trigger_type": "manual"`
		event  = `"trigger_type": "event", "event_type": "%s", "filters": {%s}`
		ends   = `filters.labels.team: must be "growth": you may follow the ends of runs of definitions with the label team=growth only, by ` +
			`the filter {"labels.team": "growth"}`
	)
	following := func(eventType, filters string) string { return fmt.Sprintf(event, eventType, filters) }
	for name, test := range map[string]struct {
		labels          map[string]string
		before          *Document
		document        *Document
		field, complete string
	}{
		"without limits":  {nil, nil, document("", manual), "", ""},
		"with the label":  {growth, nil, document(mine, manual), "", ""},
		"without it":      {growth, nil, document("", manual), "labels.team", `labels.team: must be "growth": you are limited to definitions with the label team=growth`},
		"another value":   {growth, nil, document(`"team": "Growth"`, manual), "labels.team", ""},
		"one of two":      {map[string]string{"team": "growth", "env": ""}, nil, document(mine, manual), "labels.env", `labels.env: must be "": you are limited to definitions with the label env=`},
		"dropped":         {growth, document(mine, manual), document(`"tier": "1"`, manual), "labels.team", ""},
		"others' events":  {growth, nil, document(mine, following("user.created", "")), "", ""},
		"all events":      {growth, nil, document(mine, following(">", "")), "", ""}, // which no end of a run meets
		"a word with run": {growth, nil, document(mine, following("run.now", "")), "", ""},

		"all ends":               {growth, nil, document(mine, following("run.failed", "")), "trigger_config.filters.labels.team", "trigger_config." + ends},
		"all ends, *":            {growth, nil, document(mine, following("run.*", `"definition": "nightly"`)), "trigger_config.filters.labels.team", ""},
		"all ends, >":            {growth, nil, document(mine, following("run.>", "")), "trigger_config.filters.labels.team", ""},
		"others' ends":           {growth, nil, document(mine, following("run.failed", `"labels.team": "other"`)), "trigger_config.filters.labels.team", ""},
		"one of some ends":       {growth, nil, document(mine, following("run.failed", `"labels.team": ["growth", "other"]`)), "trigger_config.filters.labels.team", ""},
		"own ends":               {growth, nil, document(mine, following("run.*", `"labels.team": "growth", "definition": "nightly"`)), "", ""},
		"own ends, as an object": {growth, nil, document(mine, following("run.failed", `"labels": {"team": "\u0067rowth"}`)), "", ""},
		"own ends, by a label that filters cannot name": {map[string]string{"a.b": "1"}, nil,
			document(`"a.b": "1"`, following("run.failed", `"labels.a.b": "1"`)), "trigger_config.filters.labels.a.b", ""},
		"all ends, without limits":   {nil, nil, document("", following("run.>", "")), "", ""},
		"as somebody else wanted":    {growth, document(mine, following("run.failed", "")), document(mine+`, "more": ""`, following("run.failed", "")), "", ""},
		"not as somebody wanted":     {growth, document(mine, following("run.failed", "")), document(mine, following("run.missed", "")), "trigger_config.filters.labels.team", ""},
		"ends where there were none": {growth, document(mine, manual), document(mine, following("run.failed", "")), "trigger_config.filters.labels.team", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := CheckScope(test.document, test.before, test.labels)
			var invalid *InvalidError
			switch {
			case test.field == "":
				if err != nil {
					t.Errorf("refused: %v", err)
				}
			case !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != test.field || invalid.Fields[0].Rule != "scope":
				t.Errorf("%v, want one fault of %s", err, test.field)
			case test.complete != "" && err.Error() != test.complete:
				t.Errorf("%q, want %q", err, test.complete)
			}
		})
	}
}
