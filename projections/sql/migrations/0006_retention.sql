-- Up to which ended run the store has forgotten, by partition: the next ones are those that ended behind it.
CREATE TABLE tailrace.retention (
    partition   integer PRIMARY KEY,
    ended_at    timestamptz NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);
CREATE INDEX workflows_ended ON tailrace.workflows (partition, completed_at, workflow_id) WHERE completed_at IS NOT NULL;
