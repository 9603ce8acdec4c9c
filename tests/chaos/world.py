"""The installation that a trial torments: servers, a proxy before each, a real `tailrace up` behind them, and stand-bys.

What the trial itself looks at it reads past the proxies.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.acceptance.installation import Installation
from tests.acceptance.proc import ours_in
from tests.chaos.stand_by import StandBy
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import redis_program

NAMESPACE = "tailrace"
AGENTS = "simulated:alpha,simulated:beta"
PARTITIONS = 4


class World:
    """Everything that runs, by name."""

    def __init__(
        self,
        folder: Path,
        redis: EmbeddedRedis,
        postgres: EmbeddedPostgres,
        redis_proxy: FaultProxy,
        postgres_proxy: FaultProxy,
    ) -> None:
        self.redis = redis
        self.postgres = postgres
        self.redis_proxy = redis_proxy
        self.postgres_proxy = postgres_proxy
        folder.mkdir()
        self.installation = Installation(
            folder,
            agents=AGENTS,
            arguments=("--concurrency", "8"),
            environment={
                "TAILRACE_REDIS_URL": redis_proxy.url,
                "TAILRACE_POSTGRES_URL": postgres_proxy.url,
                "TAILRACE_PARTITIONS": str(PARTITIONS),
                "TAILRACE_NAMESPACE": NAMESPACE,
                "TAILRACE_LOG_TAIL": "1000000000",  # the checks read all of the log
            },
        )
        self.stand_bys: dict[str, StandBy] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[World]:
        """All of it, ready; ended in order, or by force when the block has failed."""
        redis = EmbeddedRedis(folder / "redis", server=redis_program(), maxmemory_bytes=512 * 1024 * 1024)
        postgres = EmbeddedPostgres(folder / "postgres")
        async with AsyncExitStack() as ended:
            # One at a time into the stack: it ends each of them, whichever fails.
            starting = (ended.enter_async_context(redis), ended.enter_async_context(postgres))
            await asyncio.gather(*starting)
            proxies = [await ended.enter_async_context(FaultProxy(server.url)) for server in (redis, postgres)]
            world = cls(folder / "up", redis, postgres, *proxies)
            await asyncio.to_thread(world.installation.start)
            try:
                async with (
                    world.beside("orchestrator-2", ["orchestrator"]),
                    world.beside("worker-alpha-2", ["worker", "simulated:alpha", "--concurrency", "8"]),
                ):
                    yield world
            finally:
                await asyncio.to_thread(world.installation.destroy)

    @asynccontextmanager
    async def beside(self, name: str, arguments: Sequence[str]) -> AsyncIterator[StandBy]:
        """One more process of this installation."""
        environment = self.installation.environment
        log = self.installation.folder / f"{name}.log"
        async with StandBy([*self.installation.program, *arguments], environment, log) as process:
            self.stand_bys[name] = process
            try:
                yield process
            finally:
                del self.stand_bys[name]

    @asynccontextmanager
    async def store(self) -> AsyncIterator[RedisStore]:
        """The store as it is, past the proxy."""
        store = await RedisStore.open(RedisSettings(url=self.redis.url), namespace=NAMESPACE, create=False)
        try:
            yield store
        finally:
            await store.aclose()

    @property
    def url(self) -> str:
        """The API."""
        return f"{self.installation.ready()['url']}/api/v1"

    def signal(self, name: str, number: signal.Signals) -> int | None:
        """Send a signal to a process by name; gives its process id, None when it is down."""
        if name in self.stand_bys:
            process = self.stand_bys[name]
            return process.pid if process.signal(number) else None
        pids = self.installation.pids()
        pid = pids.get(name)
        # The file still names a process that has died until the next one runs; by then its id may be somebody else's.
        if pid is None or _parent(pid) != pids["up"]:
            return None
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return pid
        return None

    def resume(self, pid: int) -> None:
        """Let a process go on that was stopped, if it is still there: by now its id may be somebody else's."""
        if pid in ours_in(self.installation.folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def down(self) -> list[str]:
        """Processes that the supervisor does not have running."""
        states = self.installation.states()
        return [
            f"{name}: {state['state']} {state['detail']}"
            for name, state in states.items()
            if state["state"] != "running"
        ]

    async def why(self, workflow_id: str) -> str:
        """What `tailrace why` says."""
        said = await asyncio.to_thread(self.installation.cli, "why", workflow_id)
        return f"{said.out}{said.err}"


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])
