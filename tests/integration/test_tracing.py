"""One run is one trace, through all processes: a real gateway, a real worker and the engine's own spans out of the log."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import RawEntry
from tailrace.core.testing.builders import TRACEPARENT
from tailrace.core.workflow.definition import Definition, RetryPolicy, StageDefinition
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.infra.telemetry.exporter import SpanExporter
from tailrace.infra.telemetry.partition import ReaderOptions
from tailrace.infra.telemetry.reader import SpanReader
from tailrace.infra.telemetry.settings import collector
from tailrace.projections.checkpoints import Place
from tests.integration.otlp_receiver import Received, Receiver, collecting
from tests.support.audit import record, whole_log

ROOT = Path(__file__).parents[2]

#: How long a process may take to start or to end on a busy machine.
PATIENCE_SECONDS = 60.0

SERVER, PRODUCER, CONSUMER = 2, 4, 5

APP = Definition(
    name="app",
    stages=tuple(
        StageDefinition(name=name, agent="builder", needs=needs, retry=RetryPolicy(backoff_seconds=0.01))
        for name, needs in (("plan", ()), ("build", ("plan",)), ("test", ("plan",)), ("ship", ("build", "test")))
    ),
)


class Places:
    """Positions in memory."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}

    async def load(self, partition: int) -> Place | None:
        """What was saved."""
        return self.places.get(partition)

    async def save(self, partition: int, place: Place) -> bool:
        """Keep it."""
        self.places[partition] = place
        return True


class LogAsArchive:
    """The archive of a log that was never trimmed is the log."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    async def events(self, workflow_id: str, after_version: int = 0, limit: int = 500) -> Sequence[RawEntry]:
        """The run's entries, from whatever partition they are in."""
        entries = [entry for number in range(self._store.partitions) for entry in await self.log(number, limit=10_000)]
        return [entry for entry in entries if entry.workflow_id == workflow_id and entry.version > after_version]

    async def log(self, partition: int, after_seq: int = 0, limit: int = 500) -> Sequence[RawEntry]:
        """The partition's entries."""
        return [
            entry
            for entry in await self._store.read_log(partition, "0-0", count=after_seq + limit)
            if entry.seq > after_seq
        ]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with collecting() as found:
        yield found


@pytest.fixture
async def store(redis_store: RedisStore) -> AsyncIterator[RedisStore]:
    """A store with the definition, and an orchestrator at work."""
    await redis_store.put_definition(APP)
    running = asyncio.create_task(Orchestrator(redis_store, "o1").run())
    yield redis_store
    running.cancel()
    await asyncio.wait([running])


@asynccontextmanager
async def process(
    kind: str, server: EmbeddedRedis, namespace: str, folder: Path, base: str
) -> AsyncIterator[Awaitable[str]]:
    """A process of that kind while the block runs; gives what it will say when it is ready. It ends in an orderly way."""
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": base, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    command = (sys.executable, "-W", "error", "-m", "tests.integration.tracing_process", kind, server.url, namespace)
    child = await asyncio.create_subprocess_exec(
        *command, str(folder), cwd=ROOT, env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None

    async def said(stdout: asyncio.StreamReader) -> str:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await stdout.readline()).decode().strip()

    try:
        yield said(child.stdout)
        child.stdin.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@asynccontextmanager
async def gateway_and_worker(server: EmbeddedRedis, namespace: str, folder: Path, base: str) -> AsyncIterator[str]:
    """Both processes while the block runs; gives the gateway's URL. When it has ended they have sent what they had."""
    async with AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(process(kind, server, namespace, folder, base))
            for kind in ("worker", "gateway")
        ]
        ready = [await say_ready for say_ready in started]
        yield ready[-1]


@asynccontextmanager
async def engine_spans(store: RedisStore, receiver: Receiver, places: Places) -> AsyncIterator[None]:
    """The `spans` reader of all partitions, while the block runs."""
    reader = SpanReader(
        store,
        LogAsArchive(store),
        places,
        SpanExporter(collector(receiver.endpoint), backoff_seconds=(0.02,)),
        owned=lambda: range(store.partitions),
        options=ReaderOptions(poll_seconds=0.02, backoff_seconds=(0.02,)),
    )
    running = asyncio.create_task(reader.run())
    try:
        yield
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def submit(url: str, **fields: object) -> dict[str, object]:
    """Start a run within a trace of the client's own, and wait for its end."""
    async with (
        aiohttp.ClientSession(headers={"traceparent": TRACEPARENT}) as client,
        client.post(
            f"{url}/api/v1/workflows?wait=20&q=secret", json={"type": "app", "name": "x", **fields}
        ) as response,
    ):
        document: dict[str, object] = await response.json()
        assert response.status == 201, document
        assert document["status"] == "completed"
        return document


async def applied(store: RedisStore, *, tasks: int) -> int:
    """How many reports the log tells of: for each task its end, and its start where that was not said together with it."""
    entries = [entry for number in range(store.partitions) for entry in await whole_log(store, number)]
    commands = [record(entry).command for entry in entries]
    reports = sum(command is not None and command.type == "ApplyReport" for command in commands)
    assert tasks <= reports <= 2 * tasks
    return reports


