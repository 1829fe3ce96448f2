package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/activity-core/activity-core/internal/definition"
)

func preview(t *testing.T, a *API, body string) Fires {
	t.Helper()
	w := call(t, a, "POST", "/cron/preview", body)
	if w.Code != 200 {
		t.Fatalf("%s: %d %s", body, w.Code, w.Body)
	}
	return decode[Fires](t, w)
}

// TestPreviewAgainstTheCalendar holds the preview against times that were worked out by hand with a calendar and the dates
// on which clocks change, and not by this program.
func TestPreviewAgainstTheCalendar(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	const (
		gap   = "02:30 does not exist on this day (clocks go forward from 02:00 to 03:00), so this fires at the first moment after the gap."
		jump  = "Clocks go forward from 02:00 to 03:00 before this slot; the times between do not exist and do not fire."
		once  = "02:30 comes twice on this day (clocks go back from 03:00 to 02:00). It fires once, at the first pass."
		both  = "02:00 comes twice on this day (clocks go back from 03:00 to 02:00). "
		first = both + "This is the first pass; it fires at both, because the expression follows real time."
		again = both + "This is the second pass; it fires at both, because the expression follows real time."
	)
	for _, test := range []struct {
		name, expression, zone, from string
		want                         []string // UTC, local, note
		description                  string
		warnings                     []string
	}{
		{"1st, 15th and every Friday", "30 4 1,15 * 5", "", "2026-01-01T00:00:00Z", []string{
			"2026-01-01T04:30:00Z 2026-01-01T04:30:00+00:00 ", // the first, a Thursday
			"2026-01-02T04:30:00Z 2026-01-02T04:30:00+00:00 ",
			"2026-01-09T04:30:00Z 2026-01-09T04:30:00+00:00 ",
			"2026-01-15T04:30:00Z 2026-01-15T04:30:00+00:00 ",
			"2026-01-16T04:30:00Z 2026-01-16T04:30:00+00:00 ",
			"2026-01-23T04:30:00Z 2026-01-23T04:30:00+00:00 ",
			"2026-01-30T04:30:00Z 2026-01-30T04:30:00+00:00 ",
			"2026-02-01T04:30:00Z 2026-02-01T04:30:00+00:00 ", // a Sunday
		}, "At 04:30, on days 1 and 15 of the month and also on Fridays (UTC)", []string{
			"Day-of-month and day-of-week are both set: a day has to match only one of the two, not both."}},
		{"any day or Monday", "0 9 1-31 * 1", "Europe/Berlin", "2026-03-02T09:00:00+01:00", []string{
			"2026-03-02T08:00:00Z 2026-03-02T09:00:00+01:00 ", // the time asked from counts
			"2026-03-03T08:00:00Z 2026-03-03T09:00:00+01:00 ",
			"2026-03-04T08:00:00Z 2026-03-04T09:00:00+01:00 ",
		}, "At 09:00, every day (Europe/Berlin)", []string{
			"Day-of-month and day-of-week are both set and one of them lists every day, so this fires every day: a day has to match " +
				"only one of the two. Write * in the field that should not restrict."}},
		{"odd days that are Mondays", "0 9 */2 * 1", "", "2026-01-01T00:00:00Z", []string{
			"2026-01-05T09:00:00Z 2026-01-05T09:00:00+00:00 ",
			"2026-01-19T09:00:00Z 2026-01-19T09:00:00+00:00 ",
			"2026-02-09T09:00:00Z 2026-02-09T09:00:00+00:00 ",
			"2026-02-23T09:00:00Z 2026-02-23T09:00:00+00:00 ",
			"2026-03-09T09:00:00Z 2026-03-09T09:00:00+00:00 ",
		}, "At 09:00, on Mondays, only on days 1, 3, 5, … 31 of the month (UTC)", []string{
			"Day-of-month and day-of-week both select days, and one of them begins with *: a day has to match both.",
			"The steps of */2 start again at 1 with every month, so the last gap is a different one."}},
		{"leap days", "0 0 29 2 *", "", "2090-01-01T00:00:00Z", []string{
			"2092-02-29T00:00:00Z 2092-02-29T00:00:00+00:00 ",
			"2096-02-29T00:00:00Z 2096-02-29T00:00:00+00:00 ",
			"2104-02-29T00:00:00Z 2104-02-29T00:00:00+00:00 ", // 2100 has none
		}, "At 00:00, on day 29 of the month, in February (UTC)", []string{"29 February exists in leap years only."}},
		{"every 90 minutes", "@every 90m", "", "2026-01-01T00:00:01Z", []string{
			"2026-01-01T01:30:00Z 2026-01-01T01:30:00+00:00 ",
			"2026-01-01T03:00:00Z 2026-01-01T03:00:00+00:00 ",
			"2026-01-01T04:30:00Z 2026-01-01T04:30:00+00:00 ",
		}, "Every 1 hour 30 minutes, counted from 1970-01-01 00:00 UTC", []string{}},

		{"hourly, clocks go forward", "0 * * * *", "Europe/Berlin", "2026-03-29T00:00:00+01:00", []string{
			"2026-03-28T23:00:00Z 2026-03-29T00:00:00+01:00 ",
			"2026-03-29T00:00:00Z 2026-03-29T01:00:00+01:00 ",
			"2026-03-29T01:00:00Z 2026-03-29T03:00:00+02:00 " + jump,
			"2026-03-29T02:00:00Z 2026-03-29T04:00:00+02:00 ",
		}, "Every hour, on the hour (Europe/Berlin)", []string{}},
		{"hourly, clocks go back", "0 * * * *", "Europe/Berlin", "2026-10-25T00:30:00+02:00", []string{
			"2026-10-24T23:00:00Z 2026-10-25T01:00:00+02:00 ",
			"2026-10-25T00:00:00Z 2026-10-25T02:00:00+02:00 " + first,
			"2026-10-25T01:00:00Z 2026-10-25T02:00:00+01:00 " + again,
			"2026-10-25T02:00:00Z 2026-10-25T03:00:00+01:00 ",
		}, "Every hour, on the hour (Europe/Berlin)", []string{}},
		{"before the change, forward", "30 1 * * *", "Europe/Berlin", "2026-03-28T00:00:00+01:00", []string{
			"2026-03-28T00:30:00Z 2026-03-28T01:30:00+01:00 ",
			"2026-03-29T00:30:00Z 2026-03-29T01:30:00+01:00 ",
			"2026-03-29T23:30:00Z 2026-03-30T01:30:00+02:00 ",
		}, "At 01:30, every day (Europe/Berlin)", []string{}},
		{"before the change, back", "30 1 * * *", "Europe/Berlin", "2026-10-24T00:00:00+02:00", []string{
			"2026-10-23T23:30:00Z 2026-10-24T01:30:00+02:00 ",
			"2026-10-24T23:30:00Z 2026-10-25T01:30:00+02:00 ",
			"2026-10-26T00:30:00Z 2026-10-26T01:30:00+01:00 ",
		}, "At 01:30, every day (Europe/Berlin)", []string{}},
		{"in the hour that does not exist", "30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00+01:00", []string{
			"2026-03-28T01:30:00Z 2026-03-28T02:30:00+01:00 ",
			"2026-03-29T01:00:00Z 2026-03-29T03:00:00+02:00 " + gap,
			"2026-03-30T00:30:00Z 2026-03-30T02:30:00+02:00 ",
		}, "At 02:30, every day (Europe/Berlin)", []string{}},
		{"in the hour that comes twice", "30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00+02:00", []string{
			"2026-10-24T00:30:00Z 2026-10-24T02:30:00+02:00 ",
			"2026-10-25T00:30:00Z 2026-10-25T02:30:00+02:00 " + once,
			"2026-10-26T01:30:00Z 2026-10-26T02:30:00+01:00 ",
		}, "At 02:30, every day (Europe/Berlin)", []string{}},
		{"the Sunday of a change at midnight", "0 12 * * 0", "America/Santiago", "2026-08-30T00:00:00-04:00", []string{
			"2026-08-30T16:00:00Z 2026-08-30T12:00:00-04:00 ",
			"2026-09-06T15:00:00Z 2026-09-06T12:00:00-03:00 ",
			"2026-09-13T15:00:00Z 2026-09-13T12:00:00-03:00 ",
		}, "At 12:00, on Sundays (America/Santiago)", []string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := preview(t, a, fmt.Sprintf(`{"cron_expression":%q,"timezone":%q,"from":%q,"count":%d}`,
				test.expression, test.zone, test.from, len(test.want)))
			var fires []string
			for _, f := range got.Fires {
				note := ""
				if f.Note != nil {
					note = *f.Note
				}
				fires = append(fires, f.UTC+" "+f.Local+" "+note)
			}
			if !slices.Equal(fires, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(fires, "\n"), strings.Join(test.want, "\n"))
			}
			if got.Description != test.description || !slices.Equal(got.Warnings, test.warnings) {
				t.Errorf("description %q, warnings %q\nwant        %q, %q", got.Description, got.Warnings, test.description, test.warnings)
			}
		})
	}
}

