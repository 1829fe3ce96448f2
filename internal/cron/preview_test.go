package cron

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestPreviewOfWhatNeverFires(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ expr, zone, description, never string }{
		{"0 0 30 2 *", "", "At 00:00, on day 30 of the month, in February (UTC)",
			"This never fires, because day 30 cannot fall in February. A definition with this expression is refused; " +
				"choose another day or month."},
		{"  15\t9  31  4,6,SEP */2", "Europe/Berlin",
			"At 09:15, on Tuesdays, Thursdays, Saturdays and Sundays, only on day 31 of the month, in April, June and September (Europe/Berlin)",
			"This never fires, because day 31 cannot fall in April, June and September. A definition with this expression is refused; " +
				"choose another day or month."},
		{"* * 30-31 2 *", "", "Every minute, on days 30 and 31 of the month, in February (UTC)",
			"This never fires, because days 30 and 31 cannot fall in February. A definition with this expression is refused; " +
				"choose another day or month."},
	} {
		if _, err := Parse(tc.expr, tc.zone); err == nil {
			t.Errorf("%q: Parse takes it", tc.expr)
		}
		s, never, err := Preview(tc.expr, tc.zone)
		if err != nil || never != tc.never {
			t.Errorf("%q: never %q, %v; want %q", tc.expr, never, err, tc.never)
			continue
		}
		if got := s.Describe(); got != tc.description {
			t.Errorf("%q: %q, want %q", tc.expr, got, tc.description)
		}
		if slot, ok := s.Next(time.Unix(0, 0)); ok {
			t.Errorf("%q never fires, but is due at %v", tc.expr, slot)
		}
	}
}

func TestPreviewIsParseOtherwise(t *testing.T) {
	t.Parallel()
	s, never, err := Preview("0 9 * * 1-5", "Europe/Berlin")
	if err != nil || never != "" || s.Describe() != "At 09:00, Monday to Friday (Europe/Berlin)" {
		t.Errorf("%v %q %v", s, never, err)
	}
	for _, tc := range []struct{ expr, zone, field, rule string }{
		{"61 * * * *", "", FieldExpression, "range"},
		{"", "", FieldExpression, "empty"},
		{"0 9 * * *", "Europe/Berlinn", FieldZone, "unknown_zone"},
		{"0 0 30 2 *", "Europe/Berlinn", FieldZone, "unknown_zone"},
	} {
		_, _, err := Preview(tc.expr, tc.zone)
		var refused *Error
		if !errors.As(err, &refused) || refused.Field != tc.field || refused.Rule != tc.rule {
			t.Errorf("%q in %q: %v, want %s of %s", tc.expr, tc.zone, err, tc.rule, tc.field)
		}
	}
}

func TestTimeNote(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, zone, want string }{
		{"2026-03-29T02:30", "Europe/Berlin",
			"02:30 does not exist on this day (clocks go forward from 02:00 to 03:00), so this fires at the first moment after the gap."},
		{"2026-03-29T02:30:20", "Europe/Berlin",
			"02:30 does not exist on this day (clocks go forward from 02:00 to 03:00), so this fires at the first moment after the gap."},
		{"2026-10-25T02:30:07", "Europe/Berlin",
			"02:30 comes twice on this day (clocks go back from 03:00 to 02:00). It fires once, at the first pass."},
		{"2026-10-25T02:30:00+01:00", "Europe/Berlin", ""}, // the offset says which
		{"2026-03-29T03:00", "Europe/Berlin", ""},
		{"2026-12-24T18:00", "", ""},
		{"tomorrow", "", ""},
	} {
		if got := TimeNote(tc.text, tc.zone); got != tc.want {
			t.Errorf("%s in %s: %q, want %q", tc.text, tc.zone, got, tc.want)
		}
	}
}

// FuzzPreview: what Parse takes, Preview takes too and as the same; what never fires is the only thing that it takes besides.
func FuzzPreview(f *testing.F) {
	f.Add("0 0 30 2 *", "UTC")
	f.Add("0 0 31 4,jun */2", "Europe/Berlin")
	f.Add("@every 1h", "")
	f.Fuzz(func(t *testing.T, expr, zone string) {
		s, never, err := Preview(expr, zone)
		parsed, parseErr := Parse(expr, zone)
		switch {
		case err == nil && never == "" && (parseErr != nil || parsed.Describe() != s.Describe()):
			t.Errorf("%q: Preview says %q, Parse %v", expr, s.Describe(), parseErr)
		case never != "" && (parseErr == nil || !strings.Contains(parseErr.Error(), "never fires") || s.Describe() == ""):
			t.Errorf("%q: never %q, Parse %v", expr, never, parseErr)
		case err != nil && parseErr == nil:
			t.Errorf("%q: Parse takes it, Preview says %v", expr, err)
		}
	})
}
