"""A worker's next tasks come with the exchange that its reports leave in, and none is lost when the reply is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tailrace.core.errors import StoreUnavailable
from tailrace.core.redis_backend.connection import Client
from tailrace.core.store.port import Delivery
from tailrace.core.testing.builders import completed, line
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.bench import Bench
from tests.support.fault_proxy import FaultProxy


async def three_of_nine_taken(bench: Bench) -> Sequence[Delivery]:
    """Nine runs that wait for their only stage, over two partitions; a worker has taken some of them."""
    runner = await bench.prepare(line("only"))
    for _ in range(9):
        await bench.submit(runner.pipeline)
    return await bench.queue().take(3, block_seconds=1)


def runs(*groups: Sequence[Delivery]) -> list[str]:
    """Whose tasks they are."""
    return sorted(delivery.message.workflow_id for group in groups for delivery in group)


async def test_the_next_tasks_come_with_the_reports(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No read of their own, and the reports are first."""
    taken = await three_of_nine_taken(bench)
    queue = bench.queue()

    async def no_block(_: Client, *commands: object) -> object:
        raise AssertionError(f"a read of its own: {commands}")

    monkeypatch.setattr(Client, "block", no_block)
    taking = asyncio.create_task(queue.take(40, block_seconds=5))
    await asyncio.sleep(0)
    answers = await queue.report([(delivery, completed(delivery.message.task_id), "") for delivery in taken])
    assert answers == [True] * len(taken)
    more = await taking
    assert len(set(runs(taken, more))) == 9 == len(taken) + len(more)
    monkeypatch.undo()
    # With nothing to go along with it is a read of its own again, that waits.
    last = asyncio.create_task(queue.take(40, block_seconds=5))
    await asyncio.sleep(0.05)
    await bench.submit((await bench.prepare(line("only"))).pipeline, "later")
    assert runs(await last) == ["later"]


async def test_tasks_whose_reply_was_lost_are_taken_again(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """The read fails as the report does: a worker then looks at what is pending under its name."""
    async with (
        FaultProxy(redis_server.url) as proxy,
        Bench.on(proxy.url, tmp_path, timeout=0.5, connect_timeout=0.5) as bench,
    ):
        taken = await three_of_nine_taken(bench)
        queue = bench.queue()
        proxy.lose_reply(to=b"completed")
        taking = asyncio.create_task(queue.take(40, block_seconds=5))
        await asyncio.sleep(0)
        first, *others = taken
        with pytest.raises(StoreUnavailable):
            await queue.report([(first, completed(first.message.task_id), "")])
        with pytest.raises(StoreUnavailable):
            await taking
        assert proxy.faults_done == 1
        # The report had its effect, and the others were delivered.
        again = await queue.reconcile(others)
        assert len(set(runs(taken, again))) == 9 == len(taken) + len(again)
        assert await queue.report([(first, completed(first.message.task_id), "")]) == [False]


async def test_a_worker_whose_reports_and_tasks_share_a_lost_reply_does_them_all(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Several times, with many runs: each is completed, none twice."""
    async with (
        FaultProxy(redis_server.url) as proxy,
        Bench.on(proxy.url, tmp_path, timeout=0.5, connect_timeout=0.5) as bench,
        bench.orchestrating(),
        bench.working(concurrency=16, claim_poll_seconds=0.1),
    ):
        runner = await bench.prepare(line("first", "second", "third"))
        for _ in range(3):
            proxy.lose_reply(to=b"completed")
        ids = [await bench.submit(runner.pipeline) for _ in range(60)]
        await bench.wait_status("completed", *ids)
        assert proxy.faults_done == 3
