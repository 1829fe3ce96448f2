package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

var errBadDuration = errors.New("not a duration")

// ParseDocument reads a definition as a user writes it. Every fault is an InvalidError that names the field and the
// rule. Unknown fields, duplicate fields, fields in another case and trailing data are refused; null means "not given".
func ParseDocument(data []byte) (Document, error) {
	given, err := parseObject(data)
	if err != nil {
		return Document{}, err
	}
	if err := refuseNullFilters(given); err != nil {
		return Document{}, err
	}
	return assemble(mergeObject(object{}, given))
}

// refuseNullFilters refuses a null among filters, but not in a list. It would be taken for "not given", as everywhere else, and the
// definition would meet more events than its author meant, without a word. (In a merge patch, null removes.)
func refuseNullFilters(given object) error {
	var trigger, filters object
	if jsonv2.Unmarshal(given["trigger_config"], &trigger) != nil || jsonv2.Unmarshal(trigger["filters"], &filters) != nil {
		return nil // decoding it into its type tells the fault
	}
	if path := nullWithin(filters); path != "" {
		return Invalid("trigger_config.filters."+path, "not_null", "must not be null: leave it out, or ask for it by a condition, "+
			"as in event.payload.note == null")
	}
	return nil
}

// nullWithin returns the path of a member that is null, "" when there is none.
func nullWithin(o object) string {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		var deeper object
		switch value := o[name]; value.Kind() {
		case 'n':
			return clip(name, 60)
		case '{':
			if jsonv2.Unmarshal(value, &deeper) != nil {
				continue
			}
			if path := nullWithin(deeper); path != "" {
				return clip(name, 60) + "." + path
			}
		}
	}
	return ""
}

// Replace returns the document with every top-level field that data gives put in the place of the old one; null resets
// a field to its default. Fields that are not given stay as they are.
func (d Document) Replace(data []byte) (Document, error) {
	return d.change(data, false)
}

// Merge is like Replace, except that objects are merged member by member, as RFC 7396 says. A trigger_config that
// changes the trigger_type replaces the old one whole: the fields of one type mean nothing to another.
func (d Document) Merge(data []byte) (Document, error) {
	return d.change(data, true)
}

func (d Document) change(data []byte, deep bool) (Document, error) {
	given, err := parseObject(data)
	if err != nil {
		return Document{}, err
	}
	now, err := jsonv2.Marshal(d)
	if err != nil {
		return Document{}, fmt.Errorf("encode definition %s: %w", d.Name, err)
	}
	current, err := parseObject(now)
	if err != nil {
		return Document{}, fmt.Errorf("read back definition %s: %w", d.Name, err)
	}
	// The reason of a pause ends with the pause.
	if _, told := given["pause_reason"]; !told && given["enabled"].Kind() == 't' {
		delete(current, "pause_reason")
	}
	if deep {
		if changesType(current, given) {
			delete(current, "trigger_config")
		}
		return assemble(mergeObject(current, given))
	}
	if err := refuseNullFilters(given); err != nil {
		return Document{}, err
	}
	for name, value := range given {
		if isNull(value) {
			delete(current, name)
		} else {
			current[name] = value
		}
	}
	return assemble(current)
}

