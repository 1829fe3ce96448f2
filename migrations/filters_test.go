package migrations_test

import (
	"testing"

	"github.com/activity-core/activity-core/internal/testenv"
)

// TestLabelsOfWhatIsThere applies the revision of filters to definitions with labels, one of which Postgres cannot look into.
func TestLabelsOfWhatIsThere(t *testing.T) {
	t.Parallel()
	url := testenv.DatabaseURL(t)
	m := open(t, url, nil)
	full := contents(t, url)
	if err := m.Down(t.Context(), latestAfter(t, "run_filters")); err != nil {
		t.Fatal(err)
	}
	exec(t, url, `
		INSERT INTO definitions (id, name, revision, enabled, enabled_since, trigger_type, document, created_at, updated_at)
		SELECT ('00000000-0000-7000-8000-00000000000' || n)::uuid, 'd' || n, 1, true, now(), 'manual', document::json, now(), now()
		FROM (VALUES (1, '{"labels": {"team": "growth", "env": "prod"}}'), (2, '{"labels": {"team": "a\u0000b", "env": "dev"}}'),
		             (3, '{}'), (4, '{"labels": {}}')) AS v (n, document)`)
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got string
	err := connect(t, url).QueryRow(t.Context(), `
		SELECT string_agg(d.name || ' ' || l.key || '=' || l.value, ', ' ORDER BY d.name, l.key)
		FROM definition_labels l JOIN definitions d ON d.id = l.definition_id`).Scan(&got)
	if want := "d1 env=prod, d1 team=growth"; err != nil || got != want {
		t.Errorf("labels %q, %v; want %q", got, err, want)
	}
	// What labels know of their definitions is the same whether these were there before or not.
	copied := `SELECT string_agg(concat_ws(' ', key, live, seq, trigger_type, enabled), ', ' ORDER BY key) FROM definition_labels`
	if err := m.Down(t.Context(), latestAfter(t, "label_lists")); err != nil {
		t.Fatal(err)
	}
	if err := m.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = connect(t, url).QueryRow(t.Context(), copied).Scan(&got)
	if want := "env t 1 manual t, team t 1 manual t"; err != nil || got != want {
		t.Errorf("labels know %q, %v; want %q", got, err, want)
	}
	if again := contents(t, url); again != full {
		t.Errorf("down and up made another schema:\n%s\nwant\n%s", again, full)
	}
}
