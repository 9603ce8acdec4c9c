"""H8: a run that is missing is not a new one: only creating makes it, and the archive gives it back once."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.core.commands import PauseWorkflow, RetryWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import CommandRefused, NotFound
from tailrace.core.testing.builders import completed, create_workflow, line
from tailrace.core.workflow.history import Snapshot
from tests.support.audit import audit, histories
from tests.support.bench import Bench
from tests.support.waiting import eventually


async def archived(bench: Bench, run: str) -> Snapshot:
    """Take a run out of the store, as its expiry does, and keep it as the archive would."""
    snapshot = await bench.store.load(run)
    assert snapshot is not None
    await bench.store.client.command("DEL", bench.part(run).workflow(run))
    return snapshot


async def ended(bench: Bench) -> str:
    """A run that has completed."""
    definition = (await bench.prepare(line("first", "second"))).pipeline
    async with bench.orchestrating(), bench.working():
        run = await bench.submit(definition)
        await bench.wait_status("completed", run)
    return run


@pytest.mark.hole("H8")
async def test_h08_nothing_but_creating_begins_a_run(bench: Bench) -> None:
    """A command on a missing run is refused, a report about one is parked: the log gets no second beginning."""
    definition = (await bench.prepare(line("only"))).pipeline
    run = await bench.submit(definition)
    (delivery,) = await bench.queue().take(1, block_seconds=1)
    await archived(bench, run)
    before = await histories(bench.store)
    with pytest.raises(NotFound):
        await bench.handler.execute(run, PauseWorkflow(), actor="test")
    assert await bench.queue().report([(delivery, completed(delivery.message.task_id), "")]) == [True]

    async def parked() -> bool:
        facts = [await bench.store.partition_facts(number) for number in range(2)]
        return sum(fact.parked for fact in facts) == 1

    async with bench.orchestrating():
        await eventually(parked)
    assert await histories(bench.store) == before


@pytest.mark.failure(21)
@pytest.mark.hole("H8")
async def test_h08_a_run_comes_back_from_the_archive_once(bench: Bench) -> None:
    """Two people retry an archived run at the same time: one of them opens a new round, the other one finds it open."""
    run = await ended(bench)
    snapshot = await archived(bench, run)

    async def archive(workflow_id: str) -> Snapshot | None:
        return snapshot if workflow_id == run else None

    handlers = [CommandHandler(bench.store, archived=archive) for _ in range(4)]
    command = RetryWorkflow(from_stage="second")
    results = await asyncio.gather(
        *(handler.execute(run, command, actor="test") for handler in handlers), return_exceptions=True
    )
    assert sum(isinstance(result, Snapshot) for result in results) == 1
    assert sum(isinstance(result, CommandRefused) for result in results) == 3
    async with bench.orchestrating(), bench.working():
        await bench.wait_status("completed", run)
    assert (await bench.state(run)).round == 2
    await audit(bench.store)


@pytest.mark.hole("H8")
async def test_h08_a_tombstone_is_not_a_new_run(bench: Bench) -> None:
    """What is left of an archived run keeps its id taken: the same request finds it, and nothing is begun."""
    run = await ended(bench)
    snapshot = await archived(bench, run)
    await bench.store.client.command("HSET", bench.part(run).workflow(run), "v", snapshot.state.version)
    before = await histories(bench.store)

    async def archive(workflow_id: str) -> Snapshot | None:
        return snapshot

    handler = CommandHandler(bench.store, archived=archive)
    pipeline = await bench.store.pipeline(snapshot.state.definition)
    outcome = await handler.create(create_workflow(pipeline, run), actor="test")
    assert (outcome.replayed, outcome.snapshot) == (True, snapshot)
    assert await histories(bench.store) == before
