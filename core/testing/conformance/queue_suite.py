"""What every task queue promises: who gets a task, whose report counts, and what becomes of a task that was closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from tailrace.core.codec import encode
from tailrace.core.commands import CancelWorkflow, RedispatchTask, Report, RetryWorkflow
from tailrace.core.errors import CommandRefused, InvalidInput, StoreCorrupt
from tailrace.core.store.inputs import GIVEN_BYTES, carry, input_of
from tailrace.core.store.port import Delivery, TaskQueue
from tailrace.core.testing.builders import (
    cancelled,
    completed,
    diamond,
    failed,
    line,
    pipeline,
    progressed,
    stage,
    started,
    stopped,
    undone,
    workflow_id_in,
)
from tailrace.core.testing.conformance.harness import Harness, everything, pass_time
from tailrace.core.testing.runner import Runner

RUN = "run-1"


async def prepared(backend: Harness) -> Runner:
    """A runner of one stage."""
    runner = Runner(backend.store, pipeline(stage("only", params={"depth": 2})))
    await runner.prepare()
    return runner


async def worker(backend: Harness, name: str = "w1") -> TaskQueue:
    """A worker that joined."""
    queue = backend.queue("agent", name)
    await queue.join()
    return queue


async def taken(backend: Harness, queue: TaskQueue) -> Delivery:
    """A new run's only task, in the hands of a worker."""
    runner = await prepared(backend)
    await runner.create(RUN)
    (delivery,) = await queue.take(1, block_seconds=0)
    return delivery


