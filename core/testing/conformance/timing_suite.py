"""What every store promises of time: timers, expectations, the grace after an outage, and who owns a partition."""

from __future__ import annotations

from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.commands import CancelWorkflow, PauseWorkflow, ResumeWorkflow
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import TimerRef
from tailrace.core.testing.builders import completed, create_workflow, pipeline, stage, started, workflow_id_in
from tailrace.core.testing.conformance.harness import Harness, everything, pass_time
from tailrace.core.testing.runner import Runner
from tailrace.core.workflow.policy import NEVER_US

RUN = "run-1"
LIMIT_SECONDS = 0.2


async def prepared(backend: Harness, *, start_timeout_seconds: float | None = LIMIT_SECONDS) -> Runner:
    """A runner of one stage that has to be started soon."""
    only = stage("only", start_timeout_seconds=start_timeout_seconds, expect_start_seconds=LIMIT_SECONDS)
    runner = Runner(backend.store, pipeline(only))
    await runner.prepare()
    return runner


def partition_of_run(backend: Harness) -> int:
    """Where the run lives."""
    return partition_of(RUN, backend.store.partitions)


async def due(backend: Harness) -> list[TimerRef]:
    """Timers of the run's partition that are due."""
    timers, _ = await backend.store.due_timers(partition_of_run(backend), count=10)
    return timers


