"""What every task queue promises of leases: a healthy task is not taken away, and none is left with the dead."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.commands import CancelWorkflow, RedispatchTask, RetryWorkflow
from tailrace.core.store.port import Delivery, ReportEntry, TaskQueue
from tailrace.core.testing.builders import completed, pipeline, stage, undone, workflow_id_in
from tailrace.core.testing.conformance.harness import Harness, pass_time
from tailrace.core.testing.conformance.queue_suite import RUN, prepared, taken, worker
from tailrace.core.testing.runner import Runner


async def waiting(backend: Harness) -> list[ReportEntry]:
    """Reports that wait, in all partitions."""
    store = backend.store
    found = [await store.read_reports(number, count=100, block_seconds=0) for number in range(store.partitions)]
    return [replace(entry, read_at=0) for entries in found for entry in entries]


async def held(backend: Harness) -> int:
    """How many tasks are in anybody's hands or wait."""
    return sum(queue.pending + queue.backlog for queue in await backend.store.queues(["agent"]))


async def steal(backend: Harness, queue: TaskQueue) -> Delivery:
    """Let the lease of the only task run out, and claim it."""
    await pass_time(backend, backend.limits.lease_seconds)
    (delivery,) = await queue.claim(1)
    return delivery


class LeaseSuite:
    """Claiming, releasing, reconciling. Subclass it, and give a fixture `backend`."""

    async def test_a_task_is_claimed_after_its_lease(self, backend: Harness) -> None:
        """Not before, by anybody who asks, and as a later delivery."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        assert await other.claim(5) == []
        claimed = await steal(backend, other)
        assert (claimed.entry_id, claimed.message, claimed.delivery) == (delivery.entry_id, delivery.message, 2)
        assert claimed.traceparent == delivery.traceparent
        assert await other.claim(5) == []
        (entry,) = await backend.store.open_entries(RUN)
        assert (entry.state, entry.worker, entry.deliveries) == ("delivered", "w2", 2)

    async def test_a_renewed_task_is_not_claimed(self, backend: Harness) -> None:
        """However long it takes, and whoever renews: the loop or the keeper."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        keeper = backend.keeper("agent", "w1")
        for turn in range(4):
            await pass_time(backend, backend.limits.lease_seconds * 0.5)
            renewals = await queue.renew([delivery]) if turn % 2 else keeper.renew([delivery])
            assert [(renewal.task_id, renewal.outcome) for renewal in renewals] == [(delivery.message.task_id, "ok")]
            assert await other.claim(5) == []
        assert await queue.report([(delivery, completed(delivery.message.task_id), "")]) == [True]

    async def test_a_claim_takes_no_more_than_is_free(self, backend: Harness) -> None:
        """The rest stays for others."""
        queue, other = await worker(backend), await worker(backend, "w2")
        runner = await prepared(backend)
        for number in (1, 2, 3):
            await runner.create(workflow_id_in(number % 2, backend.store.partitions, number=number))
        assert len(await queue.take(3, block_seconds=0)) == 3
        await pass_time(backend, backend.limits.lease_seconds)
        assert len(await other.claim(2)) == 2
        assert len(await other.claim(2)) == 1

    async def test_after_an_outage_nothing_is_claimed_for_a_lease(self, backend: Harness) -> None:
        """Holders could not renew while the store was away; those that live do so now."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        await pass_time(backend, backend.limits.lease_seconds)
        now = await backend.store.now()
        for partition in range(backend.store.partitions):
            await backend.set_pulse(partition, now - 2 * to_us(backend.limits.pulse_seconds))
        assert await other.claim(5) == []
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["ok"]
        assert await other.claim(5) == []
        claimed = await steal(backend, other)
        assert claimed.delivery == 2

    async def test_a_task_that_is_delivered_too_often_is_poison(self, backend: Harness) -> None:
        """At the limit it is not delivered again: it leaves the stream as a report, also when nobody has a free slot."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        for expected in range(2, backend.limits.delivery_limit + 1):
            delivery = await steal(backend, queue)
            assert delivery.delivery == expected
        assert await waiting(backend) == []
        await pass_time(backend, backend.limits.lease_seconds)
        assert await queue.claim(0) == []
        (entry,) = await waiting(backend)
        report = entry.report
        assert report is not None
        assert (entry.workflow_id, report.kind, report.task_id) == (RUN, "poison", delivery.message.task_id)
        assert (report.worker, report.delivery) == ("w1", backend.limits.delivery_limit)
        assert await held(backend) == 0
        assert await queue.report([(delivery, completed(report.task_id), "")]) == [False]
        runner = await prepared(backend)
        assert [result.outcome for result in await runner.apply_reports(RUN)] == ["ok"]
        state = await runner.state(RUN)
        assert (state.status, state.error and state.error.reason) == ("failed", "poison")

    async def test_a_held_entry_that_is_gone_is_reported_lost(self, backend: Harness) -> None:
        """Once, by name, so that the task can be sent again."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        await backend.drop_task_entry(delivery.message.task_id)
        await pass_time(backend, backend.limits.lease_seconds)
        assert await other.claim(5) == []
        assert await other.claim(5) == []
        await self._is_sent_again(backend, other, delivery)

    async def test_renewing_does_not_hide_that_an_entry_is_gone(self, backend: Harness) -> None:
        """The server forgets who held an entry that is gone when it is claimed; the task must not be forgotten with it."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        await backend.drop_task_entry(delivery.message.task_id)
        await queue.renew([delivery])
        backend.keeper("agent", "w1").renew([delivery])
        await pass_time(backend, backend.limits.lease_seconds)
        assert await other.claim(5) == []
        await self._is_sent_again(backend, other, delivery)

    async def test_reconciling_does_not_hide_that_an_entry_is_gone(self, backend: Harness) -> None:
        """A worker that starts again finds its own entry gone, and it is reported."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        await backend.drop_task_entry(delivery.message.task_id)
        assert await (await worker(backend)).reconcile([]) == []
        await self._is_sent_again(backend, queue, delivery)

    async def test_an_entry_that_was_acknowledged_without_a_report_is_not_queued(self, backend: Harness) -> None:
        """It is in its stream, and nobody will ever be given it: it counts neither as backlog nor as held."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        await backend.acknowledge_entry(delivery)
        (entry,) = await backend.store.open_entries(RUN)
        assert (entry.state, entry.worker, entry.ahead) == ("acknowledged", "", 0)
        (found,) = [queue for queue in await backend.store.queues(["agent"]) if queue.acknowledged]
        assert (found.backlog, found.pending, found.acknowledged) == (0, 0, (RUN,))
        assert await held(backend) == 0

    async def test_what_is_queued_behind_an_acknowledged_entry_is_counted(self, backend: Harness) -> None:
        """The backlog is what was never delivered, whatever happened to what was."""
        runner = await prepared(backend)
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        later = [workflow_id_in(delivery.partition, backend.store.partitions, number=number) for number in (5, 6)]
        for workflow_id in later:
            await runner.create(workflow_id)
        await backend.acknowledge_entry(delivery)
        assert [(await backend.store.open_entries(workflow_id))[0].ahead for workflow_id in later] == [0, 1]
        assert await held(backend) == 2
        (_, other) = await queue.take(2, block_seconds=0)
        await backend.drop_task_entry(other.message.task_id)
        (found,) = [queue for queue in await backend.store.queues(["agent"]) if queue.pending]
        assert (found.backlog, found.pending) == (0, 2)

    async def test_an_acknowledged_entry_is_reported_lost_by_its_holder(self, backend: Harness) -> None:
        """At its next renewal, by the loop or the keeper, and once; so that the task is sent again at once."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        await backend.acknowledge_entry(delivery)
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["lost"]
        assert [renewal.outcome for renewal in backend.keeper("agent", "w1").renew([delivery])] == ["lost"]
        await self._is_sent_again(backend, queue, delivery)

    async def test_the_report_on_an_acknowledged_entry_does_not_count(self, backend: Harness) -> None:
        """Its sender can't prove that it holds the task. But it may never renew again, so the task is sent again at once."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        await backend.acknowledge_entry(delivery)
        done = (delivery, completed(delivery.message.task_id), "")
        assert await queue.report([done]) == [False]
        assert await queue.report([done]) == [False]
        await self._is_sent_again(backend, queue, delivery)

    async def test_a_closed_task_whose_entry_was_acknowledged_is_removed(self, backend: Harness) -> None:
        """Nobody waits for it: nobody is told."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        runner = await prepared(backend)
        marked = delivery.message.task_id
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        await backend.acknowledge_entry(delivery)
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["lost"]
        assert await held(backend) == 0
        assert await waiting(backend) == []
        assert (await runner.carry_out(RUN, RetryWorkflow())).outcome == "ok"
        (again,) = await queue.take(1, block_seconds=0)
        assert again.message.task_id != marked
        assert [renewal.outcome for renewal in await queue.renew([again])] == ["ok"]

    async def test_what_others_have_is_not_taken_for_acknowledged(self, backend: Harness) -> None:
        """Handed back, claimed by another one, or dispatched again: a late renewal leaves it as it is."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        await pass_time(backend, 0)
        await queue.release([delivery])
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["lost"]
        (claimed,) = await other.claim(1)
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["lost"]
        assert [renewal.outcome for renewal in await other.renew([claimed])] == ["ok"]
        assert await waiting(backend) == []
        runner = await prepared(backend)
        await runner.carry_out(RUN, RedispatchTask(task_id=delivery.message.task_id, reason="test"))
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["lost"]
        assert [entry.state for entry in await backend.store.open_entries(RUN)] == ["queued"]
        assert await waiting(backend) == []

    @pytest.mark.parametrize("gone", ["left", "right"])
    async def test_the_owner_of_a_gone_entry_is_found(self, backend: Harness, gone: str) -> None:
        """Two streams may use one entry id: tasks of one append often do. Only the task whose entry it was is sent again."""
        names = ("left", "right")
        runner = Runner(backend.store, pipeline(*(stage(name, agent=name) for name in names)))
        await runner.prepare()
        await runner.create(RUN)
        queues = {name: backend.queue(name, "w1") for name in names}
        deliveries = {name: (await queue.take(1, block_seconds=0))[0] for name, queue in queues.items()}
        await backend.drop_task_entry(deliveries[gone].message.task_id)
        await pass_time(backend, backend.limits.lease_seconds)
        assert await queues[gone].claim(1) == []
        (entry,) = await waiting(backend)
        report = entry.report
        assert report is not None
        assert (entry.workflow_id, report.kind, report.task_id) == (RUN, "lost", f"{RUN}:{gone}:1")
        assert [result.outcome for result in await runner.apply_reports(RUN)] == ["ok"]
        (again,) = await queues[gone].take(5, block_seconds=0)
        assert again.message.task_id == f"{RUN}:{gone}:1"
        (other,) = {*names} - {gone}
        assert [renewal.outcome for renewal in await queues[other].renew([deliveries[other]])] == ["ok"]
        assert await queues[other].take(5, block_seconds=0) == []

    async def _is_sent_again(self, backend: Harness, queue: TaskQueue, delivery: Delivery) -> None:
        (entry,) = await waiting(backend)
        report = entry.report
        assert report is not None
        assert (entry.workflow_id, report.kind, report.task_id) == (RUN, "lost", delivery.message.task_id)
        assert await held(backend) == 0
        runner = await prepared(backend)
        assert [result.outcome for result in await runner.apply_reports(RUN)] == ["ok"]
        (again,) = await queue.take(5, block_seconds=0)
        assert again.message.task_id == delivery.message.task_id

    async def test_the_report_of_a_gone_entry_still_counts(self, backend: Harness) -> None:
        """Its holder is on the pending list: the work was done and is not thrown away."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        await backend.drop_task_entry(delivery.message.task_id)
        assert await queue.report([(delivery, completed(delivery.message.task_id), "")]) == [True]
        await pass_time(backend, backend.limits.lease_seconds)
        assert await queue.claim(5) == []
        assert [entry.report and entry.report.kind for entry in await waiting(backend)] == ["completed"]

    async def test_a_closed_task_of_a_dead_worker_is_removed(self, backend: Harness) -> None:
        """Its lease ran out: nobody works on it, and nobody is told."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        runner = await prepared(backend)
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        await pass_time(backend, backend.limits.lease_seconds)
        assert await other.claim(5) == []
        assert await held(backend) == 0
        assert await waiting(backend) == []
        assert await queue.report([(delivery, completed(delivery.message.task_id), "")]) == [False]

    async def test_who_waits_for_the_end_of_a_dead_workers_task_is_told(self, backend: Harness) -> None:
        """Once its lease has run out, by whoever looks: the store reports that it stopped. Until then nothing is undone."""
        queue, other = await worker(backend), await worker(backend, "w2")
        runner = Runner(backend.store, pipeline(undone("done"), stage("held"), cancel_grace_seconds=600.0))
        await runner.prepare()
        await runner.create(RUN)
        done, held_task = await queue.take(2, block_seconds=0)
        await queue.report([(done, completed(done.message.task_id), "")])
        await runner.apply_reports(RUN)
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        assert await other.take(5, block_seconds=0) == []
        assert await waiting(backend) == []
        await pass_time(backend, backend.limits.lease_seconds)
        assert await other.claim(5) == []
        (entry,) = await waiting(backend)
        assert entry.report is not None
        assert (entry.report.kind, entry.report.task_id) == ("stopped", held_task.message.task_id)
        await runner.apply_reports(RUN)
        (undoing,) = await other.take(5, block_seconds=0)
        assert undoing.message.task_id == f"{RUN}:done:2"

    async def test_a_released_task_is_free_at_once_and_not_counted(self, backend: Harness) -> None:
        """Whoever claims it has the same delivery; the one who let go has lost it."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        await pass_time(backend, 0)
        await queue.release([delivery])
        assert await queue.report([(delivery, completed(delivery.message.task_id), "")]) == [False]
        (claimed,) = await other.claim(5)
        assert (claimed.entry_id, claimed.delivery) == (delivery.entry_id, 1)
        await queue.release([delivery])
        assert await other.claim(5) == []
        assert await other.report([(claimed, completed(delivery.message.task_id), "")]) == [True]

    async def test_releasing_over_and_over_is_no_poison(self, backend: Harness) -> None:
        """A drain hands back what it has, as often as it must."""
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        for _ in range(backend.limits.delivery_limit + 1):
            await pass_time(backend, 0)
            await queue.release([delivery])
            (delivery,) = await queue.claim(1)
        assert delivery.delivery == 1
        assert await waiting(backend) == []

    async def test_a_released_task_that_is_closed_is_removed(self, backend: Harness) -> None:
        """Nobody holds it: nobody gets it."""
        queue, other = await worker(backend), await worker(backend, "w2")
        delivery = await taken(backend, queue)
        await queue.release([delivery])
        runner = await prepared(backend)
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        await pass_time(backend, 0)
        assert await other.claim(5) == []
        assert await held(backend) == 0
        assert await waiting(backend) == []

    async def test_what_a_worker_holds_is_not_reconciled(self, backend: Harness) -> None:
        """Only what is pending under its name and unknown to it is taken again, and only its own."""
        runner = await prepared(backend)
        queue, other = await worker(backend), await worker(backend, "w2")
        for number in (1, 2, 3):
            await runner.create(workflow_id_in(0, backend.store.partitions, number=number))
        known, unknown = await queue.take(2, block_seconds=0)
        (foreign,) = await other.take(1, block_seconds=0)
        (again,) = await queue.reconcile([known])
        assert (again.entry_id, again.delivery) == (unknown.entry_id, 2)
        assert await queue.reconcile([known, again]) == []
        outcomes = [renewal.outcome for renewal in await queue.renew([known, unknown, again])]
        assert outcomes == ["ok", "lost", "ok"]
        assert [renewal.outcome for renewal in await other.renew([foreign])] == ["ok"]

    async def test_a_worker_that_dies_at_each_start_makes_poison(self, backend: Harness) -> None:
        """Taking its own tasks again counts, so a crash loop comes to an end."""
        delivery = await taken(backend, await worker(backend))
        for _ in range(backend.limits.delivery_limit - 1):
            (delivery,) = await (await worker(backend)).reconcile([])
        assert delivery.delivery == backend.limits.delivery_limit
        assert await (await worker(backend)).reconcile([]) == []
        (entry,) = await waiting(backend)
        assert entry.report is not None
        assert (entry.report.kind, entry.report.task_id) == ("poison", delivery.message.task_id)
        assert await held(backend) == 0

    async def test_joining_takes_nothing_away(self, backend: Harness) -> None:
        """A second join, and the join of others, leave held and waiting tasks as they are."""
        runner = await prepared(backend)
        await runner.create("run-0")
        queue = await worker(backend)
        delivery = await taken(backend, queue)
        await (await worker(backend, "w2")).join()
        assert [renewal.outcome for renewal in await queue.renew([delivery])] == ["ok"]
        assert await held(backend) == 2
