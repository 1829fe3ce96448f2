-- Graphs of tasks, steering of runs, and concurrency by key.

ALTER TABLE runs
    -- The value of the definition's concurrency key, from acceptance; '' for none.
    ADD COLUMN concurrency_key text NOT NULL DEFAULT '',
    -- What was asked for, until the run has ended: how, which reason the row then gets, whose words, and when Temporal is told again.
    ADD COLUMN stop_requested text NOT NULL DEFAULT '' CHECK (stop_requested IN ('', 'cancel', 'terminate')),
    ADD COLUMN stop_reason    text NOT NULL DEFAULT '',
    ADD COLUMN stop_note      text NOT NULL DEFAULT '',
    ADD COLUMN stop_after     timestamptz,
    -- How many runs led to this one, each by the event of its end.
    ADD COLUMN depth integer NOT NULL DEFAULT 0,
    DROP CONSTRAINT runs_kind_check,
    ADD CONSTRAINT runs_kind_check CHECK (kind IN ('cron', 'event', 'manual', 'backfill', 'replay', 'rerun'));
-- The line of one key: what admission looks at.
CREATE INDEX runs_line ON runs (definition_id, concurrency_key, seq) WHERE run_limit > 0 AND status IN ('accepted', 'queued', 'running');
CREATE INDEX runs_stopping ON runs (stop_after) WHERE stop_requested <> '' AND status IN ('accepted', 'queued', 'running');

ALTER TABLE task_results
    -- What the task was done with, its expressions replaced by their values and secrets by ***; null when it is not known.
    ADD COLUMN input bytea,
    -- How many items a for_each has, and how many of them have been begun; null for other tasks.
    ADD COLUMN items       integer,
    ADD COLUMN items_begun integer,
    -- Until when a wait lasts; null for other tasks and for an approval.
    ADD COLUMN wait_until timestamptz,
    DROP CONSTRAINT task_results_status_check,
    ADD CONSTRAINT task_results_status_check CHECK (status IN ('running', 'succeeded', 'failed', 'timed_out', 'canceled', 'skipped'));

-- The items of a for_each task.
CREATE TABLE task_items (
    run_id           uuid NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    index            integer NOT NULL,
    item             integer NOT NULL,
    status           text NOT NULL CHECK (status IN ('running', 'succeeded', 'failed', 'timed_out', 'canceled')),
    error            text NOT NULL DEFAULT '',
    attempts         integer NOT NULL DEFAULT 0,
    -- The item itself, as JSON.
    value            bytea NOT NULL,
    output           bytea,
    output_truncated boolean NOT NULL DEFAULT false,
    started_at       timestamptz NOT NULL DEFAULT now(),
    finished_at      timestamptz,
    PRIMARY KEY (run_id, index, item)
);
