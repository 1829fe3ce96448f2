package migrations_test

import (
	"strings"
	"testing"

	"github.com/activity-core/activity-core/internal/testenv"
	"github.com/activity-core/activity-core/migrations"
)

// TestRoutingDownWithRows takes the revision of routing back from a database that has used all of it, and applies it again.
func TestRoutingDownWithRows(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	m := open(t, url, nil)
	full := contents(t, url)
	exec(t, url, `
		INSERT INTO events (event_id, type, source, digest, stream, stream_seq, published_at, matches)
		VALUES ('e', 'a', '', 'x', 'S', 1, now(), 1);
		INSERT INTO delivery_attempts (stream, stream_seq, published_at, attempts) VALUES ('S', 1, now(), 2);
		INSERT INTO replays (id, from_at, to_at, event_types, definition_ids, dry_run, status)
		VALUES ('00000000-0000-7000-8000-000000000002', now(), now(), '{}', '{}', false, 'running');
		INSERT INTO dead_letters (id, stream, stream_seq, subject, event_id, reason, detail, data, data_size, deliveries, published_at,
		                          header, status, retries, claims, lease_until)
		VALUES ('00000000-0000-7000-8000-000000000003', 'S', 1, 'p.a', 'e', 'bad_time', '', '', 0, 1, now(),
		        '{"a":["\u0000"]}', 'retrying', 1, 2, now());
		INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, run_limit, run_timeout,
		                  workflow_id, start_after, replay_id)
		VALUES ('00000000-0000-7000-8000-000000000004', '00000000-0000-7000-8000-000000000001', 'd', 1, 'replay', 'event-e', 'accepted', 0,
		        '1 h', 'w', now(), '00000000-0000-7000-8000-000000000002');
		UPDATE installation SET unmatched_since = now()`)
	if err := m.Down(t.Context(), latestAfter(t, "routing")); err != nil {
		t.Fatal(err)
	}
	// What the older version reads is there still, in its words.
	const left = `SELECT r.kind || ' ' || r.occurrence_key || ' ' || l.reason FROM runs r, dead_letters l`
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := connect(t, url).QueryRow(t.Context(), left).Scan(&got); err != nil || got != "event event-e bad_time" {
		t.Errorf("left is %q, %v", got, err)
	}
	if again := contents(t, url); again != full {
		t.Errorf("down and up made another schema:\n%s\nwant\n%s", again, full)
	}
}

// latestAfter returns how many revisions there are from a named one on.
func latestAfter(t *testing.T, name string) uint {
	t.Helper()
	for i, r := range migrations.Revisions() {
		if strings.HasSuffix(r.String(), "_"+name) {
			return uint(len(migrations.Revisions()) - i)
		}
	}
	t.Fatalf("there is no revision %s", name)
	return 0
}
