package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func endedRun() RunEnd {
	at := func(minute, nanos int) *time.Time {
		t := time.Date(2026, 1, 2, 3, minute, 0, nanos, time.UTC)
		return &t
	}
	return RunEnd{
		Run: Run{ID: "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b", DefinitionID: "0197a1b2-3c4d-7e5f-8a9b-000000000001", DefinitionName: "nightly",
			Revision: 7, Kind: KindCron, Status: RunFailed, Reason: ReasonTaskFailed, Error: `task "a": <no> "answer"`,
			TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", AcceptedAt: *at(0, 5), SlotAt: at(0, 0), StartedAt: at(1, 0),
			FinishedAt: at(2, 123_456_000), Depth: 3},
		Labels: map[string]string{"team": "a"},
	}
}

// The event of an end is read by our own parser as what it is, with the run's depth counted up.
func TestRunEventIsAnEvent(t *testing.T) {
	t.Parallel()
	end := endedRun()
	m, err := end.Message("activity")
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject != "activity.run.failed" || m.ID != end.Run.ID {
		t.Errorf("subject %s, id %s", m.Subject, m.ID)
	}
	const want = `{"run_id":"0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b","definition":"nightly",` +
		`"definition_id":"0197a1b2-3c4d-7e5f-8a9b-000000000001","revision":7,"labels":{"team":"a"},"trigger":"cron","status":"failed",` +
		`"reason":"task_failed","error":"task \"a\": \u003cno\u003e \"answer\"","due_at":"2026-01-02T03:00:00Z",` +
		`"started_at":"2026-01-02T03:01:00Z","finished_at":"2026-01-02T03:02:00.123456Z","depth":3}`
	if string(m.Data) != want {
		t.Errorf("payload\n%s, want\n%s", m.Data, want)
	}
	header := map[string][]string{}
	for name, value := range m.Header {
		header[name] = []string{value}
	}
	e, fault := ParseMessage(m.Subject, header, m.Data, "activity")
	if fault != nil {
		t.Fatal(fault)
	}
	got := fmt.Sprint(e.ID, " ", e.Type, " ", e.Source, " ", e.Subject, " ", e.TraceID, " ", e.OccurredAt.Format(time.RFC3339Nano), " ", e.Depth)
	if want := end.Run.ID + " run.failed activity-core/nightly " + end.Run.ID +
		" 4bf92f3577b34da6a3ce929d0e0e4736 2026-01-02T03:02:00.123456Z 4"; got != want {
		t.Errorf("read as %s, want %s", got, want)
	}

	// Published once more, it is the same event; without a trace, a start or labels it is one too.
	again, _ := end.Message("activity")
	if string(again.Data) != string(m.Data) {
		t.Error("the same end has two payloads")
	}
	end.Run.TraceID, end.Run.StartedAt, end.Labels = "mine", nil, nil
	if m, err = end.Message("p"); err != nil || m.Header["traceparent"] != "" || strings.Contains(string(m.Data), "started_at") ||
		!strings.Contains(string(m.Data), `"labels":{}`) {
		t.Errorf("header %v, data %s, %v", m.Header, m.Data, err)
	}
}

func TestRunEventTypes(t *testing.T) {
	t.Parallel()
	for eventType, want := range map[string]bool{
		"run.succeeded": true, "run.failed": true, "run.timed_out": true, "run.canceled": true, "run.skipped": true, "run.missed": true,
		"run.accepted": false, "run.running": false, "run.started": false, "run": false, "run.": false, "run.failed.x": false,
		"rerun.failed": false, "user.run.failed": false, "": false,
	} {
		if got := IsRunEvent(eventType); got != want {
			t.Errorf("IsRunEvent(%q) = %v", eventType, got)
		}
	}
}

// What an event claims of its depth counts for the events of ends alone, and only makes a chain end sooner.
func TestClaimedDepth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		eventType, attribute string
		want                 int
	}{
		{"run.failed", `"activitydepth": 0,`, 1},
		{"run.failed", `"activitydepth": 9,`, 10},
		{"run.failed", `"activitydepth": "9",`, 10},
		{"run.failed", `"activitydepth": 4000000000,`, 11},
		{"run.failed", `"activitydepth": 99999999999999999999999,`, 1},
		{"run.failed", `"activitydepth": -5,`, 1},
		{"run.failed", `"activitydepth": "many",`, 1},
		{"run.failed", `"activitydepth": true,`, 1},
		{"run.failed", ``, 1},
		{"run.started", `"activitydepth": 5,`, 0},
		{"order.paid", `"activitydepth": 5,`, 0},
	} {
		data := fmt.Sprintf(`{"specversion": "1.0", "id": "1", "source": "s", %s "type": %q}`, c.attribute, c.eventType)
		e, fault := ParseEnvelope([]byte(data), "p."+c.eventType, "p")
		if fault != nil || e.Depth != c.want {
			t.Errorf("%s has depth %d, %v; want %d", data, e.Depth, fault, c.want)
		}
	}
	e, fault := ParseEnvelope([]byte(`{"event_id": "1", "type": "run.failed", "activitydepth": 7}`), "p.run.failed", "p")
	if fault != nil || e.Depth != 1 {
		t.Errorf("an envelope of our own has depth %d, %v; want 1", e.Depth, fault)
	}
}

func TestTraceparentOfRun(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ trace, want string }{
		{"4bf92f3577b34da6a3ce929d0e0e4736", "00-4bf92f3577b34da6a3ce929d0e0e4736-8a9b0c1d2e3f4a5b-01"},
		{"", ""}, {"4BF92F3577B34DA6A3CE929D0E0E4736", ""}, {"00000000000000000000000000000000", ""}, {"abc", ""},
	} {
		run := Run{ID: "0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b", TraceID: c.trace}
		if got := run.Traceparent(); got != c.want {
			t.Errorf("trace %q: %q, want %q", c.trace, got, c.want)
		}
	}
}

