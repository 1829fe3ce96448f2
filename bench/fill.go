package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// What the tables are filled with. Numbers of rows not named here are those of the options.
const (
	fillDeadLetters = 20_000
	fillBackfills   = 2_000 // and as many replays
	fillRevisions   = 10_000
	fillAudit       = 100_000
	fillTokens      = 1_000
	fillItems       = 10_000
)

// What the fill makes special, for filters that choose much and filters that choose little. A seldom thing is as old as can be, which
// is where a walk from the newest finds it last.
const (
	busyDefinition   = "00000001-0000-7000-8000-000000000001" // has the most runs of all, and all backfills of some
	seldomDefinition = "00000001-0000-7000-8000-0000000000ff" // has a few old runs only
	busyBackfill     = "00000002-0000-7000-8000-000000000001"
	busyReplay       = "00000003-0000-7000-8000-000000000001"
	someRun          = "00000004-0000-7000-8000-000000000001" // has a task with many items; runs make up for it
	busyEvent        = "event-busy"
	seldomEvent      = "event-seldom"
	commonLabel      = "env=prod"     // six in ten definitions
	teamLabel        = "team=t7"      // one in a hundred
	seldomLabel      = "team=seldom"  // a few, whose runs are old
	idleLabel        = "tier=archive" // one in twenty, which have no runs at all
)

// filledFrom and filledFor say when the runs were accepted: one after the other, evenly.
var (
	filledFrom = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	filledFor  = 180 * 24 * time.Hour
)

// fill writes definitions and runs, and what else lists show, past everything that guards them: what is measured is reading. It
// ends with what autovacuum would have done by then.
func (s *system) fill(ctx context.Context, definitions, runs int) error {
	if definitions < 1000 || runs < 10*definitions {
		return fmt.Errorf("%d definitions and %d runs are too few: 1,000 and ten runs for each are the least", definitions, runs)
	}
	documents, err := s.templates(ctx)
	if err != nil {
		return err
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	number := strings.NewReplacer(
		"DEFINITIONS", fmt.Sprint(definitions), "RUNS", fmt.Sprint(runs), "BACKFILLS", fmt.Sprint(fillBackfills),
		"REVISIONS", fmt.Sprint(fillRevisions), "AUDIT", fmt.Sprint(fillAudit), "LETTERS", fmt.Sprint(fillDeadLetters),
		"TOKENS", fmt.Sprint(fillTokens), "ITEMS", fmt.Sprint(fillItems),
		"FILLED_FROM", "'"+filledFrom.Format(time.RFC3339)+"'::timestamptz", "FILLED_SECONDS", fmt.Sprint(filledFor.Seconds()),
		"BLOCK", fmt.Sprint(runs/fillBackfills), "SMALL", fmt.Sprint(runs/fillBackfills/30), "BUSY_EVENT", "'"+busyEvent+"'", "SELDOM_EVENT", "'"+seldomEvent+"'")
	// The triggers are for runs that end, not for runs that ended long ago.
	for _, statement := range []string{"SET session_replication_role = replica", "SELECT setseed(0.5)", "SET maintenance_work_mem = '1GB'",
		"SET synchronous_commit = off"} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, `CREATE TEMP TABLE templates (trigger_type text, document text)`); err != nil {
		return err
	}
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{"templates"}, []string{"trigger_type", "document"}, pgx.CopyFromRows(documents)); err != nil {
		return err
	}
	indexes, err := takeIndexes(ctx, conn.Conn(), "runs")
	if err != nil {
		return err
	}
	for _, statement := range append(strings.Split(number.Replace(fillStatements), ";\n"), indexes...) {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("fill: %.80s…: %w", strings.TrimSpace(statement), err)
		}
	}
	// Not within a transaction, and so one by one.
	_, err = conn.Exec(ctx, "VACUUM (ANALYZE)")
	return err
}

