"""The process `tailrace worker`: one or more agents, of this package or of a user's own module."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import logging
import os
import socket
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from tailrace.agents.builtin import NAMES, load
from tailrace.agents.runtime import Worker, WorkerOptions
from tailrace.agents.sdk import Agent
from tailrace.core.artifacts import FileArtifacts
from tailrace.core.errors import ConfigurationError
from tailrace.core.redis_backend.tasks import RedisLeases, RedisTasks
from tailrace.infra.build import build_id
from tailrace.infra.config import Settings
from tailrace.infra.processes.running import Life, open_store, run_process, tracing

log = logging.getLogger(__name__)

ENTRY_POINTS: Final = "tailrace.agents"
SIMULATED: Final = "simulated:"


def run_worker(
    settings: Settings,
    names: Sequence[str],
    *,
    app: str | None,
    concurrency: int,
    drain_seconds: float = 10.0,
    as_json: bool = False,
) -> None:
    """Run the named agents until a signal, then drain."""
    agents = [find_agent(name, app) for name in names] if names else app_agents(app)

    async def main(life: Life) -> None:
        artifacts = FileArtifacts(settings.data_dir / "artifacts")
        async with open_store(settings) as store:
            joined = [asyncio.Event() for _ in agents]
            services = []
            for agent, event in zip(agents, joined, strict=True):
                options = WorkerOptions(
                    name=stable_name(settings.data_dir / "run", settings.namespace, agent.name),
                    workspaces=settings.data_dir / "workspaces",
                    concurrency=concurrency,
                    drain_seconds=drain_seconds,
                    build=build_id(),
                    store_id=store.instance_id,
                )
                queue = RedisTasks(store, agent.name, options.name)
                keeper = RedisLeases(store, agent.name, options.name)
                worker = Worker(agent, queue, keeper, artifacts, options)
                log.info("worker %s of agent %s, build %s", options.name, agent.name, options.build)
                services.append(worker.run(life.stop, joined=event))

            async def tell() -> None:
                for event in joined:
                    await event.wait()
                life.ready()

            async with asyncio.TaskGroup() as group:
                telling = group.create_task(tell())
                for service in services:
                    group.create_task(service)
                await life.stop.wait()
                telling.cancel()

    with tracing("tailrace-worker"):
        run_process("worker", main, settings, as_json=as_json)


def find_agent(name: str, app: str | None) -> Agent:
    """The agent called `name`: from `--app`, an entry point, or this package; raises `ConfigurationError`."""
    if app is not None:
        found = {agent.name: agent for agent in app_agents(app)}
        if name in found:
            return found[name]
        raise ConfigurationError(f"{app} has no agent {name!r}; it has: {', '.join(sorted(found)) or 'none'}")
    if name.startswith(SIMULATED):
        from tailrace.agents.simulated import simulated_agent  # noqa: PLC0415  # for trials only

        return simulated_agent(name.removeprefix(SIMULATED))
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return _agent(point.load(), f"entry point {name!r}")
    if name in NAMES:
        return load(name)
    raise ConfigurationError(
        f"no agent is called {name!r}; known: {', '.join(sorted(NAMES))}. Load your own with --app MODULE:NAME"
    )


def app_agents(app: str | None) -> list[Agent]:
    """The agents that `MODULE:NAME` names: one, or a list of them; raises `ConfigurationError`."""
    if app is None:
        raise ConfigurationError("name at least one agent, for example: tailrace worker scaffold")
    module_name, _, attribute = app.partition(":")
    try:
        value = getattr(importlib.import_module(module_name), attribute or "agent")
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"--app {app}: {error}") from error
    return [_agent(item, app) for item in value] if isinstance(value, list | tuple) else [_agent(value, app)]


def _agent(value: object, where: str) -> Agent:
    if not isinstance(value, Agent):
        raise ConfigurationError(f"{where} is a {type(value).__name__}, not a tailrace.agents.sdk.Agent")
    return value


#: Locks that keep worker names apart; held until the process ends.
_locks: list[int] = []


def stable_name(folder: Path, namespace: str, agent: str) -> str:
    """`<host>-<id>-<n>`: the id is that of the data directory, n the lowest that no living worker of this agent has there.

    The name is the same after a restart, so a worker finds its own pending tasks again; and nobody else's, because two data
    directories on one host have two ids.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = _place(folder / "id")
    number = 0
    while True:
        number += 1
        handle = os.open(
            folder / f"worker-{namespace}-{agent}-{number}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            continue
        _locks.append(handle)
        return f"{socket.gethostname()}-{place}-{number}"


def _place(file: Path) -> str:
    """The id of a data directory, made once: written aside and linked, so that two that begin at once agree."""
    own = file.with_name(f".{file.name}-{os.getpid()}")
    own.write_text(os.urandom(3).hex())
    with contextlib.suppress(FileExistsError):
        os.link(own, file)
    own.unlink()
    return file.read_text().strip()
