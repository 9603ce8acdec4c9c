"""H24: a consumer is removed only when it holds nothing, and who beats is found without a search through all keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tailrace.core.store.port import Limits, WorkerBeat
from tailrace.core.testing.builders import completed, line, workflow_id_in
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.bench import Bench
from tests.support.waiting import pass_server_time

BEAT = WorkerBeat(agent="agent", name="w1", at=0, build="b1", pid=1, host="here", slots=1, in_flight=0, store_id="")


@pytest.mark.hole("H24")
async def test_h24_a_consumer_takes_what_it_holds_along(bench: Bench) -> None:
    """That is what the server does when it is told to remove one; nobody is ever given those entries again."""
    definition = (await bench.prepare(line("only"))).pipeline
    run = await bench.submit(definition)
    (delivery,) = await bench.queue("w1").take(2, block_seconds=1)
    client = bench.store.client
    assert await client.command("XGROUP", "DELCONSUMER", delivery.stream, "agent", "w1") == 1
    assert await bench.queue("w2").take(2, block_seconds=0) == []
    assert (await client.command("XPENDING", delivery.stream, "agent"))[0] == 0
    assert [entry.state for entry in await bench.open_entries(run)] == ["acknowledged"]


@pytest.mark.hole("H24")
async def test_h24_who_leaves_with_a_task_leaves_it_to_others(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """Its consumer stays as long as something is pending under its name, and goes when nothing is."""
    async with Bench.on(redis_server.url, tmp_path, limits=Limits(lease_seconds=0.2, pulse_seconds=5.0)) as bench:
        client = bench.store.client
        definition = (await bench.prepare(line("only"))).pipeline
        run = await bench.submit(definition, workflow_id_in(0, 2))
        leaving, other = bench.queue("w1"), bench.queue("w2")
        (delivery,) = await leaving.take(2, block_seconds=1)
        await leaving.leave()
        assert await consumers(bench, delivery.stream) == ["w1"]
        await other.claim(0)
        await pass_server_time(bench.store, 0.3)
        (taken,) = await other.claim(4)
        assert (taken.message.workflow_id, taken.delivery) == (run, 2)
        await leaving.leave()
        assert await consumers(bench, delivery.stream) == ["w2"]
        report = completed(taken.message.task_id, worker="w2", delivery=2)
        assert await other.report([(taken, report, "")]) == [True]
        assert await client.command("XLEN", delivery.stream) == 0


async def consumers(bench: Bench, stream: str) -> list[str]:
    """The consumers of the agent's group on a stream."""
    rows = await bench.store.client.command("XINFO", "CONSUMERS", stream, "agent")
    return sorted(dict(zip(row[::2], row[1::2], strict=True))[b"name"].decode() for row in rows)


@pytest.mark.hole("H24")
async def test_h24_beats_are_listed_by_their_index(bench: Bench) -> None:
    """As many workers as there are, by name, without SCAN or KEYS; who leaves is not among them."""
    before = [await bench.calls_of(command) for command in ("scan", "keys")]
    for number in range(20):
        await bench.queue(f"w{number:02}").beat(replace(BEAT, name=f"w{number:02}"))
    await bench.queue("w07").leave()
    found = sorted(beat.name for beat in await bench.store.workers("agent"))
    assert found == [f"w{number:02}" for number in range(20) if number != 7]
    assert [await bench.calls_of(command) for command in ("scan", "keys")] == before
