package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests must not depend on the machine's zones

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	commonpb "go.temporal.io/api/common/v1"

	"github.com/activity-core/activity-core/internal/cron"
	"github.com/activity-core/activity-core/internal/definition"
)

var (
	here = Place{Installation: "6f0f7a52-0d4d-4f0e-9c1e-0a2b3c4d5e6f", TaskQueue: "orchestrator-tq"}
	noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
)

const id = "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b"

// def makes a definition from the JSON of its trigger and more top-level fields.
func def(t *testing.T, trigger, more string) *definition.Definition {
	t.Helper()
	doc, err := definition.ParseDocument([]byte(`{"name": "report", "trigger_config": {` + trigger + `}` + more + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return &definition.Definition{ID: id, Revision: 1, Document: doc}
}

func want(t *testing.T, trigger, more string) *Spec {
	t.Helper()
	s, err := Want(def(t, trigger, more), here, noon)
	if err != nil || s == nil {
		t.Fatalf("Want(%s) = %v, %v", trigger, s, err)
	}
	return s
}

func weekdays(t *testing.T) *Spec {
	return want(t, `"trigger_type": "cron", "cron_expression": "0 9 * * 1-5", "timezone": "Europe/Berlin"`, "")
}

func TestWant(t *testing.T) {
	t.Parallel()
	s := weekdays(t)
	full := func(from, to int) []cron.Range { return []cron.Range{{Start: from, End: to, Step: 1}} }
	only := func(v int) []cron.Range { return full(v, v) }
	calendar := cron.Calendar{Second: only(0), Minute: only(0), Hour: only(9), DayOfMonth: full(1, 31), Month: full(1, 12),
		DayOfWeek: full(1, 5)}
	if len(s.Calendars) != 1 || fmt.Sprint(s.Calendars[0]) != fmt.Sprint(calendar) {
		t.Errorf("calendars = %v, want %v", s.Calendars, calendar)
	}
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"every", s.Every, time.Duration(0)},
		{"zone", s.Zone, "Europe/Berlin"},
		{"overlap", s.Overlap, enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL},
		{"catch-up", s.CatchupWindow, 10 * time.Minute},
		{"paused", s.Paused, false},
		{"note", s.Note, NoteActive},
		{"workflow id", s.WorkflowID, "activity-" + id + ":cron"},
		{"workflow", s.Workflow, "RunActivity"},
		{"queue", s.TaskQueue, "orchestrator-tq"},
		{"input", s.Input, definition.RunInput{DefinitionID: id}},
		{"run timeout", s.RunTimeout, 25 * time.Hour},
		{"ActivityId", s.DefinitionID, id},
		{"ActivityName", s.DefinitionName, "report"},
	} {
		if c.got != c.want {
			t.Errorf("%s = %v, want %v", c.what, c.got, c.want)
		}
	}
	if owner, hash := ParseMark(s.Mark); owner != here.Installation || hash == "" || len(s.Mark) > 255 {
		t.Errorf("mark = %q", s.Mark)
	}
}

func TestWantVariants(t *testing.T) {
	t.Parallel()
	const nightly = `"trigger_type": "cron", "cron_expression": "0 3 * * *"`
	for _, c := range []struct {
		name, trigger, more string
		check               func(*Spec) bool
	}{
		{"both day fields restricted: two calendars", `"trigger_type": "cron", "cron_expression": "30 4 1,15 * 5"`, "",
			func(s *Spec) bool { return len(s.Calendars) == 2 }},
		{"@every: an interval", `"trigger_type": "cron", "cron_expression": "@every 90m"`, "",
			func(s *Spec) bool { return len(s.Calendars) == 0 && s.Every == 90*time.Minute }},
		{"no zone: UTC", nightly, "", func(s *Spec) bool { return s.Zone == "UTC" }},
		{"disabled: paused", nightly, `, "enabled": false`,
			func(s *Spec) bool { return s.Paused && s.Note == NotePaused }},
		{"jitter", nightly + `, "jitter": "30s"`, "", func(s *Spec) bool { return s.Jitter == 30*time.Second }},
		{"bounds", nightly + `, "start_at": "2026-07-01T00:00:00+02:00", "end_at": "2026-08-01T00:00:00Z"`, "",
			func(s *Spec) bool {
				return s.StartAt.Equal(time.Date(2026, 6, 30, 22, 0, 0, 0, time.UTC)) &&
					s.EndAt.Equal(time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC))
			}},
		{"own timeout", nightly, `, "timeout": "90s"`, func(s *Spec) bool { return s.RunTimeout == time.Hour+90*time.Second }},
		{"a run that may queue has no bound", nightly, `, "concurrency": {"limit": 1, "on_limit": "queue"}`,
			func(s *Spec) bool { return s.RunTimeout == 0 }},
	} {
		if s := want(t, c.trigger, c.more); !c.check(s) {
			t.Errorf("%s: %+v", c.name, s)
		}
	}
}

