-- Ends of runs that are to be told, and what removing old rows needs.

-- The ends of runs that those who are to hear of them were not told of yet. It is a table of its own, and nearly empty: a column of
-- runs would mean to write each row, and its places in all indexes, once more.
CREATE TABLE run_ends (
    run_id      uuid PRIMARY KEY,
    ended_at    timestamptz NOT NULL DEFAULT now(),
    -- When it may be claimed; whoever does moves it into the future.
    claim_after timestamptz NOT NULL DEFAULT '-infinity'
);

-- Whatever ends a run.
CREATE FUNCTION runs_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO run_ends (run_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER runs_ended AFTER UPDATE OF finished_at ON runs
    FOR EACH ROW WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL) EXECUTE FUNCTION runs_ended();
CREATE TRIGGER runs_made_ended AFTER INSERT ON runs
    FOR EACH ROW WHEN (NEW.finished_at IS NOT NULL) EXECUTE FUNCTION runs_ended();

-- How long the stream keeps events, as a router saw it last; null when that is not known, or for ever. What is known of an event
-- has to be kept for longer: it is how one that is delivered again is known.
ALTER TABLE installation ADD COLUMN stream_age interval;

-- Runs need no index for their age: they are walked in the order of acceptance.
CREATE INDEX events_recorded ON events (recorded_at);
CREATE INDEX dead_letters_created ON dead_letters (created_at);