// TestPreviewWarns checks that each kind of surprise is told.
func TestPreviewWarns(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	a.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC) }
	for _, test := range []struct {
		body     string
		fires    int
		warnings []string
	}{
		{`{"cron_expression":"0 9 * * *"}`, 10, []string{}},
		{`{"cron_expression":"* * * * *","count":1000}`, 1000, []string{
			"This fires every minute of each selected hour: 1440 runs a day."}},
		{`{"cron_expression":"*/1 9-10 * * *","timezone":null,"count":null,"from":null}`, 10, []string{
			"This fires every minute of each selected hour: 120 runs a day."}},
		{`{"cron_expression":"0 9 1 * 1","count":1}`, 1, []string{
			"Day-of-month and day-of-week are both set: a day has to match only one of the two, not both."}},
		{`{"cron_expression":"@every 1m"}`, 10, []string{"This fires every minute: 1440 runs a day."}},
		{`{"cron_expression":"@every 7h","timezone":"Europe/Berlin"}`, 10, []string{
			"A period of 7h0m0s does not divide a day, so the times of day change from one day to the next.",
			"The time zone Europe/Berlin has no effect: @every counts from 1970-01-01 00:00 UTC."}},
		{`{"cron_expression":"0 0 30 2 *"}`, 0, []string{"This never fires, because day 30 cannot fall in February. A definition with " +
			"this expression is refused; choose another day or month."}},
		{`{"cron_expression":"0 0 1 1 *","from":"9997-06-01T00:00:00Z"}`, 2, []string{"No more times come before the year 10000."}},
		{`{"cron_expression":"0 0 29-30/30 2 */7","count":1000}`, 259, []string{
			"Day-of-month and day-of-week both select days, and one of them begins with *: a day has to match both.",
			"29 February exists in leap years only.",
			"The step in 29-30/30 of the day-of-month field reaches past the end, so only 29 is selected.",
			"The step in */7 of the day-of-week field reaches past the end, so only 0 is selected.",
			"No more times come before the year 10000."}},
	} {
		got := preview(t, a, test.body)
		if len(got.Fires) != test.fires || !slices.Equal(got.Warnings, test.warnings) || got.Description == "" {
			t.Errorf("%s: %d fires, %q\nwant %d, %q", test.body, len(got.Fires), got.Warnings, test.fires, test.warnings)
		}
	}
	if got := preview(t, a, `{"cron_expression":"4 3 * * *"}`); got.Fires[0].UTC != "2026-01-03T03:04:00Z" {
		t.Errorf("without from: %+v", got.Fires[0]) // 03:04 was five seconds ago
	}
	if got := call(t, a, "POST", "/cron/preview", `{"cron_expression":"0 0 31 4 *"}`).Body.String(); !strings.HasPrefix(got,
		`{"fires":[],"description":"At 00:00, on day 31 of the month, in April (UTC)","warnings":["This never fires`) {
		t.Errorf("never: %s", got)
	}
}

