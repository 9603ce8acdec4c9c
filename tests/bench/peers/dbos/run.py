"""DBOS: a workflow of seven steps, recorded in the Postgres that it is given.

Two executors, one per core, with ids of their own, as several processes of an application have. Workflows are synchronous
functions, each started on a thread: async ones hand every write to a thread pool, and were slower. With the default pool of 20
connections an executor was not faster than with 8, and used a little more CPU.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from multiprocessing.connection import Connection

from dbos import DBOS

from tests.bench.peers.contract import STEPS, Task, check, give, measure, read_task
from tests.bench.peers.spread import DONE, READY, spread

EXECUTORS = 2
CONNECTIONS = 8


@DBOS.step(name="step")
def step(number: int) -> int:
    """Do nothing but count."""
    return number + 1


@DBOS.workflow(name="seven-steps")
def seven_steps() -> int:
    """The steps, one after the other."""
    number = 0
    for _ in range(STEPS):
        number = step(number)
    return number


def one_run(_: int) -> None:
    """From its start until its result is recorded."""
    result = seven_steps()
    check(holds=result == STEPS, otherwise=f"a workflow gave {result!r}")


def serve(connection: Connection, task: Task, number: int) -> None:
    """One executor. That all its workflows are recorded as successful is looked at when the drives are over."""
    DBOS(
        config={
            "name": "bench",
            "executor_id": f"bench-{number}",
            "system_database_url": task.postgres_url.replace("postgresql://", "postgresql+psycopg://"),
            "sys_db_pool_size": CONNECTIONS,
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    driven = 0
    connection.send(READY)
    while (asked := connection.recv()) is not None:
        runs, open_runs = asked
        with ThreadPoolExecutor(open_runs) as threads:
            for _ in threads.map(one_run, range(runs)):
                driven += 1
        connection.send(DONE)
    recorded = len(DBOS.list_workflows(status="SUCCESS", executor_id=f"bench-{number}", limit=driven + 1))
    check(holds=recorded == driven, otherwise=f"{recorded} of {driven} workflows are recorded as successful")
    DBOS.destroy()


def main() -> None:
    """Measure, and give the answer."""
    task = read_task(__doc__)
    with spread(serve, task, EXECUTORS) as drive:
        answer = measure("dbos", version("dbos"), task, drive)
    give(answer)


if __name__ == "__main__":
    main()
