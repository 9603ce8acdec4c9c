"""How fast the read models are built anew and verified: events per second of an archive of seven-stage runs, on one Postgres.

The archive is made by a projector; its runs were interleaved. Nothing else is at the database meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg

from tailrace.infra.embedded import EmbeddedPostgres
from tailrace.infra.processes.running import CALM_IN_BULK, calm_collector, run_loop
from tailrace.projections.rebuild import rebuild
from tailrace.projections.verify import verify
from tests.bench.figures import Figure
from tests.bench.projection_rate import fill, project
from tests.integration.projections.run_log import RunLog

#: Events per second that a rebuild of all projections shall reach.
AIM = 50_000


def measure_rebuild(runs: int, say: Callable[[str], None]) -> Iterator[Figure]:
    """Build an archive of `runs` runs, and the read models from it: all of them, then one, then a verification."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as folder:
        yield from run_loop(_measure(Path(folder), runs, say))


async def _measure(folder: Path, runs: int, say: Callable[[str], None]) -> list[Figure]:
    say(f"an archive of {runs:,} runs")
    async with EmbeddedPostgres(folder / "postgres") as server:
        events = await _fill(server.url, runs)
        calm_collector(after=CALM_IN_BULK)
        found = []
        for name, aim in ((None, AIM), ("workflows", AIM)):
            say(f"rebuild {name or '--all'}, {events:,} events")
            begin = time.monotonic()
            await rebuild(server.url, name)
            found.append(_figure(f"rebuild {name or '--all'}", events / (time.monotonic() - begin), aim))
        say(f"verify, {events:,} events")
        begin = time.monotonic()
        assert not any(verdict.differ for verdict in await verify(server.url))
        found.append(_figure("verify", events / (time.monotonic() - begin), AIM))
    return found


async def _fill(url: str, runs: int) -> int:
    log = RunLog()
    events = fill(log, runs)
    await project(url, log, events)
    # An archive at rest, as all of it is but what came last.
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
    return events


def _figure(name: str, value: float, aim: float) -> Figure:
    return Figure(name=name, value=value, unit="events/s", aim=aim, at_least=True)
