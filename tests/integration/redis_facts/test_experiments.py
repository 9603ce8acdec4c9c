"""What was tried before anything was built, and what came out: races for a lease, memory of a run, a log file cut short."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import pytest

from tailrace.core.commands import CancelWorkflow
from tailrace.core.store.port import Delivery, Limits
from tailrace.core.testing.builders import completed, create_workflow, line, workflow_id_in
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.audit import audit
from tests.support.bench import Bench
from tests.support.waiting import pass_server_time

log = logging.getLogger(__name__)

LEASE_SECONDS = 0.25
#: Bytes that an open run may take without its log: snapshot, task, timer, expectation.
RUN_BYTES = 2_500


@pytest.mark.experiment("c")
async def test_experiment_c_renewals_and_claims_in_a_race(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """Both ask for the same leases at the moment when these run out: one has each task, and only that one's report counts."""
    limits = Limits(lease_seconds=LEASE_SECONDS, pulse_seconds=5.0, delivery_limit=1000)
    kept = taken = 0
    async with Bench.on(redis_server.url, tmp_path, limits=limits) as bench:
        definition = (await bench.prepare(line("only"))).pipeline
        holder, thief = bench.queue("w1"), bench.queue("w2")
        await thief.claim(0)
        for turn in range(8):
            runs = [await bench.submit(definition, f"run-{turn}-{number}") for number in range(20)]
            held: list[Delivery] = []
            while len(held) < len(runs):
                held += await holder.take(100, block_seconds=1)
            await pass_server_time(bench.store, LEASE_SECONDS * (turn + 1) / 6)
            calls = (thief.claim(100), holder.renew(held)) if turn % 2 else (holder.renew(held), thief.claim(100))
            answers = await asyncio.gather(*calls)
            stolen, renewals = answers if turn % 2 else answers[::-1]
            theirs = {delivery.message.task_id: delivery for delivery in stolen}
            lost = {renewal.task_id for renewal in renewals if renewal.outcome == "lost"}
            # Whoever was renewed before it was claimed has lost it without having been told yet; nobody is told in vain.
            assert lost <= theirs.keys()
            for entry in await bench.open_entries(*runs):
                assert entry.worker == ("w2" if entry.task_id in theirs else "w1")
            for delivery in held:
                task_id = delivery.message.task_id
                report = completed(task_id, worker="w1", delivery=delivery.delivery)
                assert await holder.report([(delivery, report, "")]) == [task_id not in theirs]
            for task_id, delivery in theirs.items():
                report = completed(task_id, worker="w2", delivery=delivery.delivery)
                assert await thief.report([(delivery, report, "")]) == [True]
            taken, kept = taken + len(theirs), kept + len(held) - len(theirs)
        assert len(await bench.reports()) == kept + taken == 160
    log.warning("%d kept, %d taken", kept, taken)
    assert kept > 0
    assert taken > 0


@pytest.mark.experiment("f")
async def test_experiment_f_memory_of_an_open_run(bench: Bench) -> None:
    """Hundreds of open runs: what each adds to the server besides its events, and that it all goes when they end."""
    runner = await bench.prepare(line("first", "second", "third"))
    count = 400
    empty = await memory(bench)
    now = await bench.store.now()
    appends = [
        runner.decide_on(None, create_workflow(runner.pipeline, f"run-{number:04}"), now=now) for number in range(count)
    ]
    assert {appended.outcome for appended in await bench.store.append(appends)} == {"ok"}
    each = (await memory(bench) - empty) / count
    log.warning("%.0f bytes per open run", each)
    assert 500 < each < RUN_BYTES
    for number in range(count):
        await bench.handler.execute(f"run-{number:04}", CancelWorkflow(), actor="test")
    for partition in range(bench.store.partitions):
        part = bench.store.keys.partition(partition)
        assert await bench.store.client.command("EXISTS", part.timers, part.expect) == 0
        assert await bench.store.client.command("XLEN", part.tasks("agent")) == 0


async def memory(bench: Bench) -> int:
    """What the namespace takes without its logs."""
    client, keys = bench.store.client, bench.store.keys
    names = [name for name in await client.command("KEYS", f"*{keys.namespace}*") if not name.endswith(b":log")]
    return sum(await client.pipeline([("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names]))


@pytest.mark.experiment("g")
@pytest.mark.failure(9)
async def test_experiment_g_a_log_file_cut_within_an_append(
    own_server: EmbeddedRedis, own_bench: Bench, tmp_path: Path
) -> None:
    """As a power cut may leave it: wherever the server's file ends, all of the last append is there or nothing of it."""
    bench = own_bench
    runner = await bench.prepare(line("first", "second"))
    run = await bench.submit(runner.pipeline, workflow_id_in(0, 2))
    (delivery,) = await bench.queue().take(2, block_seconds=1)
    assert await bench.queue().report([(delivery, completed(delivery.message.task_id, "x"), "")]) == [True]
    (file,) = (own_server.data_dir / "appendonlydir").glob("*.incr.aof")
    begin, before = file.stat().st_size, await looks(bench, run)
    await runner.apply_reports(run)
    end, after = file.stat().st_size, await looks(bench, run)
    assert before != after
    assert end - begin > 500
    await own_server.kill()
    whole = tmp_path / "whole.aof"
    shutil.copyfile(file, whole)
    seen = []
    for cut in (begin, begin + 1, begin + 30, (begin + end) // 2, end - 40, end - 1, end):
        shutil.copyfile(whole, file)
        with file.open("r+b") as handle:
            handle.truncate(cut)
        await own_server.start()
        found = await looks(bench, run)
        assert found in (before, after), cut
        seen.append(found == after)
        await audit(bench.store)
        await own_server.kill()
    assert seen == [*[False] * 6, True]
    await own_server.start()


async def looks(bench: Bench, run: str) -> object:
    """A run with all that belongs to it."""
    state = await bench.state(run)
    facts = await bench.store.partition_facts(0)
    head = await bench.store.head(0)
    where = [(entry.task_id, entry.state) for entry in await bench.open_entries(run)]
    timers = await bench.store.client.command("ZRANGE", bench.part(run).timers, 0, -1, "WITHSCORES")
    expected = await bench.store.client.command("ZRANGE", bench.part(run).expect, 0, -1, "WITHSCORES")
    return state, facts.reports, head.seq, where, timers, expected
