"""Rows are the fold of the log, however it was cut into batches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tailrace.core.clock import from_datetime
from tailrace.core.commands import (
    ApplyReport,
    CancelWorkflow,
    FireTimer,
    FlagStall,
    PauseWorkflow,
    RedispatchTask,
    ResumeWorkflow,
    RetryWorkflow,
)
from tailrace.core.store.port import RawEntry
from tailrace.core.testing.builders import (
    completed,
    diamond,
    failed,
    pipeline,
    progressed,
    stage,
    started,
    stopped,
    undone,
)
from tailrace.core.workflow.history import Snapshot
from tests.integration.projections.run_log import SEVEN, RunLog
from tests.integration.projections.support import Database, project

DIAMOND = diamond()
UNDONE = pipeline(undone("first"), undone("second", "first", undo="undoer"), stage("third", "second"))


def eventful(log: RunLog) -> None:
    """Runs that know everything that can happen to one."""
    log.create("done", labels={"team": "a"}, input={"n": 1, "text": "päx 🚀"})
    log.create("cancelled", pipeline=DIAMOND)
    log.create("retried")
    log.create("again")
    log.create("stalled")
    log.create("waiting", description="d", requirements="r", priority="high")
    for workflow_id in ("undone", "undoing"):
        undo(log, workflow_id)
    log.do("undone", ApplyReport(report=failed("undone:second:2", retryable=False)), pipeline=UNDONE)
    log.finish("undone", pipeline=UNDONE)
    log.finish("done")
    log.advance("cancelled", pipeline=DIAMOND)
    log.do("cancelled", ApplyReport(report=started("cancelled:left:1")), pipeline=DIAMOND)
    log.do("cancelled", PauseWorkflow(reason="lunch"), pipeline=DIAMOND)
    log.do("cancelled", ResumeWorkflow(), pipeline=DIAMOND, seconds=60)
    log.do("cancelled", CancelWorkflow(reason="enough"), pipeline=DIAMOND)
    log.do("cancelled", ApplyReport(report=completed("cancelled:left:1", 5)), pipeline=DIAMOND)
    fail_stage(log, "retried")
    log.do("retried", RetryWorkflow())
    log.advance("retried", output={"second": "round"})
    log.finish("again")
    log.do("again", RetryWorkflow(from_stage="validation"))
    log.do("stalled", FlagStall(cause="no-worker", hop="queue", summary="nobody", evidence={"backlog": 1}))
    log.do("stalled", FlagStall(cause="workers-hung", hop="worker", summary="all hang", suggestion="restart"))
    log.do("stalled", ApplyReport(report=started("stalled:initialization:1", worker="w2")))
    log.do("stalled", RedispatchTask(task_id="stalled:initialization:1", reason="entry-gone"))
    log.do("stalled", ApplyReport(report=started("stalled:initialization:1", worker="w3", delivery=2)))
    log.do("stalled", ApplyReport(report=progressed("stalled:initialization:1", 0.4, worker="w3", delivery=2)))
    log.do("stalled", FlagStall(cause="overdue", hop="worker", summary="late"))


def undo(log: RunLog, workflow_id: str) -> None:
    """A run that was cancelled after two stages, and has begun to undo them."""
    log.create(workflow_id, pipeline=UNDONE)
    log.advance(workflow_id, pipeline=UNDONE)
    log.advance(workflow_id, pipeline=UNDONE)
    log.do(workflow_id, CancelWorkflow(reason="enough"), pipeline=UNDONE)
    log.do(workflow_id, ApplyReport(report=stopped(f"{workflow_id}:third:1")), pipeline=UNDONE)


def fail_stage(log: RunLog, workflow_id: str) -> None:
    """Fail every attempt of a run's first stage."""
    for attempt in (1, 2, 3):
        log.do(workflow_id, ApplyReport(report=failed(f"{workflow_id}:initialization:{attempt}")))
        if attempt < 3:
            log.now += 10_000_000
            timer = FireTimer(kind="retry", stage="initialization", attempt=attempt, due_at=log.now)
            log.do(workflow_id, timer)


def stage_facts(row: dict[str, Any]) -> tuple[Any, ...]:
    """What of a stage's row the state says as well."""
    times = tuple(row[name] and from_datetime(row[name]) for name in ("started_at", "finished_at", "retry_at"))
    return (row["stage"], row["status"], row["weight"], row["attempt"], row["tries"], row["compensation"], *times)


