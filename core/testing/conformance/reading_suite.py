"""What every store promises to those who read: definitions, the log, reports, and where everything stands."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from tailrace.core.codec import encode
from tailrace.core.commands import CancelWorkflow, PauseWorkflow
from tailrace.core.errors import NotFound
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import Queue, WorkerBeat
from tailrace.core.testing.builders import completed, line, pipeline, stage, started, workflow_id_in
from tailrace.core.testing.conformance.harness import Harness
from tailrace.core.testing.runner import Runner

RUN = "run-1"


def beat(agent: str, name: str) -> WorkerBeat:
    """What a worker says of itself."""
    return WorkerBeat(
        agent=agent,
        name=name,
        at=0,
        build="b1",
        pid=42,
        host="host",
        slots=4,
        in_flight=1,
        store_id="store",
        breakers={"model-api": "open"},
    )


async def prepared(backend: Harness) -> Runner:
    """A runner of a line of two stages."""
    runner = Runner(backend.store, line("first", "second"))
    await runner.prepare()
    return runner


class ReadingSuite:
    """Reading. Subclass it, and give a fixture `backend`."""

    async def test_a_namespace_has_an_identity_and_a_clock(self, backend: Harness) -> None:
        """The identity does not change, and the clock goes on."""
        assert backend.store.instance_id == backend.store.instance_id != ""
        assert backend.store.partitions >= 2
        before = await backend.store.now()
        await backend.advance(0.01)
        assert await backend.store.now() >= before + 10_000
        assert 0.0 <= await backend.store.fullness() < 1.0

    async def test_a_definition_is_known_by_its_hash(self, backend: Harness) -> None:
        """Versions of one name are kept side by side; the newest is the one that a name alone means."""
        store = backend.store
        with pytest.raises(NotFound):
            await store.latest("line")
        with pytest.raises(NotFound):
            await store.pipeline("0" * 64)
        old, new = line("a"), line("a", "b")
        assert (await store.put_definition(old.definition)).hash == old.hash
        await store.put_definition(new.definition)
        await store.put_definition(new.definition)
        assert await store.definitions() == {"line": [old.hash, new.hash]}
        assert (await store.latest("line")).definition == new.definition
        assert (await store.pipeline(old.hash)).definition == old.definition

    async def test_a_definition_makes_the_groups_of_its_agents(self, backend: Harness) -> None:
        """Before the first task, and so that an unknown agent has none."""
        await backend.store.put_definition(pipeline(stage("a", agent="alpha"), stage("b", agent="beta")).definition)
        assert sorted(await backend.store.agents()) == ["alpha", "beta"]
        queues = await backend.store.queues(["alpha", "beta", "nobody"])
        by_agent = {agent: {queue.has_group for queue in queues if queue.agent == agent} for agent in ("alpha", "beta")}
        assert by_agent == {"alpha": {True}, "beta": {True}}
        assert {queue.partition for queue in queues if queue.agent == "alpha"} == set(range(backend.store.partitions))
        assert not any(queue.has_group for queue in queues if queue.agent == "nobody")

    async def test_what_is_not_there_is_none(self, backend: Harness) -> None:
        """States come in the order they were asked for."""
        runner = await prepared(backend)
        state = await runner.create(RUN)
        assert await backend.store.load("missing") is None
        assert await backend.store.load_states(["missing", RUN, "gone"]) == [None, state, None]
        assert await backend.store.load_states([]) == []
        assert await backend.store.open_entries("missing") == []

    async def test_runs_are_loaded_whole(self, backend: Harness) -> None:
        """With the request and outputs, those that are not there as None, in the order they were asked for."""
        runner = await prepared(backend)
        await runner.create(RUN, input={"n": 1})
        (found,) = [snapshot for snapshot in await backend.store.load_all(["missing", RUN, "gone"]) if snapshot]
        assert found == await backend.store.load(RUN)
        assert (found.state, found.created.input, found.outputs) == (await runner.state(RUN), {"n": 1}, {})
        assert await backend.store.load_all(["missing", RUN, "gone"]) == [None, found, None]
        assert await backend.store.load_all([]) == []

    async def test_the_log_is_read_behind_a_position(self, backend: Harness) -> None:
        """In order, in portions, and with an entry found again by its id."""
        runner = await prepared(backend)
        await runner.create(RUN)
        await runner.carry_out(RUN, PauseWorkflow())
        store, partition = backend.store, partition_of(RUN, backend.store.partitions)
        entries = await store.read_log(partition, "0-0", count=10)
        assert [(entry.workflow_id, entry.version, entry.type) for entry in entries] == [
            (RUN, 1, "WorkflowCreated"),
            (RUN, 2, "TaskDispatched"),
            (RUN, 3, "WorkflowPaused"),
        ]
        assert all(entry.partition == partition for entry in entries)
        assert await store.read_log(partition, "0-0", count=2) == entries[:2]
        assert await store.read_log(partition, entries[1].entry_id, count=10) == entries[2:]
        assert await store.read_log(partition, entries[2].entry_id, count=10) == []
        assert await store.has_entry(partition, entries[0].entry_id)
        assert not await store.has_entry(partition, "1-1")
        head = await store.head(partition)
        assert (head.seq, head.last_entry_id) == (3, entries[2].entry_id)
        assert head.epoch

    async def test_an_empty_partition_has_a_head(self, backend: Harness) -> None:
        """A reader may ask before anything was written."""
        head = await backend.store.head(0)
        assert (head.seq, head.last_entry_id) == (0, "0-0")
        assert await backend.store.read_log(0, "0-0", count=10) == []

    async def test_a_reader_of_the_log_is_woken(self, backend: Harness) -> None:
        """It does not wait for its time to pass."""
        runner = await prepared(backend)
        partition = partition_of(RUN, backend.store.partitions)
        async with asyncio.timeout(10):
            reading = asyncio.create_task(backend.store.read_log(partition, "0-0", count=10, block_seconds=5))
            await backend.advance(0.01)
            assert not reading.done()
            await runner.create(RUN)
            assert (await reading)[0].type == "WorkflowCreated"

    async def test_a_reader_of_reports_is_woken_or_goes_home(self, backend: Harness) -> None:
        """Reports come oldest first, up to the number asked for; without any the wait ends by itself."""
        runner = await prepared(backend)
        await runner.create(RUN)
        queue = backend.queue("agent", "w1")
        await queue.join()
        (delivery,) = await queue.take(1, block_seconds=0)
        partition, task_id = partition_of(RUN, backend.store.partitions), delivery.message.task_id
        async with asyncio.timeout(10):
            reading = asyncio.create_task(backend.store.read_reports(partition, count=10, block_seconds=0.1))
            await backend.advance(0.2)
            assert await reading == []
            reading = asyncio.create_task(backend.store.read_reports(partition, count=10, block_seconds=5))
            await backend.advance(0.01)
            assert not reading.done()
            await queue.report([(delivery, started(task_id), "trace"), (delivery, completed(task_id, 7), "")])
            assert await reading
        entries = await runner.reports(RUN)
        assert [(entry.workflow_id, entry.report, entry.traceparent) for entry in entries] == [
            (RUN, started(task_id), "trace"),
            (RUN, completed(task_id, 7), ""),
        ]
        begun = await backend.store.now()
        (first,) = await backend.store.read_reports(partition, count=1, block_seconds=0)
        assert begun <= first.read_at <= await backend.store.now()
        assert replace(first, read_at=entries[0].read_at) == entries[0]
        assert (await backend.store.partition_facts(partition)).reports == 2

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xc1",
            encode({"kind": "started"}),
            encode(completed("t", "a\x00b")),
            encode(completed("t", float("nan"))),
        ],
        ids=["empty", "no msgpack", "no task", "NUL", "NaN"],
    )
    async def test_a_report_that_cannot_be_read_is_parked(self, backend: Harness, data: bytes) -> None:
        """It is shown with its problem, leaves the stream in one step, and only once."""
        partition = partition_of(RUN, backend.store.partitions)
        await backend.add_raw_report(RUN, data)
        (entry,) = await backend.store.read_reports(partition, count=10, block_seconds=0)
        assert entry.report is None
        assert entry.problem
        assert await backend.store.park_report(partition, entry.entry_id, entry.problem)
        assert not await backend.store.park_report(partition, entry.entry_id, entry.problem)
        assert await backend.store.read_reports(partition, count=10, block_seconds=0) == []
        facts = await backend.store.partition_facts(partition)
        assert (facts.reports, facts.parked) == (0, 1)
        (parked,) = await backend.store.parked(partition, count=10)
        assert (parked.workflow_id, parked.task_id, parked.reason) == (RUN, "", entry.problem[:500])
        assert await backend.store.now() - parked.at < 60_000_000

    async def test_open_tasks_say_where_they_are(self, backend: Harness) -> None:
        """Queued behind others, delivered to a worker, or gone from the stream."""
        runner = await prepared(backend)
        partitions = backend.store.partitions
        first, second = workflow_id_in(0, partitions), workflow_id_in(0, partitions, number=2)
        await runner.create(first)
        await runner.create(second)
        (entry,) = await backend.store.open_entries(first)
        (behind,) = await backend.store.open_entries(second)
        assert (entry.state, entry.ahead) == ("queued", 0)
        assert (behind.state, behind.ahead) == ("queued", 1)
        queue = backend.queue("agent", "w1")
        await queue.join()
        (delivery,) = await queue.take(1, block_seconds=0)
        assert delivery.message.workflow_id == first
        (entry,) = await backend.store.open_entries(first)
        (behind,) = await backend.store.open_entries(second)
        assert (entry.state, entry.worker, entry.deliveries) == ("delivered", "w1", 1)
        assert (entry.task_id, entry.entry_id) == (delivery.message.task_id, delivery.entry_id)
        assert (behind.state, behind.ahead) == ("queued", 0)
        await backend.drop_task_entry(behind.task_id)
        (behind,) = await backend.store.open_entries(second)
        assert behind.state == "gone"

    async def test_queues_count_what_nobody_holds(self, backend: Harness) -> None:
        """Backlog and pending, by worker, with the urgent ones."""
        runner = await prepared(backend)
        partitions = backend.store.partitions
        for number in (1, 2, 3):
            priority = "critical" if number == 3 else "low"
            await runner.create(workflow_id_in(0, partitions, number=number), priority=priority)
        queue = backend.queue("agent", "w1")
        await queue.join()
        await backend.advance(0.01)
        await queue.take(1, block_seconds=0)
        here = next(queue for queue in await backend.store.queues(["agent"]) if queue.partition == 0)
        assert (here.backlog, here.pending, here.pending_by_worker) == (2, 1, {"w1": 1})
        assert here.oldest_age_us >= 9_000

    async def test_what_was_parked_last_comes_first(self, backend: Harness) -> None:
        """With the task that the report was on; a timer that was parked is no report."""
        runner = await prepared(backend)
        await runner.create(RUN)
        partition = partition_of(RUN, backend.store.partitions)
        queue = backend.queue("agent", "w1")
        await queue.join()
        (delivery,) = await queue.take(1, block_seconds=0)
        await backend.add_raw_report(RUN, b"")
        await queue.report([(delivery, completed(delivery.message.task_id), "")])
        for entry in await backend.store.read_reports(partition, count=10, block_seconds=0):
            assert await backend.store.park_report(partition, entry.entry_id, "test")
        found = await backend.store.parked(partition, count=10)
        assert [(parked.workflow_id, parked.task_id) for parked in found] == [
            (RUN, delivery.message.task_id),
            (RUN, ""),
        ]
        assert len(await backend.store.parked(partition, count=1)) == 1

    async def test_runs_that_nothing_is_expected_of(self, backend: Harness) -> None:
        """They have ended, or were never there."""
        runner = await prepared(backend)
        await runner.create(RUN)
        partition = partition_of(RUN, backend.store.partitions)
        assert await backend.store.unexpected(partition, []) == []
        assert await backend.store.unexpected(partition, [RUN, "nobody"]) == ["nobody"]
        await runner.carry_out(RUN, CancelWorkflow())
        assert await backend.store.unexpected(partition, [RUN]) == [RUN]

    async def test_queues_name_runs_to_look_at(self, backend: Harness) -> None:
        """The oldest few, and those that were delivered again and again; what was closed and is still held is counted."""
        runner = await prepared(backend)
        await runner.create(RUN)
        partition = partition_of(RUN, backend.store.partitions)

        async def here() -> Queue:
            return next(queue for queue in await backend.store.queues(["agent"]) if queue.partition == partition)

        assert ((await here()).oldest, (await here()).repeated, (await here()).told) == ((RUN,), (), 0)
        queue = backend.queue("agent", "w1")
        await queue.join()
        await queue.take(1, block_seconds=0)
        assert (await here()).repeated == ()
        for _ in range(2):
            assert len(await queue.reconcile([])) == 1
        assert (await here()).repeated == (RUN,)
        await runner.carry_out(RUN, CancelWorkflow())
        assert (await here()).told == 1

    async def test_workers_are_known_by_their_beats(self, backend: Harness) -> None:
        """At the store's time, until they leave."""
        before = await backend.store.now()
        queue = backend.queue("agent", "w1")
        await queue.join()
        assert await backend.store.workers("agent") == []
        await queue.beat(beat("agent", "w1"))
        backend.keeper("agent", "w2").beat(beat("agent", "w2"))
        workers = await backend.store.workers("agent")
        assert sorted(worker.name for worker in workers) == ["w1", "w2"]
        assert all(worker.at >= before for worker in workers)
        assert replace(min(workers, key=lambda worker: worker.name), at=0) == beat("agent", "w1")
        assert await backend.store.workers("other") == []
        assert "agent" in await backend.store.agents()
        await queue.leave()
        assert [worker.name for worker in await backend.store.workers("agent")] == ["w2"]
