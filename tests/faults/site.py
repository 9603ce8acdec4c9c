"""A namespace with real processes around it, each of which can be stopped, killed and left out.

What the trial itself looks at and breaks it does past all proxies, on the store as it is.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tailrace.core.codec import decode_event
from tailrace.core.commands import Command
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.events import WorkflowStalled
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.keys import PartitionKeys
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import OpenEntry, RawEntry
from tailrace.core.testing import builders
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.state import WorkflowState
from tests.acceptance.installation import tailrace_program
from tests.chaos.stand_by import StandBy
from tests.support.waiting import eventually, pass_server_time

#: How long a start, an end or an effect may take on a busy machine; nothing waits for this long on purpose.
PATIENCE_SECONDS = 60.0
ROOT = Path(__file__).parents[2]
#: What a watchdog waits for after its start before it judges anything, and a little more.
SETTLE_SECONDS = 5.2
STAGE = "work"
_numbers = count(1)


class Flag:
    """A `WorkflowStalled` as it stands in the log; `at` in microseconds by the store's clock."""

    def __init__(self, event: WorkflowStalled, at: int) -> None:
        self.event = event
        self.at = at


class Site:
    """One namespace. What it starts ends with it."""

    def __init__(self, store: RedisStore, folder: Path, environment: Mapping[str, str]) -> None:
        self.store = store
        self.folder = folder
        self.handler = CommandHandler(store)
        self.environment = environment
        self._ended = AsyncExitStack()
        self._reading = asyncio.Lock()
        self._read = ["0-0"] * store.partitions
        self._flags: dict[str, list[Flag]] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        folder: Path,
        redis_url: str,
        *,
        processes_url: str = "",
        postgres_url: str = "",
        partitions: int = 2,
        namespace: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Site]:
        """A namespace on the server at `redis_url`; its processes reach it at `processes_url`, past which we look."""
        namespace = namespace or f"f{os.urandom(5).hex()}"
        store = await RedisStore.open(RedisSettings(url=redis_url), namespace=namespace, partitions=partitions)
        place = folder / namespace
        place.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        environment = {
            **kept,
            "TAILRACE_REDIS_URL": processes_url or redis_url,
            "TAILRACE_NAMESPACE": namespace,
            "TAILRACE_DATA_DIR": str(place / "d"),
            "TAILRACE_REPAIRS": "none",  # what is mended is not flagged
            "PYTHONPATH": str(ROOT),  # for `--app tests.faults.app`
        }
        environment |= settings or {}
        if postgres_url:
            environment["TAILRACE_POSTGRES_URL"] = postgres_url
        try:
            site = cls(store, place, environment)
            async with site._ended:
                yield site
        finally:
            await store.aclose()

    # --- Processes

    async def engine(self) -> tuple[StandBy, StandBy]:
        """An orchestrator, and a watchdog that judges already."""
        orchestrator, watchdog = await asyncio.gather(self.process("orchestrator"), self.process("watchdog"))
        await pass_server_time(self.store, SETTLE_SECONDS)
        return orchestrator, watchdog

    async def worker(
        self,
        agent: str,
        *,
        slots: int = 2,
        app: str = "",
        skew_seconds: float = 0.0,
        build: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> StandBy:
        """A worker of a simulated agent, or of one of the module `app`; it has joined."""
        arguments = [agent, "--app", app] if app else [f"simulated:{agent}"]
        arguments = ["worker", *arguments, "--concurrency", str(slots), "--drain-seconds", "0.1"]
        return await self.process(*arguments, skew_seconds=skew_seconds, build=build, settings=settings)

    async def process(
        self, *arguments: str, skew_seconds: float = 0.0, build: str = "", settings: Mapping[str, str] | None = None
    ) -> StandBy:
        """One process of this site that is ready.

        With `skew_seconds` its clock is wrong by so much; with `build` it says that it runs that one; `settings` are
        variables of its environment.
        """
        log = self.folder / f"{arguments[0]}-{next(_numbers)}.log"
        program = tailrace_program()
        if skew_seconds or build:
            program = [sys.executable, "-c", _ODD, str(skew_seconds), build]
        process = StandBy([*program, *arguments], {**self.environment, **(settings or {})}, log)
        # (Also one that is stopped has to end with the site.)
        self._ended.callback(process.signal, signal.SIGCONT)
        await self._ended.enter_async_context(process)
        self._ended.callback(process.signal, signal.SIGCONT)
        self._ended.callback(process.free)

        async def said() -> bool:
            return " is ready" in log.read_text(errors="replace")

        await eventually(said, PATIENCE_SECONDS)
        return process

    async def killed(self, process: StandBy) -> None:
        """Kill a process for good."""
        process.hold()
        process.signal(signal.SIGKILL)

        async def down() -> bool:
            return process.pid is None

        await eventually(down, PATIENCE_SECONDS)

    # --- Runs

    async def start(self, pipeline: Pipeline, *steps: dict[str, Any], workflow_id: str = "", **fields: Any) -> str:
        """A run; `steps` is what its stage does, one for each attempt."""
        await self.store.put_definition(pipeline.definition)
        workflow_id = workflow_id or f"run-{next(_numbers)}"
        script = {"simulate": {STAGE: list(steps)}} if steps else {}
        command = builders.create_workflow(pipeline, workflow_id, **{"input": script, **fields})
        await self.handler.create(command, actor="test")
        return workflow_id

    async def say(self, workflow_id: str, command: Command) -> None:
        """What a person asks of a run."""
        await self.handler.execute(workflow_id, command, actor="test")

    def part(self, workflow_id: str) -> PartitionKeys:
        """The keys of a run's partition."""
        return self.store.keys.partition(partition_of(workflow_id, self.store.partitions))

    async def redis(self, *words: Any) -> Any:
        """A command behind the engine's back."""
        return await self.store.client.command(*words)

    async def empty(self) -> None:
        """Remove all that the namespace has in Redis."""
        for pattern in (f"tr:{self.store.keys.namespace}:*", f"tr:{{{self.store.keys.namespace}:*"):
            if names := await self.redis("KEYS", pattern):
                await self.redis("DEL", *names)

    async def state(self, workflow_id: str) -> WorkflowState:
        """A run as it is stored."""
        (state,) = await self.store.load_states([workflow_id])
        assert state is not None, f"{workflow_id} is not there"
        return state

    async def entry(self, workflow_id: str) -> OpenEntry:
        """Where the one open task of a run is."""
        (entry,) = await self.store.open_entries(workflow_id)
        return entry

    async def begun(self, workflow_id: str, attempt: int = 1) -> WorkflowState:
        """Wait until a worker's word that it began an attempt was applied."""

        async def found() -> WorkflowState | None:
            state = await self.state(workflow_id)
            tasks = [stage.task for stage in state.stages.values() if stage.task is not None]
            return state if any(task.attempt >= attempt and task.started_at is not None for task in tasks) else None

        state = await eventually(found, PATIENCE_SECONDS)
        assert state is not None
        return state

    async def ended(self, workflow_id: str, status: str = "completed") -> None:
        """Wait until the run has ended so."""

        async def reached() -> bool:
            return (await self.state(workflow_id)).status == status

        await eventually(reached, PATIENCE_SECONDS)

    async def passed(self, seconds: float) -> None:
        """Wait until the store's clock has moved on."""
        await pass_server_time(self.store, seconds)

    async def flags(self, workflow_id: str) -> list[Flag]:
        """All stalls that were ever recorded of a run."""
        async with self._reading:
            for partition in range(self.store.partitions):
                while entries := await self.store.read_log(partition, self._read[partition], count=1000):
                    for entry in entries:
                        self._note(entry)
                    self._read[partition] = entries[-1].entry_id
        return self._flags.get(workflow_id, [])

    def _note(self, entry: RawEntry) -> None:
        if entry.type == WorkflowStalled.__name__:
            decoded = decode_event(entry.type, entry.data)
            assert isinstance(decoded.event, WorkflowStalled)
            self._flags.setdefault(entry.workflow_id, []).append(Flag(decoded.event, decoded.at))


def one(agent: str, *, expect_start_seconds: float = 1.0, **settings: Any) -> Pipeline:
    """A definition of one stage whose start is expected soon."""
    stage = builders.stage(STAGE, agent=agent, expect_start_seconds=expect_start_seconds, **settings)
    return builders.pipeline(stage, name=f"{agent}-{next(_numbers)}")


#: Runs the command line with a clock that is wrong, or as another build.
_ODD = """
import sys, time
skew, build = float(sys.argv.pop(1)), sys.argv.pop(1)
real, real_ns = time.time, time.time_ns
if skew:
    time.time = lambda: real() + skew
    time.time_ns = lambda: real_ns() + int(skew * 1e9)
if build:
    import tailrace.infra.build
    tailrace.infra.build.build_id = lambda: build
from tailrace.infra.cli import main
main()
"""
