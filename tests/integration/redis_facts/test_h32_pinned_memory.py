"""H32: a deleted entry frees its memory only with the whole node it is in; what that may cost is bounded."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.bench import Bench

#: What a task takes in its stream, in bytes: some ids and a short message.
TASK = "x" * 300
#: What the server puts into one node of a stream, by default.
NODE_BYTES = 4096
NODE_ENTRIES = 100


async def add(bench: Bench, stream: str, count: int) -> list[bytes]:
    """Add so many tasks; gives their entry ids."""
    client = bench.store.client
    found: list[bytes] = []
    for _ in range(0, count, 1000):
        found += await client.pipeline([("XADD", stream, "*", "task", "t", "data", TASK)] * min(1000, count))
    return found


async def delete(bench: Bench, stream: str, entries: list[bytes]) -> None:
    """Delete entries."""
    for start in range(0, len(entries), 1000):
        await bench.store.client.command("XDEL", stream, *entries[start : start + 1000])


async def memory(bench: Bench, stream: str) -> int:
    """What a stream takes."""
    size: Any = await bench.store.client.command("MEMORY", "USAGE", stream, "SAMPLES", 0)
    return int(size)


@pytest.mark.hole("H32")
async def test_h32_one_that_stays_keeps_its_node(bench: Bench) -> None:
    """Of a hundred tasks one is held for long: it costs a node, many times its own size, and no more."""
    stream = f"{bench.store.keys.meta}:pinned"
    entries = await add(bench, stream, 20_000)
    kept = entries[::100]
    await delete(bench, stream, sorted(set(entries) - set(kept)))
    each = await memory(bench, stream) / len(kept)
    assert each > 4 * len(TASK), "the fact itself was not provoked"
    assert each < NODE_BYTES * 1.3
    await delete(bench, stream, kept)
    assert await memory(bench, stream) < 2 * NODE_BYTES


@pytest.mark.hole("H32")
async def test_h32_tasks_that_come_and_go_take_no_more_and_more(bench: Bench) -> None:
    """With two hundred open at any time the stream stays as large as these need, however many have been through it."""
    stream = f"{bench.store.keys.meta}:churn"
    entries = await add(bench, stream, 200)
    sizes = []
    for _ in range(15):
        entries += await add(bench, stream, 1000)
        done, entries = entries[:1000], entries[1000:]
        await delete(bench, stream, done)
        sizes.append(await memory(bench, stream))
    assert await bench.store.client.command("XLEN", stream) == 200
    assert max(sizes) < 200 * len(TASK) * 2 + 4 * NODE_BYTES