// Equal reports whether two documents mean the same.
func (d Document) Equal(other Document) bool {
	a, errA := jsonv2.Marshal(d, jsonv2.Deterministic(true))
	b, errB := jsonv2.Marshal(other, jsonv2.Deterministic(true))
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

type object map[string]jsontext.Value

func parseObject(data []byte) (object, error) {
	if len(data) > MaxDocument {
		return nil, Invalid("", "max_bytes", "the definition is larger than %d KiB", MaxDocument>>10)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, Invalid("", "required", "a JSON object is required, but the body is empty")
	}
	var o object
	if err := jsonv2.Unmarshal(data, &o); err != nil {
		return nil, decodeFault(err)
	}
	if o == nil {
		return nil, Invalid("", "type", "must be a JSON object, but is null")
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if isNull(o[name]) && !slices.Contains(documentFields, name) { // any other value is found when it is decoded
			return nil, unknownField(clip(name, 60))
		}
	}
	return o, nil
}

// documentFields are the names of the top-level fields.
var documentFields = func() (names []string) {
	for field := range reflect.TypeFor[Document]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}()

func unknownField(field string) *InvalidError {
	return Invalid(field, "unknown_field", "is not a field that is known here")
}

// mergeObject applies a merge patch (RFC 7396) to an object.
func mergeObject(target, patch object) object {
	for name, value := range patch {
		switch {
		case isNull(value):
			delete(target, name)
		case value.Kind() == '{':
			var from, onto object
			if jsonv2.Unmarshal(value, &from) != nil {
				target[name] = value // not an object after all; decoding it into its type tells the fault
				continue
			}
			if old := target[name]; old.Kind() == '{' && jsonv2.Unmarshal(old, &onto) != nil {
				onto = nil
			}
			if onto == nil {
				onto = object{}
			}
			if merged, err := jsonv2.Marshal(mergeObject(onto, from), jsonv2.Deterministic(true)); err == nil {
				target[name] = merged
			}
		default:
			target[name] = value
		}
	}
	return target
}

func isNull(v jsontext.Value) bool { return v.Kind() == 'n' }

func changesType(current, given object) bool {
	typeOf := func(o object) string {
		var t struct {
			Type string `json:"trigger_type"`
		}
		if v, ok := o["trigger_config"]; !ok || jsonv2.Unmarshal(v, &t) != nil {
			return ""
		}
		return t.Type
	}
	next := typeOf(given)
	return next != "" && next != typeOf(current)
}

func assemble(o object) (Document, error) {
	data, err := jsonv2.Marshal(o, jsonv2.Deterministic(true))
	if err != nil {
		return Document{}, fmt.Errorf("assemble definition: %w", err)
	}
	d := Document{Enabled: true}
	if err := decodeStrict(data, &d); err != nil {
		return Document{}, decodeFault(err)
	}
	if d.Tasks == nil {
		d.Tasks = []Task{}
	}
	for _, list := range [][]Task{d.Tasks, d.OnFailure} {
		for i := range list {
			if list[i].Needs == nil {
				list[i].Needs = []string{}
			}
		}
	}
	d.Trigger.defaults()
	if err := d.Validate(); err != nil {
		return Document{}, err
	}
	return d, nil
}

// DecodeStored reads a stored revision. It is lenient where ParseDocument is strict: a newer version may have written
// fields that this one does not know, and a rule may have become stricter since.
func DecodeStored(data []byte) (Document, error) {
	d := Document{Enabled: true}
	if err := jsonv2.Unmarshal(data, &d); err != nil {
		return Document{}, fmt.Errorf("decode stored definition: %w", err)
	}
	// Whoever wrote a task without needs knew tasks that are done one after another.
	for i := range d.Tasks {
		if d.Tasks[i].Needs == nil {
			d.Tasks[i].Needs = []string{}
			if i > 0 {
				d.Tasks[i].Needs = []string{d.Tasks[i-1].Name}
			}
		}
	}
	return d, nil
}

var (
	namePattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`)
	labelPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._/-]{0,62}$`)
)

// Pause returns the document disabled, with the reason; one that is disabled already gets the reason. Nothing else is checked:
// a definition that a newer rule refuses, or whose time zone is gone, is one that somebody wants to pause.
func (d Document) Pause(reason string) (Document, error) {
	d.Enabled, d.PauseReason = false, reason
	var f faults
	d.checkPauseReason(&f)
	return d, f.err()
}

func (d *Document) checkPauseReason(f *faults) {
	if d.PauseReason != "" && d.Enabled {
		f.add("pause_reason", "only_disabled", "belongs to a disabled definition: leave it out, or set enabled to false")
	}
	if len([]rune(d.PauseReason)) > MaxPauseReason {
		f.add("pause_reason", "max_length", "must be at most %d characters long", MaxPauseReason)
	}
}