async def check_run(db: Database, workflow_id: str, snapshot: Snapshot) -> None:
    """Compare a run's rows with its fold."""
    state = snapshot.state
    (row,) = await db.rows("SELECT * FROM tailrace.workflows WHERE workflow_id = $1", workflow_id)
    for name in ("status", "current_stage", "progress_percentage", "version", "round", "priority", "type"):
        assert row[name] == getattr(state, name), name
    for name in ("created_at", "updated_at", "completed_at"):
        assert (row[name] and from_datetime(row[name])) == getattr(state, name), name
    assert row["input"] == snapshot.created.input
    assert row["labels"] == snapshot.created.labels
    assert (row["error"] and row["error"]["reason"]) == (state.error and state.error.reason)
    assert (row["stall"] and row["stall"]["cause"]) == (state.stall and state.stall.cause)
    stages = await db.rows("SELECT * FROM tailrace.stages WHERE workflow_id = $1 ORDER BY ordinal", workflow_id)
    assert [stage_facts(stage) for stage in stages] == [
        (
            name,
            s.status,
            s.weight,
            s.attempt,
            s.tries,
            state.compensation_of(name),
            s.started_at,
            s.finished_at,
            s.retry_at,
        )
        for name, s in state.stages.items()
    ]
    outputs = {stage["stage"]: stage["output"] for stage in stages if stage["output_attempt"] is not None}
    assert outputs == snapshot.stage_outputs()
    assert row["stage_outputs"] == outputs
    open_tasks = await db.rows(
        "SELECT stage, attempt, worker, deliveries FROM tailrace.tasks"
        " WHERE workflow_id = $1 AND finished_at IS NULL ORDER BY stage",
        workflow_id,
    )
    assert [tuple(task.values()) for task in open_tasks] == sorted(
        (name, s.task.attempt, s.task.worker, s.task.delivery) for name, s in state.stages.items() if s.task
    )


@pytest.mark.parametrize("batch_size", [1, 3, 2000])
async def test_rows_are_the_fold_of_the_log(postgres_url: str, log: RunLog, db: Database, batch_size: int) -> None:
    """Whatever happened to a run, and wherever a batch ended, its rows say what its folded state says."""
    eventful(log)
    await project(postgres_url, log, db, batch_size=batch_size, views=2)
    for workflow_id in log.ids():
        await check_run(db, workflow_id, log.snapshot(workflow_id))


async def test_how_the_log_is_cut_into_batches_does_not_show(postgres_url: str, log: RunLog, db: Database) -> None:
    """One event at a time with hardly any memory, or all at once: every table is the same."""
    eventful(log)
    await project(postgres_url, log, db, batch_size=1, views=1)
    alone = await db.dump()
    await db.execute("DROP SCHEMA tailrace CASCADE")
    await project(postgres_url, log, db, batch_size=2000)
    assert await db.dump() == alone


async def test_the_archive_holds_the_log_byte_for_byte(postgres_url: str, log: RunLog, db: Database) -> None:
    """Every entry of the log can be put together again from the archive."""
    eventful(log)
    await project(postgres_url, log, db)
    for partition in range(log.partitions):
        rows = await db.rows("SELECT * FROM tailrace.events WHERE partition = $1 ORDER BY seq", partition)
        archived = [
            RawEntry(
                partition=row["partition"],
                entry_id=row["entry_id"],
                seq=row["seq"],
                workflow_id=row["workflow_id"],
                version=row["version"],
                type=row["type"],
                traceparent=row["traceparent"],
                data=row["raw"],
            )
            for row in rows
        ]
        assert archived == log.entries(partition)


async def test_derived_data_is_the_event_as_json(postgres_url: str, log: RunLog, db: Database) -> None:
    """`data` can be queried: it has the event's fields by their names."""
    log.create("a", input={"n": [1, 2.5, None, True]})
    await project(postgres_url, log, db)
    (row,) = await db.rows("SELECT data, at FROM tailrace.events WHERE version = 1")
    assert row["data"]["input"] == {"n": [1, 2.5, None, True]}
    assert row["data"]["stages"][0] == ["initialization", 1]
    assert row["at"] == datetime(2026, 1, 2, 3, 4, 5, 10000, tzinfo=UTC)


async def test_tasks_tell_the_story_of_each_attempt(postgres_url: str, log: RunLog, db: Database) -> None:
    """Each attempt is a row of its own, with its outcome and its error."""
    log.create("a")
    fail_stage(log, "a")
    await project(postgres_url, log, db)
    rows = await db.rows("SELECT * FROM tailrace.tasks ORDER BY attempt")
    assert [(row["task_id"], row["status"], row["error"]["reason"], row["worker"]) for row in rows] == [
        (f"a:initialization:{attempt}", "failed", "handler-error", "w1") for attempt in (1, 2, 3)
    ]


async def test_undoing_shows_in_stages_and_tasks(postgres_url: str, log: RunLog, db: Database) -> None:
    """How far it is, beside the status that the stage has; its tasks are told from those that did the work."""
    eventful(log)
    await project(postgres_url, log, db, batch_size=1, views=1)
    asked = "SELECT stage, status, compensation FROM tailrace.stages WHERE workflow_id = $1 ORDER BY ordinal"
    assert [tuple(row.values()) for row in await db.rows(asked, "undoing")] == [
        ("first", "completed", "pending"),
        ("second", "completed", "running"),
        ("third", "cancelled", None),
    ]
    assert [tuple(row.values()) for row in await db.rows(asked, "undone")] == [
        ("first", "completed", "completed"),
        ("second", "completed", "failed"),
        ("third", "cancelled", None),
    ]
    asked = "SELECT task_id, agent, status FROM tailrace.tasks WHERE workflow_id = 'undone' AND compensation ORDER BY 1"
    assert [tuple(row.values()) for row in await db.rows(asked)] == [
        ("undone:first:2", "agent", "completed"),
        ("undone:second:2", "undoer", "failed"),
    ]
    assert await db.value("SELECT status FROM tailrace.workflows WHERE workflow_id = 'undoing'") == "running"


