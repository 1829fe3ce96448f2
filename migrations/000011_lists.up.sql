-- Lists that stay fast when there is much to list.

-- The runs of a backfill and of an event, newest first, in the order of the other lists of runs (see 7). The status is there to be
-- counted: a list of backfills says how far each of them is. The index of events takes the place of one with the same columns.
CREATE INDEX runs_backfill_newest ON runs (backfill_id, (-seq)) INCLUDE (status) WHERE backfill_id IS NOT NULL;
DROP INDEX runs_event;
CREATE INDEX runs_event ON runs (event_id, (-seq)) WHERE event_id <> '';

-- A reason goes with few states, but may be asked for together with any of them. The first takes the place of one of the
-- reason alone. Most runs have none, and cost nothing here.
DROP INDEX runs_reason;
CREATE INDEX runs_reason ON runs (reason, kind, status, (-seq)) WHERE reason <> '';
CREATE INDEX runs_definition_reason ON runs (definition_id, reason, kind, status, (0 - seq)) WHERE reason <> '';

-- Definitions by state and by type of event, in an order that no other index has, for the reason given in 7.
CREATE INDEX definitions_state ON definitions (trigger_type, enabled, (0 + seq)) WHERE deleted_at IS NULL;
CREATE INDEX definitions_event_type_order ON definitions (event_type, (0 + seq)) WHERE deleted_at IS NULL AND event_type IS NOT NULL;
