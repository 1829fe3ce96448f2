-- Lists that stay fast when there is much to list.

-- The runs of a backfill and of an event, newest first, in the order of the other lists of runs (see 7). That of events takes the
-- place of one that had the same columns.
CREATE INDEX runs_backfill_newest ON runs (backfill_id, (-seq)) WHERE backfill_id IS NOT NULL;
DROP INDEX runs_event;
CREATE INDEX runs_event ON runs (event_id, (-seq)) WHERE event_id <> '';
