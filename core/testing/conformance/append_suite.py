"""What every store promises of an append: one winner per version, all or nothing, and in its order of checks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from tailrace.core.codec import decode_command, decode_event, encode
from tailrace.core.commands import ApplyReport, CancelWorkflow, PauseWorkflow
from tailrace.core.errors import InvalidInput
from tailrace.core.events import WorkflowCreated
from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import Append, Ownership, TimerRef
from tailrace.core.testing.builders import completed, create_workflow, line, started, workflow_id_in
from tailrace.core.testing.conformance.harness import Harness, everything
from tailrace.core.testing.runner import Runner
from tailrace.core.workflow.history import Record, fold

RUN = "run-1"


async def prepared(backend: Harness) -> Runner:
    """A runner of a line of two stages."""
    runner = Runner(backend.store, line("first", "second"))
    await runner.prepare()
    return runner


async def with_report(backend: Harness, runner: Runner) -> Append:
    """A run whose first task was reported as completed; gives the append that applies it."""
    await runner.create(RUN)
    queue = backend.queue("agent", "w1")
    await queue.join()
    (delivery,) = await queue.take(1, block_seconds=0)
    assert await queue.report([(delivery, completed(delivery.message.task_id, {"n": 1}), "")]) == [True]
    (entry,) = await runner.reports(RUN)
    return await runner.decide_report(entry)


class AppendSuite:
    """Appends. Subclass it, and give a fixture `backend`."""

    async def test_a_created_run_can_be_read_at_once(self, backend: Harness) -> None:
        """Snapshot, log, task and expectation are there together."""
        runner = await prepared(backend)
        state = await runner.create(RUN, priority="high", input={"a": [1, "x"]})
        snapshot = await backend.store.load(RUN)
        assert snapshot is not None
        assert snapshot.state == state
        assert snapshot.created.input == {"a": [1, "x"]}
        assert snapshot.outputs == {}
        (entry,) = await backend.store.open_entries(RUN)
        assert (entry.task_id, entry.agent, entry.state) == (f"{RUN}:first:1", "agent", "queued")
        assert await backend.store.open_workflows(partition_of(RUN, backend.store.partitions), count=10) == [RUN]

    async def test_a_run_is_created_once(self, backend: Harness) -> None:
        """The second create finds the first one and writes nothing."""
        runner = await prepared(backend)
        again = await runner.decide(RUN, create_workflow(runner.pipeline, RUN))
        await runner.create(RUN)
        before = await everything(backend, RUN, "agent")
        appended = await runner.append(again)
        assert (appended.outcome, appended.version) == ("exists", 2)
        assert await everything(backend, RUN, "agent") == before

    async def test_a_missing_run_is_not_created_by_the_way(self, backend: Harness) -> None:
        """Only a create may write where there is nothing."""
        runner = await prepared(backend)
        await runner.create(RUN)
        append = await runner.decide(RUN, PauseWorkflow())
        await backend.drop_workflow(RUN)
        before = await backend.store.head(partition_of(RUN, backend.store.partitions))
        assert (await runner.append(append)).outcome == "missing"
        assert await backend.store.load(RUN) is None
        assert await backend.store.head(partition_of(RUN, backend.store.partitions)) == before

    async def test_a_run_is_put_back_only_while_it_is_missing(self, backend: Harness) -> None:
        """Two that found it in the archive: one puts it back, the other is told that it is there."""
        runner = await prepared(backend)
        state = await runner.create(RUN)
        snapshot = await backend.store.load(RUN)
        assert snapshot is not None
        append = runner.decide_on(state, CancelWorkflow(), now=await backend.store.now(), rehydrate=True)
        append = replace(append, created=encode(snapshot.created), outputs={"old:1": encode("kept")})
        assert (await runner.append(append)).outcome == "exists"
        await backend.drop_workflow(RUN)
        assert (await runner.append(append)).outcome == "ok"
        assert (await runner.append(append)).outcome == "exists"
        restored = await backend.store.load(RUN)
        assert restored is not None
        assert restored.state == append.state
        assert restored.created == snapshot.created
        assert restored.outputs == {"old:1": encode("kept")}

    async def test_an_old_version_is_refused(self, backend: Harness) -> None:
        """Who decided on an older version is told the newer one, and nothing is written."""
        runner = await prepared(backend)
        await runner.create(RUN)
        stale = await runner.decide(RUN, PauseWorkflow())
        assert (await runner.carry_out(RUN, PauseWorkflow())).outcome == "ok"
        before = await everything(backend, RUN, "agent")
        appended = await runner.append(stale)
        assert (appended.outcome, appended.version) == ("conflict", 3)
        assert await everything(backend, RUN, "agent") == before

    async def test_concurrent_appends_have_one_winner(self, backend: Harness) -> None:
        """Of many appends on one version exactly one is written."""
        runner = await prepared(backend)
        await runner.create(RUN)
        append = await runner.decide(RUN, PauseWorkflow())
        results = await asyncio.gather(*(runner.append(append) for _ in range(20)))
        assert sorted(result.outcome for result in results) == ["conflict"] * 19 + ["ok"]
        assert (await runner.state(RUN)).version == 3

    async def test_each_append_of_a_batch_stands_for_itself(self, backend: Harness) -> None:
        """A refused append does not hold up those behind it."""
        runner = await prepared(backend)
        await runner.create(RUN)
        pause = await runner.decide(RUN, PauseWorkflow())
        other = await runner.decide("run-2", create_workflow(runner.pipeline, "run-2"))
        results = await backend.store.append([pause, pause, other])
        assert [result.outcome for result in results] == ["ok", "conflict", "ok"]

    async def test_seq_is_dense_within_a_partition(self, backend: Harness) -> None:
        """Events of all runs of a partition are counted without gaps, refused appends do not count."""
        runner = await prepared(backend)
        partitions = backend.store.partitions
        ids = [workflow_id_in(partition, partitions, number=n) for partition in range(2) for n in (1, 2, 3)]
        await asyncio.gather(*(runner.create(workflow_id) for workflow_id in ids))
        await asyncio.gather(*(runner.carry_out(workflow_id, PauseWorkflow()) for workflow_id in ids))
        for partition in range(2):
            entries = await backend.store.read_log(partition, "0-0", count=1000)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            head = await backend.store.head(partition)
            assert (head.seq, head.last_entry_id) == (len(entries), entries[-1].entry_id)

    async def test_the_log_folds_to_the_stored_state(self, backend: Harness) -> None:
        """What was logged gives the snapshot byte for byte, and names the command behind each decision."""
        runner = await prepared(backend)
        append = await with_report(backend, runner)
        assert (await runner.append(append)).outcome == "ok"
        records = []
        for raw in await backend.store.read_log(partition_of(RUN, backend.store.partitions), "0-0", count=100):
            decoded = decode_event(raw.type, raw.data)
            fields: dict[str, Any] = {name: getattr(raw, name) for name in raw.__struct_fields__ if name != "data"}
            records.append(Record(**fields, at=decoded.at, event=decoded.event, command=decoded.command))
        assert isinstance(records[0].event, WorkflowCreated)
        snapshot = fold(records)
        stored = await backend.store.load(RUN)
        assert snapshot is not None
        assert stored is not None
        assert encode(snapshot.state) == encode(stored.state)
        assert snapshot.outputs == stored.outputs == {"first:1": encode({"n": 1})}
        commands = [decode_command(record.command) for record in records if record.command is not None]
        assert [type(command).__name__ for command in commands] == ["CreateWorkflow", "ApplyReport"]

    async def test_a_command_is_remembered_with_its_version(self, backend: Harness) -> None:
        """Who lost the reply asks again by command id."""
        runner = await prepared(backend)
        await runner.create(RUN)
        await runner.carry_out(RUN, PauseWorkflow(), command_id="pause-it")
        state = await runner.state(RUN)
        assert state.version_of_command("pause-it") == 3
        assert state.version_of_command("never-sent") is None

    async def test_a_decision_removes_its_report_in_the_same_step(self, backend: Harness) -> None:
        """Applied once; whoever comes later finds the report gone and writes nothing."""
        runner = await prepared(backend)
        append = await with_report(backend, runner)
        assert (await runner.append(append)).outcome == "ok"
        assert await runner.reports(RUN) == []
        before = await everything(backend, RUN, "agent")
        assert (await runner.append(append)).outcome == "gone"
        assert await everything(backend, RUN, "agent") == before

    async def test_a_decision_without_events_removes_its_report_too(self, backend: Harness) -> None:
        """It compares the version as every other; only then the report leaves."""
        runner = await prepared(backend)
        append = await with_report(backend, runner)
        (entry,) = await runner.reports(RUN)
        ignored = await runner.decide(RUN, ApplyReport(report=started("no-task")), reports=[entry.entry_id])
        assert not ignored.records
        wrong = replace(ignored, expected_version=ignored.expected_version + 1)
        assert (await runner.append(wrong)).outcome == "conflict"
        assert await runner.reports(RUN) == [entry]
        appended = await runner.append(ignored)
        assert (appended.outcome, appended.version) == ("ok", append.expected_version)
        assert await runner.reports(RUN) == []
        assert (await runner.append(ignored)).outcome == "gone"

    async def test_several_reports_leave_together_or_not_at_all(self, backend: Harness) -> None:
        """When one of them was dealt with by somebody else, the others stay."""
        runner = await prepared(backend)
        append = await with_report(backend, runner)
        await backend.add_raw_report(RUN, encode(started(f"{RUN}:first:1")), task_id=f"{RUN}:first:1")
        first, second = await runner.reports(RUN)
        both = replace(append, reports=[first.entry_id, second.entry_id])
        partition = partition_of(RUN, backend.store.partitions)
        assert await backend.store.park_report(partition, second.entry_id, "test")
        assert (await runner.append(both)).outcome == "gone"
        assert await runner.reports(RUN) == [first]
        await backend.add_raw_report(RUN, encode(started(f"{RUN}:first:1")), task_id=f"{RUN}:first:1")
        _, third = await runner.reports(RUN)
        assert (await runner.append(replace(append, reports=[first.entry_id, third.entry_id]))).outcome == "ok"
        assert await runner.reports(RUN) == []

    async def test_a_report_that_is_gone_keeps_nothing_from_its_neighbours(self, backend: Harness) -> None:
        """Those of one batch, before and behind it, are written, and the events are counted without a gap."""
        runner = await prepared(backend)
        partitions = backend.store.partitions
        runs = [workflow_id_in(0, partitions, number=number) for number in (1, 2, 3)]
        for run in runs:
            await runner.create(run)
        queue = backend.queue("agent", "w1")
        await queue.join()
        for delivery in await queue.take(3, block_seconds=0):
            await queue.report([(delivery, completed(delivery.message.task_id), "")])
        appends = [await runner.decide_report(entry) for entry in await runner.reports(runs[0])]
        assert [append.workflow_id for append in appends] == runs
        assert await backend.store.park_report(0, appends[1].reports[0], "test")
        before = await everything(backend, runs[1], "agent")
        results = await backend.store.append(appends)
        assert [result.outcome for result in results] == ["ok", "gone", "ok"]
        after = await everything(backend, runs[1], "agent")
        assert (after["run"], after["open"]) == (before["run"], before["open"])
        assert after["reports"] == []
        entries = await backend.store.read_log(0, "0-0", count=100)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert {entry.workflow_id for entry in entries[len(before["log"]) :]} == {runs[0], runs[2]}
        assert results[2].seq == entries[-1].seq
        assert [result.outcome for result in await backend.store.append(appends)] == ["gone"] * 3

    async def test_an_owner_that_lost_its_partition_writes_nothing(self, backend: Harness) -> None:
        """Ownership is compared with name and epoch, before anything else is looked at."""
        runner = await prepared(backend)
        append = await with_report(backend, runner)
        partition = partition_of(RUN, backend.store.partitions)
        held = await backend.store.acquire(partition, "o1", None)
        assert held is not None
        before = await everything(backend, RUN, "agent")
        for other in (replace(held, epoch=held.epoch + 1), Ownership(partition=partition, name="o2", epoch=held.epoch)):
            refused = replace(append, ownership=other, expected_version=append.expected_version + 7, records=[])
            refused = replace(refused, outputs={}, closings=[], dispatches=[], timers_set={}, state=None)
            assert (await runner.append(refused)).outcome == "not-owner"
            assert (await runner.append(replace(append, ownership=other))).outcome == "not-owner"
        assert await everything(backend, RUN, "agent") == before
        assert (await runner.append(replace(append, ownership=held))).outcome == "ok"

    async def test_what_is_gone_is_said_before_the_version(self, backend: Harness) -> None:
        """A report or timer that is not there any more is `gone`, also on an old version."""
        runner = await prepared(backend)
        append = await with_report(backend, runner)
        assert (await runner.append(append)).outcome == "ok"
        assert (await runner.carry_out(RUN, PauseWorkflow())).outcome == "ok"
        assert (await runner.append(append)).outcome == "gone"
        timer = TimerRef(name=f"{RUN}|attempt|first|1", due_at=1)
        assert (await runner.append(replace(append, reports=[], timer=timer))).outcome == "gone"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"state": None},
            {"expected_version": -1},
            {"expected_version": 1},
            {"created": None},
            {"expect_at": None},
            {"workflow_id": ""},
            {"workflow_id": "another-run"},
            {"records": ()},
            {"rehydrate": True},
        ],
        ids=lambda wrong: ",".join(f"{name}={value!r}" for name, value in wrong.items()),
    )
    async def test_wrong_arguments_write_nothing(self, backend: Harness, wrong: dict[str, Any]) -> None:
        """They are refused before the store is touched, and with them the whole batch."""
        runner = await prepared(backend)
        append = await runner.decide(RUN, create_workflow(runner.pipeline, RUN))
        good = await runner.decide("run-2", create_workflow(runner.pipeline, "run-2"))
        before = await everything(backend, RUN, "agent")
        with pytest.raises(InvalidInput):
            await backend.store.append([good, replace(append, **wrong)])
        assert await everything(backend, RUN, "agent") == before
        assert await backend.store.load("run-2") is None
