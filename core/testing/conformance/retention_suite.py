"""What every store promises of forgetting: in bounded steps, only what is named by its number or version, and nothing open."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tailrace.core.codec import encode
from tailrace.core.commands import CancelWorkflow, RetryWorkflow
from tailrace.core.errors import LogDiverged
from tailrace.core.store.inputs import carry, input_of
from tailrace.core.store.port import Append, RawEntry
from tailrace.core.store.retention import EndedRun, LogPlace
from tailrace.core.testing.builders import completed, create_workflow, failed, line, workflow_id_in
from tailrace.core.testing.conformance.harness import Harness, everything
from tailrace.core.testing.runner import Runner

#: A store may leave that many entries standing that it can't remove at once.
LEFT: int = 100


async def prepared(backend: Harness) -> Runner:
    """A runner of a line of two stages."""
    runner = Runner(backend.store, line("first", "second"))
    await runner.prepare()
    return runner


async def filled(backend: Harness, events: int) -> list[RawEntry]:
    """A log of partition 0 with at least so many events."""
    runner = await prepared(backend)
    number = 0
    while (await backend.store.head(0)).seq < events:
        number += 1
        run = workflow_id_in(0, backend.store.partitions, number=number)
        await runner.create(run)
        await runner.carry_out(run, CancelWorkflow())
    return await backend.store.read_log(0, "0-0", count=10 * events)


def place(entry: RawEntry) -> LogPlace:
    """Where an entry is."""
    return LogPlace(entry_id=entry.entry_id, seq=entry.seq)


async def ended(backend: Harness, runner: Runner, number: int = 1) -> EndedRun:
    """A run of partition 0 that has ended."""
    run = workflow_id_in(0, backend.store.partitions, number=number)
    await runner.create(run)
    appended = await runner.carry_out(run, CancelWorkflow())
    return EndedRun(workflow_id=run, version=appended.version)


async def retrying(backend: Harness, runner: Runner, run: EndedRun) -> Append:
    """The append that begins a run anew, with all that an archive gives back."""
    snapshot = await backend.store.load(run.workflow_id)
    assert snapshot is not None
    append = runner.decide_on(snapshot.state, RetryWorkflow(), now=await backend.store.now(), rehydrate=True)
    return replace(append, created=encode(snapshot.created), outputs=dict(snapshot.outputs))


class RetentionSuite:
    """Forgetting. Subclass it, and give a fixture `backend`."""

    async def test_the_log_is_trimmed_up_to_an_entry(self, backend: Harness) -> None:
        """Oldest first, step by step, until hardly anything stands before the entry; that and all behind it stay."""
        entries = await filled(backend, 600)
        first = entries[-20]
        before = await backend.store.head(0)
        removed = 0
        for _ in entries:
            step = await backend.retention.trim_log(0, place(first), count=150)
            assert 0 <= step <= 150
            if not step:
                break
            removed += step
            assert await backend.store.read_log(0, "0-0", count=10_000) == entries[removed:]
        assert len(entries) - 20 - LEFT <= removed <= len(entries) - 20
        assert await backend.store.head(0) == before
        assert (await filled_by_one_more(backend))[-1].seq == before.seq + 1

    async def test_what_was_trimmed_is_not_trimmed_again(self, backend: Harness) -> None:
        """An older place is in the past: there is nothing to do."""
        entries = await filled(backend, 300)
        assert await backend.retention.trim_log(0, place(entries[-1]), count=10_000)
        assert not await backend.retention.trim_log(0, place(entries[0]), count=10_000)
        assert (await backend.store.read_log(0, "0-0", count=10_000))[-1] == entries[-1]

    async def test_a_log_that_is_another_one_is_not_trimmed(self, backend: Harness) -> None:
        """Neither when the entry has another number, nor when it is not there: what is before it may be archived nowhere."""
        entries = await filled(backend, 300)
        last = entries[-1]
        milliseconds, _, number = last.entry_id.partition("-")
        for wrong in (
            LogPlace(entry_id=last.entry_id, seq=last.seq + 1),
            LogPlace(entry_id=f"{milliseconds}-{int(number) + 1}", seq=last.seq),
            LogPlace(entry_id=f"{int(milliseconds) + 1}-0", seq=last.seq),
        ):
            with pytest.raises(LogDiverged):
                await backend.retention.trim_log(0, wrong, count=10_000)
        assert await backend.store.read_log(0, "0-0", count=10_000) == entries

    async def test_an_empty_log_is_trimmed_to_itself(self, backend: Harness) -> None:
        """Nothing is removed where nothing is."""
        assert await backend.retention.trim_log(0, LogPlace(entry_id="7-0", seq=7), count=100) == 0

    async def test_runs_that_ended_are_forgotten(self, backend: Harness) -> None:
        """Many at once; each only once, and nothing is left to be read of it."""
        runner = await prepared(backend)
        runs = [await ended(backend, runner, number) for number in range(1, 41)]
        before = await backend.store.head(0)
        assert await backend.retention.expire_runs(0, runs) == 40
        assert await backend.retention.expire_runs(0, runs) == 0
        for run in runs:
            assert await backend.store.load(run.workflow_id) is None
            assert await backend.store.open_entries(run.workflow_id) == []
        assert await backend.store.load_states([run.workflow_id for run in runs]) == [None] * 40
        assert await backend.store.head(0) == before

    async def test_only_what_ended_at_that_version_is_forgotten(self, backend: Harness) -> None:
        """An open run, one that has moved on since, and one that never was: all as before."""
        runner = await prepared(backend)
        open_run = workflow_id_in(0, backend.store.partitions, number=1)
        state = await runner.create(open_run)
        moved = await ended(backend, runner, 2)
        await runner.carry_out(moved.workflow_id, RetryWorkflow())
        await runner.carry_out(moved.workflow_id, CancelWorkflow())
        never = workflow_id_in(0, backend.store.partitions, number=3)
        before = await everything(backend, open_run, "agent")
        named = [
            EndedRun(workflow_id=open_run, version=state.version),
            moved,
            EndedRun(workflow_id=never, version=3),
        ]
        assert await backend.retention.expire_runs(0, named) == 0
        assert await everything(backend, open_run, "agent") == before
        assert await backend.store.load(moved.workflow_id) is not None
        assert (
            await runner.append(await runner.decide(never, create_workflow(runner.pipeline, never)))
        ).outcome == "ok"

    async def test_a_tombstone_keeps_the_id_taken(self, backend: Harness) -> None:
        """The run is not begun again, and what was decided on it before is not written."""
        runner = await prepared(backend)
        run = await ended(backend, runner)
        stale = await runner.decide(run.workflow_id, RetryWorkflow())
        await backend.retention.expire_runs(0, [run])
        before = await backend.store.head(0)
        created = await runner.decide(run.workflow_id, create_workflow(runner.pipeline, run.workflow_id))
        appended = await runner.append(created)
        assert (appended.outcome, appended.version) == ("exists", run.version)
        assert (await runner.append(stale)).outcome == "missing"
        assert await backend.store.head(0) == before

    async def test_a_forgotten_run_comes_back_once(self, backend: Harness) -> None:
        """With all that the archive has of it; at another version than the tombstone's it does not."""
        runner = await prepared(backend)
        run = await ended(backend, runner)
        append = await retrying(backend, runner, run)
        await runner.carry_out(run.workflow_id, RetryWorkflow())
        await runner.carry_out(run.workflow_id, CancelWorkflow())
        snapshot = await backend.store.load(run.workflow_id)
        assert snapshot is not None
        later = EndedRun(workflow_id=run.workflow_id, version=snapshot.state.version)
        newer = await retrying(backend, runner, later)
        assert await backend.retention.expire_runs(0, [later]) == 1
        appended = await runner.append(append)
        assert (appended.outcome, appended.version) == ("conflict", later.version)
        assert (await runner.append(newer)).outcome == "ok"
        assert (await runner.append(newer)).outcome == "exists"
        restored = await backend.store.load(run.workflow_id)
        assert restored is not None
        assert (restored.state, restored.created) == (newer.state, snapshot.created)
        assert [entry.state for entry in await backend.store.open_entries(run.workflow_id)] == ["queued"]
        assert await backend.retention.expire_runs(0, [later]) == 0

    async def test_what_comes_back_gives_its_tasks_what_they_read(self, backend: Harness) -> None:
        """The request, and the outputs of the stages that keep them: along with the task, and read from the run."""
        runner = await prepared(backend)
        run = workflow_id_in(0, backend.store.partitions)
        await runner.create(run, name="a name", input={"n": 1})
        queue = backend.queue("agent", "w1")
        await queue.join()
        (first,) = await queue.take(1, block_seconds=0)
        await queue.report([(first, completed(first.message.task_id, {"from": "first"}), "")])
        await runner.apply_reports(run)
        (second,) = await queue.take(1, block_seconds=0)
        await queue.report([(second, failed(second.message.task_id, retryable=False), "")])
        await runner.apply_reports(run)
        snapshot = await backend.store.load(run)
        assert snapshot is not None
        assert snapshot.state.status == "failed"
        forgotten = EndedRun(workflow_id=run, version=snapshot.state.version)
        carried = carry(snapshot.created, snapshot.outputs)
        append = runner.decide_on(
            snapshot.state, RetryWorkflow(), now=await backend.store.now(), rehydrate=True, carried=carried
        )
        append = replace(append, created=encode(snapshot.created), outputs=dict(snapshot.outputs))
        assert await backend.retention.expire_runs(0, [forgotten]) == 1
        assert (await runner.append(append)).outcome == "ok"
        (again,) = await queue.take(1, block_seconds=0)
        assert (again.message.task_id, again.message.given is None) == (f"{run}:second:2", False)
        assert again.message.given is not None
        (found,) = await queue.inputs([again.message])
        assert (found["name"], found["input"], found["stages"]) == ("a name", {"n": 1}, {"first": {"from": "first"}})
        assert input_of(again.message, again.message.given, again.message.given.outputs) == found

    async def test_a_report_on_a_forgotten_run_waits(self, backend: Harness) -> None:
        """Whoever still remembers the run as open writes nothing, and the report does not leave its stream by that."""
        runner = await prepared(backend)
        run = await ended(backend, runner)
        task_id = f"{run.workflow_id}:first:1"
        await backend.add_raw_report(run.workflow_id, encode(completed(task_id)), task_id=task_id)
        (entry,) = await runner.reports(run.workflow_id)
        append = await runner.decide_report(entry)
        assert await backend.retention.expire_runs(0, [run]) == 1
        before = await backend.store.head(0)
        assert (await runner.append(append)).outcome == "missing"
        assert await runner.reports(run.workflow_id) == [entry]
        assert await backend.store.head(0) == before


async def filled_by_one_more(backend: Harness) -> list[RawEntry]:
    """The log after a run was begun, which is two events, without the second."""
    runner = await prepared(backend)
    await runner.create(workflow_id_in(0, backend.store.partitions, number=100_000))
    return (await backend.store.read_log(0, "0-0", count=10_000))[:-1]
