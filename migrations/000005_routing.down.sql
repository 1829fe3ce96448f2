UPDATE runs SET kind = 'event' WHERE kind = 'replay';
DROP INDEX runs_event;
DROP INDEX runs_replay;
ALTER TABLE runs
    DROP CONSTRAINT runs_kind_check,
    ADD CONSTRAINT runs_kind_check CHECK (kind IN ('cron', 'event', 'manual', 'backfill')),
    DROP COLUMN replay_id;
DROP TABLE replays;
DROP TABLE delivery_attempts;
DROP INDEX dead_letters_retrying;
DROP INDEX dead_letters_open;
DROP INDEX dead_letters_reason;
DROP INDEX dead_letters_event;
DROP INDEX dead_letters_seq;
ALTER TABLE dead_letters
    DROP COLUMN seq, DROP COLUMN header, DROP COLUMN status, DROP COLUMN retries, DROP COLUMN claims, DROP COLUMN lease_until,
    DROP COLUMN settled_at, DROP COLUMN runs;
ALTER TABLE installation DROP COLUMN unmatched_since;
DROP TABLE events;
