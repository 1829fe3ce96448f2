package definition

import (
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/activity-core/activity-core/internal/expression"
)

// types says how to check the fields of each task type. Adding a type is adding a line here, a struct, and its execution.
var types = map[TaskType]taskKind{
	TaskLog:      kindOf[LogTask](),
	TaskHTTP:     kindOf[HTTPTask](),
	TaskPublish:  kindOf[PublishTask](),
	TaskActivity: kindOf[ActivityTask](),
	TaskWorkflow: kindOf[WorkflowTask](),
	TaskWait:     kindOf[WaitTask](),
}

type taskKind struct {
	// fields is the struct that With is decoded to.
	fields reflect.Type
	check  func(*withCheck, *expression.Template)
}

func kindOf[T interface{ check(*withCheck) }]() taskKind {
	return taskKind{fields: reflect.TypeFor[T](), check: checkWith[T]}
}

// withCheck is the check of the fields of one task.
type withCheck struct {
	task *Task
	// run is the timeout of the whole run.
	run  time.Duration
	path string
	// faults hold unless an expression gives the value of their field; certain ones hold in any case.
	faults, certain *faults
	// given are the members of With, as they are known before there are values.
	given object
	// open are the places whose values are not known.
	open []string
}

// checkFields checks the fields of a known type in With, which the template was made of, in a run of a timeout.
func (t *Task) checkFields(template *expression.Template, path string, run time.Duration, f *faults) {
	types[t.Type].check(&withCheck{task: t, run: run, path: path, certain: f}, template)
}

// checkWith checks the fields as far as they are known: what an expression gives is checked when the task is done.
func checkWith[T interface{ check(*withCheck) }](c *withCheck, template *expression.Template) {
	outline, open := template.Outline()
	if slices.Contains(open, "") {
		c.insist("", "type", "must be an object, but is a string")
		return
	}
	c.faults, c.open = &faults{}, open
	var with T
	if err := decodeStrict(outline, &with); err != nil {
		for _, fe := range decodeFault(err).Fields {
			into := c.faults
			if fe.Rule == "unknown_field" {
				into = c.certain
			}
			into.add(joinPath(c.path, fe.Field), fe.Rule, "%s", fe.Message)
		}
	} else if err := jsonv2.Unmarshal(outline, &c.given); err == nil {
		with.check(c)
	}
	for _, fe := range c.faults.fields {
		if !slices.ContainsFunc(open, func(place string) bool { return within(fe.Field, joinPath(c.path, place)) }) {
			c.certain.fields = append(c.certain.fields, fe)
		}
	}
}

// within reports whether a path is a place, or lies in it.
func within(path, place string) bool {
	rest, ok := strings.CutPrefix(path, place)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// refuse adds a fault of a field; "" is for With as a whole. It does not count when an expression gives the field's value.
func (c *withCheck) refuse(field, rule, format string, args ...any) {
	c.faults.add(joinPath(c.path, field), rule, format, args...)
}

// insist adds a fault that holds whatever an expression gives.
func (c *withCheck) insist(field, rule, format string, args ...any) {
	c.certain.add(joinPath(c.path, field), rule, format, args...)
}

// has reports whether a field is given, also when its value is not known.
func (c *withCheck) has(field string) bool { return c.given[field] != nil }

func (w LogTask) check(c *withCheck) {
	if w.Message == "" {
		c.refuse("message", "required", "is required")
	}
}

var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}

// maxExpectedStatus is the most statuses that an http task may expect.
const maxExpectedStatus = 50

func (w HTTPTask) check(c *withCheck) {
	if slices.Contains(c.open, "method") {
		c.insist("method", "fixed", "must not be an expression: it is one of %s", strings.Join(httpMethods, ", "))
	}
	if w.Method != "" && !slices.Contains(httpMethods, w.Method) {
		c.refuse("method", "one_of", "%q is not a method: it must be one of %s", clip(w.Method, 20), strings.Join(httpMethods, ", "))
	}
	u, err := url.Parse(w.URL)
	switch {
	case w.URL == "":
		c.refuse("url", "required", "is required, as in https://example.com/hook")
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		c.refuse("url", "url", "must be an absolute http or https URL, as in https://example.com/hook")
	case u.User != nil:
		c.refuse("url", "url", "must not hold a user name or password: definitions are readable by everybody")
	}
	c.headers(w.Headers)
	if c.has("body") && c.has("raw_body") {
		c.insist("raw_body", "one_of", "must not be given together with body")
	}
	if len(w.ExpectedStatus) > maxExpectedStatus {
		c.refuse("expected_status", "max_items", "has %d statuses; at most %d are allowed", len(w.ExpectedStatus), maxExpectedStatus)
	}
	for i, status := range w.ExpectedStatus {
		if status < 100 || status > 599 {
			c.refuse(fmt.Sprintf("expected_status[%d]", i), "range", "must be from 100 to 599")
		}
	}
}

var (
	subjectPattern   = regexp.MustCompile(`^[^\s*>.\x00-\x1f]+(\.[^\s*>.\x00-\x1f]+)*$`)
	eventTypePattern = regexp.MustCompile(`^[!-~]{1,255}$`)
)

func (w PublishTask) check(c *withCheck) {
	switch {
	case w.Subject == "":
		c.refuse("subject", "required", "is required, as in orders.shipped")
	case len(w.Subject) > 255 || !subjectPattern.MatchString(w.Subject) || strings.HasPrefix(w.Subject, "$"):
		c.refuse("subject", "subject", "must be a NATS subject of at most 255 characters without wildcards, "+
			"spaces or a leading $, as in orders.shipped")
	}
	if w.EventType != "" && !eventTypePattern.MatchString(w.EventType) {
		c.refuse("event_type", "event_type", "must be 1 to 255 visible ASCII characters, as in order.shipped")
	}
	c.headers(w.Headers)
	for name := range w.Headers {
		if strings.HasPrefix(strings.ToLower(name), "nats-") {
			c.refuse("headers", "header", "%q is reserved by NATS", clip(name, 60))
		}
	}
}

