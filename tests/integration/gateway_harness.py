"""A gateway with everything behind it: a real store, an orchestrator, a worker that does as it is told, a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
from aiohttp import web

from tailrace.core.artifacts import FileArtifacts
from tailrace.core.commands import Report
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.core.events import Failure
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.tasks import RedisTasks
from tailrace.core.store.port import Delivery
from tailrace.core.workflow.definition import Definition, RetryPolicy, StageDefinition
from tailrace.gateway.app import build_app
from tailrace.gateway.listen import serving
from tailrace.gateway.services import SERVICES, Services
from tailrace.gateway.settings import GatewaySettings
from tailrace.infra.processes.gateway import archived
from tailrace.projections.queries import Queries
from tailrace.projections.runtime import Projector
from tests.integration.projections.support import quick
from tests.support.waiting import beside, eventually

PATIENCE_SECONDS = 20.0

#: Where no Postgres is.
NOWHERE = "postgresql://nobody@/nothing?host=/nonexistent"

#: Three stages in a row, tried once each.
APP = Definition(
    name="app",
    stages=tuple(
        StageDefinition(name=name, agent="builder", needs=needs, retry=RetryPolicy(max_attempts=1))
        for name, needs in (("plan", ()), ("build", ("plan",)), ("ship", ("build",)))
    ),
)


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What `why` answers in these tests."""

    workflow_id: str
    cause: str


