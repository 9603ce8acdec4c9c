"""A fleet on one Redis: two gateways, two orchestrators, a projector, a watchdog, and three workers for each of three agents.

Each is a process of its own, started with the command line. Runs of seven stages are sent to both gateways; midway the
orchestrator that owns most partitions and one worker are killed with -9, and nothing is started in their place. In the end
every run has to be completed, with each of its stages counted once. Takes about a minute for 1,000 runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.embedded import EmbeddedPostgres, EmbeddedRedis
from tailrace.infra.embedded.server import free_port
from tailrace.infra.parent import PARENT_VARIABLE, die_with_parent
from tests.fleet.agents import NAMES
from tests.support.servers import redis_program

STAGES: Final = 7
WORKERS: Final = 3
LONGEST_SECONDS: Final = 600.0
ROOT: Final = Path(__file__).parents[2]

console = Console()


class Fleet:
    """The processes by name, and the addresses of the gateways."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.urls: list[str] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        self._environment = {**kept, **settings, "PYTHONPATH": str(ROOT), PARENT_VARIABLE: str(os.getpid())}

    def start(self, name: str, *arguments: str) -> None:
        """One process; what it says goes into a file."""
        with (self._folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tailrace.infra.cli", *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_all(self) -> None:
        """All that the docstring above names."""
        for number in (1, 2):
            port = free_port()
            self.urls.append(f"http://127.0.0.1:{port}/api/v1")
            self.start(f"gateway-{number}", "gateway", "--port", str(port))
            self.start(f"orchestrator-{number}", "orchestrator")
        self.start("projector", "projector")
        self.start("watchdog", "watchdog")
        for agent in NAMES:
            for number in range(1, WORKERS + 1):
                app = f"tests.fleet.agents:{agent}"
                self.start(f"worker-{agent}-{number}", "worker", agent, "--app", app, "--concurrency", "8")

    def kill(self, name: str) -> None:
        """With -9."""
        self.processes[name].send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """All that still run."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def started(folder: Path, settings: dict[str, str]) -> Iterator[Fleet]:
    """A fleet, stopped at the end."""
    fleet = Fleet(folder, settings)
    try:
        fleet.start_all()
        yield fleet
    finally:
        fleet.stop()


class Client:
    """Asks both gateways in turn."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str]) -> None:
        self._session = session
        self._urls = urls
        self._turn = 0

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that a gateway answers; raises `RuntimeError` when it refuses."""
        self._turn += 1
        url = self._urls[self._turn % len(self._urls)] + path
        async with self._session.request(method, url, json=body) as response:
            if response.status >= 400:
                raise RuntimeError(f"{method} {path}: {response.status} {await response.text()}")
            return await response.json()

    async def wait_ready(self) -> None:
        """Until both gateways are, and somebody works for each agent."""
        for url in self._urls:
            while True:
                try:
                    async with self._session.get(url.removesuffix("/api/v1") + "/health/ready") as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
        await self.ask("PUT", "/definitions/fleet", {"name": "fleet", "stages": _stages()})
        while True:
            live = {item["agent"]: item["live_workers"] for item in (await self.ask("GET", "/agents"))["items"]}
            if all(live.get(name) == WORKERS for name in NAMES):
                return
            await asyncio.sleep(0.1)

    async def submit(self, runs: int) -> list[str]:
        """So many runs, twenty requests at a time; their ids."""
        places = asyncio.Semaphore(20)

        async def one(number: int) -> str:
            async with places:
                run = await self.ask("POST", "/workflows", {"type": "fleet", "name": f"run-{number}"})
                return str(run["workflow_id"])

        return await asyncio.gather(*(one(number) for number in range(runs)))


def _stages() -> list[dict[str, Any]]:
    names = [f"s{number}" for number in range(STAGES)]
    return [
        {"name": name, "agent": NAMES[number % len(NAMES)], "needs": names[number - 1 : number] if number else []}
        for number, name in enumerate(names)
    ]


async def _owner(redis_url: str, fleet: Fleet) -> str:
    """The orchestrator that owns most partitions. Its pid is in the name that it owns them under."""
    store = await RedisStore.open(RedisSettings(url=redis_url), namespace="tailrace", create=False)
    try:
        facts = [await store.partition_facts(partition) for partition in range(store.partitions)]
    finally:
        await store.aclose()
    (most, _), *_ = Counter(fact.owner for fact in facts).most_common(1)
    found = [name for name, process in fleet.processes.items() if str(process.pid) in most.split("-")]
    if not found:
        raise RuntimeError(f"no process of ours is {most!r}")
    return found[0]


async def _carry_out(fleet: Fleet, redis_url: str, runs: int) -> bool:
    """All of it; whether every run is as it should be."""
    async with aiohttp.ClientSession() as session:
        client = Client(session, fleet.urls)
        async with asyncio.timeout(60):
            await client.wait_ready()
        console.print(f"{len(fleet.processes)} processes: {' '.join(fleet.processes)}")
        begun = time.monotonic()
        submitting = asyncio.create_task(client.submit(runs))
        killed: list[str] = []
        completed = ended = 0
        with Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        ) as progress:
            bar = progress.add_task("completed", total=runs)
            while ended < runs:
                await asyncio.sleep(0.2)
                if time.monotonic() - begun > LONGEST_SECONDS:
                    raise RuntimeError(f"{ended} of {runs} runs have ended after {LONGEST_SECONDS:.0f} s")
                by_status = (await client.ask("GET", "/stats/overview"))["by_status"]
                completed = by_status.get("completed", 0)
                ended = sum(by_status.get(status, 0) for status in ("completed", "failed", "cancelled"))
                progress.update(bar, completed=completed)
                if not killed and completed >= runs // 3:
                    killed = [await _owner(redis_url, fleet), f"worker-{NAMES[1]}-2"]
                    for name in killed:
                        fleet.kill(name)
                    seconds = time.monotonic() - begun
                    progress.console.print(f"{seconds:.1f} s, {completed} completed: kill -9 {' '.join(killed)}")
        ids = await submitting
        console.print(
            f"{time.monotonic() - begun:.1f} s: {ended} of {len(set(ids))} runs have ended, {completed} completed"
        )
        return await _look_at(client, ids)


async def _look_at(client: Client, ids: list[str]) -> bool:
    """Whether each run counted each of its stages once; says how often tasks were delivered again."""
    wrong: list[str] = []
    again = 0
    for workflow_id in ids:
        run = await client.ask("GET", f"/workflows/{workflow_id}")
        last = run["stage_outputs"].get(f"s{STAGES - 1}")
        if (run["status"], run["progress_percentage"], last) != ("completed", 100, {"number": STAGES}):
            wrong.append(workflow_id)
        tasks = (await client.ask("GET", f"/workflows/{workflow_id}/tasks"))["items"]
        again += sum(task["deliveries"] > 1 for task in tasks)
        if len(tasks) != STAGES and workflow_id not in wrong:
            wrong.append(workflow_id)
    stalls = (await client.ask("GET", "/stalls"))["items"]
    console.print(f"{again} tasks were delivered again; {len(stalls)} stalls stand")
    console.print(f"[red]not as they should be: {', '.join(wrong)}[/red]" if wrong else "every run is as it should be")
    return not wrong and not stalls


@asynccontextmanager
async def _servers(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """The addresses of a Redis and a Postgres of our own."""
    redis = EmbeddedRedis(folder / "redis", server=redis_program(), maxmemory_bytes=512 * 1024 * 1024)
    async with redis, EmbeddedPostgres(folder / "postgres") as postgres:
        yield redis.url, postgres.url


async def _run(runs: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        folder = Path(name)
        async with _servers(folder) as (redis_url, postgres_url):
            settings = {"TAILRACE_REDIS_URL": redis_url, "TAILRACE_POSTGRES_URL": postgres_url}
            with started(folder, settings) as fleet:
                return await _carry_out(fleet, redis_url, runs)


def main() -> None:
    """Exit 1 when a run is not as it should be."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    sys.exit(0 if asyncio.run(_run(parser.parse_args().runs)) else 1)


if __name__ == "__main__":
    main()