func TestNotifyValidation(t *testing.T) {
	t.Parallel()
	const ok = `{"on": ["failed"], "type": "http", "with": {"url": "https://example.com/x"}}`
	for _, c := range []struct{ notify, want string }{
		{`[` + ok + `]`, ""},
		{`[]`, ""},
		{`[{"on": ["late", "recovered", "succeeded", "missed", "skipped", "canceled", "timed_out"], "type": "publish",
			"with": {"subject": "ops.${definition.labels.team}", "payload": {"text": "${run.error}", "on": "${run.notification}"}}}]`, ""},
		{`[{"on": ["failed"], "type": "http", "with": {"url": "https://example.com/${secrets.TOKEN}", "body": "${run.id}"}}]`, ""},
		{`[{"on": [], "type": "http", "with": {"url": "https://example.com/x"}}]`, "notify[0].on required"},
		{`[{"on": ["ended", "failed", "failed"], "type": "http", "with": {"url": "https://example.com/x"}}]`,
			"notify[0].on[0] one_of, notify[0].on[2] unique"},
		{`[` + ok + `, {"on": ["failed"], "type": "log", "with": {"message": "x"}}]`, "notify[1].type one_of"},
		{`[{"on": ["failed"], "type": "http"}]`, "notify[0].with.url required"},
		{`[{"on": ["failed"], "type": "http", "with": {"url": "ftp://example.com/x", "colour": 1}}]`, "notify[0].with.colour unknown_field"},
		{`[{"on": ["failed"], "type": "publish", "with": {"subject": "a.*"}}]`, "notify[0].with.subject subject"},
		{`[{"on": ["failed"], "type": "http", "with": {"url": "https://example.com/x", "body": "${event.payload.id}"}}]`,
			"notify[0].with.body scope"},
		{`[{"on": ["failed"], "type": "http", "with": {"url": "https://example.com/x", "body": ["${tasks.a.output}"]}}]`,
			"notify[0].with.body[0] scope"},
		{`[{"on": ["failed"], "type": "http", "with": {"url": "https://example.com/x", "body": "${run.}"}}]`, "notify[0].with.body syntax"},
		{`[{"on": ["failed"], "type": "http", "with": {"url": "https://example.com/x", "output": 1}}]`, "notify[0].with.output unknown_field"},
		{`[{"on": ["failed"], "type": "http", "with": {"url": "https://example.com/x"}, "retry": {}}]`, "notify[0].retry unknown_field"},
		{`[` + strings.TrimSuffix(strings.Repeat(ok+",", MaxNotifications+1), ",") + `]`, "notify max_items"},
	} {
		doc, err := ParseDocument([]byte(`{"name": "n", "trigger_config": {"trigger_type": "manual"}, "notify": ` + c.notify + `}`))
		var got []string
		if err != nil {
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatal(err)
			}
			for _, f := range invalid.Fields {
				got = append(got, f.Field+" "+f.Rule)
			}
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %v, want %s\n%v", c.notify, got, c.want, err)
		}
		if err != nil {
			continue
		}
		// It is stored, and read back.
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := DecodeStored(data)
		if err != nil || !stored.Equal(doc) {
			t.Errorf("read back %+v, %v; want %+v", stored.Notify, err, doc.Notify)
		}
	}
}

func TestNotificationTold(t *testing.T) {
	t.Parallel()
	slot := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	started := func(after time.Duration) *time.Time { at := slot.Add(after); return &at }
	for _, c := range []struct {
		on        string
		status    RunStatus
		kind      TriggerKind
		started   *time.Time
		recovered bool
		want      NotifyOn
	}{
		{"failed timed_out", RunFailed, KindCron, started(0), false, "failed"},
		{"failed timed_out", RunTimedOut, KindCron, started(0), false, "timed_out"},
		{"failed timed_out", RunSucceeded, KindCron, started(0), true, ""},
		{"recovered succeeded", RunSucceeded, KindCron, started(0), true, "recovered"},
		{"recovered succeeded", RunSucceeded, KindCron, started(0), false, "succeeded"},
		{"succeeded recovered", RunSucceeded, KindCron, started(0), true, "succeeded"},
		{"late", RunSucceeded, KindCron, started(60 * time.Second), false, ""},
		{"late", RunSucceeded, KindCron, started(60*time.Second + 1), false, "late"},
		{"late failed", RunFailed, KindEvent, started(time.Hour), false, "late"},
		{"failed late", RunFailed, KindManual, started(time.Hour), false, "failed"},
		{"late", RunSucceeded, KindBackfill, started(time.Hour), false, ""},
		{"late", RunSucceeded, KindReplay, started(time.Hour), false, ""},
		{"late", RunSucceeded, KindRerun, started(time.Hour), false, ""},
		{"late missed", RunMissed, KindCron, nil, false, "missed"},
		{"skipped", RunSkipped, KindCron, nil, false, "skipped"},
	} {
		n := Notification{}
		for on := range strings.SplitSeq(c.on, " ") {
			n.On = append(n.On, NotifyOn(on))
		}
		run := Run{Status: c.status, Kind: c.kind, SlotAt: &slot, AcceptedAt: slot, StartedAt: c.started}
		if got := n.Told(&run, c.recovered); got != c.want {
			t.Errorf("%+v: told %q", c, got)
		}
	}
}
