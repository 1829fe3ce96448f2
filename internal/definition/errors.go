package definition

import (
	"errors"
	"fmt"
	"strings"
)

// The errors that storage translates to and that services act on. They are wrapped with the attempted action; compare
// with errors.Is.
var (
	// ErrNotFound means that no such definition or run exists, or that it was deleted.
	ErrNotFound = errors.New("not found")
	// ErrNameTaken means that another definition, not deleted, already has the name.
	ErrNameTaken = errors.New("name is already taken")
	// ErrUnavailable means that Postgres did not answer or is not ready; the same call may succeed later.
	ErrUnavailable = errors.New("storage is unavailable")
	// ErrNotStorable means that Postgres refused a value for good; trying again is useless.
	ErrNotStorable = errors.New("value cannot be stored")
	// ErrOtherWorkflow means that the run is carried out, or was, by another workflow than the one that asks.
	ErrOtherWorkflow = errors.New("another workflow carries out this run")
	// ErrNotYet means that a workflow asks to begin the run of a slot that is not due by Postgres' clock; asking again later
	// helps.
	ErrNotYet = errors.New("the slot is not due yet")
	// ErrBackfillActive means that the definition has an active backfill already.
	ErrBackfillActive = errors.New("a backfill of this definition is active already")
	// ErrTooManyDefinitions means that the caller has made as many definitions, not deleted, as it may have.
	ErrTooManyDefinitions = errors.New("the caller has as many definitions as it may have")
	// ErrLeaseLost means that a fenced write came after its lease had passed to somebody else; nothing was written.
	ErrLeaseLost = errors.New("lease was lost")
)

// FieldError says which field breaks which rule.
type FieldError struct {
	// Field is the path from the document's root, as in "tasks[2].with.url". Empty means the document as a whole.
	Field string `json:"field"`
	// Rule is a short, stable word for the rule, as in "required" or "unknown_field".
	Rule string `json:"rule"`
	// Message is one sentence for a person: what is wrong and what would be right.
	Message string `json:"message"`
}

// MaxFaults is how many faults one refusal names: a small document could have so many that telling them all takes megabytes.
const MaxFaults = 50

// InvalidError is the refusal of bad input, with the first MaxFaults of the faults that were found. Nothing was stored.
type InvalidError struct {
	Fields []FieldError
}

// Invalid makes an InvalidError with one fault.
func Invalid(field, rule, format string, args ...any) *InvalidError {
	return &InvalidError{Fields: []FieldError{{Field: field, Rule: rule, Message: fmt.Sprintf(format, args...)}}}
}

func (e *InvalidError) Error() string {
	parts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		parts[i] = f.Message
		if f.Field != "" {
			parts[i] = f.Field + ": " + f.Message
		}
	}
	return strings.Join(parts, "; ")
}

// faults collects the faults of one document while it is checked.
type faults struct {
	fields []FieldError
}

func (f *faults) add(field, rule, format string, args ...any) {
	f.fields = append(f.fields, FieldError{Field: field, Rule: rule, Message: fmt.Sprintf(format, args...)})
}

func (f *faults) err() error {
	if len(f.fields) == 0 {
		return nil
	}
	return &InvalidError{Fields: f.fields[:min(len(f.fields), MaxFaults)]}
}