func TestWantNone(t *testing.T) {
	t.Parallel()
	const daily = `"trigger_type": "cron", "cron_expression": "0 12 * * *", `
	for _, c := range []struct {
		name string
		def  *definition.Definition
		want bool
	}{
		{"deleted", nil, false},
		{"event", def(t, `"trigger_type": "event", "event_type": "user.created"`, ""), false},
		{"manual", def(t, `"trigger_type": "manual"`, ""), false},
		{"over since yesterday", def(t, daily+`"end_at": "2026-05-31T12:00:00Z"`, ""), false},
		{"last slot just now, may still be started", def(t, daily+`"end_at": "2026-06-01T12:00:00Z"`, ""), true},
		{"last slot just over the catch-up window ago", def(t,
			`"trigger_type": "cron", "cron_expression": "49 11 * * *", "end_at": "2026-06-01T12:00:00Z"`, ""), false},
		{"jitter keeps it longer", def(t, `"trigger_type": "cron", "cron_expression": "49 11 * * *", "jitter": "5m", `+
			`"end_at": "2026-06-01T12:00:00Z"`, ""), true},
		{"no slot between its bounds", def(t, daily+`"start_at": "2026-06-10T13:00:00Z", "end_at": "2026-06-11T11:00:00Z"`, ""),
			false},
		{"one slot, at its start", def(t, daily+`"start_at": "2026-06-10T12:00:00Z", "end_at": "2026-06-10T12:00:00Z"`, ""), true},
	} {
		s, err := Want(c.def, here, noon)
		if err != nil || (s != nil) != c.want {
			t.Errorf("%s: Want = %v, %v; want a schedule: %v", c.name, s, err, c.want)
		}
	}
}

func TestWantUnreadable(t *testing.T) {
	t.Parallel()
	d := def(t, `"trigger_type": "cron", "cron_expression": "0 3 * * *"`, "")
	d.Trigger.Timezone = "Mars/Olympus"
	if s, err := Want(d, here, noon); err == nil || s != nil || !strings.Contains(err.Error(), "Mars/Olympus") {
		t.Errorf("Want = %v, %v; want an error that names the zone", s, err)
	}
}

// TestMarkFollowsEverything holds each field of a Spec against the hash: a field that it misses would never be synced.
func TestMarkFollowsEverything(t *testing.T) {
	t.Parallel()
	base := weekdays(t)
	seen := map[string]string{base.hash(here): "nothing"}
	for name, change := range changes() {
		s := *base
		change(&s)
		hash := s.hash(here)
		if name == "mark" {
			continue
		}
		if other, taken := seen[hash]; taken {
			t.Errorf("a change of %s has the same hash as a change of %s", name, other)
		}
		seen[hash] = name
	}
	elsewhere := here
	elsewhere.TaskQueue = "other-tq"
	if generation(here) == generation(elsewhere) {
		t.Error("another task queue is the same generation: nothing would nominate the schedules that have the old one")
	}
}

