"""A worker or an orchestrator in a process of its own, for tests that kill one with -9.

    async with Program.start("worker", url, namespace, "w1", folder) as program: ...

Says a line when it is ready. The agent is called `agent`; its action waits for as many seconds as the stage's params say.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tailrace.agents.runtime import Worker, WorkerOptions
from tailrace.agents.sdk import Agent, TaskContext, TaskInput
from tailrace.core.artifacts import FileArtifacts
from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.tasks import RedisLeases, RedisTasks

ROOT = Path(__file__).parents[2]


def make_worker(store: RedisStore, agent: Agent, name: str, folder: Path, **options: Any) -> Worker:
    """A worker with queue and leases of its own, as the process `tailrace worker` has."""
    return Worker(
        agent,
        RedisTasks(store, agent.name, name),
        RedisLeases(store, agent.name, name),
        FileArtifacts(folder / "artifacts"),
        WorkerOptions(name=name, workspaces=folder / "workspaces", **options),
    )


@asynccontextmanager
async def program(
    kind: str, url: str, namespace: str, name: str, folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One process of `kind` (`worker` or `orchestrator`) that is ready; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.engine_process",
        *(kind, url, namespace, name, str(folder)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _main(kind: str, url: str, namespace: str, name: str, folder: Path) -> None:
    store = await RedisStore.open(RedisSettings(url=url), namespace=namespace)
    if kind == "orchestrator":
        _say_ready()
        await Orchestrator(store, name).run()
    agent = Agent("agent")

    @agent.action("*")
    async def act(context: TaskContext, input: TaskInput) -> dict[str, str]:
        await asyncio.sleep(input.params.get("seconds", 0.0))
        return {"by": name}

    joined = asyncio.Event()
    working = asyncio.create_task(make_worker(store, agent, name, folder).run(asyncio.Event(), joined=joined))
    await joined.wait()
    _say_ready()
    await working


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _kind, _url, _namespace, _name, _folder = sys.argv[1:]
    asyncio.run(_main(_kind, _url, _namespace, _name, Path(_folder)))
