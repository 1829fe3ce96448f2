package match

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/activity-core/activity-core/internal/condition"
	"github.com/activity-core/activity-core/internal/definition"
	"github.com/go-json-experiment/json/jsontext"
)

// Explanation says whether an event meets a definition, and if it does not, why.
type Explanation struct {
	// Matches is true exactly when Match would return the definition, without an error.
	Matches bool
	// Clause is the first one that does not hold, in this order: "enabled", "event_type", "enabled_since", "filters.<place>",
	// "condition" (first its equalities, then the rest), or "definition" for one that cannot be matched at all. Empty when all
	// hold.
	Clause string
	// Expected is what the clause wants and Found what is there instead, as short texts: JSON, cut at 200 bytes, or "absent".
	Expected, Found string
	// Err is why the condition could not be evaluated, or the definition not be read; Match would return the first.
	Err string
}

const absent = "absent"

// Explain tells whether an event that was published at a time meets a definition, by the rules of Match but without an
// index: it looks at one clause after the other and stops at the first that does not hold.
func Explain(r definition.Routable, e *definition.Event, publishedAt time.Time) Explanation {
	if !r.Live {
		return Explanation{Clause: "enabled", Expected: "enabled, with an event trigger", Found: "disabled, deleted or without one"}
	}
	// A definition that cannot be read may still be known by its type, so the type goes first where it can be told.
	if r.Unreadable == nil && definition.CheckEventPattern(r.EventType) == "" && !TypeMeets(r.EventType, e.Type) {
		return Explanation{Clause: "event_type", Expected: r.EventType, Found: e.Type}
	}
	if latest := publishedAt.Add(Skew); r.EnabledSince.After(latest) {
		return Explanation{Clause: "enabled_since", Expected: "an event published at " + stamp(r.EnabledSince.Add(-Skew)) + " or later",
			Found: stamp(publishedAt)}
	}
	entry, err := newEntry(r)
	if err != nil {
		return Explanation{Clause: "definition", Err: err.Error()}
	}
	// Filters are sorted by place; equalities are not.
	slices.SortStableFunc(entry.clauses, func(a, b clause) int {
		if a.equality == nil || b.equality == nil {
			return cmp.Compare(rank(a), rank(b))
		}
		return cmp.Compare(a.equality.Text(), b.equality.Text())
	})
	for i := range entry.clauses {
		if x, holds := explainClause(&r, &entry.clauses[i], e); !holds {
			return x
		}
	}
	if entry.condition == nil {
		return Explanation{Matches: true}
	}
	return explainCondition(entry.condition, e)
}

func rank(c clause) int {
	if c.equality == nil {
		return 0
	}
	return 1
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func explainClause(r *definition.Routable, c *clause, e *definition.Event) (x Explanation, holds bool) {
	if c.equality != nil {
		x.Clause, x.Expected = "condition", clip(c.equality.Text())
	} else {
		name := strings.Join(c.path[1:], ".")
		x.Clause, x.Expected = "filters."+name, clip(filterText(r, name))
	}
	value, err := lookUp(e.Raw, c.path)
	if err != nil {
		x.Err = err.Error()
		return x, false
	}
	if value == nil {
		x.Found = absent
		return x, false
	}
	x.Found = clip(string(value))
	key, err := appendKey(nil, value, true)
	if err != nil {
		x.Err = err.Error()
		return x, false
	}
	return x, string(key) == c.key && (c.key[0] != numberKey || c.holds(value))
}

// filterText returns the value of a filter as it was written.
func filterText(r *definition.Routable, name string) string {
	places, err := definition.FilterPlaces(r.Filters)
	if err != nil {
		return ""
	}
	for _, p := range places {
		if p.Name() == name {
			return string(p.Value)
		}
	}
	return ""
}

func explainCondition(l *lazyCondition, e *definition.Event) Explanation {
	decoded := condition.NewEvent(e.Raw)
	x := Explanation{Clause: "condition", Expected: clip(l.text)}
	holds, err := l.eval(decoded)
	switch {
	case err != nil:
		x.Err = err.Error()
		return x
	case holds:
		return Explanation{Matches: true}
	}
	x.Found = "false"
	parts, err := condition.Conjuncts(l.text)
	if err != nil {
		return x
	}
	for _, part := range parts {
		if holds, err := (&lazyCondition{text: part}).eval(decoded); err == nil && !holds {
			x.Expected = clip(part)
			break
		}
	}
	return x
}

// lookUp returns the value at a path of an object; nil when it is absent, or lies in what is not an object.
func lookUp(object []byte, path []string) ([]byte, error) {
	value := object
	for _, name := range path {
		d := jsontext.NewDecoder(bytes.NewBuffer(value))
		if d.PeekKind() != '{' {
			return nil, nil
		}
		if _, err := d.ReadToken(); err != nil {
			return nil, fmt.Errorf("read the event: %w", err)
		}
		found := false
		for d.PeekKind() == '"' && !found {
			token, err := d.ReadToken()
			if err != nil {
				return nil, fmt.Errorf("read the event: %w", err)
			}
			found = token.String() == name
			inner, err := d.ReadValue()
			if err != nil {
				return nil, fmt.Errorf("read the event: %w", err)
			}
			if found {
				value = bytes.Clone(inner)
			}
		}
		if !found {
			return nil, nil
		}
	}
	return value, nil
}

// clip cuts a text for people.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "… (" + strconv.Itoa(len(s)) + " bytes)"
}
