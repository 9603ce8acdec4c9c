"""Events that no projection can apply: parked with their reason, never in the way of other runs, never forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.core.codec import EventData, encode, encode_event
from tailrace.core.events import Event, StageCompleted, TaskDispatched, TaskProgressed, WorkflowCancelled
from tailrace.core.testing.clock import START_US
from tailrace.projections.fold import to_record
from tailrace.projections.queries import Queries
from tests.integration.projections.run_log import RunLog, created_event
from tests.integration.projections.support import Database, project, projecting, until


def poisonous(event: Event, at: int = START_US) -> tuple[str, bytes]:
    """An event as it stands in the log, whatever it does to a fold."""
    return type(event).__name__, encode_event(event, at=at)


def dispatched(**fields: Any) -> TaskDispatched:
    """A dispatch with fields that no decider would give."""
    values: dict[str, Any] = {
        "task_id": "sick:scaffolding:1", "stage": "scaffolding", "attempt": 1, "agent": "agent", "action": "a", **fields
    }  # fmt: skip
    return TaskDispatched(**values)


POISON = {
    "bytes that are no event": ("TaskStarted", b"\xc1garbage"),
    "a type that is unknown": ("WorkflowTeleported", encode(EventData(at=START_US, event=b"\x80"))),  # type: ignore[arg-type]  # raw bytes
    "a stage that is unknown": poisonous(StageCompleted(stage="nowhere", task_id="sick:nowhere:1", attempt=1)),
    "no open task": poisonous(TaskProgressed(task_id="sick:monitoring:1", stage="monitoring", attempt=1, fraction=0.5)),
    "a number that Postgres can't hold": poisonous(dispatched(attempt=2**40)),
    "a time out of all calendars": poisonous(WorkflowCancelled(), at=2**62),
}


def infect(log: RunLog, kind: str) -> tuple[str, int]:
    """A sick run among healthy ones; gives its id and the version of the poison."""
    for name in ("well-1", "sick", "well-2"):
        log.create(name)
        log.advance(name)
    event_type, data = POISON[kind]
    poison = log.put("sick", log.version("sick") + 1, event_type, data)
    log.follow_poison("sick")
    log.advance("well-1")
    log.advance("sick")
    log.finish("well-2")
    return "sick", poison.version


@pytest.mark.hole("H22")
@pytest.mark.parametrize("batch_size", [1, 4, 2000])
@pytest.mark.parametrize("kind", POISON)
async def test_a_poison_event_is_parked_with_all_later_ones_of_its_run(
    postgres_url: str, log: RunLog, db: Database, queries: Queries, kind: str, batch_size: int
) -> None:
    """The run stands where it was and says why; the position moves on; other runs know nothing of it."""
    workflow_id, version = infect(log, kind)
    await project(postgres_url, log, db, batch_size=batch_size)

    parked = await queries.parked(workflow_id)
    assert [row.version for row in parked] == list(range(version, log.version(workflow_id) + 1))
    assert parked[0].reason
    assert all("earlier event" in row.reason for row in parked[1:])
    assert len(await queries.parked()) == len(parked)

    row = await queries.get_workflow(workflow_id)
    assert row is not None
    assert (row.version, row.parked_version, row.parked_reason) == (version - 1, version, parked[0].reason)
    assert row.current_stage == "scaffolding"
    for name in ("well-1", "well-2"):
        healthy = await queries.get_workflow(name)
        assert healthy is not None
        assert (healthy.version, healthy.status) == (log.version(name), log.snapshot(name).state.status)
        assert healthy.parked_version is None

    assert await queries.archived_version(workflow_id) == log.version(workflow_id)
    assert (await queries.overview()).parked == 1


async def test_a_run_whose_first_event_is_poison_is_listed_all_the_same(
    postgres_url: str, log: RunLog, db: Database, queries: Queries
) -> None:
    """Never silent: there is a row that says what is wrong."""
    log.put("sick", 1, "WorkflowCreated", b"nonsense")
    log.put("sick", 2, "WorkflowCancelled", b"nonsense")
    await project(postgres_url, log, db)
    (row,) = (await queries.list_workflows()).items
    assert (row.workflow_id, row.version, row.parked_version) == ("sick", 0, 1)
    assert row.parked_reason is not None
    assert "can't be read" in row.parked_reason


async def test_an_event_that_even_the_archive_cannot_hold_is_kept_with_the_parked(
    postgres_url: str, log: RunLog, db: Database, queries: Queries
) -> None:
    """A version out of all bounds: nothing is lost of it, and the position moves on."""
    log.create("a")
    log.put("sick", 2**70, "WorkflowCreated", created_event())
    log.create("b")
    await project(postgres_url, log, db)
    (parked,) = await queries.parked()
    assert parked.workflow_id == "sick"
    assert await db.value("SELECT raw FROM tailrace.parked") == created_event()
    for partition in (0, 1):
        archived = await queries.log(partition)
        assert [entry.seq for entry in archived] == [entry.seq for entry in log.entries(partition)]
    assert [entry.data for entry in await queries.events("sick")] == [created_event()]
    assert await db.value("SELECT count(*) FROM tailrace.workflows WHERE parked_version IS NULL") == 2


async def test_a_second_birth_of_a_run_is_parked(
    postgres_url: str, log: RunLog, db: Database, queries: Queries
) -> None:
    """Version 1 again, after the run was known: what is there stays as it is."""
    log.create("a")
    await project(postgres_url, log, db)
    log.put("a", 1, "WorkflowCreated", created_event(name="impostor"))
    await project(postgres_url, log, db)
    row = await queries.get_workflow("a")
    assert row is not None
    assert (row.name, row.parked_version) == ("run a", 1)
    assert [entry.version for entry in await queries.events("a")] == [1, 2]


async def test_events_of_a_parked_run_stay_parked_over_a_restart(
    postgres_url: str, log: RunLog, db: Database, queries: Queries
) -> None:
    """What came before is remembered in the database, not in the process."""
    workflow_id, version = infect(log, "bytes that are no event")
    await project(postgres_url, log, db)
    log.advance(workflow_id)
    await project(postgres_url, log, db)
    parked = await queries.parked(workflow_id)
    assert [row.version for row in parked] == list(range(version, log.version(workflow_id) + 1))


async def test_a_parked_run_comes_back_whole_when_its_event_can_be_read(
    postgres_url: str, log: RunLog, db: Database, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer code reads what older code could not: the run is projected from its first event, as if nothing had been."""
    log.create("a")
    log.finish("a")
    with monkeypatch.context() as older:

        def refuse(entry: Any) -> Any:
            if entry.type == "TaskStarted":
                raise ValueError("not yet known")
            return to_record(entry)

        older.setattr("tailrace.projections.batch.to_record", refuse)
        await project(postgres_url, log, db)
        row = await queries.get_workflow("a")
        assert row is not None
        assert (row.version, row.parked_version) == (2, 3)
    async with projecting(postgres_url, log):
        await until(lambda: db.value("SELECT count(*) = 0 FROM tailrace.parked"))
    row = await queries.get_workflow("a")
    assert row is not None
    assert (row.status, row.version, row.parked_version) == ("completed", log.version("a"), None)
    healed = await db.dump()
    await db.execute("DROP SCHEMA tailrace CASCADE")
    await project(postgres_url, log, db)
    assert await db.dump() == healed


async def test_a_rebuilt_projection_parks_at_the_same_place(postgres_url: str, log: RunLog, db: Database) -> None:
    """Thrown away and built again from the archive, rows and marks are the same."""
    infect(log, "a number that Postgres can't hold")
    await project(postgres_url, log, db)
    before = await db.dump()
    await db.execute("DELETE FROM tailrace.checkpoints WHERE projection <> 'archive'")
    await project(postgres_url, log, db, batch_size=5)
    assert await db.dump() == before
