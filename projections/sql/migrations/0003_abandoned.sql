-- Events that were archived, and that the log has lost since: a failover or a restored backup took it back to before
-- them. They are no history any more, and kept for whoever wants to know what was lost.
CREATE TABLE tailrace.abandoned (
    partition    integer NOT NULL,
    seq          bigint NOT NULL,
    entry_id     text COLLATE "C" NOT NULL,
    workflow_id  text COLLATE "C" NOT NULL,
    version      bigint NOT NULL,
    type         text COLLATE "C" NOT NULL,
    traceparent  text COLLATE "C" NOT NULL,
    raw          bytea NOT NULL,
    abandoned_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX abandoned_by_workflow ON tailrace.abandoned (workflow_id, version);
