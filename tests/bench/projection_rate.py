"""How fast a projector catches up: events per second out of a log of seven-stage runs, on one real Postgres.

Runs are interleaved, `CONCURRENT` at a time, so that every batch touches many of them. The log is in memory: what is
measured is decoding, folding, and Postgres.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tailrace.core.ids import idempotent_workflow_id
from tailrace.infra.embedded import EmbeddedPostgres
from tailrace.projections.queries import Queries
from tailrace.projections.runtime import Projector
from tests.integration.projections.run_log import RunLog

CONCURRENT = 100


def fill(log: RunLog, runs: int) -> int:
    """Bring `runs` runs to their end, interleaved; gives the number of events."""
    open_runs: list[str] = []
    for number in range(runs):
        workflow_id = idempotent_workflow_id("bench", str(number))
        log.create(workflow_id, requirements="an app that adds and subtracts", input={"number": number})
        open_runs.append(workflow_id)
        if len(open_runs) == CONCURRENT:
            while open_runs:
                open_runs = [workflow_id for workflow_id in open_runs if log.advance(workflow_id)]
    for workflow_id in open_runs:
        log.finish(workflow_id)
    return sum(len(log.entries(partition)) for partition in range(log.partitions))


async def measure(runs: int) -> tuple[int, float]:
    """Events, and the seconds it took to project them."""
    log = RunLog()
    events = fill(log, runs)
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres") as server:
            return events, await project(server.url, log, events)


async def project(url: str, log: RunLog, events: int) -> float:
    """Project all events of a log into an empty database; gives the seconds it took."""
    async with Queries(url) as queries:
        projector = Projector(url, log)
        running = asyncio.create_task(projector.run())
        await projector.wait_ready()
        begin = time.monotonic()
        while True:
            places = [row.seq for row in await queries.checkpoints()]
            if sum(places) == events * len(places) // log.partitions:
                break
            await asyncio.sleep(0.01)
        seconds = time.monotonic() - begin
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return seconds


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    events, seconds = asyncio.run(measure(runs))
    print(f"projection: {events:,} events of {runs:,} runs in {seconds:.2f} s = {events / seconds:,.0f} events/s")


if __name__ == "__main__":
    main()