// templates makes a definition of each type of trigger by the store, and returns their documents as stored. They stay.
func (s *system) templates(ctx context.Context) ([][]any, error) {
	for _, trigger := range []string{`"trigger_type": "event", "event_type": "order.placed", "filters": {"tier": "pro", "region": "eu"}`,
		`"trigger_type": "cron", "cron_expression": "0 3 1 6 *"`, `"trigger_type": "manual"`} {
		_, err := s.create(ctx, fmt.Sprintf(`{"name": "template-%d", "description": "What the definitions of the benchmark are made from.",
			"labels": {"team": "TEAM", "env": "ENV", "tier": "TIER"}, "trigger_config": {%s},
			"tasks": [{"name": "call", "type": "http", "with": {"url": "https://example.com/orders", "body": "${event.payload}"}},
			          {"name": "say", "type": "log", "needs": ["call"], "with": {"message": "an order of ${event.payload.tier}"}}]}`,
			len(trigger), trigger))
		if err != nil {
			return nil, err
		}
	}
	rows, err := s.pool.Query(ctx, `SELECT trigger_type, document::text FROM definitions`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
}

// takeIndexes drops the indexes of a table that no constraint needs, and returns the statements that make them again: filling it
// is much faster so.
func takeIndexes(ctx context.Context, conn *pgx.Conn, table string) ([]string, error) {
	rows, err := conn.Query(ctx, `
		SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index i
		WHERE indrelid = $1::regclass AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)`, table)
	if err != nil {
		return nil, err
	}
	var name, create string
	var names, creates []string
	_, err = pgx.ForEachRow(rows, []any{&name, &create}, func() error {
		names, creates = append(names, name), append(creates, create)
		return nil
	})
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "DROP INDEX "+strings.Join(names, ", "))
	return creates, err
}

