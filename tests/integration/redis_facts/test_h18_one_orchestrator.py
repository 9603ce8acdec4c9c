"""H18: one orchestrator per partition; a killed one is replaced within its lease; reports keep their order."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tailrace.core.events import TaskStarted
from tailrace.core.testing.builders import diamond, line
from tests.support.audit import audit, decided_again, record
from tests.support.bench import Bench
from tests.support.engine_process import program
from tests.support.waiting import eventually

log = logging.getLogger(__name__)


async def owners(bench: Bench) -> set[str]:
    """Who owns a partition now."""
    now = await bench.store.now()
    facts = [await bench.store.partition_facts(number) for number in range(bench.store.partitions)]
    return {fact.owner for fact in facts if fact.owner_until > now}


@pytest.mark.hole("H18")
async def test_h18_a_killed_orchestrator_is_replaced(bench: Bench, tmp_path: Path) -> None:
    """The other one stands by meanwhile, and has the partitions within a lease and a look."""
    definition = (await bench.prepare(line("first", "second"))).pipeline
    url, namespace = bench.store.client.settings.url, bench.store.keys.namespace
    async with program("orchestrator", url, namespace, "o1", tmp_path) as first, bench.working("w1"):

        async def owned_by_first() -> bool:
            return await owners(bench) == {"o1"}

        await eventually(owned_by_first)
        async with program("orchestrator", url, namespace, "o2", tmp_path):
            await bench.wait_status("completed", await bench.submit(definition))
            assert await owners(bench) == {"o1"}
            first.kill()
            killed_at = await bench.store.now()
            runs = [await bench.submit(definition) for _ in range(6)]

            async def owned_by_second() -> bool:
                return await owners(bench) == {"o2"}

            await eventually(owned_by_second)
            took = (await bench.store.now() - killed_at) / 1_000_000
            log.warning("taken over %.2f s after the kill", took)
            assert took < 4.5
            await bench.wait_status("completed", *runs)


@pytest.mark.hole("H18")
async def test_h18_an_orchestrator_that_stops_hands_over_at_once(bench: Bench) -> None:
    """No lease is waited for."""
    definition = (await bench.prepare(line("only"))).pipeline
    async with bench.orchestrating("o2"), bench.working("w1"):
        async with bench.orchestrating("o1"):
            await bench.wait_status("completed", await bench.submit(definition))
        await bench.wait_status("completed", await bench.submit(definition), timeout=2.0)


@pytest.mark.failure(19)
@pytest.mark.hole("H18")
async def test_h18_reports_are_applied_in_their_order(bench: Bench) -> None:
    """With two orchestrators and several workers every start stands before its end, and nothing is ignored."""
    definition = (await bench.prepare(diamond())).pipeline
    async with bench.orchestrating("o1"), bench.orchestrating("o2"), bench.working("w1"), bench.working("w2"):
        runs = [await bench.submit(definition) for _ in range(40)]
        await bench.wait_status("completed", *runs)
    logs = await audit(bench.store)
    for run in runs:
        events = [record(entry) for entry in logs[run]]
        assert len(events) == 2 + 4 * 3, [event.type for event in events]
        begun = {event.event.task_id for event in events if isinstance(event.event, TaskStarted)}
        assert len(begun) == 4
        assert await decided_again(bench.store, logs[run]) == [(entry.type, entry.data) for entry in logs[run]]
