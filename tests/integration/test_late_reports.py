"""Reports that come after a run has ended are decided like any other, and kept as ignored with their reason."""

from __future__ import annotations

import pytest

from tailrace.core.commands import CancelWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.tasks import RedisTasks
from tailrace.core.testing.builders import completed, create_workflow, line
from tests.support.waiting import beside, eventually


@pytest.mark.failure(17)
async def test_result_that_comes_after_the_cancel_is_recorded_and_not_parked(redis_store: RedisStore) -> None:
    """The worker did not hear of the cancel in time: its work is not used, and the log says so."""
    store, handler = redis_store, CommandHandler(redis_store)
    pipeline = await store.put_definition(line("first", "second").definition)
    queue = RedisTasks(store, "agent", "w1")
    created = create_workflow(pipeline, "late-1")
    await handler.create(created, actor="test")
    (delivery,) = await queue.take(1, block_seconds=1)
    await handler.execute("late-1", CancelWorkflow(), actor="test")
    assert await queue.report([(delivery, completed(delivery.message.task_id), "")]) == [True]
    partition = partition_of("late-1", store.partitions)

    async def ignored() -> bool:
        entries = await store.read_log(partition, "0-0", count=100)
        return [entry.type for entry in entries][-1] == "ReportIgnored"

    async with beside(Orchestrator(store, "o1").run()):
        await eventually(ignored)
    facts = await store.partition_facts(partition)
    assert (facts.reports, facts.parked) == (0, 0)
