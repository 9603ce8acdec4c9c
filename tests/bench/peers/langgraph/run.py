"""LangGraph: a graph of seven nodes, with a checkpoint in the Postgres that it is given after each of them.

`durability="sync"`: a checkpoint is on disk before the next node begins, as a step of the other sides is. Two processes, one
per core, each with an event loop, a pool of connections that are set as the checkpointer's documentation says, and half of
the runs.
"""

from __future__ import annotations

import asyncio
import uuid
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any, TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from tests.bench.peers.contract import STEPS, Task, check, give, measure, read_task
from tests.bench.peers.spread import DONE, READY, spread

PROCESSES = 2
CONNECTIONS = 4


class State(TypedDict):
    """What the nodes hand on."""

    number: int


async def step(state: State) -> State:
    """Do nothing but count."""
    return {"number": state["number"] + 1}


def seven_nodes() -> StateGraph[State]:
    """The nodes, one after the other."""
    graph = StateGraph(State)
    names = [f"step-{number}" for number in range(STEPS)]
    for name in names:
        graph.add_node(name, step)
    for name, following in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(name, following)
    return graph


async def drive(compiled: Any, runs: int, open_runs: int) -> None:
    """Keep `open_runs` open until `runs` are complete."""
    waiting = iter(range(runs))

    async def one_after_the_other() -> None:
        for _ in waiting:
            thread = {"configurable": {"thread_id": str(uuid.uuid4())}}
            result = await compiled.ainvoke({"number": 0}, thread, durability="sync")
            check(holds=result["number"] == STEPS, otherwise=f"a graph gave {result!r}")

    async with asyncio.TaskGroup() as group:
        for _ in range(open_runs):
            group.create_task(one_after_the_other())


async def _serve(connection: Connection, task: Task) -> None:
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(
        task.postgres_url, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs=options
    ) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        compiled = seven_nodes().compile(checkpointer=saver)
        connection.send(READY)
        # Nothing else is to be done on the loop while it waits to be asked.
        while (asked := connection.recv()) is not None:
            await drive(compiled, *asked)
            connection.send(DONE)


def serve(connection: Connection, task: Task, _: int) -> None:
    """One process."""
    asyncio.run(_serve(connection, task))


def main() -> None:
    """Measure, and give the answer."""
    task = read_task(__doc__)
    with spread(serve, task, PROCESSES) as drive_all:
        answer = measure("langgraph", version("langgraph"), task, drive_all)
    give(answer)


if __name__ == "__main__":
    main()
