package definition

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ruleScope is the rule of what a caller with labels may write.
const ruleScope = "scope"

// CheckScope returns an InvalidError when somebody who is limited to definitions with some labels would write one without them, or one
// that follows the ends of runs of others: those carry their names, ids and errors. before is the definition as it was, nil for a new
// one; a trigger that stays as it was is not judged again, since somebody else may have let it follow more.
func CheckScope(doc, before *Document, labels map[string]string) error {
	var f faults
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if got, ok := doc.Labels[key]; !ok || got != labels[key] {
			f.add("labels."+key, ruleScope, "must be %q: you are limited to definitions with the label %s=%s", labels[key], key, labels[key])
		}
	}
	if before == nil || !(Document{Trigger: before.Trigger}).Equal(Document{Trigger: doc.Trigger}) {
		doc.Trigger.checkFollowed(labels, &f)
	}
	return f.err()
}

// checkFollowed wants the filters of a trigger that meets the ends of runs to leave only those of definitions with the labels.
func (t *Trigger) checkFollowed(labels map[string]string, f *faults) {
	if status, ok := strings.CutPrefix(t.EventType, RunEventPrefix); !ok || status != "*" && status != ">" && !IsRunEvent(t.EventType) {
		return
	}
	places, err := FilterPlaces(t.Filters)
	if err != nil {
		return // refused already
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		name := "labels." + key
		var got string
		// A name with a dot would be a place one level deeper, where the event of a run's end has nothing.
		at := slices.IndexFunc(places, func(p FilterPlace) bool { return slices.Equal(p.Path, []string{"labels", key}) })
		if at < 0 || json.Unmarshal(places[at].Value, &got) != nil || got != labels[key] {
			f.add("trigger_config.filters."+name, ruleScope, "must be %q: you may follow the ends of runs of definitions with the label "+
				"%s=%s only, by the filter %s", labels[key], key, labels[key], fmt.Sprintf(`{%q: %q}`, name, labels[key]))
		}
	}
}
