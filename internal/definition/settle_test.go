package definition

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// nine is a whole minute from which the tests count.
var nine = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

func clockDoc(t testing.TB, trigger string) *Document {
	t.Helper()
	d, err := ParseDocument([]byte(`{"name": "x", "trigger_config": {` + trigger + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	return &d
}

func everyFive(t testing.TB, more string) *Document {
	return clockDoc(t, `"trigger_type": "cron", "cron_expression": "*/5 * * * *"`+more)
}

// words writes verdicts as "09:05 accepted, 09:10 missed", with a + for those that are caught up with.
func words(vs []Verdict) string {
	var out []string
	for _, v := range vs {
		text := v.Slot.Format("15:04 ") + string(v.Status)
		if v.Reason == ReasonCoalesced {
			text = v.Slot.Format("15:04 coalesced")
		}
		if v.CatchUp {
			text += "+"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func TestSettle(t *testing.T) {
	t.Parallel()
	off := everyFive(t, "")
	off.Enabled = false
	at := func(clock string) time.Time {
		v, err := time.Parse("15:04:05", clock)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2026, 11, 23, v.Hour(), v.Minute(), v.Second(), 0, time.UTC)
	}
	for name, tc := range map[string]struct {
		doc         *Document
		cursor, now string
		catchingUp  bool
		want        string
		next        string // "" for none
	}{
		"nothing due":               {everyFive(t, ""), "09:00:00", "09:04:59", false, "", "09:05:00"},
		"due now":                   {everyFive(t, ""), "09:00:00", "09:05:00", false, "09:05 accepted", "09:10:00"},
		"on time for a minute":      {everyFive(t, ""), "09:00:00", "09:06:00", false, "09:05 accepted", "09:10:00"},
		"late after it, skip":       {everyFive(t, ""), "09:00:00", "09:06:01", false, "09:05 missed", "09:10:00"},
		"jitter is not late":        {everyFive(t, `, "jitter": "10s"`), "09:00:00", "09:06:10", false, "09:05 accepted", "09:10:00"},
		"jitter and late":           {everyFive(t, `, "jitter": "10s"`), "09:00:00", "09:06:11", false, "09:05 missed", "09:10:00"},
		"outage, skip":              {everyFive(t, ""), "09:00:00", "09:20:30", false, "09:05 missed, 09:10 missed, 09:15 missed, 09:20 accepted", "09:25:00"},
		"outage, compress":          {everyFive(t, `, "misfire_policy": "compress"`), "09:00:00", "09:18:00", false, "09:05 coalesced, 09:10 coalesced, 09:15 accepted", "09:20:00"},
		"one on time stands for it": {everyFive(t, `, "misfire_policy": "compress"`), "09:00:00", "09:15:30", false, "09:05 coalesced, 09:10 coalesced, 09:15 accepted", "09:20:00"},
		"one late, compress":        {everyFive(t, `, "misfire_policy": "compress"`), "09:00:00", "09:08:00", false, "09:05 accepted", "09:10:00"},
		"outage, catchup":           {everyFive(t, `, "misfire_policy": "catchup"`), "09:00:00", "09:18:00", false, "09:05 accepted+, 09:10 accepted+, 09:15 accepted+", "09:20:00"},
		"the line goes on":          {everyFive(t, `, "misfire_policy": "catchup"`), "09:00:00", "09:15:30", false, "09:05 accepted+, 09:10 accepted+, 09:15 accepted+", "09:20:00"},
		"the line is still there":   {everyFive(t, `, "misfire_policy": "catchup"`), "09:10:00", "09:15:30", true, "09:15 accepted+", "09:20:00"},
		"the line is over":          {everyFive(t, `, "misfire_policy": "catchup"`), "09:10:00", "09:15:30", false, "09:15 accepted", "09:20:00"},
		"beyond the window":         {everyFive(t, `, "misfire_policy": "catchup", "misfire_window": "10m"`), "09:00:00", "09:20:00", false, "09:05 missed, 09:10 accepted+, 09:15 accepted+, 09:20 accepted+", "09:25:00"},
		"window and jitter":         {everyFive(t, `, "misfire_policy": "catchup", "misfire_window": "10m", "jitter": "1m"`), "09:00:00", "09:16:00", false, "09:05 accepted+, 09:10 accepted+, 09:15 accepted+", "09:20:00"},
		"disabled":                  {off, "09:00:00", "09:20:00", false, "", ""},
		"another trigger":           {clockDoc(t, `"trigger_type": "manual"`), "09:00:00", "09:20:00", false, "", ""},
		"start and end":             {everyFive(t, `, "start_at": "2026-11-23T09:10:00Z", "end_at": "2026-11-23T09:15:00Z"`), "09:00:00", "09:15:30", false, "09:10 missed, 09:15 accepted", ""},
		"before the start":          {everyFive(t, `, "start_at": "2026-11-23T10:00:01Z"`), "09:00:00", "09:20:00", false, "", "10:05:00"},
		"once":                      {clockDoc(t, `"trigger_type": "scheduled", "run_at": "2026-11-23T09:05:00Z"`), "09:00:00", "09:05:10", false, "09:05 accepted", ""},
		"once, to come":             {clockDoc(t, `"trigger_type": "scheduled", "run_at": "2026-11-23T09:05"`), "09:00:00", "09:04:10", false, "", "09:05:00"},
		"once, late":                {clockDoc(t, `"trigger_type": "scheduled", "run_at": "2026-11-23T09:05:00Z"`), "09:00:00", "10:05:10", false, "09:05 missed", ""},
		"once, caught up":           {clockDoc(t, `"trigger_type": "scheduled", "run_at": "2026-11-23T09:05:00Z", "misfire_policy": "catchup"`), "09:00:00", "10:05:10", false, "09:05 accepted+", ""},
		"once, over":                {clockDoc(t, `"trigger_type": "scheduled", "run_at": "2026-11-23T09:05:00Z"`), "09:06:00", "10:05:10", false, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Settle(Unsettled{Document: tc.doc, Cursor: at(tc.cursor), Now: at(tc.now), CatchingUp: tc.catchingUp, Limit: 100})
			if err != nil || words(got.Verdicts) != tc.want {
				t.Errorf("verdicts = %s, %v\nwant %s", words(got.Verdicts), err, tc.want)
			}
			if !got.Cursor.Equal(at(tc.now)) {
				t.Errorf("cursor = %s, want now", got.Cursor)
			}
			if tc.next == "" != got.Next.IsZero() || tc.next != "" && !got.Next.Equal(at(tc.next)) {
				t.Errorf("next = %s, want %s", got.Next, tc.next)
			}
			for _, v := range got.Verdicts {
				if v.Status == RunMissed != (v.Reason == ReasonMisfireWindow) {
					t.Errorf("%s has the reason %q", v.Status, v.Reason)
				}
			}
		})
	}
}

// A fixed time in the hour that daylight saving skips is due at the first instant after the gap, and one in the repeated
// hour once, at its first pass: by the verdict, whatever Temporal starts.
func TestSettleDaylightSaving(t *testing.T) {
	t.Parallel()
	doc := clockDoc(t, `"trigger_type": "cron", "cron_expression": "30 2 * * *", "timezone": "Europe/Berlin"`)
	for _, tc := range []struct{ cursor, now, slot string }{
		{"2026-03-29T00:00:00Z", "2026-03-29T01:00:20Z", "2026-03-29T01:00:00Z"},
		{"2026-10-25T00:00:00Z", "2026-10-25T00:30:20Z", "2026-10-25T00:30:00Z"},
		{"2026-10-25T00:30:20Z", "2026-10-25T12:00:00Z", ""}, // the second pass is no slot
	} {
		parse := func(s string) time.Time {
			v, err := time.Parse(time.RFC3339, s)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		got, err := Settle(Unsettled{Document: doc, Cursor: parse(tc.cursor), Now: parse(tc.now), Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case tc.slot == "" && len(got.Verdicts) != 0:
			t.Errorf("until %s: %s", tc.now, words(got.Verdicts))
		case tc.slot != "" && (len(got.Verdicts) != 1 || !got.Verdicts[0].Slot.Equal(parse(tc.slot)) || got.Verdicts[0].Status != RunAccepted):
			t.Errorf("until %s: %s, want %s accepted", tc.now, words(got.Verdicts), tc.slot)
		}
	}
}

// judgeAll settles until the cursor has come to now, and returns every verdict.
func judgeAll(t testing.TB, doc *Document, cursor, now time.Time, limit int) []Verdict {
	t.Helper()
	var all []Verdict
	for u := (Unsettled{Document: doc, Cursor: cursor, Now: now, Limit: limit}); ; {
		got, err := Settle(u)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got.Verdicts...)
		for _, v := range got.Verdicts {
			u.CatchingUp = u.CatchingUp || v.CatchUp
		}
		if !got.Cursor.Before(now) {
			return all
		}
		if !got.Cursor.After(u.Cursor) || got.Next.IsZero() || got.Next.After(now) {
			t.Fatalf("settling stands at %s with next %s", got.Cursor, got.Next)
		}
		u.Cursor = got.Cursor
	}
}

// naiveVerdicts judges by the words of the documentation, from the list of all slots: slow, and nothing shared.
func naiveVerdicts(policy string, slots []time.Time, now time.Time, jitter, window time.Duration) []Verdict {
	late := func(s time.Time) bool { return now.Sub(s) > time.Minute+jitter }
	var out []Verdict
	for i, s := range slots {
		lateAfter := 0
		for _, other := range slots[i+1:] {
			if late(other) {
				lateAfter++
			}
		}
		v := Verdict{Slot: s, Status: RunAccepted}
		switch {
		case !late(s):
		case policy == MisfireCatchup && now.Sub(s) <= window+jitter && lateAfter < MaxCatchUp:
			v.CatchUp = true
		case policy == MisfireCompress && i == len(slots)-1:
		case policy == MisfireCompress:
			v.Status, v.Reason = RunSkipped, ReasonCoalesced
		default:
			v.Status, v.Reason = RunMissed, ReasonMisfireWindow
		}
		if !late(s) && policy == MisfireCatchup && len(out) > 0 && out[len(out)-1].CatchUp {
			v.CatchUp = true
		}
		out = append(out, v)
	}
	return out
}

// TestSettleAccountsForEverySlot: whatever the policy, the outage and the size of the steps, each slot is judged once, in
// order, as the documentation says.
func TestSettleAccountsForEverySlot(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 150 {
		period := time.Duration(1+r.IntN(600)) * time.Second
		policy := []string{MisfireSkip, MisfireCompress, MisfireCatchup}[r.IntN(3)]
		jitter, window := time.Duration(r.IntN(90))*time.Second, time.Duration(1+r.IntN(120))*time.Minute
		doc := clockDoc(t, fmt.Sprintf(`"trigger_type": "cron", "cron_expression": "@every %s", "misfire_policy": %q, "jitter": %q,
			"misfire_window": %q`, period, policy, jitter, window))
		cursor := nine.Add(time.Duration(r.IntN(3600)) * time.Second)
		now := cursor.Add(time.Duration(r.IntN(4*3600)) * time.Second)
		var slots []time.Time
		for s := cursor.Unix()/int64(period.Seconds())*int64(period.Seconds()) + int64(period.Seconds()); s <= now.Unix(); s += int64(period.Seconds()) {
			slots = append(slots, time.Unix(s, 0).UTC())
		}
		want := naiveVerdicts(policy, slots, now, jitter, window)
		got := judgeAll(t, doc, cursor, now, 1+r.IntN(300))
		if !slices.EqualFunc(got, want, func(a, b Verdict) bool {
			return a.Slot.Equal(b.Slot) && a.Status == b.Status && a.Reason == b.Reason && a.CatchUp == b.CatchUp
		}) {
			t.Fatalf("every %s, %s, jitter %s, window %s, (%s, %s]\n got %s\nwant %s", period, policy, jitter, window, cursor, now,
				words(got), words(want))
		}
	}
}

func TestCatchUpIsBounded(t *testing.T) {
	t.Parallel()
	doc := clockDoc(t, `"trigger_type": "cron", "cron_expression": "@every 1s", "misfire_policy": "catchup", "misfire_window": "720h"`)
	got := judgeAll(t, doc, nine, nine.Add(3*time.Hour), 2000)
	var late int
	for _, v := range got {
		if v.CatchUp && v.Slot.Before(nine.Add(3*time.Hour-LateAfter)) {
			late++
		}
	}
	if len(got) != 3*3600 || late != MaxCatchUp {
		t.Errorf("%d slots, %d caught up with; want %d and %d", len(got), late, 3*3600, MaxCatchUp)
	}
}

func TestGhostReason(t *testing.T) {
	t.Parallel()
	on, off := everyFive(t, ""), everyFive(t, "")
	off.Enabled = false
	for _, tc := range []struct {
		facts GhostFacts
		want  Reason
	}{
		{GhostFacts{Enabled: true, InForce: on}, ReasonNotDue},
		{GhostFacts{Enabled: true}, ReasonNotDue}, // before it existed
		{GhostFacts{Enabled: true, InForce: off}, ReasonDefinitionOff},
		{GhostFacts{Enabled: false, InForce: on}, ReasonDefinitionOff},
		{GhostFacts{Deleted: true, InForce: on}, ReasonDefinitionGone},
	} {
		if got := GhostReason(tc.facts); got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.facts, got, tc.want)
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	d, err := everyFive(t, "").Pause("the exchange is closed")
	if err != nil || d.Enabled || d.PauseReason != "the exchange is closed" {
		t.Errorf("paused: %+v, %v", d, err)
	}
	for name, change := range map[string]func() (Document, error){
		"resume": d.Resume,
		"put":    func() (Document, error) { return d.Replace([]byte(`{"enabled": true}`)) },
		"patch":  func() (Document, error) { return d.Merge([]byte(`{"enabled": true}`)) },
	} {
		if back, err := change(); err != nil || !back.Enabled || back.PauseReason != "" {
			t.Errorf("%s: %+v, %v", name, back, err)
		}
	}
	if kept, err := d.Merge([]byte(`{"labels": {"a": "b"}}`)); err != nil || kept.PauseReason == "" {
		t.Errorf("another change: %+v, %v", kept, err)
	}
	if _, err := d.Merge([]byte(`{"enabled": true, "pause_reason": "x"}`)); err == nil {
		t.Error("an enabled definition has a reason for a pause")
	}
	if _, err := everyFive(t, "").Pause(strings.Repeat("x", MaxPauseReason+1)); err == nil {
		t.Error("a reason of any length")
	}
}

func TestCheckStillDue(t *testing.T) {
	t.Parallel()
	once := func(at, more string) *Document {
		return clockDoc(t, fmt.Sprintf(`"trigger_type": "scheduled", "run_at": %q, "timezone": "Europe/Berlin"`, at)+more)
	}
	off := once("2026-11-23T10:00", "")
	off.Enabled = false
	for name, tc := range map[string]struct {
		after, before *Document
		now           time.Time
		refused       bool
	}{
		"new, to come":            {once("2026-11-23T10:00", ""), nil, nine.Add(-time.Second), false},
		"new, just now":           {once("2026-11-23T10:00", ""), nil, nine, true},
		"another edit":            {once("2026-11-23T10:00", `, "jitter": "1s"`), once("2026-11-23T10:00", ""), nine.Add(time.Hour), false},
		"the same in other words": {once("2026-11-23T09:00:00Z", ""), once("2026-11-23T10:00", ""), nine.Add(time.Hour), false},
		"another past time":       {once("2026-11-23T09:59", ""), once("2026-11-23T10:00", ""), nine.Add(time.Hour), true},
		"enabled too late":        {once("2026-11-23T10:00", ""), off, nine.Add(time.Hour), true},
		"disabled":                {off, once("2026-11-23T10:00", ""), nine.Add(time.Hour), false},
		"was a cron":              {once("2026-11-23T10:00", ""), everyFive(t, ""), nine.Add(time.Hour), true},
		"is a cron":               {everyFive(t, ""), nil, nine, false},
	} {
		err := tc.after.CheckStillDue(tc.before, tc.now)
		if (err != nil) != tc.refused || err != nil && !strings.Contains(err.Error(), "trigger_config.run_at: is past (2026-11-23T") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzSettle: no slot is left out and none is judged twice, whatever the expression, the zone and the steps.
func FuzzSettle(f *testing.F) {
	f.Add("*/7 * * * *", "Europe/Berlin", int64(1774746000), uint16(7200), uint8(3), uint8(0))
	f.Add("30 2 * * *", "America/New_York", int64(1772949600), uint16(50000), uint8(1), uint8(2))
	f.Add("@every 90s", "", int64(1700000000), uint16(3000), uint8(9), uint8(1))
	f.Fuzz(func(t *testing.T, expr, zone string, start int64, span uint16, limit, policy uint8) {
		doc := Document{Enabled: true, Trigger: Trigger{Type: TriggerCron, CronExpression: expr, Timezone: zone,
			MisfirePolicy: []string{MisfireSkip, MisfireCompress, MisfireCatchup}[policy%3]}}
		schedule, err := doc.Trigger.Schedule()
		if err != nil || start < 0 || start > 1<<34 {
			return
		}
		cursor := time.Unix(start, 0).UTC()
		now := cursor.Add(time.Duration(span) * time.Second)
		got := judgeAll(t, &doc, cursor, now, 1+int(limit))
		want := schedule.Between(cursor, now, 1<<20)
		if !slices.EqualFunc(got, want, func(v Verdict, s time.Time) bool { return v.Slot.Equal(s) }) {
			t.Fatalf("%q %q (%s, %s]: judged %s, slots %v", expr, zone, cursor, now, words(got), want)
		}
	})
}