// Resume returns the document enabled.
func (d Document) Resume() (Document, error) {
	d.Enabled, d.PauseReason = true, ""
	return d, d.Validate()
}

// CheckStillDue refuses a single due time that is past where a definition comes to have it (before is nil for a new one, or the
// document before a change), and the enabling of a definition that has one: it would never be due, without a word. Whatever
// else is changed of one that is over is legal.
func (d *Document) CheckStillDue(before *Document, now time.Time) error {
	if d.Trigger.Type != TriggerScheduled {
		return nil
	}
	at, err := d.Trigger.RunTime()
	if err != nil || at.After(now) {
		return nil // one that cannot be read was refused before
	}
	if before != nil && before.Trigger.Type == TriggerScheduled && (before.Enabled || !d.Enabled) {
		if was, err := before.Trigger.RunTime(); err == nil && was.Equal(at) {
			return nil
		}
	}
	return Invalid("trigger_config.run_at", "future", "is past (%s; it is %s): choose a time to come, or run the definition "+
		"by hand with POST /activity-definitions/{id}/trigger", at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
}

// Validate reports every rule that the document breaks, as one InvalidError.
func (d *Document) Validate() error {
	var f faults
	switch {
	case d.Name == "":
		f.add("name", "required", "is required")
	case !namePattern.MatchString(d.Name):
		f.add("name", "name", "%q is not a name: it must be 1 to 100 characters of a-z, 0-9, '.', '_' and '-', "+
			"beginning with a letter or digit", clip(d.Name, 60))
	}
	if len([]rune(d.Description)) > MaxDescription {
		f.add("description", "max_length", "must be at most %d characters long", MaxDescription)
	}
	d.checkPauseReason(&f)
	if len(d.Labels) > MaxLabels {
		f.add("labels", "max_items", "has %d labels; at most %d are allowed", len(d.Labels), MaxLabels)
	}
	for k, v := range d.Labels {
		if !labelPattern.MatchString(k) {
			f.add("labels", "label", "%q is not a label name: it must be 1 to 63 characters of a-z, A-Z, 0-9, '.', '_', '/' "+
				"and '-', beginning with a letter or digit", clip(k, 60))
		}
		if len(v) > MaxLabelValue {
			f.add("labels."+k, "max_length", "must be at most %d bytes long", MaxLabelValue)
		}
	}
	d.Trigger.check(&f)
	d.checkTasks(&f)
	d.checkNotify(&f)
	d.checkConcurrency(&f)
	checkDuration(&f, "timeout", d.Timeout, time.Second, MaxTimeout)
	if data, err := jsonv2.Marshal(d); err == nil && len(data) > MaxDocument {
		f.add("", "max_bytes", "the definition is larger than %d KiB", MaxDocument>>10)
	}
	return f.err()
}

func (d *Document) checkConcurrency(f *faults) {
	c := d.Concurrency
	if c == nil {
		return
	}
	if c.Limit < 0 || c.Limit > MaxConcurrency {
		f.add("concurrency.limit", "range", "must be from 0 (no limit) to %d", MaxConcurrency)
	}
	if c.OnLimit != "" && !slices.Contains(onLimits, c.OnLimit) {
		f.add("concurrency.on_limit", "one_of", "%q is not known: it must be one of %s", clip(c.OnLimit, 60), strings.Join(onLimits, ", "))
	}
	if c.Key == "" {
		return
	}
	if c.Limit == 0 {
		f.add("concurrency.key", "needs_limit", "needs a limit, which holds for each of its values: it is 0, which is none")
	}
	if _, err := c.KeyExpression(); err != nil {
		addExpressionFault("concurrency.key", err, f)
	}
}

var onLimits = []string{OnLimitSkip, OnLimitQueue, OnLimitReplace}

// checkDuration holds a duration that was given (is not zero) against its bounds.
func checkDuration(f *faults, field string, d Duration, least, most time.Duration) {
	switch v := time.Duration(d); {
	case v == 0:
	case v < least || v < 0:
		f.add(field, "range", "must be at least %s", least)
	case v > most:
		f.add(field, "range", "must be at most %s", most)
	}
}

func decodeStrict(data []byte, into any) error {
	return jsonv2.Unmarshal(data, into, jsonv2.RejectUnknownMembers(true))
}

// DecodeStrict reads the JSON of a request into a struct, as strictly as a definition is read and with the same words for
// what is wrong; nil when nothing is.
func DecodeStrict(data []byte, into any) *InvalidError {
	if err := decodeStrict(data, into); err != nil {
		return decodeFault(err)
	}
	return nil
}

// CheckNesting refuses JSON that is nested deeper than MaxNesting, before any of it is decoded: what decodes it, stores it or reads it
// later may need stack or time for each level. It takes what is not JSON for another to refuse.
func CheckNesting(data []byte) *InvalidError {
	if fault := checkShape(data, MaxNesting, math.MaxInt); fault != nil {
		return Invalid("body", "max_depth", "its objects and lists are nested deeper than %d levels, which is the most that is allowed",
			MaxNesting)
	}
	return nil
}

// decodeFault turns a decoder's error into an InvalidError with the path of the field.
func decodeFault(err error) *InvalidError {
	var invalid *InvalidError
	if errors.As(err, &invalid) {
		return invalid
	}
	var semantic *jsonv2.SemanticError
	if errors.As(err, &semantic) {
		field := pointerPath(semantic.JSONPointer)
		switch {
		case errors.Is(err, jsonv2.ErrUnknownName):
			return Invalid(field, "unknown_field", "is not a field that is known here")
		case errors.Is(err, errBadDuration) || semantic.GoType == reflect.TypeFor[Duration]():
			return Invalid(field, "duration", "must be a duration with a unit in quotes, as in \"90s\" or \"5m\"")
		case semantic.GoType == reflect.TypeFor[time.Time]():
			return Invalid(field, "time", "must be an RFC 3339 time, as in \"2026-01-31T09:00:00Z\"")
		}
		if want := wanted(semantic.GoType); want == wholeNumber && semantic.JSONKind == '0' {
			return Invalid(field, "type", "must be %s", want)
		}
		return Invalid(field, "type", "must be %s, but is %s", wanted(semantic.GoType), kindName(semantic.JSONKind))
	}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		field := pointerPath(syntactic.JSONPointer)
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return Invalid(field, "duplicate_field", "is given twice")
		}
		return Invalid("", "json", "is not valid JSON at byte %d: %s", syntactic.ByteOffset, plainSyntax(syntactic))
	}
	return Invalid("", "json", "is not valid JSON")
}

func plainSyntax(err *jsontext.SyntacticError) string {
	if err.Err == nil {
		return "it cannot be read"
	}
	return strings.TrimPrefix(err.Err.Error(), "jsontext: ")
}

// pointerPath writes a JSON pointer the way people do: /tasks/2/with/url becomes tasks[2].with.url.
func pointerPath(p jsontext.Pointer) string {
	path := ""
	for token := range p.Tokens() {
		if _, err := strconv.Atoi(token); err == nil && path != "" {
			path += "[" + token + "]"
		} else {
			path = joinPath(path, clip(token, 60))
		}
	}
	return path
}

func joinPath(base, field string) string {
	switch {
	case base == "":
		return field
	case field == "":
		return base
	case strings.HasPrefix(field, "["):
		return base + field
	}
	return base + "." + field
}

const wholeNumber = "a whole number"

func wanted(t reflect.Type) string {
	if t == nil {
		return "another type"
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return wholeNumber
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		if t == reflect.TypeFor[json.RawMessage]() {
			return "a JSON value"
		}
		return "a list"
	}
	return "an object"
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "true or false"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '[':
		return "a list"
	case '{':
		return "an object"
	}
	return "something else"
}
