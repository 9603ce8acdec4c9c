"""What has to be true when the faults have ended and everything has come to rest. Each check says how much it looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from tailrace.core.events import TERMINAL, StageCompensated, StageCompleted, TaskFailed, WorkflowCreated
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import RawEntry
from tailrace.core.testing.undoing import check_compensation
from tailrace.core.workflow.history import Record, apply
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.verify import verify
from tests.chaos.pipelines import Asked
from tests.chaos.submitter import Submitter
from tests.support.audit import decided_again, record

Histories = Mapping[str, list[RawEntry]]

_EVENT_OF: Final[dict[Asked, str]] = {
    "cancel": "WorkflowCancelled",
    "pause": "WorkflowPaused",
    "resume": "WorkflowResumed",
    "retry": "WorkflowRetried",
}
#: What may follow the end of a round before the next one begins.
_AFTER_THE_END: Final = frozenset({"ReportIgnored"})


def creations(histories: Histories, submitter: Submitter) -> int:
    """Every acknowledged creation is there exactly once, as it was asked for, and nothing else is."""
    expected = {workflow_id: submitter.plans[key].body for key, workflow_id in submitter.acknowledged.items()}
    assert len(expected) == len(submitter.acknowledged), "two requests were acknowledged as one run"
    assert set(histories) == set(expected), set(histories) ^ set(expected)
    for workflow_id, entries in histories.items():
        created = [found for entry in entries if isinstance(found := record(entry).event, WorkflowCreated)]
        body = expected[workflow_id]
        assert [(event.name, event.type) for event in created] == [(body["name"], body["type"])], workflow_id
    return len(expected)


def commands(histories: Histories, submitter: Submitter) -> int:
    """What was acknowledged was carried out, and nothing more often than it was asked for."""
    for (workflow_id, asked), sent in submitter.sent.items():
        done = Counter(entry.type for entry in histories[workflow_id])[_EVENT_OF[asked]]
        assert submitter.commands[workflow_id, asked] <= done <= sent, f"{asked} of {workflow_id}: {done} of {sent}"
    return sum(submitter.commands.values())


async def decisions(store: RedisStore, histories: Histories) -> int:
    """The commands in the log lead to the events in the log, byte for byte."""
    for workflow_id, entries in histories.items():
        made = await decided_again(store, entries)
        assert made == [(entry.type, entry.data) for entry in entries], workflow_id
    return sum(len(entries) for entries in histories.values())


def outcomes(histories: Histories) -> int:
    """No attempt has two outcomes, in no log."""
    seen: Counter[tuple[str, str, int]] = Counter()
    for workflow_id, entries in histories.items():
        for entry in entries:
            event = record(entry).event
            if isinstance(event, StageCompleted | StageCompensated | TaskFailed):
                seen[workflow_id, event.stage, event.attempt] += 1
    twice = [task for task, times in seen.items() if times > 1]
    assert not twice, twice
    return len(seen)


async def undone(store: RedisStore, histories: Histories) -> int:
    """What the stages of a run did is undone before it ends otherwise than completed; gives how many were undone."""
    found = 0
    for entries in histories.values():
        records = [record(entry) for entry in entries]
        created = records[0].event
        assert isinstance(created, WorkflowCreated)
        check_compensation(await store.pipeline(created.definition), records)
        found += sum(isinstance(item.event, StageCompensated) for item in records)
    return found


def rounds(histories: Histories) -> int:
    """Within a round nothing follows its end, and progress never falls."""
    found = 0
    for workflow_id, entries in histories.items():
        state: WorkflowState | None = None
        for entry in entries:
            before, event = state, record(entry)
            state = apply(before, event)
            if before is None or before.round != state.round:
                found += 1
                continue
            assert state.progress_percentage >= before.progress_percentage, _where(workflow_id, event)
            assert not before.terminal or entry.type in _AFTER_THE_END, _where(workflow_id, event)
            assert state.terminal == (before.terminal or entry.type in TERMINAL), _where(workflow_id, event)
    return found


def _where(workflow_id: str, event: Record) -> str:
    return f"{workflow_id}, version {event.version}: {event.type}"


async def ends(store: RedisStore, submitter: Submitter) -> Counter[str]:
    """Every run ended in a way that its plan allows, or its task was given up as poison; gives the runs by status."""
    found: Counter[str] = Counter()
    for key, workflow_id in submitter.acknowledged.items():
        (state,) = await store.load_states([workflow_id])
        assert state is not None, workflow_id
        poison = state.error is not None and state.error.reason == "poison"
        found["failed (poison)" if poison else state.status] += 1
        allowed = submitter.plans[key].ends
        assert poison or state.status in allowed, f"{workflow_id} ({key}) is {state.status}: {state.error}"
    return found


async def rows(postgres_url: str, states: Mapping[str, WorkflowState]) -> int:
    """The rows of runs and stages say what the logs do; so does everything that is built again beside."""
    verdicts = await verify(postgres_url)
    wrong = [verdict for verdict in verdicts if verdict.differ]
    assert not wrong, wrong
    connection = await asyncpg.connect(postgres_url, timeout=10)
    try:
        runs = await connection.fetch(
            "SELECT workflow_id, status, version, round, progress_percentage, current_stage FROM tailrace.workflows"
        )
        stages = await connection.fetch("SELECT workflow_id, stage, status, attempt, tries FROM tailrace.stages")
    finally:
        await connection.close()
    expected = {
        (run.workflow_id, run.status, run.version, run.round, run.progress_percentage, run.current_stage)
        for run in states.values()
    }
    _same({tuple(row) for row in runs}, expected)
    expected_stages = {
        (run.workflow_id, name, stage.status, stage.attempt, stage.tries)
        for run in states.values()
        for name, stage in run.stages.items()
    }
    _same({tuple(row) for row in stages}, expected_stages)
    return sum(verdict.rows for verdict in verdicts)


def _same(found: set[Any], expected: set[Any]) -> None:
    assert found == expected, f"missing {sorted(expected - found)[:5]}, unexpected {sorted(found - expected)[:5]}"


async def parked(store: RedisStore, postgres_url: str) -> int:
    """Nothing came that could not be applied; gives the places looked at."""
    for partition in range(store.partitions):
        facts = await store.partition_facts(partition)
        assert not facts.parked, f"partition {partition} has {facts.parked} parked reports"
    connection = await asyncpg.connect(postgres_url, timeout=10)
    try:
        events = await connection.fetch("SELECT workflow_id, version, type, reason FROM tailrace.parked")
        problems = await connection.fetch(
            "SELECT partition, problem FROM tailrace.partitions WHERE problem IS NOT NULL"
        )
    finally:
        await connection.close()
    assert not events, events[:5]
    assert not problems, problems
    return store.partitions + 2


async def leftovers(store: RedisStore) -> list[str]:
    """What still waits somewhere although every run has ended; empty when nothing does."""
    found = [
        f"{queue.backlog} waiting and {queue.pending} held tasks of {queue.agent} in partition {queue.partition}"
        for queue in await store.queues(await store.agents())
        if queue.backlog or queue.pending
    ]
    for partition in range(store.partitions):
        part = store.keys.partition(partition)
        facts = await store.partition_facts(partition)
        open_runs = await store.open_workflows(partition, count=10)
        timers, cancels = await store.client.pipeline([("ZRANGE", part.timers, 0, 9), ("HGETALL", part.cancels)])
        for what, value in {
            "reports": facts.reports,
            "expectations": open_runs,
            "timers": timers,
            "marks of cancelled tasks": cancels,
        }.items():
            if value:
                found.append(f"{what} in partition {partition}: {value}")
    return found


async def behind(store: RedisStore, postgres_url: str) -> list[str]:
    """Projections that have not come to the end of their log; empty when all have."""
    connection = await asyncpg.connect(postgres_url, timeout=10)
    try:
        points = await connection.fetch("SELECT projection, partition, seq FROM tailrace.checkpoints")
    finally:
        await connection.close()
    heads = [(await store.head(partition)).seq for partition in range(store.partitions)]
    found = [f"{row['projection']} at {row['seq']}" for row in points if row["seq"] < heads[row["partition"]]]
    return found if {row["partition"] for row in points} == set(range(store.partitions)) else ["no checkpoint", *found]
