DROP INDEX runs_event;
CREATE INDEX runs_event ON runs (event_id, seq) WHERE event_id <> '';
DROP INDEX runs_backfill_newest;
