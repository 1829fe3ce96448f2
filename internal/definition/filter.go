package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// FilterPlace is one place in the payload that a trigger's filters name, and the value it must have.
type FilterPlace struct {
	// Path is the names from the payload on; at least one.
	Path []string
	// Value is valid JSON without spaces around it: a list, a scalar, or an object without members.
	Value json.RawMessage
}

// Name returns the place as it is written in filters, with dots.
func (p FilterPlace) Name() string { return strings.Join(p.Path, ".") }

// FilterError says why filters are refused.
type FilterError struct {
	// Name is the place at fault, as written with dots; empty when it is all of them.
	Name string
	// Rule is a short word for programs, such as "given_twice".
	Rule string
	// Message is a sentence for the user.
	Message string
}

func (e *FilterError) Error() string {
	return fmt.Sprintf("filter %q %s", clip(e.Name, 200), e.Message)
}

// FilterPlaces returns the places that filters name, sorted by their paths. A dot in a name separates levels, and an object
// means what its members mean one level deeper, so that {"a.b": 1} and {"a": {"b": 1}} are one. The error is a *FilterError
// when a place is named twice, is given both a value and members, has an empty name in its path, or is deeper than an event.
func FilterPlaces(filters map[string]json.RawMessage) ([]FilterPlace, error) {
	var places []FilterPlace
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		var err error
		if places, err = appendPlaces(places, nil, name, filters[name]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(places, func(a, b FilterPlace) int { return slices.Compare(a.Path, b.Path) })
	// In this order, whatever lies deeper than a place comes right after it.
	for i := 1; i < len(places); i++ {
		above, place := places[i-1], places[i]
		switch {
		case len(place.Path) < len(above.Path) || !slices.Equal(above.Path, place.Path[:len(above.Path)]):
		case len(place.Path) == len(above.Path):
			return nil, &FilterError{place.Name(), "given_twice", "is given twice: {\"a.b\": 1} and {\"a\": {\"b\": 1}} name the same place"}
		default:
			return nil, &FilterError{above.Name(), "value_and_members", fmt.Sprintf(
				"is given a value, but also the member %q: no event can have both", clip(place.Name(), 200))}
		}
	}
	return places, nil
}

// appendPlaces appends the places that a member named in filters stands for. Its recursion ends at an event's depth.
func appendPlaces(places []FilterPlace, above []string, name string, value json.RawMessage) ([]FilterPlace, error) {
	path := append(slices.Clip(above), strings.Split(name, ".")...)
	written := strings.Join(path, ".")
	switch {
	case slices.Contains(path, ""):
		return nil, &FilterError{written, "empty_name", "has an empty part: dots separate the names of members, as in customer.tier"}
	case len(path) > MaxEventDepth-1: // the envelope and the payload are the first two levels
		return nil, &FilterError{written, "too_deep", fmt.Sprintf("is deeper than the %d levels of an event", MaxEventDepth)}
	}
	value = bytes.TrimSpace(value)
	if len(value) == 0 || value[0] != '{' {
		if !jsontext.Value(value).IsValid() {
			return nil, &FilterError{written, "syntax", "is not one JSON value"}
		}
		return append(places, FilterPlace{path, value}), nil
	}
	fault := &FilterError{written, "syntax", "is not one JSON object with each name once"}
	d := jsontext.NewDecoder(bytes.NewBuffer(value))
	if _, err := d.ReadToken(); err != nil {
		return nil, fault
	}
	if d.PeekKind() == '}' {
		places = append(places, FilterPlace{path, json.RawMessage("{}")})
	}
	for d.PeekKind() == '"' {
		token, err := d.ReadToken()
		if err != nil {
			return nil, fault
		}
		member := token.String() // before the next read
		inner, err := d.ReadValue()
		if err != nil {
			return nil, fault
		}
		if places, err = appendPlaces(places, path, member, bytes.Clone(inner)); err != nil {
			return nil, err
		}
	}
	if _, err := d.ReadToken(); err != nil || d.InputOffset() != int64(len(value)) {
		return nil, fault
	}
	return places, nil
}

func (t *Trigger) checkFilters(path string, f *faults) {
	places, err := FilterPlaces(t.Filters)
	var fault *FilterError
	switch {
	case errors.As(err, &fault):
		f.add(path+"."+clip(fault.Name, 200), fault.Rule, "%s", fault.Message)
	case len(places) > MaxFilters:
		f.add(path, "max_items", "names %d places; at most %d are allowed", len(places), MaxFilters)
	}
}
