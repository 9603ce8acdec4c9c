-- What became of tasks, by who worked on them and the day (UTC) on which they ended; whole numbers, so that they can be
-- added up in any order. `redelivered` are tasks that were delivered more than once, `started` those that a worker began
-- before they ended: their waits and their times at work are added up in microseconds.
CREATE TABLE tailrace.agents (
    agent       text COLLATE "C" NOT NULL,
    worker      text COLLATE "C" NOT NULL,
    day         date NOT NULL,
    partition   integer NOT NULL,
    completed   bigint NOT NULL,
    failed      bigint NOT NULL,
    cancelled   bigint NOT NULL,
    deliveries  bigint NOT NULL,
    redelivered bigint NOT NULL,
    started     bigint NOT NULL,
    wait_us     bigint NOT NULL,
    run_us      bigint NOT NULL,
    PRIMARY KEY (agent, worker, day, partition)
) WITH (fillfactor = 50);

-- Open tasks are few, whatever there was before; nobody asks any more for an agent's latest ones.
CREATE INDEX tasks_open ON tailrace.tasks (agent) WHERE finished_at IS NULL;
DROP INDEX tailrace.tasks_by_agent;