class QueueSuite:
    """Taking, reporting, renewing. Subclass it, and give a fixture `backend`."""

    async def test_a_dispatch_can_be_taken_at_once(self, backend: Harness) -> None:
        """It is in the stream with the append that dispatched it, whoever joins later."""
        runner = await prepared(backend)
        await runner.create(RUN)
        queue = await worker(backend)
        (delivery,) = await queue.take(5, block_seconds=0)
        message = delivery.message
        assert (message.task_id, message.workflow_id, message.stage) == (f"{RUN}:only:1", RUN, "only")
        assert (message.attempt, message.agent, message.action, message.params) == (1, "agent", "only", {"depth": 2})
        assert delivery.delivery == 1
        assert delivery.traceparent.startswith("00-")
        assert await queue.take(5, block_seconds=0) == []

    async def test_a_task_is_taken_by_one_worker(self, backend: Harness) -> None:
        """However many ask at the same time."""
        runner = await prepared(backend)
        for number in range(6):
            await runner.create(f"run-{number}")
        queues = [await worker(backend, f"w{number}") for number in range(4)]
        results = await asyncio.gather(*(queue.take(3, block_seconds=0) for queue in queues))
        task_ids = [delivery.message.task_id for deliveries in results for delivery in deliveries]
        assert sorted(task_ids) == [f"run-{number}:only:1" for number in range(6)]

    @pytest.mark.parametrize("free", [1, 2, 3, 5])
    async def test_nobody_gets_more_than_asked_for(self, backend: Harness, free: int) -> None:
        """Not over all partitions and priorities together; what is left stays free for others."""
        runner = await prepared(backend)
        partitions = backend.store.partitions
        for partition in range(2):
            for number in (1, 2, 3, 4):
                priority = "high" if number % 2 else "low"
                await runner.create(workflow_id_in(partition, partitions, number=number), priority=priority)
        queue, other = await worker(backend), await worker(backend, "w2")
        assert len(await queue.take(free, block_seconds=0)) == free
        assert sum(found.backlog for found in await backend.store.queues(["agent"])) == 8 - free
        assert len(await other.take(8, block_seconds=0)) == 8 - free

    async def test_a_worker_without_a_free_slot_gets_nothing(self, backend: Harness) -> None:
        """It may still ask."""
        runner = await prepared(backend)
        await runner.create(RUN)
        assert await (await worker(backend)).take(0, block_seconds=0) == []

    async def test_urgent_tasks_are_taken_first(self, backend: Harness) -> None:
        """Within a partition, though they came later."""
        runner = await prepared(backend)
        partitions = backend.store.partitions
        for number, priority in enumerate(("low", "medium", "high", "critical"), start=1):
            await runner.create(workflow_id_in(0, partitions, number=number), priority=priority)
        queue = await worker(backend)
        order = []
        for _ in range(4):
            (delivery,) = await queue.take(1, block_seconds=0)
            order.append(delivery.message.workflow_id)
        assert order == [workflow_id_in(0, partitions, number=number) for number in (3, 4, 1, 2)]

    async def test_a_waiting_worker_is_woken_or_goes_home(self, backend: Harness) -> None:
        """By the next dispatch, or by the end of its wait."""
        runner = await prepared(backend)
        queue = await worker(backend)
        async with asyncio.timeout(10):
            taking = asyncio.create_task(queue.take(1, block_seconds=0.1))
            await backend.advance(0.2)
            assert await taking == []
            taking = asyncio.create_task(queue.take(1, block_seconds=5))
            await backend.advance(0.01)
            assert not taking.done()
            await runner.create(RUN)
            assert [delivery.message.workflow_id for delivery in await taking] == [RUN]

    async def test_a_task_reads_the_request_and_what_it_needs(self, backend: Harness) -> None:
        """Outputs of the stages it needs, directly or through others, and the stage's own settings."""
        runner = Runner(backend.store, diamond())
        await runner.prepare()
        await runner.create(RUN, name="a name", description="text", requirements="more", input={"k": [1]})
        queue = await worker(backend)
        for _ in range(3):
            for delivery in await queue.take(5, block_seconds=0):
                report = completed(delivery.message.task_id, {"from": delivery.message.stage})
                await queue.report([(delivery, report, "")])
            await runner.apply_reports(RUN)
            if (await runner.state(RUN)).stages["join"].task:
                break
        (join,) = await queue.take(5, block_seconds=0)
        assert await queue.inputs([join.message]) == [
            {
                "name": "a name",
                "description": "text",
                "requirements": "more",
                "input": {"k": [1]},
                "params": {},
                "stages": {"start": {"from": "start"}, "left": {"from": "left"}, "right": {"from": "right"}},
            }
        ]

    async def test_what_goes_with_a_task_is_what_it_would_read(self, backend: Harness) -> None:
        """The request with the first task, and the outputs with those behind it."""
        runner = Runner(backend.store, pipeline(stage("a", params={"p": 1}), stage("b", "a")))
        await runner.prepare()
        await runner.create(RUN, name="a name", requirements="more", input={"k": [1]})
        queue = await worker(backend)
        for output, stages in (({"list": [None, 1.5, "x"]}, {}), (None, {"a": {"list": [None, 1.5, "x"]}})):
            (delivery,) = await queue.take(5, block_seconds=0)
            message = delivery.message
            assert message.given is not None
            found = input_of(message, message.given, message.given.outputs)
            assert found["stages"] == stages
            assert await queue.inputs([message]) == [found]
            await queue.report([(delivery, completed(message.task_id, output), "")])
            snapshot = await backend.store.load(RUN)
            assert snapshot is not None
            (entry,) = await runner.reports(RUN)
            await runner.append(await runner.decide_report(entry, carried=carry(snapshot.created, snapshot.outputs)))

    @pytest.mark.parametrize("over", [0, 1], ids=["exactly", "one byte over"])
    async def test_inputs_of_the_largest_size_go_along(self, backend: Harness, over: int) -> None:
        """Up to the limit they do, over it the worker reads them; either way they are the same."""
        runner = Runner(backend.store, line("first", "second"))
        await runner.prepare()
        state = await runner.create(RUN, name="a name")
        queue = await worker(backend)
        (delivery,) = await queue.take(1, block_seconds=0)
        snapshot = await backend.store.load(RUN)
        assert snapshot is not None
        request = carry(snapshot.created, {})
        assert request is not None
        output = "x" * (GIVEN_BYTES - request.size - len(encode("x" * 500)) + 500 + over)
        assert request.size + len(encode(output)) == GIVEN_BYTES + over
        await queue.report([(delivery, completed(delivery.message.task_id, output), "")])
        (entry,) = await runner.reports(RUN)
        await runner.append(await runner.decide_report(entry, carried=request))
        (second,) = await queue.take(1, block_seconds=0)
        assert (second.message.given is None) == bool(over)
        (found,) = await queue.inputs([second.message])
        assert found["stages"] == {"first": output}
        if second.message.given is not None:
            assert input_of(second.message, second.message.given, second.message.given.outputs) == found
        assert (await runner.state(RUN)).version > state.version

    async def test_inputs_that_are_not_there_are_said(self, backend: Harness) -> None:
        """Those of a run that is gone, and an output that nobody gave: no task is begun with less than it needs."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        message = replace(delivery.message, inputs=(("only", 7),))
        with pytest.raises(StoreCorrupt, match="output only:7 of workflow run-1 is not there"):
            await queue.inputs([message])
        await backend.drop_workflow(RUN)
        with pytest.raises(StoreCorrupt, match="the request of workflow run-1 is not there"):
            await queue.inputs([delivery.message])

    @pytest.mark.parametrize("final", [completed, failed, cancelled])
    async def test_a_final_report_removes_the_task(self, backend: Harness, final: Callable[[str], Report]) -> None:
        """In the same step; a second one is refused and leaves nothing."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        report = final(delivery.message.task_id)
        assert await queue.report([(delivery, report, "trace")]) == [True]
        assert await queue.report([(delivery, report, "trace")]) == [False]
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["lost"]
        (entry,) = await backend.store.read_reports(delivery.partition, count=10, block_seconds=0)
        assert (entry.workflow_id, entry.report, entry.traceparent) == (RUN, report, "trace")
        assert sum(found.pending + found.backlog for found in await backend.store.queues(["agent"])) == 0

    async def test_other_reports_leave_the_task_where_it_is(self, backend: Harness) -> None:
        """A start and progress are only written."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        task_id = delivery.message.task_id
        sent = [(delivery, started(task_id), ""), (delivery, progressed(task_id, 0.5), "")]
        assert await queue.report(sent) == [True, True]
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["ok"]
        assert await queue.report([(delivery, completed(task_id), "")]) == [True]
        reports = await backend.store.read_reports(delivery.partition, count=10, block_seconds=0)
        assert [entry.report and entry.report.kind for entry in reports] == ["started", "progressed", "completed"]

    async def test_reports_that_are_sent_together_count_in_their_order(self, backend: Harness) -> None:
        """What comes behind the final one is lost, and what is wrong keeps nothing from its neighbours."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        task_id = delivery.message.task_id
        sent = [
            (replace(delivery, delivery=2), completed(task_id), ""),
            (delivery, started(task_id), ""),
            (delivery, completed(task_id), ""),
            (delivery, progressed(task_id, 0.5), ""),
            (delivery, completed(task_id), ""),
        ]
        assert await queue.report(sent) == [False, True, True, False, False]
        reports = await backend.store.read_reports(delivery.partition, count=10, block_seconds=0)
        assert [entry.report and entry.report.kind for entry in reports] == ["started", "completed"]

    async def test_a_report_counts_only_from_the_holder(self, backend: Harness) -> None:
        """Not from a stranger, and not with another delivery than the one that is held."""
        queue, stranger = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        report = completed(delivery.message.task_id)
        assert await stranger.report([(delivery, report, "")]) == [False]
        assert await queue.report([(replace(delivery, delivery=2), report, "")]) == [False]
        assert await queue.report([(replace(delivery, delivery=0), started(report.task_id), "")]) == [False]
        assert await backend.store.read_reports(delivery.partition, count=10, block_seconds=0) == []
        assert await queue.report([(delivery, report, "")]) == [True]

    async def test_a_report_on_another_task_is_refused(self, backend: Harness) -> None:
        """Who holds one task can't end another, of its own run or of any, and does not lose the one that it holds."""
        runner = Runner(backend.store, diamond())
        await runner.prepare()
        await runner.create(RUN)
        await runner.create("run-2")
        queue = await worker(backend)
        first, other = await queue.take(2, block_seconds=0)
        for named in (other.message.task_id, f"{first.message.workflow_id}:join:1", "nobody:only:1", ""):
            (answer,) = await queue.report([(first, completed(named), "")])
            assert isinstance(answer, InvalidInput), named
            assert first.message.task_id in str(answer)
        (refused, counted) = await queue.report(
            [(first, started(other.message.task_id), ""), (other, completed(other.message.task_id), "")]
        )
        assert (isinstance(refused, InvalidInput), counted) == (True, True)
        waiting = [
            entry.report.task_id
            for partition in range(backend.store.partitions)
            for entry in await backend.store.read_reports(partition, count=10, block_seconds=0)
            if entry.report is not None
        ]
        assert waiting == [other.message.task_id]
        assert [renewal.outcome for renewal in await queue.renew([first])] == ["ok"]
        assert await queue.report([(first, completed(first.message.task_id), "")]) == [True]

    async def test_a_stolen_task_is_lost_to_its_former_holder(self, backend: Harness) -> None:
        """Its report is refused and its renewal says so; the new holder's report counts."""
        queue, thief = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        await pass_time(backend, backend.limits.lease_seconds)
        (stolen,) = await thief.claim(1)
        report = completed(delivery.message.task_id)
        assert await queue.report([(delivery, report, "")]) == [False]
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["lost"]
        assert await thief.report([(stolen, report, "")]) == [True]

    async def test_an_old_incarnation_of_a_worker_is_shut_out(self, backend: Harness) -> None:
        """The new one has the same name, but a later delivery."""
        old = await worker(backend)
        delivery = await taken(backend, old)
        new = await worker(backend)
        (again,) = await new.reconcile([])
        assert (again.entry_id, again.delivery) == (delivery.entry_id, 2)
        report = completed(delivery.message.task_id)
        assert await old.report([(delivery, report, "")]) == [False]
        assert [renewal.outcome for renewal in await old.renew([delivery])] == ["lost"]
        assert [renewal.outcome for renewal in await new.renew([again])] == ["ok"]
        assert await new.report([(again, report, "")]) == [True]

    async def test_a_queued_task_that_is_closed_is_removed(self, backend: Harness) -> None:
        """Nobody will take it."""
        runner = await prepared(backend)
        await runner.create(RUN)
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        queue = await worker(backend)
        assert await queue.take(5, block_seconds=0) == []
        assert sum(found.backlog for found in await backend.store.queues(["agent"])) == 0
        assert await backend.store.open_entries(RUN) == []

    async def test_who_waits_for_the_end_of_a_queued_task_is_told_at_once(self, backend: Harness) -> None:
        """A task that nobody took is at an end when it is closed: the store reports that it stopped, in the same step."""
        runner = Runner(backend.store, pipeline(undone("only")))
        await runner.prepare()
        await runner.create(RUN)
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        assert (await runner.state(RUN)).ending is not None
        (entry,) = await runner.reports(RUN)
        assert entry.report == stopped(f"{RUN}:only:1")
        assert [result.outcome for result in await runner.apply_reports(RUN)] == ["ok"]
        assert (await runner.state(RUN)).status == "cancelled"
        assert await runner.reports(RUN) == []

    async def test_a_compensation_reads_what_its_stage_gave(self, backend: Harness) -> None:
        """It goes to the agent that undoes, with the inputs of the stage and its output."""
        runner = Runner(
            backend.store, pipeline(stage("first"), undone("second", "first", undo="undoer"), stage("third", "second"))
        )
        await runner.prepare()
        await runner.create(RUN, input={"n": 1})
        queue = await worker(backend)
        for output in ("one", "two"):
            (delivery,) = await queue.take(1, block_seconds=0)
            await queue.report([(delivery, completed(delivery.message.task_id, output), "")])
            await runner.apply_reports(RUN)
        (delivery,) = await queue.take(1, block_seconds=0)
        await queue.report([(delivery, failed(delivery.message.task_id, retryable=False), "")])
        await runner.apply_reports(RUN)
        undoer = backend.queue("undoer", "w2")
        await undoer.join()
        (undoing,) = await undoer.take(5, block_seconds=0)
        assert (undoing.message.task_id, undoing.message.compensation) == (f"{RUN}:second:2", True)
        assert undoing.message.action == "compensate-second"
        (given,) = await undoer.inputs([undoing.message])
        assert (given["input"], given["stages"]) == ({"n": 1}, {"first": "one", "second": "two"})
        await undoer.report([(undoing, completed(undoing.message.task_id), "")])
        await runner.apply_reports(RUN)
        assert (await runner.state(RUN)).status == "failed"

    async def test_a_delivered_task_that_is_closed_is_to_be_cancelled(self, backend: Harness) -> None:
        """Its worker is told with the next renewal, from the loop or from the keeper; its last report removes it."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        runner = Runner(backend.store, pipeline(stage("only", params={"depth": 2})))
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["cancel"]
        assert [renewal.outcome for renewal in backend.keeper("agent", "w1").renew([delivery])] == ["cancel"]
        assert sum(found.pending for found in await backend.store.queues(["agent"])) == 1
        assert await queue.report([(delivery, cancelled(delivery.message.task_id), "")]) == [True]
        assert sum(found.pending + found.backlog for found in await backend.store.queues(["agent"])) == 0
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["lost"]

    async def test_cancelling_again_changes_nothing(self, backend: Harness) -> None:
        """A second cancel is refused, one that was decided earlier comes too late; the worker is told until it has ended."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        runner = await prepared(backend)
        late = await runner.decide(RUN, CancelWorkflow(reason="late"))
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        before = await everything(backend, RUN, "agent")
        for _ in range(2):
            with pytest.raises(CommandRefused):
                await runner.carry_out(RUN, CancelWorkflow())
            assert (await runner.append(late)).outcome == "conflict"
            assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["cancel"]
        assert await everything(backend, RUN, "agent") == before
        # A new round: its task is cancelled as well while the first one is still in somebody's hands.
        assert (await runner.carry_out(RUN, RetryWorkflow())).outcome == "ok"
        (second,) = await queue.take(5, block_seconds=0)
        assert [renewal.outcome for renewal in await queue.renew([delivery, second])] == ["cancel", "ok"]
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        assert [renewal.outcome for renewal in await queue.renew([delivery, second])] == ["cancel", "cancel"]
        for held in (delivery, second):
            assert await queue.report([(held, cancelled(held.message.task_id), "")]) == [True]
        assert {result.outcome for result in await runner.apply_reports(RUN)} == {"ok"}
        assert sum(found.pending + found.backlog for found in await backend.store.queues(["agent"])) == 0
        assert (await runner.state(RUN)).status == "cancelled"

    async def test_a_task_that_is_sent_again_replaces_its_entry(self, backend: Harness) -> None:
        """Same task, one entry: whoever held the old one has lost it."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        runner = Runner(backend.store, pipeline(stage("only", params={"depth": 2})))
        task_id = delivery.message.task_id
        assert (await runner.carry_out(RUN, RedispatchTask(task_id=task_id, reason="test"))).outcome == "ok"
        assert await queue.report([(delivery, completed(task_id), "")]) == [False]
        (again,) = await other.take(5, block_seconds=0)
        assert (again.message.task_id, again.delivery) == (task_id, 1)
        assert again.entry_id != delivery.entry_id
        assert sum(found.pending + found.backlog for found in await backend.store.queues(["agent"])) == 1
        assert await other.report([(again, completed(task_id), "")]) == [True]
