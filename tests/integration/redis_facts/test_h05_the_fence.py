"""H5: a report counts only from the consumer and the delivery that the pending list shows, also after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tailrace.core.store.port import Delivery, Limits
from tailrace.core.testing.builders import completed, pipeline, stage
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.audit import audit
from tests.support.bench import Bench
from tests.support.waiting import eventually


async def reported(bench: Bench, delivery: Delivery, *, by: str) -> bool:
    """Report a result; whether it counted."""
    report = completed(delivery.message.task_id, {"by": by}, worker=by, delivery=delivery.delivery)
    (counted,) = await bench.queue(by).report([(delivery, report, "")])
    return counted is True


async def restart(server: EmbeddedRedis) -> None:
    """Kill the server and start it again."""
    await server.kill()
    await server.start()


@pytest.mark.failure(16)
@pytest.mark.hole("H5")
@pytest.mark.experiment("b")
async def test_h05_a_report_counts_once(own_server: EmbeddedRedis, own_bench: Bench) -> None:
    """Sent twice, because its reply was lost, it is refused the second time; a restart in between changes nothing."""
    definition = (await own_bench.prepare(pipeline(stage("only")))).pipeline
    run = await own_bench.submit(definition)
    (delivery,) = await own_bench.queue().take(1, block_seconds=1)
    await restart(own_server)
    assert await reported(own_bench, delivery, by="w1")
    assert not await reported(own_bench, delivery, by="w1")
    await restart(own_server)
    assert not await reported(own_bench, delivery, by="w1")
    async with own_bench.orchestrating():
        await own_bench.wait_status("completed", run)
    assert len((await audit(own_bench.store))[run]) == 5


@pytest.mark.failure(16)
@pytest.mark.hole("H5")
@pytest.mark.experiment("b")
async def test_h05_an_old_incarnation_is_shut_out(own_server: EmbeddedRedis, own_bench: Bench) -> None:
    """Two processes of one name: the later one counts, and the server still knows that when it was killed."""
    definition = (await own_bench.prepare(pipeline(stage("only")))).pipeline
    await own_bench.submit(definition)
    (old,) = await own_bench.queue("w1").take(1, block_seconds=1)
    (new,) = await own_bench.queue("w1").reconcile([])
    assert (old.delivery, new.delivery) == (1, 2)
    await restart(own_server)
    assert not await reported(own_bench, old, by="w1")
    assert [renewal.outcome for renewal in await own_bench.queue("w1").renew([old])] == ["lost"]
    assert [renewal.outcome for renewal in await own_bench.queue("w1").renew([new])] == ["ok"]
    assert await reported(own_bench, new, by="w1")


@pytest.mark.failure(16)
@pytest.mark.hole("H5")
@pytest.mark.experiment("b")
async def test_h05_a_stolen_task_is_lost_to_its_former_holder(own_server: EmbeddedRedis, tmp_path: Path) -> None:
    """The thief has the task; what the robbed one says after a restart, even with the thief's number, is refused."""
    async with Bench.on(own_server.url, tmp_path, limits=Limits(lease_seconds=0.3)) as bench:
        definition = (await bench.prepare(pipeline(stage("only")))).pipeline
        await bench.submit(definition)
        (robbed,) = await bench.queue("w1").take(1, block_seconds=1)
        thief = bench.queue("w2")
        (stolen,) = await eventually(lambda: thief.claim(1))
        assert stolen.delivery == 2
        await restart(own_server)
        assert not await reported(bench, robbed, by="w1")
        assert not await reported(bench, replace(robbed, delivery=2), by="w1")
        assert await reported(bench, stolen, by="w2")
        assert [entry.report and entry.report.worker for entry in await bench.reports()] == ["w2"]
