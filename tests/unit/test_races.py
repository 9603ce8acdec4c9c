"""What comes at the worst moment, each order by hand on the store in memory: of two that act at once only one takes effect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from tailrace.core.codec import encode
from tailrace.core.commands import CancelWorkflow, PauseWorkflow, ResumeWorkflow, RetryWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import PartitionWork
from tailrace.core.errors import NotOwner, StoreUnavailable
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.memory.data import MemoryData
from tailrace.core.store.memory.store import MemoryStore
from tailrace.core.store.port import Append, Appended, Delivery
from tailrace.core.store.retention import EndedRun
from tailrace.core.testing.builders import completed, create_workflow, failed, line, pipeline, stage
from tailrace.core.workflow.definition import Pipeline
from tailrace.core.workflow.history import Snapshot, fold
from tests.support.audit import audit, histories, record

RUN = "run-1"
ABC = pipeline(stage("a"), stage("b", "a"), stage("c", "a", "b"))


class HookedStore(MemoryStore):
    """A store with something that happens right before an append, and right after it."""

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data)
        self.before: list[Callable[[], Awaitable[object]]] = []
        self.after: list[Callable[[], Awaitable[object]]] = []

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        if self.before:
            await self.before.pop(0)()
        results = await super().append(appends)
        if self.after:
            await self.after.pop(0)()
        return results


class World:
    """One partition, one worker, and what is needed to turn a run by hand."""

    def __init__(self) -> None:
        self.data = MemoryBackend(partitions=1)
        self.store = HookedStore(self.data)
        self.handler = CommandHandler(self.store, archived=self.archived)
        self.queue = self.data.queue("agent", "w1")

    async def archived(self, workflow_id: str) -> Snapshot | None:
        """The run as its log tells of it."""
        return fold([record(entry) for entry in (await histories(self.store))[workflow_id]])

    async def begin(self, definition: Pipeline = ABC) -> None:
        """A run, and its worker."""
        await self.store.put_definition(definition.definition)
        await self.queue.join()
        await self.handler.create(create_workflow(definition, RUN), actor="test")

    async def own(self, name: str) -> PartitionWork:
        """The partition, for another orchestrator: the lease of the one before has run out."""
        self.data.clock.advance(self.data.limits.owner_seconds + 0.1)
        ownership = await self.store.acquire(0, name, None)
        assert ownership is not None
        return PartitionWork(self.store, ownership)

    async def take(self) -> Delivery:
        """The next task."""
        (delivery,) = await self.queue.take(1, block_seconds=0)
        return delivery

    async def complete(self, output: object) -> Delivery:
        """The next task is taken and reported as completed."""
        delivery = await self.take()
        await self.queue.report([(delivery, completed(delivery.message.task_id, output), "")])
        return delivery

    async def apply(self, work: PartitionWork) -> int:
        """What waits is applied."""
        return await work.apply_reports(await self.store.read_reports(0, count=100, block_seconds=0))

    async def types(self) -> list[str]:
        """The events of the run."""
        return [entry.type for entry in (await histories(self.store))[RUN]]


@pytest.mark.failure(19)
@pytest.mark.hole("H18")
async def test_an_orchestrator_that_believes_it_still_owns_writes_nothing() -> None:
    """Neither with a report that it read in its time, nor with a timer; what it decided its successor decides."""
    world = World()
    await world.begin(pipeline(stage("only", start_timeout_seconds=1.0)))
    first = await world.own("o1")
    due, _ = await world.store.due_timers(0, count=1)
    world.data.clock.advance(0.01)
    await world.complete("done")
    read = await world.store.read_reports(0, count=10, block_seconds=0)
    second = await world.own("o2")
    before = await world.store.head(0)
    for late in (first.apply_reports(read), first.fire_timers(due)):
        with pytest.raises(NotOwner):
            await late
    assert await world.store.head(0) == before
    assert await world.apply(second) == 1
    with pytest.raises(NotOwner):
        await first.apply_reports(read)
    assert (await world.types())[-1] == "WorkflowCompleted"
    await audit(world.store)


async def test_a_partition_that_is_taken_back_is_known_as_it_is_now() -> None:
    """What another one applied meanwhile is in the states, and in what the tasks are given."""
    world = World()
    await world.begin()
    first = await world.own("o1")
    await world.complete("from a")
    assert await world.apply(first) == 1
    second = await world.own("o2")
    await world.complete("from b")
    assert await world.apply(second) == 1
    assert await world.apply(await world.own("o1")) == 0
    last = await world.take()
    assert last.message.inputs == (("a", 1), ("b", 1))
    assert last.message.given is not None
    assert last.message.given.outputs == [encode("from a"), encode("from b")]


@pytest.mark.failure(21)
async def test_an_old_memory_costs_one_conflict_and_no_wrong_input() -> None:
    """Two views of one owner: the one that did not see the last round gives its tasks nothing of the round before."""
    world = World()
    await world.begin()
    first = await world.own("o1")
    second = PartitionWork(world.store, first._ownership)
    await world.complete("old a")
    await world.apply(first)
    # (The second one remembers the run as it is now.)
    await world.queue.report([(delivery := await world.take(), completed(delivery.message.task_id, "old b"), "")])
    await world.apply(second)
    await world.handler.execute(RUN, CancelWorkflow(), actor="test")
    await world.handler.execute(RUN, RetryWorkflow(from_stage="a"), actor="test")
    await world.complete("new a")
    assert await world.apply(first) == 0
    assert await world.apply(first) == 1
    await world.complete("new b")
    assert await world.apply(second) == 0
    assert await world.apply(second) == 1
    last = await world.take()
    assert last.message.given is not None
    assert last.message.given.outputs == [encode("new a"), encode("new b")]
    await audit(world.store)


@pytest.mark.failure(16)
async def test_a_late_report_of_the_round_before_changes_nothing() -> None:
    """Its task was closed when the run failed; the same stage has another attempt now, which stays as it is."""
    world = World()
    await world.begin(pipeline(stage("slow"), stage("bad"), stage("end", "slow", "bad")))
    work = await world.own("o1")
    slow, bad = await world.queue.take(2, block_seconds=0)
    await world.queue.report([(bad, failed(bad.message.task_id, retryable=False), "")])
    await world.apply(work)
    await world.handler.execute(RUN, RetryWorkflow(), actor="test")
    again = {delivery.message.stage: delivery for delivery in await world.queue.take(2, block_seconds=0)}
    assert await world.queue.report([(slow, completed(slow.message.task_id, "late"), "")]) == [True]
    await world.queue.report([(again["bad"], completed(again["bad"].message.task_id, "good"), "")])
    await world.apply(work)
    await world.apply(work)
    (state,) = await world.store.load_states([RUN])
    assert state is not None
    assert (state.status, state.round, state.stages["slow"].status) == ("running", 2, "running")
    assert (await world.types()).count("ReportIgnored") == 1
    await world.queue.report([(again["slow"], completed(again["slow"].message.task_id, "in time"), "")])
    await world.apply(work)
    end = await world.take()
    assert end.message.given is not None
    assert end.message.given.outputs == [encode("in time"), encode("good")]
    await audit(world.store)


@pytest.mark.hole("H10")
async def test_a_command_whose_reply_was_lost_is_found_though_the_run_has_moved_on() -> None:
    """Others undid what it did before it could ask: it was carried out once, and is not again."""
    world = World()
    await world.begin()
    other = CommandHandler(MemoryStore(world.data))

    async def moved_on() -> None:
        await other.execute(RUN, ResumeWorkflow(), actor="somebody")
        raise StoreUnavailable("the reply is lost")

    world.store.after.append(moved_on)
    snapshot = await world.handler.execute(RUN, PauseWorkflow(), actor="test")
    assert snapshot.state.status == "initiated"
    assert await world.types() == ["WorkflowCreated", "TaskDispatched", "WorkflowPaused", "WorkflowResumed"]


@pytest.mark.hole("H8")
@pytest.mark.parametrize("lost", [False, True], ids=["told", "reply lost"])
async def test_a_run_that_is_forgotten_while_it_is_retried_comes_back(lost: bool) -> None:
    """The retry was decided on what the store had; it is decided again on what the archive has, and takes effect once."""
    world = World()
    await world.begin(line("a", "b"))
    work = await world.own("o1")
    await world.complete("from a")
    await world.apply(work)
    bad = await world.take()
    await world.queue.report([(bad, failed(bad.message.task_id, retryable=False), "")])
    await world.apply(work)
    (state,) = await world.store.load_states([RUN])
    assert state is not None
    assert state.status == "failed"
    ended = EndedRun(workflow_id=RUN, version=state.version)

    async def forget() -> None:
        assert await world.store.expire_runs(0, [ended]) == 1

    async def lose() -> None:
        raise StoreUnavailable("the reply is lost")

    async def nothing() -> None:
        pass

    world.store.before.append(forget)
    world.store.after += [nothing, lose if lost else nothing]
    snapshot = await world.handler.execute(RUN, RetryWorkflow(), actor="test")
    assert snapshot.state.round == 2
    # What was archived of the round before does not make it forgotten again.
    assert await world.store.expire_runs(0, [ended]) == 0
    again = await world.take()
    assert (again.message.task_id, again.message.inputs) == (f"{RUN}:b:2", (("a", 1),))
    assert again.message.given is not None
    assert again.message.given.outputs == [encode("from a")]
    assert (await world.types()).count("WorkflowRetried") == 1
    await audit(world.store)
