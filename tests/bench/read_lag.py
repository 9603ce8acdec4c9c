"""How old the read models are under half of the load that the deployment can carry: for each event the time from its entry in the
log, by the clock of Redis, until a reader of Postgres finds it in all projections. Both clocks are of this machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import asyncpg

from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import Head
from tests.bench.figures import Figure
from tests.bench.load import Load, new_id
from tests.bench.logged import PAGE, heads
from tests.bench.percentile import percentile

#: How often Postgres is asked, in seconds; a lag is measured to that.
LOOK_SECONDS: Final = 0.005
#: What is due is started so often, in seconds.
TICK_SECONDS: Final = 0.01
#: Half of full load.
SHARE: Final = 0.5
AIM_P99_MS: Final = 250.0

_SEEN: Final = "SELECT partition, min(seq) AS seq FROM tailrace.checkpoints GROUP BY partition"

#: A look at Postgres: when it was over, in milliseconds since the epoch, and up to which `seq` each partition was there.
Look = tuple[float, Mapping[int, int]]


async def measure_lag(load: Load, postgres_url: str, *, full: float, seconds: float) -> list[Figure]:
    """Start runs at half of `full` (runs/s) for so long."""
    begin = await heads(load.store)
    looks: list[Look] = []
    looking = asyncio.create_task(_look(postgres_url, looks))
    rate = full * SHARE
    try:
        await _start(load, rate, seconds)
        await load.wait_ended()
        await load.wait_projected()
        await asyncio.sleep(2 * LOOK_SECONDS)  # so that the last look is behind the last event
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    found = [lag for partition, head in enumerate(begin) for lag in await _lags_of(load.store, partition, head, looks)]
    return [
        Figure(name="runs started", value=rate, unit="runs/s", aim=rate, at_least=True),
        Figure(name="lag of the read models, p50", value=percentile(found, 0.5), unit="ms", aim=AIM_P99_MS / 2),
        Figure(name="lag of the read models, p99", value=percentile(found, 0.99), unit="ms", aim=AIM_P99_MS),
        Figure(name="lag of the read models, most", value=max(found), unit="ms", aim=2 * AIM_P99_MS),
    ]


async def _start(load: Load, rate: float, seconds: float) -> None:
    """Runs at an even pace, whatever becomes of them."""
    begun, started = time.monotonic(), 0
    while (passed := time.monotonic() - begun) < seconds:
        due = int(passed * rate) - started
        if due > 0:
            await asyncio.gather(*(load.submit(new_id()) for _ in range(due)))
            started += due
        await asyncio.sleep(TICK_SECONDS)


async def _look(url: str, looks: list[Look]) -> None:
    connection = await asyncpg.connect(url)
    try:
        while True:
            rows = await connection.fetch(_SEEN)
            looks.append((time.time() * 1000, {row["partition"]: row["seq"] for row in rows}))
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        connection.terminate()


async def _lags_of(store: RedisStore, partition: int, after: Head, looks: Sequence[Look]) -> list[float]:
    entries: list[tuple[int, float]] = []
    position = after.last_entry_id
    while page := await store.read_log(partition, position, count=PAGE):
        entries += [(entry.seq, float(entry.entry_id.partition("-")[0])) for entry in page]
        position = page[-1].entry_id
    return list(lags_ms(entries, [(at, seen.get(partition, 0)) for at, seen in looks]))


def lags_ms(entries: Sequence[tuple[int, float]], looks: Sequence[tuple[float, int]]) -> Iterator[float]:
    """For each entry (`seq`, when it came) the time until the first look that shows it (when, up to which `seq`), in their unit.

    Entry ids are no finer than a millisecond, and round down. What no look shows is left out.
    """
    look = 0
    for seq, at in entries:
        while look < len(looks) and looks[look][1] < seq:
            look += 1
        if look == len(looks):
            return
        yield looks[look][0] - at