class TimingSuite:
    """Timers, expectations and ownership. Subclass it, and give a fixture `backend`."""

    async def test_a_timer_is_due_at_its_time_and_not_before(self, backend: Harness) -> None:
        """Until then its time is known, so that nobody has to poll blindly."""
        runner = await prepared(backend)
        state = await runner.create(RUN)
        task = state.stages["only"].task
        assert task is not None
        assert task.start_due_at is not None
        assert await backend.store.due_timers(partition_of_run(backend), count=10) == ([], task.start_due_at)
        await pass_time(backend, LIMIT_SECONDS)
        assert await due(backend) == [TimerRef(name=f"{RUN}|start|only|1", due_at=task.start_due_at)]

    async def test_a_fired_timer_is_gone(self, backend: Harness) -> None:
        """It is removed by the append that it led to, in the same step, and the next one is set."""
        runner = await prepared(backend)
        await runner.create(RUN)
        await pass_time(backend, LIMIT_SECONDS)
        (ref,) = await due(backend)
        fire = await runner.decide_timer(ref)
        assert (await runner.append(fire)).outcome == "ok"
        retry_at = (await runner.state(RUN)).stages["only"].retry_at
        assert await backend.store.due_timers(partition_of_run(backend), count=10) == ([], retry_at)
        before = await everything(backend, RUN, "agent")
        assert (await runner.append(fire)).outcome == "gone"
        assert await everything(backend, RUN, "agent") == before

    async def test_a_timer_that_cannot_be_decided_is_parked(self, backend: Harness) -> None:
        """In one step, and only as it was seen: one that was set anew meanwhile stays."""
        runner = await prepared(backend)
        await runner.create(RUN)
        await pass_time(backend, LIMIT_SECONDS)
        (ref,) = await due(backend)
        partition = partition_of_run(backend)
        earlier = TimerRef(name=ref.name, due_at=ref.due_at - 1)
        assert not await backend.store.park_timer(partition, earlier, "a reason")
        assert await due(backend) == [ref]
        assert await backend.store.park_timer(partition, ref, "a reason")
        assert not await backend.store.park_timer(partition, ref, "a reason")
        assert await due(backend) == []
        assert (await backend.store.partition_facts(partition)).parked == 1

    async def test_a_timer_that_moved_is_gone(self, backend: Harness) -> None:
        """A timer is known by its name and its due time."""
        runner = await prepared(backend)
        await runner.create(RUN)
        await pass_time(backend, LIMIT_SECONDS)
        (ref,) = await due(backend)
        earlier = TimerRef(name=ref.name, due_at=ref.due_at - 1)
        assert (await runner.append(await runner.decide_timer(earlier))).outcome == "gone"
        assert await due(backend) == [ref]

    async def test_a_timer_waits_for_a_report_that_is_older(self, backend: Harness) -> None:
        """Work that was finished in time does not time out because nobody looked at its report."""
        runner = await prepared(backend)
        await runner.create(RUN)
        queue = backend.queue("agent", "w1")
        await queue.join()
        (delivery,) = await queue.take(1, block_seconds=0)
        await queue.report([(delivery, completed(delivery.message.task_id), "")])
        await pass_time(backend, LIMIT_SECONDS)
        (ref,) = await due(backend)
        fire = await runner.decide_timer(ref)
        assert (await runner.append(fire)).outcome == "wait"
        assert await due(backend) == [ref]
        assert [result.outcome for result in await runner.apply_reports(RUN)] == ["ok"]
        assert await due(backend) == []
        assert (await runner.append(fire)).outcome == "gone"
        assert (await runner.state(RUN)).status == "completed"

    async def test_a_timer_does_not_wait_for_a_younger_report(self, backend: Harness) -> None:
        """What came after the time was up came too late."""
        runner = await prepared(backend)
        await runner.create(RUN)
        queue = backend.queue("agent", "w1")
        await queue.join()
        await pass_time(backend, LIMIT_SECONDS + 0.01)
        (delivery,) = await queue.take(1, block_seconds=0)
        await queue.report([(delivery, completed(delivery.message.task_id), "")])
        (ref,) = await due(backend)
        assert (await runner.append(await runner.decide_timer(ref))).outcome == "ok"

    async def test_a_report_of_the_same_millisecond_goes_first(self, backend: Harness) -> None:
        """A report's time is known to the millisecond: within the one that the timer is due in it may be the earlier."""
        runner = await prepared(backend, start_timeout_seconds=None)
        await runner.create(RUN)
        queue = backend.queue("agent", "w1")
        await queue.join()
        (delivery,) = await queue.take(1, block_seconds=0)
        await queue.report([(delivery, completed(delivery.message.task_id), "")])
        (entry,) = await runner.reports(RUN)
        came_at = int(entry.entry_id.partition("-")[0]) * 1000
        await backend.store.due_timers(partition_of_run(backend), count=1)
        for due_at, outcome in ((came_at + 999, "wait"), (came_at, "wait"), (came_at - 1, "ok")):
            pause = await runner.decide(RUN, PauseWorkflow())
            name = f"{RUN}|attempt|only|1"
            assert (await runner.append(replace(pause, timers_set={name: due_at}))).outcome == "ok"
            fire = await runner.decide_timer(TimerRef(name=name, due_at=due_at))
            assert (await runner.append(fire)).outcome == outcome
            assert (await runner.carry_out(RUN, ResumeWorkflow())).outcome == "ok"
        assert [result.outcome for result in await runner.apply_reports(RUN)] == ["ok"]

    async def test_timers_follow_the_task(self, backend: Harness) -> None:
        """A start replaces the timer for the start by that for the attempt; the end clears it."""
        runner = await prepared(backend)
        await runner.create(RUN)
        queue = backend.queue("agent", "w1")
        await queue.join()
        (delivery,) = await queue.take(1, block_seconds=0)
        await queue.report([(delivery, started(delivery.message.task_id), "")])
        await runner.apply_reports(RUN)
        task = (await runner.state(RUN)).stages["only"].task
        assert task is not None
        assert await backend.store.due_timers(partition_of_run(backend), count=10) == ([], task.due_at)
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        assert await backend.store.due_timers(partition_of_run(backend), count=10) == ([], None)

    async def test_due_timers_come_oldest_first_and_not_too_many(self, backend: Harness) -> None:
        """So that a backlog of timers is worked off in its order."""
        runner = await prepared(backend)
        partitions = backend.store.partitions
        ids = [f"run-{n}" for n in range(100) if partition_of(f"run-{n}", partitions) == partition_of_run(backend)][:3]
        for workflow_id in ids:
            await runner.create(workflow_id)
            await backend.advance(0.002)
        await pass_time(backend, LIMIT_SECONDS)
        names = [timer.name.split("|")[0] for timer in await due(backend)]
        assert names == ids
        timers, _ = await backend.store.due_timers(partition_of_run(backend), count=2)
        assert [timer.name.split("|")[0] for timer in timers] == ids[:2]

    async def test_after_an_outage_timers_and_expectations_rest_for_a_lease(self, backend: Harness) -> None:
        """The store was away, not the workers: nothing is declared late before they could say something."""
        runner = await prepared(backend)
        await runner.create(RUN)
        partition = partition_of_run(backend)
        await pass_time(backend, LIMIT_SECONDS)
        (ref,) = await due(backend)
        assert await backend.store.overdue(partition, count=10) == [RUN]
        fire = await runner.decide_timer(ref)
        await backend.set_pulse(partition, await backend.store.now() - 2 * to_us(backend.limits.pulse_seconds))
        assert await due(backend) == []
        assert await backend.store.overdue(partition, count=10) == []
        assert (await runner.append(fire)).outcome == "wait"
        await pass_time(backend, backend.limits.lease_seconds)
        assert await due(backend) == [ref]
        assert await backend.store.overdue(partition, count=10) == [RUN]
        assert (await runner.append(fire)).outcome == "ok"

    async def test_a_pulse_in_the_future_is_an_outage_too(self, backend: Harness) -> None:
        """A clock that was set back says nothing about how long anybody was away."""
        runner = await prepared(backend)
        await runner.create(RUN)
        await pass_time(backend, LIMIT_SECONDS)
        (ref,) = await due(backend)
        await backend.set_pulse(partition_of_run(backend), await backend.store.now() + to_us(60))
        assert await due(backend) == []
        await pass_time(backend, backend.limits.lease_seconds)
        assert await due(backend) == [ref]

    async def test_the_watchdog_may_be_the_first_to_look(self, backend: Harness) -> None:
        """After an outage nothing is overdue, also when no timer and no lease was polled yet."""
        runner = await prepared(backend)
        await runner.create(RUN)
        partition = partition_of_run(backend)
        await pass_time(backend, LIMIT_SECONDS)
        assert await backend.store.overdue(partition, count=10) == [RUN]
        await backend.set_pulse(partition, await backend.store.now() - 2 * to_us(backend.limits.pulse_seconds))
        assert await backend.store.overdue(partition, count=10) == []
        await pass_time(backend, backend.limits.lease_seconds)
        assert await backend.store.overdue(partition, count=10) == [RUN]

    async def test_an_open_run_is_expected_to_move(self, backend: Harness) -> None:
        """It is overdue once its expectation passed, can be postponed at its version, and is forgotten when it ends."""
        runner = await prepared(backend, start_timeout_seconds=None)
        state = await runner.create(RUN)
        partition = partition_of_run(backend)
        assert await backend.store.overdue(partition, count=10) == []
        await pass_time(backend, LIMIT_SECONDS)
        assert await backend.store.overdue(partition, count=10) == [RUN]
        assert not await backend.store.postpone(RUN, version=state.version - 1, expect_at=NEVER_US)
        assert await backend.store.overdue(partition, count=10) == [RUN]
        assert await backend.store.postpone(RUN, version=state.version, expect_at=NEVER_US)
        assert await backend.store.overdue(partition, count=10) == []
        assert await backend.store.open_workflows(partition, count=10) == [RUN]
        assert (await runner.carry_out(RUN, CancelWorkflow())).outcome == "ok"
        assert await backend.store.open_workflows(partition, count=10) == []
        assert not await backend.store.postpone(RUN, version=state.version + 1, expect_at=0)
        assert await backend.store.open_workflows(partition, count=10) == []

    async def test_a_paused_run_is_not_expected_to_move(self, backend: Harness) -> None:
        """It stays among the open ones, without timers."""
        runner = await prepared(backend)
        await runner.create(RUN)
        assert (await runner.carry_out(RUN, PauseWorkflow())).outcome == "ok"
        await pass_time(backend, LIMIT_SECONDS)
        partition = partition_of_run(backend)
        assert await backend.store.overdue(partition, count=10) == []
        assert await backend.store.due_timers(partition, count=10) == ([], None)
        assert await backend.store.open_workflows(partition, count=10) == [RUN]

    async def test_open_runs_are_counted(self, backend: Harness) -> None:
        """In all partitions; a run that ended does not count."""
        runner = await prepared(backend)
        assert await backend.store.open_count() == 0
        runs = [workflow_id_in(number, backend.store.partitions) for number in range(backend.store.partitions)]
        for run in runs:
            await runner.create(run)
        assert await backend.store.open_count() == len(runs)
        assert (await runner.carry_out(runs[-1], CancelWorkflow())).outcome == "ok"
        assert await backend.store.open_count() == len(runs) - 1

    async def test_a_partition_has_one_owner(self, backend: Harness) -> None:
        """Others stand by until the lease runs out; each new owner has a higher epoch."""
        store = backend.store
        first = await store.acquire(0, "o1", None)
        assert first is not None
        assert (first.partition, first.name) == (0, "o1")
        assert await store.acquire(0, "o2", None) is None
        assert await store.acquire(0, "o1", first.epoch) == first
        other = await store.acquire(1, "o2", None)
        assert other is not None
        await backend.advance(backend.limits.owner_seconds + 0.01)
        second = await store.acquire(0, "o2", None)
        assert second is not None
        assert second.epoch > first.epoch
        assert await store.acquire(0, "o1", first.epoch) is None
        assert (await store.partition_facts(0)).owner == "o2"

    async def test_an_owner_that_renews_stays_the_owner(self, backend: Harness) -> None:
        """Each renewal begins the lease anew."""
        store = backend.store
        held = await store.acquire(0, "o1", None)
        assert held is not None
        for _ in range(3):
            await backend.advance(backend.limits.owner_seconds * 0.5)
            assert await store.acquire(0, "o1", held.epoch) == held
            assert await store.acquire(0, "o2", None) is None

    async def test_a_partition_that_is_given_up_is_free_at_once(self, backend: Harness) -> None:
        """Giving up counts only from the one who owns it."""
        store = backend.store
        first = await store.acquire(0, "o1", None)
        assert first is not None
        await store.release_ownership(first)
        second = await store.acquire(0, "o2", None)
        assert second is not None
        assert second.epoch > first.epoch
        await store.release_ownership(first)
        assert await store.acquire(0, "o3", None) is None

    async def test_a_former_owner_writes_nothing(self, backend: Harness) -> None:
        """From the moment its lease ran out, whether or not somebody else took over."""
        runner = await prepared(backend)
        partition = partition_of_run(backend)
        first = await backend.store.acquire(partition, "o1", None)
        assert first is not None
        append = await runner.decide(RUN, create_workflow(runner.pipeline, RUN), ownership=first)
        await backend.advance(backend.limits.owner_seconds + 0.01)
        assert (await runner.append(append)).outcome == "not-owner"
        assert await backend.store.acquire(partition, "o2", None) is not None
        assert (await runner.append(append)).outcome == "not-owner"
        assert await backend.store.load(RUN) is None