func TestBadPreviews(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testOptions())
	for _, test := range []struct {
		body   string
		status int
		faults []Fault
	}{
		{``, 422, []Fault{{"cron_expression", "required", `is required, as in "0 9 * * 1-5"`}}},
		{`null`, 422, []Fault{{"cron_expression", "required", `is required, as in "0 9 * * 1-5"`}}},
		{`{"cron_expression":"61 * * * *"}`, 422, []Fault{{"cron_expression", "range",
			`the minute field takes 0 to 59, but "61" asks for 61; write a value in that range`}}},
		{`{"cron_expression":" "}`, 422, []Fault{{"cron_expression", "empty", "the expression is empty; write five fields " +
			`(minute hour day-of-month month day-of-week), for example "0 9 * * 1-5"`}}},
		{`{"cron_expression":"0 0 30 2 *","timezone":"CEST5"}`, 422, []Fault{{"timezone", "unknown_zone",
			`"CEST5" is not a known time zone; use an IANA name such as Europe/Berlin or America/New_York, not an offset, ` +
				`or leave it empty for UTC`}}},
		{`{"cron_expression":"@weekdays","count":0,"from":"1969-12-31T23:59:59Z"}`, 422, []Fault{
			{"count", "range", "must be from 1 to 1000"},
			{"from", "range", "must be in the years 1970 to 9999"},
			{"cron_expression", "descriptor", `"@weekdays" is not known; known are @yearly, @annually, @monthly, @weekly, @daily, ` +
				`@midnight, @hourly and @every, in lower case`}}},
		{`{"cron_expression":"@daily","count":1001}`, 422, []Fault{{"count", "range", "must be from 1 to 1000"}}},
		{`{"cron_expression":"@daily","count":1.5}`, 422, []Fault{{"count", "type", "must be a whole number"}}},
		{`{"cron_expression":"@daily","count":"5"}`, 422, []Fault{{"count", "type", "must be a whole number, but is a string"}}},
		{`{"cron_expression":["@daily"]}`, 422, []Fault{{"cron_expression", "type", "must be a string, but is a list"}}},
		{`{"cron_expression":"@daily","from":"tomorrow"}`, 422, []Fault{{"from", "time",
			`must be an RFC 3339 time, as in "2026-01-31T09:00:00Z"`}}},
		{`{"cron_expression":"@daily","from":7}`, 422, []Fault{{"from", "time",
			`must be an RFC 3339 time, as in "2026-01-31T09:00:00Z"`}}},
		{`{"cron_expression":"@daily","to":"2026-01-31T09:00:00Z"}`, 422,
			[]Fault{{"to", "unknown_field", "is not a field that is known here"}}},
		{`{"Cron_Expression":"@daily"}`, 422, []Fault{{"Cron_Expression", "unknown_field", "is not a field that is known here"}}},
		{`{"cron_expression":"@daily","cron_expression":"@hourly"}`, 422,
			[]Fault{{"cron_expression", "duplicate_field", "is given twice"}}},
		{`["@daily"]`, 422, []Fault{{"body", "type", "must be an object, but is a list"}}},
		{`{"cron_expression":"@daily"`, 400, []Fault{{"body", "json", "is not valid JSON at byte 27: unexpected EOF"}}},
		{`{"cron_expression":"@daily"}{}`, 400, []Fault{{"body", "json",
			"is not valid JSON at byte 28: invalid character '{' after top-level value"}}},
		{`{"cron_expression":"` + strings.Repeat("0", 300) + `"}`, 422, []Fault{{"cron_expression", "too_long",
			"the expression is 300 bytes long, the limit is 200; use ranges and steps instead of long lists, or several definitions"}}},
		{`"` + strings.Repeat("x", maxFields) + `"`, 413, []Fault{{"body", "max_bytes",
			"the body is larger than 16 KiB, which is the most that is allowed here"}}},
	} {
		kinds := map[int]string{400: "not-json", 413: "too-large", 422: "invalid"}
		p := wantProblem(t, call(t, a, "POST", "/cron/preview", test.body), test.status, kinds[test.status])
		if fmt.Sprint(p.Errors) != fmt.Sprint(test.faults) {
			t.Errorf("%.60s\ngot  %q\nwant %q", test.body, p.Errors, test.faults)
		}
	}
}

