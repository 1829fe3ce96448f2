-- Routing: which events are known, what is to be done about dead letters, and replays.

-- Events that met a definition (and, where that is wanted, those that met none), each once: a second event with the same
-- id is the same event when type, source and digest are the same, and otherwise a dead letter.
CREATE TABLE events (
    event_id     text PRIMARY KEY,
    type         text NOT NULL,
    source       text NOT NULL,
    -- A hash of the payload.
    digest       bytea NOT NULL,
    -- The message that brought it first.
    stream       text NOT NULL,
    stream_seq   bigint NOT NULL,
    published_at timestamptz NOT NULL,
    -- How many definitions it met.
    matches      integer NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_unmatched ON events (recorded_at) WHERE matches = 0;

-- Since when events that match nothing are recorded; null while they are not.
ALTER TABLE installation ADD COLUMN unmatched_since timestamptz;

ALTER TABLE dead_letters
    ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY,
    -- json, because a header may hold U+0000.
    ADD COLUMN header json NOT NULL DEFAULT '{}',
    ADD COLUMN status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'retrying', 'routed', 'discarded')),
    -- How often it was routed again and became a dead letter again.
    ADD COLUMN retries integer NOT NULL DEFAULT 0,
    -- How often a router took it up since it was asked to be routed again: one that kills routers is given up.
    ADD COLUMN claims integer NOT NULL DEFAULT 0,
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN settled_at timestamptz,
    -- How many runs a retry recorded.
    ADD COLUMN runs integer NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX dead_letters_seq ON dead_letters (seq);
CREATE INDEX dead_letters_event ON dead_letters (event_id, seq DESC) WHERE event_id <> '';
CREATE INDEX dead_letters_reason ON dead_letters (reason, seq DESC);
CREATE INDEX dead_letters_open ON dead_letters (seq DESC) WHERE status = 'open';
CREATE INDEX dead_letters_retrying ON dead_letters (seq) WHERE status = 'retrying';

-- Messages that were delivered again and again: how often a router began with one alone. A row outlives its message only
-- when the routers die at it.
CREATE TABLE delivery_attempts (
    stream       text NOT NULL,
    stream_seq   bigint NOT NULL,
    published_at timestamptz NOT NULL,
    attempts     integer NOT NULL,
    attempted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, stream_seq, published_at)
);

CREATE TABLE replays (
    id             uuid PRIMARY KEY,
    seq            bigint GENERATED ALWAYS AS IDENTITY,
    from_at        timestamptz NOT NULL,
    to_at          timestamptz NOT NULL,
    event_types    text[] NOT NULL,
    definition_ids uuid[] NOT NULL,
    dry_run        boolean NOT NULL,
    status         text NOT NULL CHECK (status IN ('pending', 'counting', 'running', 'completed', 'canceled', 'failed')),
    error          text NOT NULL DEFAULT '',
    -- The sequences of the range, [from_seq, to_seq), and the first one that the present pass has not read; 0 before the
    -- range was looked up.
    from_seq       bigint NOT NULL DEFAULT 0,
    to_seq         bigint NOT NULL DEFAULT 0,
    next_seq       bigint NOT NULL DEFAULT 0,
    counted        json NOT NULL DEFAULT '{}',
    done           json NOT NULL DEFAULT '{}',
    -- One router works on it at a time; the number of its lease goes with every write.
    lease          bigint NOT NULL DEFAULT 0,
    lease_until    timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    finished_at    timestamptz
);
CREATE UNIQUE INDEX replays_seq ON replays (seq);
CREATE INDEX replays_active ON replays (seq) WHERE status IN ('pending', 'counting', 'running');

ALTER TABLE runs
    ADD COLUMN replay_id uuid,
    DROP CONSTRAINT runs_kind_check,
    ADD CONSTRAINT runs_kind_check CHECK (kind IN ('cron', 'event', 'manual', 'backfill', 'replay'));
CREATE INDEX runs_replay ON runs (replay_id, seq) WHERE replay_id IS NOT NULL;
CREATE INDEX runs_event ON runs (event_id, seq) WHERE event_id <> '';
