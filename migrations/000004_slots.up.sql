-- Slots: how far each definition's slots have been judged, catching up in order, and backfills.

-- Every slot of the definition at or before the cursor has its row in runs. next_slot_at is the first one after it, or a
-- time at which to look; null when none will come (disabled, deleted, over, not of the clock). revision is the one that
-- it was computed by: a write of an older binary leaves it behind, which is how that is noticed.
CREATE TABLE cron_state (
    definition_id uuid PRIMARY KEY,
    revision      integer NOT NULL,
    cursor        timestamptz NOT NULL,
    next_slot_at  timestamptz,
    -- Slots in a row that Temporal's schedule did not start itself, since when, and when it was last made anew for that.
    recovered       integer NOT NULL DEFAULT 0,
    recovered_since timestamptz,
    remade_at       timestamptz
);
CREATE INDEX cron_state_due ON cron_state (next_slot_at) WHERE next_slot_at IS NOT NULL;

-- What was there before this revision is judged from now on.
INSERT INTO cron_state (definition_id, revision, cursor, next_slot_at)
SELECT id, revision, now(), now() FROM definitions WHERE deleted_at IS NULL AND trigger_type = 'cron';

CREATE TABLE backfills (
    id              uuid PRIMARY KEY,
    seq             bigint GENERATED ALWAYS AS IDENTITY,
    definition_id   uuid NOT NULL,
    definition_name text NOT NULL,
    revision        integer NOT NULL,
    from_at         timestamptz NOT NULL,
    to_at           timestamptz NOT NULL,
    only_missing    boolean NOT NULL,
    max_concurrent  integer NOT NULL CHECK (max_concurrent >= 1),
    status          text NOT NULL CHECK (status IN ('active', 'completed', 'canceled')),
    total           integer NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz
);
CREATE UNIQUE INDEX backfills_active ON backfills (definition_id) WHERE status = 'active';
CREATE INDEX backfills_definition ON backfills (definition_id, seq DESC);

ALTER TABLE runs
    -- A late slot that is caught up with: it runs after the earlier ones of its definition, one at a time.
    ADD COLUMN catch_up boolean NOT NULL DEFAULT false,
    -- The row that this one makes up for, and the backfill that made it.
    ADD COLUMN rerun_of uuid,
    ADD COLUMN backfill_id uuid,
    DROP CONSTRAINT runs_kind_check,
    ADD CONSTRAINT runs_kind_check CHECK (kind IN ('cron', 'event', 'manual', 'backfill'));
CREATE INDEX runs_catch_up ON runs (definition_id, slot_at) WHERE catch_up AND status IN ('accepted', 'queued', 'running');
CREATE INDEX runs_backfill ON runs (backfill_id, slot_at) WHERE backfill_id IS NOT NULL;
CREATE INDEX runs_rerun_of ON runs (rerun_of) WHERE rerun_of IS NOT NULL;
CREATE INDEX runs_slot ON runs (definition_id, slot_at) WHERE slot_at IS NOT NULL;
