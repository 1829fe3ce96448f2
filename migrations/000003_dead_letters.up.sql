-- Messages that could not be routed, each once, with a bounded part of what they held and the reason.
CREATE TABLE dead_letters (
    id          uuid PRIMARY KEY,
    stream      text NOT NULL,
    stream_seq  bigint NOT NULL,
    subject     text NOT NULL,
    event_id    text NOT NULL DEFAULT '',
    reason      text NOT NULL,
    detail      text NOT NULL DEFAULT '',
    data        bytea NOT NULL,
    data_size   bigint NOT NULL,
    deliveries  integer NOT NULL,
    published_at timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    -- The publishing time is part of the key because a stream that was deleted and made again counts from 1 again.
    UNIQUE (stream, stream_seq, published_at)
);