// fillStatements are split at each semicolon at the end of a line. Ids are a kind and a number, so that they can be told from each
// other.
const fillStatements = `
CREATE FUNCTION pg_temp.ident(kind int, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
	$$ SELECT (lpad(kind::text, 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$;

INSERT INTO definitions (id, name, revision, enabled, enabled_since, trigger_type, event_type, document, made_by, created_at, updated_at)
SELECT pg_temp.ident(1, n), 'bench-' || n, 1, n % 10 <> 0, FILLED_FROM, d.type, CASE d.type WHEN 'event' THEN 'bench.type' || n % 500 END,
       replace(replace(replace(replace(t.document, 'template-', 'bench-' || n || '-'), 'TEAM', d.team), 'ENV', d.env), 'TIER', d.tier)::json,
       'token:' || pg_temp.ident(5, n % 100), FILLED_FROM + n * interval '1 second', FILLED_FROM + n * interval '1 second'
FROM generate_series(1, DEFINITIONS) n,
     LATERAL (SELECT CASE WHEN n % 10 < 6 THEN 'event' WHEN n % 10 < 9 THEN 'cron' ELSE 'manual' END AS type,
                     CASE WHEN n IN (255, 355, 455) THEN 'seldom' ELSE 't' || n % 94 END AS team,
                     CASE WHEN n % 5 < 3 THEN 'prod' WHEN n % 5 = 3 THEN 'staging' ELSE 'dev' END AS env,
                     CASE WHEN n > DEFINITIONS * 0.95 THEN 'archive' ELSE 'live' END AS tier) d
JOIN templates t ON t.trigger_type = d.type ORDER BY n;

INSERT INTO definition_labels (definition_id, key, value)
SELECT d.id, l.key, l.value FROM definitions d, json_each_text(d.document -> 'labels') l WHERE d.name LIKE 'bench-%' ON CONFLICT DO NOTHING;

INSERT INTO definition_revisions (definition_id, revision, document, run_limit, run_timeout, actor, action, created_at)
SELECT id, 1, document, 0, interval '1 hour', 'bench', 'create', created_at FROM definitions WHERE name LIKE 'bench-%';

INSERT INTO definition_revisions (definition_id, revision, document, run_limit, run_timeout, actor, action, created_at)
SELECT d.id, n, d.document, 0, interval '1 hour', 'bench', 'update', d.created_at + n * interval '1 minute'
FROM definitions d, generate_series(2, REVISIONS) n WHERE d.id = pg_temp.ident(1, 1);

UPDATE definitions SET revision = REVISIONS WHERE id = pg_temp.ident(1, 1);

INSERT INTO schedule_sync (definition_id, desired, observed, dirty) SELECT id, 1, 1, false FROM definitions WHERE trigger_type = 'cron'
ON CONFLICT DO NOTHING;

INSERT INTO runs (id, definition_id, definition_name, revision, kind, occurrence_key, status, reason, error, event_id, event_type, trace_id,
                  slot_at, run_limit, run_timeout, accepted_at, started_at, finished_at, workflow_id, workflow_run_id, start_after,
                  first_tried_at, backfill_id, replay_id, rerun_of)
SELECT pg_temp.ident(4, n), pg_temp.ident(1, r.d), 'bench-' || r.d, 1, r.kind, 'key-' || n, s.status, s.reason,
       CASE s.status WHEN 'failed' THEN 'task call failed: the server answered 500 Internal Server Error' ELSE '' END,
       CASE WHEN r.kind <> 'event' THEN '' WHEN n <= 5 THEN SELDOM_EVENT WHEN n % 5000 = 0 THEN BUSY_EVENT ELSE 'event-' || n END,
       CASE WHEN r.kind <> 'event' THEN '' ELSE 'bench.type' || r.d % 500 END, md5(n::text),
       CASE WHEN r.kind IN ('cron', 'backfill') THEN t.at END, 0, interval '1 hour', t.at,
       CASE WHEN s.status NOT IN ('accepted', 'queued', 'skipped', 'missed') THEN t.at + interval '1 second' END,
       CASE WHEN s.status NOT IN ('accepted', 'queued', 'running') THEN t.at + interval '5 seconds' END,
       'run-' || pg_temp.ident(1, r.d) || '-key-' || n, md5((n + 1)::text), t.at, t.at,
       CASE WHEN r.kind = 'backfill' THEN pg_temp.ident(2, r.made) END, CASE WHEN r.kind = 'replay' THEN pg_temp.ident(3, r.made) END,
       CASE WHEN r.kind = 'rerun' THEN pg_temp.ident(4, CASE WHEN n % 1000 = 0 THEN 1 ELSE n - 1 END) END
FROM (SELECT n, random() AS a, random() AS b, random() AS c, random() AS d FROM generate_series(1, RUNS) n OFFSET 0) x,
     LATERAL (SELECT FILLED_FROM + n * (FILLED_SECONDS / RUNS) * interval '1 second' AS at) t,
     -- The first five runs are old ones of definitions that had no others; one in twenty definitions never had any.
     -- What a backfill or a replay makes, it makes at once: in blocks, of which one is large.
     LATERAL (SELECT CASE WHEN n <= 5 THEN 'event' WHEN n / BLOCK - BACKFILLS / 3 BETWEEN 0 AND 3 THEN 'backfill'
                     WHEN n / BLOCK - BACKFILLS / 2 BETWEEN 0 AND 7 THEN 'replay' WHEN n % BLOCK < SMALL THEN 'backfill'
                     WHEN n % BLOCK < SMALL + SMALL / 2 THEN 'replay' WHEN b < 0.75 THEN 'event' WHEN b < 0.94 THEN 'cron' WHEN b < 0.99 THEN 'manual'
                     ELSE 'rerun' END AS kind,
                     CASE WHEN n / BLOCK - BACKFILLS / 3 BETWEEN 0 AND 3 OR n / BLOCK - BACKFILLS / 2 BETWEEN 0 AND 7 THEN 1
                          ELSE n / BLOCK + 2 END AS made,
                     CASE WHEN n <= 5 THEN 255 + n % 3 * 100 WHEN n % BLOCK < SMALL AND n / BLOCK % 2 = 0 THEN 1
                          ELSE (CASE WHEN v.d IN (255, 355, 455) THEN v.d + 1 ELSE v.d END) END AS d
              FROM (SELECT 1 + floor(DEFINITIONS * 0.95 * a ^ 3)::int AS d) v) r,
     LATERAL (SELECT CASE WHEN n = 7 THEN 'failed' WHEN n > RUNS - 100 THEN 'running' WHEN n > RUNS - 200 THEN 'queued'
                          WHEN n > RUNS - 210 THEN 'accepted' WHEN c < 0.9 THEN 'succeeded' WHEN c < 0.95 THEN 'failed' WHEN c < 0.96 THEN 'timed_out'
                          WHEN c < 0.97 THEN 'canceled' WHEN c < 0.99 THEN 'skipped' ELSE 'missed' END AS status) w,
     LATERAL (SELECT w.status, CASE WHEN n = 7 THEN 'start_lost' WHEN w.status = 'failed' AND x.d < 0.9 THEN 'task_failed' WHEN w.status = 'failed' THEN 'condition_error'
                          WHEN w.status = 'timed_out' THEN 'run_timeout' WHEN w.status = 'canceled' THEN 'cancel_requested'
                          WHEN w.status = 'skipped' THEN 'concurrency_limit' WHEN w.status = 'missed' THEN 'misfire_window' ELSE '' END AS reason) s;

INSERT INTO task_results (run_id, index, name, type, status, attempts, items, items_begun, started_at, finished_at)
VALUES (pg_temp.ident(4, 1), 0, 'each', 'log', 'succeeded', 1, ITEMS, ITEMS, FILLED_FROM, FILLED_FROM);

INSERT INTO task_items (run_id, index, item, status, attempts, value, output, started_at, finished_at)
SELECT pg_temp.ident(4, 1), 0, n - 1, 'succeeded', 1, convert_to(n::text, 'UTF8'), convert_to('{"n":' || n || '}', 'UTF8'), FILLED_FROM, FILLED_FROM
FROM generate_series(1, ITEMS) n;

INSERT INTO dead_letters (id, stream, stream_seq, subject, header, event_id, reason, detail, data, data_size, deliveries, published_at, created_at,
                          status, settled_at)
SELECT pg_temp.ident(6, n), 'ACTIVITY', n, 'activity.bench.type' || n % 500, '{"Trace": ["abc"]}',
       CASE WHEN n <= 3 THEN SELDOM_EVENT WHEN n % 100 = 0 THEN BUSY_EVENT ELSE 'event-' || n END,
       CASE WHEN n = 2 THEN 'crash_loop' WHEN n % 10 < 8 THEN 'not_json' ELSE 'missing_type' END, 'the data is no JSON object',
       convert_to(repeat('x', 500), 'UTF8'), 500, 1, FILLED_FROM + n * interval '1 minute', FILLED_FROM + n * interval '1 minute',
       CASE WHEN n = 1 THEN 'retrying' WHEN n % 10 < 7 THEN 'discarded' WHEN n % 10 < 9 THEN 'routed' ELSE 'open' END, NULL
FROM generate_series(1, LETTERS) n;

INSERT INTO backfills (id, definition_id, definition_name, revision, from_at, to_at, only_missing, max_concurrent, status, total, created_at, finished_at)
SELECT pg_temp.ident(2, n), pg_temp.ident(1, 1), 'bench-1', 1, FILLED_FROM, FILLED_FROM + interval '30 days', true, 1, 'completed', 100,
       FILLED_FROM + n * interval '1 hour', FILLED_FROM + n * interval '1 hour'
FROM generate_series(1, BACKFILLS) n;

INSERT INTO replays (id, from_at, to_at, event_types, definition_ids, dry_run, status, created_at, finished_at)
SELECT pg_temp.ident(3, n), FILLED_FROM, FILLED_FROM + interval '1 day', '{}', ARRAY[pg_temp.ident(1, n)], n % 3 = 0, 'completed',
       FILLED_FROM + n * interval '1 hour', FILLED_FROM + n * interval '1 hour'
FROM generate_series(1, BACKFILLS) n;

INSERT INTO tokens (id, family, name, role, labels, max_definitions, hash, hint, created_by, created_at, expires_at, revoked_at)
SELECT pg_temp.ident(5, n), pg_temp.ident(5, n), 'token-' || n, (ARRAY['viewer', 'operator', 'editor', 'admin'])[n % 4 + 1], '{}', 0,
       sha256(convert_to(n::text, 'UTF8')), right(md5(n::text), 4), 'bench', FILLED_FROM, FILLED_FROM + interval '10 years',
       CASE WHEN n % 3 = 0 THEN FILLED_FROM END
FROM generate_series(1, TOKENS) n;

INSERT INTO audit (at, actor, actor_id, address, request_id, action, target_kind, target_id, definition_id, revision, before, after)
SELECT FILLED_FROM + n * interval '1 minute', a.actor, 'token:' || md5(a.actor), '10.0.0.' || n % 250, md5(n::text), a.action,
       a.kind, pg_temp.ident(CASE a.kind WHEN 'definition' THEN 1 ELSE 4 END, a.d)::text, pg_temp.ident(1, a.d), 1, d.document, d.document
FROM generate_series(1, AUDIT) n,
     LATERAL (SELECT CASE WHEN n <= 3 THEN 'seldom' ELSE 'token-' || n % 50 END AS actor,
                     CASE WHEN n <= 3 THEN 'delete' WHEN n % 10 < 5 THEN 'update' WHEN n % 10 < 8 THEN 'create' ELSE 'run.cancel' END AS action,
                     CASE WHEN n % 10 < 8 THEN 'definition' ELSE 'run' END AS kind,
                     CASE WHEN n % 3 = 0 THEN 1 WHEN n <= 5 THEN 255 ELSE n % DEFINITIONS + 1 END AS d) a
JOIN definitions d ON d.id = pg_temp.ident(1, a.d);
RESET session_replication_role;
RESET synchronous_commit`
