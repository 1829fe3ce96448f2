DROP INDEX definitions_event_type_order, definitions_state, runs_definition_reason, runs_reason, runs_event, runs_backfill_newest;
CREATE INDEX runs_reason ON runs (reason, (-seq)) WHERE reason <> '';
CREATE INDEX runs_event ON runs (event_id, seq) WHERE event_id <> '';