func (w ActivityTask) check(c *withCheck) {
	c.target("activity", w.Activity)
	c.target("task_queue", w.TaskQueue)
}

// maxWorkflowID is the most characters of the id of a workflow of the user's.
const maxWorkflowID = 255

var parentCloses = []string{ParentCloseRequestCancel, ParentCloseTerminate, ParentCloseAbandon}

func (w WorkflowTask) check(c *withCheck) {
	c.target("workflow", w.Workflow)
	c.target("task_queue", w.TaskQueue)
	switch {
	case len(w.ID) > maxWorkflowID:
		c.refuse("id", "max_length", "must be at most %d characters long", maxWorkflowID)
	case w.ID != "" && c.task.ForEach != "":
		c.refuse("id", "unique", "must differ from item to item, as in order-${item.id}")
	}
	switch {
	case w.ParentClose != "" && !slices.Contains(parentCloses, w.ParentClose):
		c.refuse("parent_close", "one_of", "%q is not known: it must be one of %s", clip(w.ParentClose, 60), strings.Join(parentCloses, ", "))
	case w.ParentClose != "" && w.ParentClose != ParentCloseAbandon && !w.Waits():
		c.refuse("parent_close", "one_of", "must be %s, or left out, for a workflow that is not waited for", ParentCloseAbandon)
	}
}

// maxApproval is the most characters of an approval's message.
const maxApproval = 2000

func (w WaitTask) check(c *withCheck) {
	given := 0
	for _, field := range []string{"duration", "until", "approval"} {
		if c.has(field) {
			given++
		}
	}
	if given != 1 {
		c.insist("", "one_of", "must have exactly one of duration, until, approval")
		return
	}
	switch {
	case c.has("duration"):
		c.wait(w.Duration)
	case c.has("until"):
		if _, err := time.Parse(time.RFC3339, w.Until); err != nil {
			c.refuse("until", "time", "must be an RFC 3339 time, as in \"2026-01-31T09:00:00Z\"")
		}
	case w.Approval == nil || w.Approval.Message == "":
		c.refuse("approval.message", "required", "is required: it says what is to be decided")
	case len([]rune(w.Approval.Message)) > maxApproval:
		c.refuse("approval.message", "max_length", "must be at most %d characters long", maxApproval)
	}
}

// wait checks how long a wait lasts.
func (c *withCheck) wait(text string) {
	switch d, err := time.ParseDuration(text); {
	case err != nil || d <= 0:
		c.refuse("duration", "duration", "must be a duration with a unit in quotes, as in \"90s\" or \"5m\"")
	case d >= c.task.Limit():
		c.refuse("duration", "range", "must be less than the task's timeout, which is %s", c.task.Limit())
	case d >= c.run:
		c.refuse("duration", "range", "must be less than the timeout of the whole run, which is %s", c.run)
	}
}

// target checks a name that is known to the user's own worker.
func (c *withCheck) target(field, value string) {
	if value == "" {
		c.refuse(field, "required", "is required")
	} else if len(value) > 200 {
		c.refuse(field, "max_length", "must be at most 200 characters long")
	}
}

var headerPattern = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")

func (c *withCheck) headers(headers map[string]string) {
	for name, value := range headers {
		if !headerPattern.MatchString(name) || strings.ContainsAny(value, "\r\n\x00") {
			c.refuse("headers", "header", "%q is not a legal header", clip(name, 60))
		}
	}
}

// maxNonRetryable is the most types of errors that are not tried again.
const maxNonRetryable = 50

var httpErrorPattern = regexp.MustCompile(`^http_[1-5][0-9][0-9]$`)

func (t *Task) checkRetry(path string, f *faults) {
	r := t.Retry
	if r == nil {
		return
	}
	if t.Type == TaskWait {
		f.add(path, "not_of_this_type", "does not belong to a task of type wait")
		return
	}
	if r.MaxAttempts < 0 || r.MaxAttempts > 100 {
		f.add(path+".max_attempts", "range", "must be from 1 to 100")
	}
	if r.Backoff != 0 && (r.Backoff < 1 || r.Backoff > 10) {
		f.add(path+".backoff", "range", "must be from 1 to 10")
	}
	checkDuration(f, path+".initial_interval", r.InitialInterval, 100*time.Millisecond, 24*time.Hour)
	checkDuration(f, path+".max_interval", r.MaxInterval, 100*time.Millisecond, 24*time.Hour)
	if r.MaxInterval != 0 && r.MaxInterval < r.InitialInterval {
		f.add(path+".max_interval", "range", "must not be less than initial_interval")
	}
	path += ".non_retryable_errors"
	if len(r.NonRetryable) > maxNonRetryable {
		f.add(path, "max_items", "has %d types; at most %d are allowed", len(r.NonRetryable), maxNonRetryable)
		return
	}
	for i, kind := range r.NonRetryable {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case t.Type == TaskHTTP && !httpErrorPattern.MatchString(kind):
			f.add(at, "error_type", "%q is not an error of http: it must be http_ and a status, as in http_503", clip(kind, 60))
		case t.Type == TaskLog || t.Type == TaskPublish:
			f.add(at, "not_of_this_type", "does not belong to a task of type %s", t.Type)
		case kind == "" || len(kind) > 200:
			f.add(at, "max_length", "must be 1 to 200 characters long")
		}
	}
}