@dataclass
class Worker:
    """Takes every task of one agent. A stage in `held` waits for its event; one in `answers` gets that outcome."""

    queue: RedisTasks
    name: str = "w1"
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Work until cancelled."""
        await self.queue.join()
        async with asyncio.TaskGroup() as group:
            while True:
                for delivery in await self.queue.take(100, block_seconds=1.0):
                    group.create_task(self._work(delivery))

    def hold(self, stage: str) -> asyncio.Event:
        """Let tasks of a stage wait until the event is set."""
        return self.held.setdefault(stage, asyncio.Event())

    async def _work(self, delivery: Delivery) -> None:
        message = delivery.message
        await self._report(delivery, "started")
        self.taken.append(message.stage)
        if message.stage in self.held:
            await self.held[message.stage].wait()
        answer = self.answers.get(message.stage, {"stage": message.stage})
        if isinstance(answer, Failure):
            await self._report(delivery, "failed", error=answer)
        else:
            await self._report(delivery, "completed", output=answer)

    async def _report(self, delivery: Delivery, kind: str, **facts: Any) -> None:
        report = Report(
            kind=kind, task_id=delivery.message.task_id, worker=self.name, delivery=delivery.delivery, **facts
        )
        await self.queue.report([(delivery, report, delivery.traceparent)])


@dataclass
class Event:
    """One server-sent event, or a comment."""

    name: str = "message"
    id: str = ""
    data: Any = None
    comment: str = ""

    @property
    def version(self) -> int:
        """The version the event carries."""
        version: int = self.data["data"]["version"]
        return version


class EventReader:
    """Reads a response as server-sent events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def __aiter__(self) -> AsyncIterator[Event]:
        event = Event()
        async for raw in self.response.content:
            line = raw.decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if not line:
                if event != Event():
                    yield event
                event = Event()
            elif line.startswith(":"):
                event.comment = line[1:].strip()
            elif name == "event":
                event.name = value
            elif name == "id":
                event.id = value
            elif name == "data":
                event.data = json.loads(value)

    async def until(self, wanted: Callable[[Event], bool]) -> list[Event]:
        """Events up to the first that is wanted, without comments before it; fails when the stream ends before."""
        found: list[Event] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in self:
                if wanted(event):
                    return [*found, event]
                if not event.comment:
                    found.append(event)
        raise AssertionError(f"the stream ended after {[event.name for event in found]}")

    async def rest(self) -> list[Event]:
        """All events up to the end of the stream, without comments."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [event async for event in self if not event.comment]


@dataclass
class Gateway:
    """A served gateway, a client of it, and the parts behind it."""

    url: str
    client: aiohttp.ClientSession
    store: RedisStore
    commands: CommandHandler
    worker: Worker
    app: web.Application
    stop: Callable[[], Awaitable[None]]

    @property
    def services(self) -> Services:
        """The parts, as the routes see them."""
        return self.app[SERVICES]

    async def call(self, method: str, path: str, *, status: int | None = None, **options: Any) -> Any:
        """One request under `/api/v1`; gives the JSON of the answer, which must have the status."""
        async with self.client.request(method, f"{self.url}/api/v1{path}", **options) as response:
            text = await response.text()
            assert status is None or response.status == status, (response.status, text)
            return json.loads(text) if text else None

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """Start a run."""
        document: dict[str, Any] = await self.call(
            "POST", "/workflows", json={"type": "app", "name": "an app", **fields}, status=201
        )
        return document

    async def finished(self, **fields: Any) -> dict[str, Any]:
        """Start a run and wait for its end."""
        document: dict[str, Any] = await self.call(
            "POST", "/workflows?wait=20", json={"type": "app", "name": "an app", **fields}, status=201
        )
        return document

    async def wait_status(self, workflow_id: str, *statuses: str) -> dict[str, Any]:
        """The run once it has one of these statuses."""
        async with asyncio.timeout(PATIENCE_SECONDS), self.stream(f"/workflows/{workflow_id}/events") as events:
            while True:
                document: dict[str, Any] = await self.call("GET", f"/workflows/{workflow_id}", status=200)
                if document["status"] in statuses:
                    return document
                await anext(aiter(events))

    async def wait_listening(self) -> None:
        """Return once a feed reads the log for somebody."""

        async def listening() -> int:
            return self.services.feed.listening

        await eventually(listening)

    async def wait_no_streams(self) -> None:
        """Return once every stream has ended on the gateway's side."""

        async def none_open() -> bool:
            return not self.services.metrics.streams

        await eventually(none_open, timeout=60)

    async def archived(self, document: dict[str, Any]) -> None:
        """Wait until the read model has the run as the document shows it."""

        async def reached() -> bool:
            row = await self.services.queries.get_workflow(document["workflow_id"])
            return row is not None and row.version >= document["version"]

        await eventually(reached)

    @asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncIterator[EventReader]:
        """An event stream under `/api/v1`."""
        sent = {"Accept": "text/event-stream", **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.client.get(f"{self.url}/api/v1{path}", headers=sent) as response:
            assert response.status == 200, (response.status, await response.text())
            assert response.content_type == "text/event-stream"
            yield EventReader(response)


async def diagnose(workflow_id: str) -> Diagnosis:
    """Stands for the watchdog's diagnosis."""
    return Diagnosis(workflow_id=workflow_id, cause="no-worker")


@asynccontextmanager
async def gateway(
    redis_url: str,
    folder: Path,
    *,
    postgres_url: str | None = None,
    working: bool = True,
    namespace: str = "",
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """A gateway on a namespace of its own, with one orchestrator and one worker unless told otherwise."""
    async with AsyncExitStack() as stack:
        store = await RedisStore.open(
            RedisSettings(url=redis_url, max_connections=64),
            namespace=namespace or uuid4().hex[:12],
            partitions=2,
        )
        stack.push_async_callback(store.aclose)
        await store.put_definition(APP)
        worker = Worker(RedisTasks(store, "builder", "w1"))
        queries = await stack.enter_async_context(Queries(postgres_url or NOWHERE))
        commands = CommandHandler(store, archived=None if postgres_url is None else archived(queries))
        chosen = GatewaySettings(**{"port": 0, "store_timeout_seconds": 2.0, "shutdown_seconds": 2.0, **settings})
        app = build_app(
            store=store,
            commands_handler=commands,
            queries=queries,
            diagnose=diagnose,
            artifact_store=FileArtifacts(folder),
            settings=chosen,
        )
        if postgres_url is not None:
            projector = Projector(postgres_url, store, name="p", options=quick())
            await stack.enter_async_context(beside(projector.run()))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await projector.wait_ready()
        if working:
            await stack.enter_async_context(beside(Orchestrator(store, "o1").run(), worker.run()))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        server = await stack.enter_async_context(AsyncExitStack())
        url = await server.enter_async_context(serving(app, chosen))
        yield Gateway(
            url=url, client=client, store=store, commands=commands, worker=worker, app=app, stop=server.aclose
        )