// changes holds an edit for each reason that Plan can give.
func changes() map[string]func(*Spec) {
	return map[string]func(*Spec){
		"times": func(s *Spec) {
			s.Calendars = slices.Clone(s.Calendars)
			s.Calendars[0].Hour = []cron.Range{{Start: 10}}
		},
		"time zone":         func(s *Spec) { s.Zone = "Europe/Paris" },
		"jitter":            func(s *Spec) { s.Jitter = time.Second },
		"start":             func(s *Spec) { s.StartAt = noon },
		"end":               func(s *Spec) { s.EndAt = noon.AddDate(1, 0, 0) },
		"overlap policy":    func(s *Spec) { s.Overlap = enumspb.SCHEDULE_OVERLAP_POLICY_SKIP },
		"catch-up window":   func(s *Spec) { s.CatchupWindow = time.Hour },
		"paused":            func(s *Spec) { s.Paused = true },
		"note":              func(s *Spec) { s.Note = "mine" },
		"workflow id":       func(s *Spec) { s.WorkflowID = "x" },
		"workflow":          func(s *Spec) { s.Workflow = "Other" },
		"task queue":        func(s *Spec) { s.TaskQueue = "other-tq" },
		"argument":          func(s *Spec) { s.Input.DefinitionID = "x" },
		"run timeout":       func(s *Spec) { s.RunTimeout = time.Minute },
		"search attributes": func(s *Spec) { s.DefinitionName = "x" },
		"mark":              func(s *Spec) { s.Mark = Mark(here.Installation, "old") },
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	base := weekdays(t)
	same := func() *Found { return &Found{Spec: *base} }
	if c, err := Plan(here.Installation, base, same()); err != nil || c.Op != OpNone || c.Outcome() != Unchanged {
		t.Errorf("equal: %+v, %v", c, err)
	}
	if c, err := Plan(here.Installation, base, nil); err != nil || c.Op != OpCreate || c.Outcome() != Created {
		t.Errorf("missing: %+v, %v", c, err)
	}
	if c, err := Plan(here.Installation, nil, same()); err != nil || c.Op != OpDelete || c.Outcome() != Deleted {
		t.Errorf("not wanted: %+v, %v", c, err)
	}
	if c, err := Plan(here.Installation, nil, nil); err != nil || c.Op != OpNone || c.Outcome() != Unchanged {
		t.Errorf("neither: %+v, %v", c, err)
	}
	for name, change := range changes() {
		have := same()
		change(&have.Spec)
		c, err := Plan(here.Installation, base, have)
		if err != nil || c.Op != OpUpdate || !slices.Equal(c.Reasons, []string{name}) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
		wantOutcome := Updated
		if name == "paused" {
			wantOutcome = Unpaused
		}
		if c.Outcome() != wantOutcome {
			t.Errorf("%s counts as %s, want %s", name, c.Outcome(), wantOutcome)
		}
	}
	paused := *base
	paused.Paused = true
	if c, _ := Plan(here.Installation, &paused, same()); c.Outcome() != Paused {
		t.Errorf("to be paused: %+v", c)
	}
	extra := same()
	extra.Extra = []string{"retry policy"}
	if c, _ := Plan(here.Installation, base, extra); c.Op != OpUpdate || !slices.Equal(c.Reasons, extra.Extra) {
		t.Errorf("extra: %+v", c)
	}
}

func TestPlanMarks(t *testing.T) {
	t.Parallel()
	base := weekdays(t)
	have := &Found{Spec: *base}
	have.Mark = Mark("somebody-else", "h")
	for _, wanted := range []*Spec{base, nil} {
		var foreign *ForeignError
		c, err := Plan(here.Installation, wanted, have)
		if !errors.As(err, &foreign) || foreign.Installation != "somebody-else" || c.Op != OpNone {
			t.Errorf("another installation's: %+v, %v", c, err)
		}
	}
	have.Mark = ""
	if c, err := Plan(here.Installation, base, have); err != nil || c.Op != OpUpdate {
		t.Errorf("a mark that was removed: %+v, %v", c, err)
	}
}

// TestRangesByMeaning: Temporal gives ranges back in its own way.
func TestRangesByMeaning(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b []cron.Range
		same bool
	}{
		{[]cron.Range{{Start: 5}}, []cron.Range{{Start: 5, End: 5, Step: 1}}, true},
		{[]cron.Range{{Start: 0, End: 59, Step: 0}}, []cron.Range{{Start: 0, End: 59, Step: 1}}, true},
		{[]cron.Range{{Start: 0, End: 30, Step: 15}}, []cron.Range{{Start: 30}, {Start: 0}, {Start: 15}}, true},
		{[]cron.Range{{Start: 1, End: 2}, {Start: 3, End: 4}}, []cron.Range{{Start: 1, End: 4}}, true},
		{[]cron.Range{{Start: 1, End: 5}}, []cron.Range{{Start: 1, End: 4}}, false},
		{nil, []cron.Range{{Start: 0}}, false},
		{[]cron.Range{{Start: -3, End: 1 << 40, Step: 1}}, nil, true}, // nonsense ends
	} {
		if got := bits(c.a) == bits(c.b); got != c.same {
			t.Errorf("%v and %v: same = %v", c.a, c.b, got)
		}
	}
	a, b := cron.Calendar{Hour: []cron.Range{{Start: 1}}}, cron.Calendar{Hour: []cron.Range{{Start: 2}}}
	if !slices.Equal(canonical([]cron.Calendar{a, b, a}), canonical([]cron.Calendar{b, a})) {
		t.Error("the order and repetition of calendars matter")
	}
}