async def test_open_tasks_of_a_run_that_ended_become_cancelled(postgres_url: str, log: RunLog, db: Database) -> None:
    """Nothing looks open in a run that is over."""
    log.create("a", pipeline=DIAMOND)
    log.advance("a", pipeline=DIAMOND)
    log.do("a", ApplyReport(report=started("a:left:1")), pipeline=DIAMOND)
    log.do("a", CancelWorkflow(), pipeline=DIAMOND)
    await project(postgres_url, log, db, batch_size=1)
    rows = await db.rows("SELECT stage, status, finished_at IS NULL AS open FROM tailrace.tasks ORDER BY stage")
    assert [tuple(row.values()) for row in rows] == [
        ("left", "cancelled", False),
        ("right", "cancelled", False),
        ("start", "completed", False),
    ]


async def test_stalls_are_kept_with_their_beginning_and_end(postgres_url: str, log: RunLog, db: Database) -> None:
    """A stall ends when another takes its place, or when the run moves; the last one stands."""
    eventful(log)
    await project(postgres_url, log, db, batch_size=1, views=1)
    rows = await db.rows("SELECT * FROM tailrace.stalls WHERE workflow_id = 'stalled' ORDER BY version")
    assert [(row["cause"], row["cleared_at"] is None) for row in rows] == [
        ("no-worker", False),
        ("workers-hung", False),
        ("overdue", True),
    ]
    assert rows[0]["cleared_at"] == rows[1]["since"]
    assert rows[0]["evidence"] == {"backlog": 1}


@pytest.mark.hole("H22")
@pytest.mark.parametrize("value", ["nul \x00 inside", {"a\x00b": 1}, ["\\\x00"]], ids=["text", "key", "escaped"])
async def test_what_jsonb_cannot_hold_becomes_null_and_its_bytes_are_kept(
    postgres_url: str, log: RunLog, db: Database, value: Any
) -> None:
    """An output with a NUL stops nothing: the derived columns are null, the raw bytes are those of the log."""
    log.create("a")
    log.advance("a", output=value)
    log.finish("a")
    await project(postgres_url, log, db)
    assert await db.value("SELECT status FROM tailrace.workflows") == "completed"
    assert await db.value("SELECT output FROM tailrace.stages WHERE ordinal = 0") is None
    assert await db.value("SELECT output_attempt FROM tailrace.stages WHERE ordinal = 0") == 1
    assert await db.value("SELECT data FROM tailrace.events WHERE type = 'StageCompleted' AND version = 4") is None
    assert log.snapshot("a").stage_outputs()["initialization"] == value


async def test_an_escaped_backslash_before_u0000_is_held(postgres_url: str, log: RunLog, db: Database) -> None:
    """The six characters `\\u0000` are ordinary text, and stay."""
    log.create("a", input={"n": "\\u0000"})
    await project(postgres_url, log, db)
    assert await db.value("SELECT input FROM tailrace.workflows") == {"n": "\\u0000"}


async def test_names_with_a_nul_are_shown_with_a_replacement(postgres_url: str, log: RunLog, db: Database) -> None:
    """Text that a person must see is never dropped for one character."""
    log.create("a", name="x\x00y", labels={"k": "v\x00"})
    await project(postgres_url, log, db)
    assert await db.value("SELECT name FROM tailrace.workflows") == "x\ufffdy"
    assert await db.value("SELECT count(*) FROM tailrace.parked") == 0


async def test_a_projection_that_joins_later_is_built_from_the_archive(
    postgres_url: str, log: RunLog, db: Database
) -> None:
    """A read model that is new, or was thrown away, catches up from the archive: the log may be trimmed by then."""
    eventful(log)
    await project(postgres_url, log, db)
    before = await db.dump()
    await db.execute("DELETE FROM tailrace.checkpoints WHERE projection IN ('workflows', 'tasks')")
    await db.execute("DELETE FROM tailrace.tasks")
    await db.execute("UPDATE tailrace.workflows SET name = 'wrong'")
    for partition in range(log.partitions):
        log.trim(partition, keep=1)
    log.create("later", pipeline=SEVEN)
    await project(postgres_url, log, db, batch_size=5)
    after = await db.dump()
    for table in ("workflows", "stages", "tasks", "stalls"):
        assert [row for row in after[table] if "'later" not in row] == before[table], table
