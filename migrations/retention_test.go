package migrations_test

import (
	"testing"

	"github.com/activity-core/activity-core/internal/testenv"
)

// TestRetentionDownWithRows takes the revision of retention back from a database in which runs have ended, and applies it again.
func TestRetentionDownWithRows(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	m := open(t, url, nil)
	full := contents(t, url)
	const run = `
		INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, run_limit, run_timeout, workflow_id,
		                  start_after, finished_at)
		SELECT gen_random_uuid(), '00000000-0000-7000-8000-000000000001', 'd', 1, 'manual', gen_random_uuid()::text, 'skipped', 0, '1 h', 'w',
		       now(), now();`
	ends := func() (n int) {
		t.Helper()
		if err := connect(t, url).QueryRow(t.Context(), `SELECT count(*) FROM run_ends`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	exec(t, url, run+`UPDATE installation SET stream_age = '7 days'`)
	if n := ends(); n != 1 {
		t.Errorf("%d ends are to be told, want 1", n)
	}
	if err := m.Down(t.Context(), latestAfter(t, "retention")); err != nil {
		t.Fatal(err)
	}
	// An older version ends runs without anybody to tell.
	exec(t, url, run)
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := ends(); n != 0 {
		t.Errorf("%d ends are to be told, want none: they are of the past", n)
	}
	if again := contents(t, url); again != full {
		t.Errorf("down and up made another schema:\n%s\nwant\n%s", again, full)
	}
}
