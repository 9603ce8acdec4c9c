"""A handler is told once that it must end; what it does then is not interrupted, however often the store says so again."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.agents.sdk import TaskContext
from tailrace.core.commands import CancelWorkflow
from tailrace.core.errors import CommandRefused
from tailrace.core.testing.builders import line
from tests.support.audit import audit
from tests.support.bench import Bench
from tests.support.waiting import eventually

RENEW_SECONDS = 0.05


class Tidying:
    """Waits until it is told to end, and then tidies up for as long as the test wants."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ends: list[str] = []
        self.may_end = asyncio.Event()

    async def __call__(self, context: TaskContext) -> str:
        """Only the first task waits; one that is sent again has its result at once."""
        self.begun.append(context.task_id)
        if len(self.begun) > 1:
            return "again"
        try:
            await asyncio.Event().wait()
        finally:
            self.ends.append("told")
            try:
                await self.may_end.wait()
                self.ends.append("tidied up")
            except asyncio.CancelledError:
                self.ends.append("interrupted")
                raise
        return "never"

    async def ended(self) -> bool:
        """Whether it was told, and has nothing more to do."""
        return len(self.ends) > 1


async def told_often(bench: Bench, handler: Tidying) -> None:
    """Until the handler was told, and its worker has renewed several times since: each round ends with a beat."""
    beats: set[int] = set()

    async def renewed() -> bool:
        if handler.ends:
            beats.update(beat.at for beat in await bench.store.workers("agent") if beat.name == "w1")
        return len(beats) > 4

    await eventually(renewed)


async def test_cancelled_handler_is_told_once(bench: Bench) -> None:
    """Each renewal answers `cancel`, and cancelling is tried again: it tidies up in peace, and the task ends."""
    definition = (await bench.prepare(line("only"))).pipeline
    handler = Tidying()
    async with bench.orchestrating(), bench.working("w1", handler, files=False, renew_seconds=RENEW_SECONDS):
        run = await bench.submit(definition)
        await bench.wait_status("running", run)
        await bench.handler.execute(run, CancelWorkflow(), actor="test")
        for _ in range(3):
            with pytest.raises(CommandRefused):
                await bench.handler.execute(run, CancelWorkflow(), actor="test")
        await told_often(bench, handler)
        handler.may_end.set()
        await eventually(lambda: _nothing_is_held(bench))
    assert handler.ends == ["told", "tidied up"]
    assert await bench.store.client.command("HLEN", bench.part(run).cancels) == 0
    assert (await audit(bench.store))[run][-1].type == "WorkflowCancelled"


async def delete_entry(bench: Bench, run: str) -> None:
    """Delete the entry of a run's only task behind the engine's back."""
    (entry,) = await bench.open_entries(run)
    await bench.store.client.command("XDEL", bench.part(run).tasks("agent"), entry.entry_id)


async def test_handler_whose_task_went_elsewhere_is_told_once(bench: Bench) -> None:
    """Its entry was deleted, and the task is sent again to another worker; each renewal answers `lost`."""
    definition = (await bench.prepare(line("only"))).pipeline
    handler = Tidying()
    async with (
        bench.orchestrating(),
        bench.working("w1", handler, files=False, renew_seconds=RENEW_SECONDS, concurrency=1),
    ):
        run = await bench.submit(definition)
        await bench.wait_status("running", run)
        async with bench.working("w2", handler, files=False):
            await delete_entry(bench, run)
            await bench.wait_status("completed", run)
        await told_often(bench, handler)
        handler.may_end.set()
    assert handler.ends == ["told", "tidied up"]
    assert handler.begun == [f"{run}:only:1"] * 2
    types = [entry.type for entry in (await audit(bench.store))[run]]
    assert types.count("TaskRedispatched") == 1


async def test_handler_whose_task_comes_back_is_told_once(bench: Bench) -> None:
    """Its own worker has another slot, and gets the task again while it tidies up."""
    definition = (await bench.prepare(line("only"))).pipeline
    handler = Tidying()
    async with bench.orchestrating(), bench.working("w1", handler, files=False, renew_seconds=RENEW_SECONDS):
        run = await bench.submit(definition)
        await bench.wait_status("running", run)
        await delete_entry(bench, run)
        await bench.wait_status("completed", run)
        handler.may_end.set()
        await eventually(handler.ended)
    assert handler.ends == ["told", "tidied up"]
    assert handler.begun == [f"{run}:only:1"] * 2


async def _nothing_is_held(bench: Bench) -> bool:
    return sum(queue.pending + queue.backlog for queue in await bench.store.queues(["agent"])) == 0
