UPDATE runs SET status = 'canceled', reason = 'cancel_requested', finished_at = now()
    WHERE status = 'accepted' AND start_after = 'infinity';
UPDATE runs SET kind = 'manual' WHERE kind = 'backfill';
ALTER TABLE runs
    DROP CONSTRAINT runs_kind_check,
    ADD CONSTRAINT runs_kind_check CHECK (kind IN ('cron', 'event', 'manual')),
    DROP COLUMN catch_up, DROP COLUMN rerun_of, DROP COLUMN backfill_id;
DROP INDEX runs_slot;
DROP TABLE backfills;
DROP TABLE cron_state;
