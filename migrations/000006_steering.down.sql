DROP TABLE task_items;
UPDATE task_results SET status = 'succeeded' WHERE status = 'skipped';
ALTER TABLE task_results
    DROP COLUMN input, DROP COLUMN items, DROP COLUMN items_begun, DROP COLUMN wait_until,
    DROP CONSTRAINT task_results_status_check,
    ADD CONSTRAINT task_results_status_check CHECK (status IN ('running', 'succeeded', 'failed', 'timed_out', 'canceled'));
DROP INDEX runs_line, runs_stopping;
UPDATE runs SET kind = 'manual' WHERE kind = 'rerun';
ALTER TABLE runs
    DROP COLUMN concurrency_key, DROP COLUMN stop_requested, DROP COLUMN stop_reason, DROP COLUMN stop_note, DROP COLUMN stop_after,
    DROP COLUMN depth,
    DROP CONSTRAINT runs_kind_check,
    ADD CONSTRAINT runs_kind_check CHECK (kind IN ('cron', 'event', 'manual', 'backfill', 'replay'));
