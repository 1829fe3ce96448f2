-- The ledger: one row for each occurrence of each definition, and the results of its tasks.

CREATE TABLE runs (
    id              uuid PRIMARY KEY,
    -- Order of acceptance, over all definitions: for paging, and for the order of a queue.
    seq             bigint GENERATED ALWAYS AS IDENTITY,
    definition_id   uuid NOT NULL,
    -- Copied, so that the row explains itself after the definition is gone.
    definition_name text NOT NULL,
    revision        integer NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('cron', 'event', 'manual')),
    occurrence_key  text NOT NULL,
    status          text NOT NULL CHECK (status IN ('accepted', 'queued', 'running', 'succeeded', 'failed', 'timed_out',
                                                    'canceled', 'skipped', 'missed')),
    reason          text NOT NULL DEFAULT '',
    error           text NOT NULL DEFAULT '',
    -- JSON, but not jsonb: that refuses some legal JSON.
    input           bytea,
    event_id        text NOT NULL DEFAULT '',
    event_type      text NOT NULL DEFAULT '',
    trace_id        text NOT NULL DEFAULT '',
    slot_at         timestamptz,
    -- Copied from the revision that was pinned at acceptance.
    run_limit       integer NOT NULL,
    run_timeout     interval NOT NULL,
    accepted_at     timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    workflow_id     text NOT NULL,
    workflow_run_id text NOT NULL DEFAULT '',
    -- When the sweeper may start it; pushed out by every try.
    start_after     timestamptz NOT NULL,
    start_attempts  integer NOT NULL DEFAULT 0,
    first_tried_at  timestamptz,
    UNIQUE (definition_id, occurrence_key)
);
CREATE UNIQUE INDEX runs_seq ON runs (seq);
CREATE INDEX runs_definition_seq ON runs (definition_id, seq DESC);
CREATE INDEX runs_unstarted ON runs (start_after) WHERE status = 'accepted';
-- For admission alone, so that accepting a run does not write it.
CREATE INDEX runs_open ON runs (definition_id, seq) WHERE status IN ('queued', 'running');

-- The row that admission locks, so that a definition's limit holds whoever decides.
CREATE TABLE concurrency (
    definition_id uuid NOT NULL,
    key           text NOT NULL DEFAULT '',
    PRIMARY KEY (definition_id, key)
);

CREATE TABLE task_results (
    run_id           uuid NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    index            integer NOT NULL,
    name             text NOT NULL,
    type             text NOT NULL,
    status           text NOT NULL CHECK (status IN ('running', 'succeeded', 'failed', 'timed_out', 'canceled')),
    error            text NOT NULL DEFAULT '',
    attempts         integer NOT NULL DEFAULT 0,
    output           bytea,
    output_truncated boolean NOT NULL DEFAULT false,
    started_at       timestamptz NOT NULL,
    finished_at      timestamptz,
    PRIMARY KEY (run_id, index)
);
