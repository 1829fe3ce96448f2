package match

import (
	"strings"

	"github.com/activity-core/activity-core/internal/definition"
)

// TypeMeets reports whether an event type meets a pattern: it is the pattern, or meets its wildcards, where * stands for
// exactly one word and > at the end for one or more words. Both are taken to be legal. The event of a run's end is met by no
// wildcard in the place of its first word.
func TypeMeets(pattern, eventType string) bool {
	if definition.IsRunEvent(eventType) && !strings.HasPrefix(pattern, definition.RunEventPrefix) {
		return false
	}
	for {
		want, patternRest, patternMore := strings.Cut(pattern, ".")
		word, typeRest, typeMore := strings.Cut(eventType, ".")
		switch {
		case want == ">" && !patternMore:
			return true
		case want != "*" && want != word, patternMore != typeMore:
			return false
		case !patternMore:
			return true
		}
		pattern, eventType = patternRest, typeRest
	}
}