// holding is a store with one definition, which a change does not get past the check of.
func holding(t *testing.T, body string) *fakeStore {
	t.Helper()
	doc, err := definition.ParseDocument([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	stored := func(d definition.Document) definition.Stored {
		return definition.Stored{Definition: definition.Definition{ID: someID, Revision: 1, Document: d}}
	}
	return &fakeStore{
		get: func(string) (definition.Stored, error) { return stored(doc), nil },
		update: func(change func(definition.Document) (definition.Document, error)) (definition.Stored, error) {
			changed, err := change(doc)
			if err != nil {
				return definition.Stored{}, fmt.Errorf("update definition: %w", err)
			}
			return stored(changed), nil
		},
	}
}

func TestNextFires(t *testing.T) {
	t.Parallel()
	cron := func(rest string) string {
		return `{"name":"a","trigger_config":{"trigger_type":"cron",` + rest + `}}`
	}
	once := func(rest string) string {
		return `{"name":"a","trigger_config":{"trigger_type":"scheduled",` + rest + `}}`
	}
	const resume = "nothing is due until it is enabled, with POST /activity-definitions/{id}/resume."
	for _, test := range []struct {
		name, body, query string
		want              string
	}{
		{"strictly after now, ten of them", cron(`"cron_expression":"@every 1h"`), "", `{"fires":[` + strings.Join([]string{
			fire("2026-06-01T13:00:00Z", "2026-06-01T13:00:00+00:00", ""), fire("2026-06-01T14:00:00Z", "2026-06-01T14:00:00+00:00", ""),
			fire("2026-06-01T15:00:00Z", "2026-06-01T15:00:00+00:00", ""), fire("2026-06-01T16:00:00Z", "2026-06-01T16:00:00+00:00", ""),
			fire("2026-06-01T17:00:00Z", "2026-06-01T17:00:00+00:00", ""), fire("2026-06-01T18:00:00Z", "2026-06-01T18:00:00+00:00", ""),
			fire("2026-06-01T19:00:00Z", "2026-06-01T19:00:00+00:00", ""), fire("2026-06-01T20:00:00Z", "2026-06-01T20:00:00+00:00", ""),
			fire("2026-06-01T21:00:00Z", "2026-06-01T21:00:00+00:00", ""), fire("2026-06-01T22:00:00Z", "2026-06-01T22:00:00+00:00", ""),
		}, ",") + `],"description":"Every hour, counted from 1970-01-01 00:00 UTC","warnings":[]}`},
		{"in its zone, with jitter", cron(`"cron_expression":"0 9 * * 1-5","timezone":"Europe/London","jitter":"30s"`), "?count=2",
			`{"fires":[` + fire("2026-06-02T08:00:00Z", "2026-06-02T09:00:00+01:00", "") + `,` +
				fire("2026-06-03T08:00:00Z", "2026-06-03T09:00:00+01:00", "") + `],"description":"At 09:00, Monday to Friday ` +
				`(Europe/London)","warnings":["Each run starts up to 30s later than shown, at random: the times are nominal."]}`},
		{"with notes", cron(`"cron_expression":"30 2 25 10 *","timezone":"Europe/Berlin"`), "?count=1",
			`{"fires":[` + fire("2026-10-25T00:30:00Z", "2026-10-25T02:30:00+02:00", "02:30 comes twice on this day (clocks go back from "+
				"03:00 to 02:00). It fires once, at the first pass.") + `],"description":"At 02:30, on day 25 of the month, in October ` +
				`(Europe/Berlin)","warnings":[]}`},
		{"not before start_at, which counts", cron(`"cron_expression":"0 0 * * *","start_at":"2026-07-01T00:00:00Z"`), "?count=1",
			`{"fires":[` + fire("2026-07-01T00:00:00Z", "2026-07-01T00:00:00+00:00", "") + `],"description":"At 00:00, every day (UTC)",` +
				`"warnings":["Nothing is due before start_at (2026-07-01T00:00:00Z)."]}`},
		{"up to end_at, which counts", cron(`"cron_expression":"0 0 * * *","end_at":"2026-06-03T00:00:00Z"`), "?count=5",
			`{"fires":[` + fire("2026-06-02T00:00:00Z", "2026-06-02T00:00:00+00:00", "") + `,` +
				fire("2026-06-03T00:00:00Z", "2026-06-03T00:00:00+00:00", "") + `],"description":"At 00:00, every day (UTC)",` +
				`"warnings":["These are the last times: nothing is due after end_at (2026-06-03T00:00:00Z)."]}`},
		{"none before end_at", cron(`"cron_expression":"0 0 * * *","end_at":"2026-06-01T23:00:00Z"`), "",
			`{"fires":[],"description":"At 00:00, every day (UTC)","warnings":["No time of the expression comes before end_at ` +
				`(2026-06-01T23:00:00Z): nothing is due any more."]}`},
		{"after end_at", cron(`"cron_expression":"* * * * *","end_at":"2026-05-01T00:00:00Z"`), "",
			`{"fires":[],"description":"Every minute (UTC)","warnings":["end_at (2026-05-01T00:00:00Z) is past: nothing is due any more.",` +
				`"This fires every minute of each selected hour: 1440 runs a day."]}`},
		{"disabled", `{"name":"a","enabled":false,"trigger_config":{"trigger_type":"cron","cron_expression":"@daily"}}`, "",
			`{"fires":[],"description":"At 00:00, every day (UTC)","warnings":["The definition is disabled: ` + resume + `"]}`},
		{"paused for a reason", `{"name":"a","enabled":false,"pause_reason":"the target moves","trigger_config":{"trigger_type":"cron",` +
			`"cron_expression":"@daily","jitter":"30s","end_at":"2026-05-01T00:00:00Z"}}`, "",
			`{"fires":[],"description":"At 00:00, every day (UTC)","warnings":["The definition is disabled (the target moves): ` + resume +
				`","end_at (2026-05-01T00:00:00Z) is past: nothing is due any more."]}`},
		{"once", once(`"run_at":"2026-12-24T18:00","timezone":"Europe/Berlin","jitter":"5m"`), "",
			`{"fires":[` + fire("2026-12-24T17:00:00Z", "2026-12-24T18:00:00+01:00", "") + `],"description":"Once, on 2026-12-24 at 18:00:00 ` +
				`(Europe/Berlin)","warnings":["Each run starts up to 5m0s later than shown, at random: the times are nominal."]}`},
		{"once, in the hour that does not exist", once(`"run_at":"2027-03-28T02:30","timezone":"Europe/Berlin"`), "?count=1",
			`{"fires":[` + fire("2027-03-28T01:00:00Z", "2027-03-28T03:00:00+02:00", "02:30 does not exist on this day (clocks go forward "+
				"from 02:00 to 03:00), so this fires at the first moment after the gap.") + `],"description":"Once, on 2027-03-28 at ` +
				`03:00:00 (Europe/Berlin)","warnings":[]}`},
		{"once, now", once(`"run_at":"2026-06-01T12:00:00Z"`), "",
			`{"fires":[],"description":"Once, on 2026-06-01 at 12:00:00 (UTC)","warnings":["run_at (2026-06-01T12:00:00Z) is past: nothing ` +
				`is due any more."]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := testOptions()
			o.Store = holding(t, test.body)
			a := newAPI(t, o)
			a.now = func() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }
			w := call(t, a, "GET", "/activity-definitions/"+someID+"/next-fires"+test.query, "")
			if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != test.want {
				t.Errorf("%d\ngot  %s\nwant %s", w.Code, got, test.want)
			}
		})
	}
}

func fire(utc, local, note string) string {
	if note == "" {
		return fmt.Sprintf(`{"utc":%q,"local":%q,"note":null}`, utc, local)
	}
	return fmt.Sprintf(`{"utc":%q,"local":%q,"note":%q}`, utc, local, note)
}

func TestNextFiresRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		body, path   string
		status       int
		kind, detail string
	}{
		{`{"name":"a","trigger_config":{"trigger_type":"manual"}}`, someID + "/next-fires", 409, "no-slots", "definition " + someID +
			" has a trigger of type manual, which has no times of its own; cron and scheduled ones have"},
		{`{"name":"a","trigger_config":{"trigger_type":"event","event_type":"a"}}`, someID + "/next-fires", 409, "no-slots",
			"definition " + someID + " has a trigger of type event, which has no times of its own; cron and scheduled ones have"},
		{"", someID + "/next-fires", 404, "not-found", "there is no definition " + someID + "; it may have been deleted"},
		{"", someID + "/next-fires?count=1001", 422, "invalid", `count: "1001" is not a count: it must be a whole number from 1 to 1000`},
		{"", someID + "/next-fires?count=x", 422, "invalid", `count: "x" is not a count: it must be a whole number from 1 to 1000`},
		{"", someID + "/next-fires?limit=5", 422, "invalid", `limit: is not a parameter of this request; the known ones are count`},
		{"", "7/next-fires", 422, "invalid", `id: "7" is not an id: an id is a UUID such as 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b`},
	} {
		o := testOptions()
		o.Store = &fakeStore{get: func(string) (definition.Stored, error) { return definition.Stored{}, definition.ErrNotFound }}
		if test.body != "" {
			o.Store = holding(t, test.body)
		}
		p := wantProblem(t, call(t, newAPI(t, o), "GET", "/activity-definitions/"+test.path, ""), test.status, test.kind)
		if p.Detail != test.detail {
			t.Errorf("%s: %q, want %q", test.path, p.Detail, test.detail)
		}
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	const on = `{"name":"a","trigger_config":{"trigger_type":"manual"}}`
	const off = `{"name":"a","enabled":false,"pause_reason":"old","trigger_config":{"trigger_type":"manual"}}`
	for _, test := range []struct {
		stored, path, body string
		enabled            bool
		reason             string
	}{
		{on, "pause", "", false, ""},
		{on, "pause", "{}", false, ""},
		{on, "pause", `{"reason":"new"}`, false, "new"},
		{on, "pause", `{"reason":"` + strings.Repeat("é", 200) + `"}`, false, strings.Repeat("é", 200)},
		{off, "pause", `{"reason":"new"}`, false, "new"},
		{off, "pause", `{"reason":null}`, false, "old"},
		{off, "pause", "", false, "old"},
		{off, "pause", `{"reason":""}`, false, ""},
		{off, "resume", "", true, ""},
		{off, "resume", "{}", true, ""},
		{on, "resume", "", true, ""},
	} {
		o := testOptions()
		o.Store = holding(t, test.stored)
		w := call(t, newAPI(t, o), "POST", "/activity-definitions/"+someID+"/"+test.path, test.body)
		got := decode[struct {
			ID          string
			Enabled     bool
			PauseReason string `json:"pause_reason"`
		}](t, w)
		if w.Code != 200 || got.ID != someID || got.Enabled != test.enabled || got.PauseReason != test.reason {
			t.Errorf("%s %s of %s: %d %+v", test.path, test.body, test.stored, w.Code, got)
		}
	}
	for _, test := range [][3]string{
		{"pause", `{"reason":"` + strings.Repeat("é", 201) + `"}`, "reason: must be at most 200 characters long"},
		{"pause", `{"reason":7}`, "reason: must be a string, but is a number"},
		{"pause", `{"until":"tomorrow"}`, "until: is not a field that is known here"},
		{"resume", `{"reason":"done"}`, "reason: is not a field that is known here"},
	} {
		o := testOptions()
		o.Store = &fakeStore{}
		p := wantProblem(t, call(t, newAPI(t, o), "POST", "/activity-definitions/"+someID+"/"+test[0], test[1]), 422, "invalid")
		if p.Detail != test[2] {
			t.Errorf("%s %s: %q, want %q", test[0], test[1], p.Detail, test[2])
		}
	}
}