def chain(span: Received, by_id: dict[str, Received]) -> list[str]:
    """The names from a span up to the one whose parent nobody sent."""
    names = [span.name]
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        names.append(span.name)
    assert span.parent_id == TRACEPARENT[36:52], f"{names} ends at a parent that nobody sent"
    return names


@pytest.mark.failure(24)
async def test_one_trace_follows_a_run_through_all_processes(
    redis_server: EmbeddedRedis, store: RedisStore, namespace: str, receiver: Receiver, tmp_path: Path
) -> None:
    """From the client's span through gateway, engine and worker: one trace id, and no parent that was not sent."""
    async with (
        engine_spans(store, receiver, Places()),
        gateway_and_worker(redis_server, namespace, tmp_path, receiver.base) as url,
    ):
        async with aiohttp.ClientSession() as client, client.get(f"{url}/health/live") as response:
            assert response.status == 200, "a probe, which leaves no span"
        document = await submit(url, input={"fail_once": "build"})
        await receiver.wait(lambda: receiver.named("workflow app"))
    # Both processes have ended, and sent what they had.
    spans = receiver.spans
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), "every span is sent once"
    assert {span.trace_id for span in spans} == {TRACEPARENT[3:35]} == {document["trace_id"]}
    assert {span.service for span in spans} == {"tailrace-gateway", "tailrace-engine", "tailrace-worker"}
    names = {name: len(receiver.named(name)) for name in {span.name for span in spans}}
    assert names == {
        "POST /api/v1/workflows": 1,
        "workflow app": 1,
        "stage plan": 1,
        "stage build": 1,
        "stage test": 1,
        "stage ship": 1,
        "send tasks": 5,
        "process builder": 5,
        "compile": 5,
        "apply report": await applied(store, tasks=5),
    }
    up = ["send tasks", "stage ship", "workflow app", "POST /api/v1/workflows"]
    chains = {tuple(chain(span, by_id)) for span in spans}
    assert ("compile", "process builder", *up) in chains
    assert ("apply report", "process builder", *up) in chains
    assert max(map(len, chains)) == 6
    kinds = {name: {span.kind for span in receiver.named(name)} for name in names}
    assert kinds["POST /api/v1/workflows"] == {SERVER}
    assert (kinds["send tasks"], kinds["process builder"]) == ({PRODUCER}, {CONSUMER})
    assert {span.attributes["messaging.system"] for span in receiver.named("process builder")} == {"redis"}
    failed = [span for span in receiver.named("process builder") if span.error]
    assert [(span.attributes["tailrace.stage"], span.error) for span in failed] == [("build", "handler-error")]
    assert {span.error for span in spans if span.service == "tailrace-engine"} == {""}, "the second attempt succeeded"
    check_resources(receiver.named("POST /api/v1/workflows")[0], receiver.named("process builder")[0])


def check_resources(server: Received, worker: Received) -> None:
    """Processes say who they are, and the request's span does not say what was searched for."""
    assert server.attributes["http.route"] == "/api/v1/workflows"
    assert "secret" not in repr(server.attributes)
    for span in (server, worker):
        assert span.resource["service.version"]
        assert span.resource["service.instance.id"]
    assert server.resource["service.instance.id"] != worker.resource["service.instance.id"]


@pytest.mark.hole("H26")
async def test_the_engines_spans_survive_an_outage_and_a_crash(
    redis_server: EmbeddedRedis, store: RedisStore, namespace: str, receiver: Receiver, tmp_path: Path
) -> None:
    """With the collector down runs do not notice and processes stop in time. When it is back, what the log tells arrives,
    once; a reader that lost its position sends the same bytes again: same ids, same times, same order.
    """
    receiver.stop()
    places = Places()
    async with engine_spans(store, receiver, places):
        async with gateway_and_worker(redis_server, namespace, tmp_path, receiver.base) as url:
            await submit(url)
        assert {place.seq for place in places.places.values()} == {0}, "no position has moved"
        receiver.start()
        await receiver.wait(lambda: receiver.named("workflow app"))
    assert {span.service for span in receiver.spans} == {"tailrace-engine"}
    applied_reports = await applied(store, tasks=4)
    assert len(receiver.spans) == len({span.span_id for span in receiver.spans}) == 1 + 4 + 4 + applied_reports
    bodies = []
    for _ in range(2):
        receiver.spans.clear()
        receiver.bodies.clear()
        async with engine_spans(store, receiver, Places()):
            await receiver.wait(lambda: receiver.named("workflow app"))
        bodies.append(list(receiver.bodies))
    assert bodies[0] == bodies[1]


def test_a_process_without_an_endpoint_does_not_load_the_sdk() -> None:
    """The SDK, protobuf and the instrumentation cost memory: they are loaded only where there is a collector."""
    code = """
import sys
from tailrace.infra.telemetry.sdk import configure
from tailrace.infra.telemetry.settings import telemetry_settings
telemetry = configure("tailrace-worker", telemetry_settings({}))
telemetry.instrument_server()
telemetry.shutdown()
assert not telemetry.enabled
heavy = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "google", "requests", "aiohttp"))]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30, cwd=ROOT)
