//go:build faults

package faults

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/activity-core/activity-core/test/system"
)

// zoneFile writes a time zone (RFC 8536, version 2) whose clocks change once, at an instant.
func zoneFile(t *testing.T, path string, before, after time.Duration, at time.Time) {
	t.Helper()
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if err := binary.Write(&b, binary.BigEndian, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	header := func(changes, kinds, letters int32) {
		b.WriteString("TZif2")
		put([15]byte{}, int32(0), int32(0), int32(0), changes, kinds, letters)
	}
	header(0, 1, 1) // the part for old readers
	put(int32(before.Seconds()), byte(0), byte(0), byte(0))
	header(1, 2, 4)
	put(at.Unix(), byte(1))
	put(int32(before.Seconds()), byte(0), byte(0), int32(after.Seconds()), byte(1), byte(2))
	b.WriteString("A\x00B\x00\n\n")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The clocks of two zones change while everything runs, Temporal included: forward in one, back in the other, by an hour, as
// in Berlin. Every slot that the change moves, and every one that Temporal loses for it, runs once; what Temporal fires
// besides is told to be no slot.
func TestClocksChange(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "activity-core-zones-") // readable by whoever runs the servers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	change := system.NextWhole(time.Minute, 100*time.Second)
	zoneFile(t, filepath.Join(dir, "Test", "Forward"), time.Hour, 2*time.Hour, change)
	zoneFile(t, filepath.Join(dir, "Test", "Back"), 2*time.Hour, time.Hour, change)
	zones := "ZONEINFO=" + dir
	s := system.NewOnOwnStack(t, zones)
	s.Start("worker", zones)
	s.Start("api", zones)

	create := func(name, expression, zone string) string {
		t.Helper()
		return s.Create(fmt.Sprintf(`{"name": %q, "concurrency": {"limit": 0}, "trigger_config": {"trigger_type": "cron",
			"cron_expression": %q, "timezone": "Test/%s", "end_at": %q}}`, name, expression, zone,
			change.Add(2*time.Minute).Format(time.RFC3339)))
	}
	// A clock's reading some time after the change, if it had gone on as before.
	asBefore := func(offset, later time.Duration) string { return change.Add(offset + later).Format("4 15 * * *") }

	// 20 minutes into the hour that does not exist: due at the change itself.
	moved := create("moved", asBefore(time.Hour, 20*time.Minute), "Forward")
	// The first reading after the gap is an ordinary time.
	after := create("after", change.Add(2*time.Hour+time.Minute).Format("4 15 * * *"), "Forward")
	// Real time goes on in both zones.
	forward := create("forward", "* * * * *", "Forward")
	back := create("back", "* * * * *", "Back")
	// A minute after the change the clocks show for the second time what they showed 59 minutes before it: no slot.
	again := create("again", change.Add(time.Hour+time.Minute).Format("4 15 * * *"), "Back")
	for _, id := range []string{moved, after, forward, back, again} {
		s.Synced(id, 20*time.Second)
	}
	if left := time.Until(change); left < time.Minute+5*time.Second {
		t.Fatalf("everything was ready only %s before the change", left)
	}
	begun := system.NextWhole(time.Minute, 0)

	slots := s.Accounted(system.Account{Name: "moved", Definition: moved, Slots: []time.Time{change}, Within: settled, Ghosts: true})
	if slots[0].Scheduled {
		t.Error("Temporal's schedule started the time that does not exist: this test proves nothing any more")
	}
	s.Accounted(system.Account{Name: "after", Definition: after, Slots: []time.Time{change.Add(time.Minute)}, Within: settled,
		Ghosts: true})
	lost := 0
	for name, id := range map[string]string{"forward": forward, "back": back} {
		slots := s.Accounted(system.Account{Name: name, Definition: id, Slots: system.Slots(begun, change.Add(2*time.Minute), time.Minute),
			Within: settled, Ghosts: true})
		for _, run := range slots {
			if name == "back" && !run.Scheduled {
				lost++
			}
		}
	}
	if lost == 0 {
		t.Error("Temporal's schedule lost no slot in the repeated hour: this test proves nothing any more")
	}
	// Of the second pass there is at most a row that says that it was no slot.
	for _, run := range s.Runs(again) {
		if run.Str("status") != "skipped" || run.Str("reason") != "not_due" {
			t.Errorf("the second pass is %s %s", run.Str("status"), run.Str("reason"))
		}
	}
}
