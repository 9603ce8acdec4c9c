"""H27: an output is written once, however many appends follow; what is too large for an event is an artifact."""

from __future__ import annotations

import pytest

from tailrace.agents.sdk import TaskContext
from tailrace.core.codec import INLINE_LIMIT_BYTES
from tailrace.core.testing.builders import completed, line
from tests.support.audit import audit
from tests.support.bench import Bench

OUTPUT_BYTES = 7_000


@pytest.mark.hole("H27")
async def test_h27_appends_do_not_grow_with_what_was_given(bench: Bench) -> None:
    """Six outputs one after the other: what an append adds to the server's file is the same for the last as for the first."""
    names = [f"s{number}" for number in range(6)]
    runner = await bench.prepare(line(*names))
    run = await bench.submit(runner.pipeline)
    queue, key, client = bench.queue(), bench.part(run).workflow(run), bench.store.client
    written, states = [], []
    for _ in names:
        (delivery,) = await queue.take(2, block_seconds=1)
        report = completed(delivery.message.task_id, "x" * OUTPUT_BYTES)
        assert await queue.report([(delivery, report, "")]) == [True]
        before = await file_size(bench)
        await runner.apply_reports(run)
        written.append(await file_size(bench) - before)
        states.append(await client.command("HSTRLEN", key, "s"))
    assert (await bench.state(run)).status == "completed"
    assert max(states) < OUTPUT_BYTES
    # (In the event, in the report that led to it, and in its own field.)
    assert 3 * OUTPUT_BYTES < written[0] < 4 * OUTPUT_BYTES
    assert max(written) < written[0] + OUTPUT_BYTES / 2
    fields = [name for name in await client.command("HKEYS", key) if name.startswith(b"o:")]
    assert sorted(fields) == [f"o:{name}:1".encode() for name in names]


async def file_size(bench: Bench) -> int:
    """The size of the append-only file."""
    facts = (await bench.store.client.command("INFO", "persistence")).decode()
    return next(int(line.partition(":")[2]) for line in facts.splitlines() if line.startswith("aof_current_size:"))


@pytest.mark.hole("H27")
async def test_h27_a_large_output_is_an_artifact(bench: Bench) -> None:
    """Neither the log nor the run holds it, only its reference; the file holds all of it."""
    definition = (await bench.prepare(line("only"))).pipeline

    async def act(context: TaskContext) -> str:
        return "y" * 100_000

    async with bench.orchestrating(), bench.working(act=act):
        run = await bench.submit(definition)
        await bench.wait_status("completed", run)
    assert all(len(entry.data) < INLINE_LIMIT_BYTES for entry in (await audit(bench.store))[run])
    snapshot = await bench.store.load(run)
    assert snapshot is not None
    reference = snapshot.stage_outputs()["only"]["$artifact"]
    assert reference["size"] >= 100_000
    sizes = [path.stat().st_size for path in (bench.folder / "artifacts").rglob("*") if path.is_file()]
    assert reference["size"] in sizes