// TestListedHash holds what the list shows against the part of the hash that stands for it.
func TestListedHash(t *testing.T) {
	t.Parallel()
	for _, trigger := range []string{
		`"trigger_type": "cron", "cron_expression": "*/7 9-17 1 * 5", "timezone": "Asia/Kathmandu"`,
		`"trigger_type": "cron", "cron_expression": "@every 90m"`,
		`"trigger_type": "cron", "cron_expression": "@hourly", "jitter": "9s", "start_at": "2026-07-01T00:00:00Z", ` +
			`"end_at": "2027-08-01T00:00:00.5Z"`,
	} {
		s := want(t, trigger, "")
		_, hash := ParseMark(s.Mark)
		known := definition.SyncEntry{DefinitionID: id, SpecHash: hash, Wanted: true}
		entry := entryOf(t, s)
		if !looksRight(entry, known, here, noon) {
			t.Errorf("%s: an untouched schedule does not look right", trigger)
		}
		for name, spoil := range map[string]func(*client.ScheduleListEntry){
			"paused":   func(e *client.ScheduleListEntry) { e.Paused = true },
			"note":     func(e *client.ScheduleListEntry) { e.Note = "" },
			"workflow": func(e *client.ScheduleListEntry) { e.WorkflowType.Name = "Other" },
			"jitter":   func(e *client.ScheduleListEntry) { e.Spec.Jitter += time.Second },
			"end":      func(e *client.ScheduleListEntry) { e.Spec.EndAt = noon.AddDate(3, 0, 0) },
			"zone":     func(e *client.ScheduleListEntry) { e.Spec.TimeZoneName = "Europe/Rome" },
			"times":    func(e *client.ScheduleListEntry) { e.Spec.Calendars = append(e.Spec.Calendars, everyHour()) },
			"skip":     func(e *client.ScheduleListEntry) { e.Spec.Skip = append(e.Spec.Skip, everyHour()) },
			"no spec":  func(e *client.ScheduleListEntry) { e.Spec = nil },
			"no mark":  func(e *client.ScheduleListEntry) { e.SearchAttributes = nil },
		} {
			e := entryOf(t, s)
			spoil(e)
			if looksRight(e, known, here, noon) {
				t.Errorf("%s: an edit of %s is not noticed", trigger, name)
			}
		}
	}
	s := want(t, `"trigger_type": "cron", "cron_expression": "@hourly", "end_at": "2026-06-01T13:00:00Z"`, "")
	_, hash := ParseMark(s.Mark)
	known := definition.SyncEntry{DefinitionID: id, SpecHash: hash, Wanted: true}
	if !looksRight(entryOf(t, s), known, here, noon) || looksRight(entryOf(t, s), known, here, noon.Add(2*time.Hour)) {
		t.Error("a schedule that is over has to be nominated, and only then")
	}
	if looksRight(entryOf(t, s), known, Place{Installation: here.Installation, TaskQueue: "other-tq"}, noon) {
		t.Error("a schedule of another generation has to be nominated")
	}
}

func everyHour() client.ScheduleCalendarSpec {
	return client.ScheduleCalendarSpec{Hour: []client.ScheduleRange{{Start: 0, End: 23}}}
}

func entryOf(t *testing.T, s *Spec) *client.ScheduleListEntry {
	t.Helper()
	mark, err := converter.GetDefaultDataConverter().ToPayload(s.Mark)
	if err != nil {
		t.Fatal(err)
	}
	spec := s.spec()
	e := &client.ScheduleListEntry{ID: definition.ScheduleID(s.DefinitionID), Spec: &spec, Note: s.Note, Paused: s.Paused,
		SearchAttributes: &commonpb.SearchAttributes{
			IndexedFields: map[string]*commonpb.Payload{definition.SearchAttributeSpecHash: mark}}}
	e.WorkflowType.Name = s.Workflow
	return e
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		attempts int
		outage   bool
		most     time.Duration
	}{
		{0, false, 250 * time.Millisecond}, {1, false, 500 * time.Millisecond}, {8, false, time.Minute},
		{1000, false, time.Minute}, {1000, true, 15 * time.Second},
	} {
		for range 100 {
			if d := backoff(c.attempts, c.outage); d > c.most || d < c.most*3/4-time.Millisecond {
				t.Fatalf("backoff(%d, %v) = %v, want at most %v and at least three quarters of it", c.attempts, c.outage, d, c.most)
			}
		}
	}
}

func TestPatrol(t *testing.T) {
	t.Parallel()
	p, picked := &patrol{at: 7}, map[int]int{}
	for range PatrolRounds {
		for i := range 1000 {
			if p.picks(i) {
				picked[i]++
			}
		}
		p.next()
	}
	for i := range 1000 {
		if picked[i] != 1 {
			t.Fatalf("schedule %d was picked %d times in a whole round", i, picked[i])
		}
	}
	var none *patrol
	if none.next(); none.picks(0) {
		t.Error("a nil patrol picked something")
	}
}
