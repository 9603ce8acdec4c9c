"""A gateway or a worker as a process of its own, with the tracing that its environment asks for.

    python -m tests.integration.tracing_process gateway|worker REDIS_URL NAMESPACE DATA_DIR

Prints one line when it is ready (the gateway: its URL), and stops in an orderly way when its stdin ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
from opentelemetry import trace

from tailrace.agents.runtime import Worker, WorkerOptions
from tailrace.agents.sdk import Agent, TaskContext, TaskInput
from tailrace.core.artifacts import FileArtifacts
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.tasks import RedisLeases, RedisTasks
from tailrace.gateway.app import build_app
from tailrace.gateway.listen import serving
from tailrace.gateway.settings import GatewaySettings
from tailrace.infra.telemetry.sdk import configure
from tailrace.infra.telemetry.settings import telemetry_settings
from tailrace.projections.queries import Queries

agent = Agent("builder")
_tracer = trace.get_tracer("tests.tracing")


@agent.action("*")
async def work(context: TaskContext, given: TaskInput) -> dict[str, str]:
    """Work within a span of the handler's own; fails the first attempt of what is asked to."""
    with _tracer.start_as_current_span("compile"):
        if context.attempt == 1 and context.task_id.split(":")[1] == given.input.get("fail_once"):
            raise RuntimeError("the first attempt fails")
        return {"done": context.task_id}


async def diagnose(workflow_id: str) -> msgspec.Struct:
    """Nobody asks here."""
    raise NotImplementedError(workflow_id)


async def gateway(store: RedisStore, folder: Path, stop: asyncio.Event) -> None:
    """Serve while Postgres is down."""
    settings = GatewaySettings(port=0, shutdown_seconds=2.0)
    async with Queries("postgresql://127.0.0.1:1/none") as queries:
        app = build_app(
            store=store,
            commands_handler=CommandHandler(store),
            queries=queries,
            diagnose=diagnose,
            artifact_store=FileArtifacts(folder / "artifacts"),
            settings=settings,
        )
        async with serving(app, settings) as url:
            say(url)
            await stop.wait()


async def worker(store: RedisStore, folder: Path, stop: asyncio.Event) -> None:
    """Work for the agent above."""
    joined = asyncio.Event()
    options = WorkerOptions(name="w1", workspaces=folder / "workspaces", concurrency=4)
    found = Worker(
        agent,
        RedisTasks(store, agent.name, "w1"),
        RedisLeases(store, agent.name, "w1"),
        FileArtifacts(folder / "artifacts"),
        options,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(found.run(stop, joined=joined))
        await joined.wait()
        say("joined")


async def serve(kind: str, redis_url: str, namespace: str, folder: Path) -> None:
    """Run until stdin ends."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    store = await RedisStore.open(RedisSettings(url=redis_url), namespace=namespace)
    try:
        await (gateway if kind == "gateway" else worker)(store, folder, stop)
    finally:
        await store.aclose()


def say(line: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """As infra does it: tracing first, then the process, then what is left to send."""
    kind, redis_url, namespace, folder = sys.argv[1:]
    telemetry = configure(f"tailrace-{kind}", telemetry_settings())
    if kind == "gateway":
        telemetry.instrument_server()
    try:
        asyncio.run(serve(kind, redis_url, namespace, Path(folder)))
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    main()
