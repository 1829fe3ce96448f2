package expression

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/activity-core/activity-core/internal/condition"
)

// Values are what the variables hold, as JSON. A variable that is nil is absent: reading it is an error that says so.
type Values struct {
	Event, Run, Definition, Item, Response json.RawMessage
	// Tasks holds, by name, what TaskValue makes of each task that may be read.
	Tasks map[string]json.RawMessage
	// Secret returns a secret's value; nil when there are none.
	Secret func(name string) (string, bool)
}

// TaskValue returns what tasks.<name> holds: the status, the error, which is empty for none, and the output, which is
// absent when it is nil. Cut tells that the output was too large to be kept: it is left out then, and reading it is an
// error that says so.
func TaskValue(status, fault string, output []byte, cut bool) json.RawMessage {
	out := append([]byte(`{"status":`), quote(status)...)
	out = append(append(out, `,"error":`...), quote(fault)...)
	switch {
	case cut:
		out = append(out, `,"output_truncated":true`...)
	case output != nil:
		out = append(append(out, `,"output":`...), output...)
	}
	return append(out, '}')
}

func quote(text string) []byte {
	out, _ := jsontext.AppendQuote(nil, strings.ToValidUTF8(text, "\ufffd")) // the only fault is invalid UTF-8
	return out
}

// variables are the values in the course of one or more evaluations; each is decoded when it is read for the first time.
// They are not safe for concurrent use.
type variables struct {
	values  *Values
	decoded map[string]any
	tasks   map[string]any
	secrets map[string]string
}

func newVariables(v *Values) *variables {
	if v == nil {
		v = &Values{}
	}
	return &variables{values: v, decoded: map[string]any{}, tasks: map[string]any{}, secrets: map[string]string{}}
}

// ResolveName and Parent make them the variables of an evaluation.
func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case "tasks":
		return v.tasks, true
	case "secrets":
		return v.secrets, true
	}
	value, present := v.decoded[name]
	return value, present
}

// Parent returns nil: there are no other variables.
func (v *variables) Parent() cel.Activation { return nil }

// prepare decodes what the expression reads and is there.
func (v *variables) prepare(e *Expression) error {
	for _, variable := range []struct {
		scope Scope
		name  string
		raw   json.RawMessage
	}{{Event, "event", v.values.Event}, {Run, "run", v.values.Run}, {Definition, "definition", v.values.Definition},
		{Item, "item", v.values.Item}, {Response, "response", v.values.Response}} {
		if e.scope&variable.scope == 0 || variable.raw == nil || v.decoded[variable.name] != nil {
			continue
		}
		value, err := condition.Decode(variable.raw)
		if err != nil {
			return fmt.Errorf("decode %s: %w", variable.name, err)
		}
		v.decoded[variable.name] = value
	}
	for _, name := range e.tasks {
		raw, present := v.values.Tasks[name]
		if !present || v.tasks[name] != nil {
			continue
		}
		value, err := condition.Decode(raw)
		if err != nil {
			return fmt.Errorf("decode tasks.%s: %w", name, err)
		}
		v.tasks[name] = value
	}
	if v.values.Secret != nil {
		for _, name := range e.secrets {
			if secret, present := v.values.Secret(name); present {
				v.secrets[name] = secret
			}
		}
	}
	return nil
}

// absences say why a variable is not there.
var absences = map[string]string{
	"event":    "there is no event: this run was not made due by one",
	"item":     "there is no item: this is not one of a for_each",
	"response": "there is no response",
}

// explain words an evaluation's error better where more is known than what CEL knows.
func (v *variables) explain(e *Expression, err error) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "no such attribute(s): "); ok {
		for absent, why := range absences {
			if name == absent || strings.HasPrefix(name, absent+".") {
				return errors.New(why)
			}
		}
		return fmt.Errorf("there is no %s here", name)
	}
	name, ok := strings.CutPrefix(text, "no such key: ")
	if !ok {
		return err
	}
	if _, present := v.secrets[name]; slices.Contains(e.secrets, name) && !present {
		return fmt.Errorf("there is no secret %s", name)
	}
	if _, present := v.tasks[name]; slices.Contains(e.tasks, name) && !present {
		return fmt.Errorf("%w (task %s was not begun)", err, name)
	}
	if name == "output" {
		for _, task := range e.tasks {
			members, _ := v.tasks[task].(map[string]any)
			if _, present := members["output"]; present || members == nil {
				continue
			}
			if members["output_truncated"] == types.True {
				return fmt.Errorf("%w (the output of task %s was too large to be kept, and was cut)", err, task)
			}
			return fmt.Errorf("%w (task %s is %v, and has none)", err, task, members["status"])
		}
	}
	return err
}
