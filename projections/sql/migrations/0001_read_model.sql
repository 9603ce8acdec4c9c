-- The read model. Everything here is derived from the log: it can be thrown away and built again.
-- Text that is only compared for equality or sorted by code is COLLATE "C": the same order whatever the database's locale.

-- An instant in microseconds since the epoch, as the log has it. Not immutable, so that it is inlined.
CREATE FUNCTION tailrace.instant(microseconds bigint) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN timestamptz 'epoch' + microseconds * interval '1 microsecond';

-- Which store this database belongs to; written once.
CREATE TABLE tailrace.identity (
    single      boolean PRIMARY KEY DEFAULT true CHECK (single),
    instance_id text NOT NULL,
    partitions  integer NOT NULL,
    made_at     timestamptz NOT NULL DEFAULT now()
);

-- Projector processes that live; counted to share out the partitions.
CREATE TABLE tailrace.projectors (
    name        text COLLATE "C" PRIMARY KEY,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 20);

-- Who reads which partition. `problem` is why it stands still, null while it does not.
CREATE TABLE tailrace.partitions (
    partition   integer PRIMARY KEY,
    owner       text COLLATE "C" NOT NULL DEFAULT '',
    epoch       bigint NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL DEFAULT 'epoch',
    log_epoch   text,
    problem     text,
    problem_at  timestamptz
) WITH (fillfactor = 20);

-- How far each projection has come. `confirmed_*` is what a synchronous commit made durable: trimming may go by it.
CREATE TABLE tailrace.checkpoints (
    projection         text COLLATE "C" NOT NULL,
    partition          integer NOT NULL,
    epoch              bigint NOT NULL,
    position           text COLLATE "C" NOT NULL DEFAULT '0-0',
    seq                bigint NOT NULL DEFAULT 0,
    confirmed_position text COLLATE "C" NOT NULL DEFAULT '0-0',
    confirmed_seq      bigint NOT NULL DEFAULT 0,
    event_at           timestamptz,
    updated_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, partition)
) WITH (fillfactor = 20);

-- Every event. `raw` is what counts, byte for byte as in the log; `data` is derived and null where jsonb can't hold it.
CREATE TABLE tailrace.events (
    partition   integer NOT NULL,
    seq         bigint NOT NULL,
    entry_id    text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    type        text COLLATE "C" NOT NULL,
    at          timestamptz,
    data        jsonb,
    raw         bytea NOT NULL,
    traceparent text COLLATE "C" NOT NULL,
    PRIMARY KEY (workflow_id, version)
);
CREATE UNIQUE INDEX events_in_order ON tailrace.events (partition, seq);

CREATE TABLE tailrace.workflows (
    workflow_id         text COLLATE "C" PRIMARY KEY,
    partition           integer NOT NULL,
    type                text COLLATE "C" NOT NULL,
    name                text NOT NULL,
    description         text NOT NULL DEFAULT '',
    requirements        text NOT NULL DEFAULT '',
    priority            text COLLATE "C" NOT NULL DEFAULT 'medium',
    definition          text COLLATE "C" NOT NULL DEFAULT '',
    status              text COLLATE "C" NOT NULL,
    current_stage       text,
    progress_percentage integer NOT NULL DEFAULT 0,
    version             bigint NOT NULL,
    round               integer NOT NULL DEFAULT 1,
    trace_id            text COLLATE "C",
    labels              jsonb NOT NULL DEFAULT '{}',
    input               jsonb,
    error               jsonb,
    stall               jsonb,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    completed_at        timestamptz,
    parked_version      bigint,
    parked_reason       text
) WITH (fillfactor = 80);
CREATE INDEX workflows_newest ON tailrace.workflows (created_at DESC, workflow_id DESC);
CREATE INDEX workflows_by_status ON tailrace.workflows (status, created_at DESC, workflow_id DESC);
CREATE INDEX workflows_by_type ON tailrace.workflows (type, created_at DESC, workflow_id DESC);
CREATE INDEX workflows_by_label ON tailrace.workflows USING gin (labels jsonb_path_ops);
CREATE INDEX workflows_stalled ON tailrace.workflows (created_at DESC, workflow_id DESC) WHERE stall IS NOT NULL;

CREATE TABLE tailrace.stages (
    workflow_id    text COLLATE "C" NOT NULL,
    stage          text COLLATE "C" NOT NULL,
    ordinal        integer NOT NULL,
    partition      integer NOT NULL,
    status         text COLLATE "C" NOT NULL,
    weight         integer NOT NULL,
    attempt        integer NOT NULL,
    tries          integer NOT NULL,
    progress       double precision NOT NULL DEFAULT 0,
    worker         text COLLATE "C",
    started_at     timestamptz,
    finished_at    timestamptz,
    retry_at       timestamptz,
    output_attempt integer,
    output         jsonb,
    error          jsonb,
    PRIMARY KEY (workflow_id, stage)
) WITH (fillfactor = 70);

CREATE TABLE tailrace.tasks (
    workflow_id   text COLLATE "C" NOT NULL,
    task_id       text COLLATE "C" NOT NULL,
    partition     integer NOT NULL,
    stage         text COLLATE "C" NOT NULL,
    attempt       integer NOT NULL,
    agent         text COLLATE "C" NOT NULL,
    worker        text COLLATE "C" NOT NULL DEFAULT '',
    status        text COLLATE "C" NOT NULL,
    deliveries    integer NOT NULL DEFAULT 0,
    progress      double precision NOT NULL DEFAULT 0,
    dispatched_at timestamptz NOT NULL,
    started_at    timestamptz,
    finished_at   timestamptz,
    error         jsonb,
    PRIMARY KEY (workflow_id, task_id)
) WITH (fillfactor = 70);
CREATE INDEX tasks_by_agent ON tailrace.tasks (agent, dispatched_at DESC);

CREATE TABLE tailrace.stalls (
    workflow_id text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    partition   integer NOT NULL,
    cause       text COLLATE "C" NOT NULL,
    hop         text COLLATE "C" NOT NULL,
    summary     text NOT NULL,
    suggestion  text NOT NULL,
    evidence    jsonb,
    since       timestamptz NOT NULL,
    cleared_at  timestamptz,
    PRIMARY KEY (workflow_id, version)
);
CREATE INDEX stalls_newest ON tailrace.stalls (since DESC, workflow_id DESC, version DESC);
CREATE INDEX stalls_open ON tailrace.stalls (since DESC, workflow_id DESC, version DESC) WHERE cleared_at IS NULL;

-- Events that no projection could apply, with all later ones of the same run, until they can be.
CREATE TABLE tailrace.parked (
    partition   integer NOT NULL,
    seq         bigint NOT NULL,
    entry_id    text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    version     bigint NOT NULL,
    type        text COLLATE "C" NOT NULL,
    traceparent text COLLATE "C" NOT NULL,
    at          timestamptz,
    raw         bytea NOT NULL,
    reason      text NOT NULL,
    parked_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, seq)
);
CREATE INDEX parked_by_workflow ON tailrace.parked (workflow_id, seq);
