"""The read side: lists with filters and cursors, details, history, figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tailrace.core.commands import ApplyReport, CancelWorkflow, FlagStall
from tailrace.core.errors import IdentityMismatch, InvalidInput
from tailrace.core.testing.builders import diamond, failed, started
from tailrace.projections.queries import Queries
from tailrace.projections.runtime import standard_projections
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, project, projecting, until

DIAMOND = diamond()


@pytest.fixture
async def filled(postgres_url: str, log: RunLog, db: Database) -> RunLog:
    """Twenty-four runs: every third finished, every fourth cancelled, every sixth of another type."""
    for number in range(24):
        workflow_id = f"run-{number:02}"
        pipeline = DIAMOND if number % 6 == 5 else None
        fields: dict[str, Any] = {
            "name": f"Shop_{number}% off" if number % 2 else f"shop {number}",
            "labels": {"team": "a" if number < 12 else "b", "tier": str(number % 2)},
            "input": {"order": {"number": number, "tags": ["new", f"t{number % 3}"]}},
        }
        options: dict[str, Any] = {} if pipeline is None else {"pipeline": pipeline}
        log.create(workflow_id, **options, **fields)
        if number % 3 == 0:
            log.finish(workflow_id, **options)
        elif number % 4 == 1:
            log.do(workflow_id, CancelWorkflow(), **options)
        elif number % 4 == 2:
            log.do(workflow_id, FlagStall(cause="no-worker", hop="queue", summary="nobody"), **options)
    await project(postgres_url, log, db)
    return log


async def walk(queries: Queries, limit: int, **filters: Any) -> list[str]:
    """All ids of a list, page by page."""
    found: list[str] = []
    cursor = None
    while True:
        page = await queries.list_workflows(limit=limit, cursor=cursor, **filters)
        assert len(page.items) <= limit
        found += [row.workflow_id for row in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.items) == limit


Filter = tuple[dict[str, Any], Callable[[int], bool]]
FILTERS: dict[str, Filter] = {
    "all": ({}, lambda n: True),
    "completed": ({"status": "completed"}, lambda n: n % 3 == 0),
    "two statuses": ({"status": "completed,cancelled"}, lambda n: n % 3 == 0 or n % 4 == 1),
    "type": ({"type": "diamond"}, lambda n: n % 6 == 5),
    "label": ({"labels": {"team": "a"}}, lambda n: n < 12),
    "labels": ({"labels": {"team": "b", "tier": "1"}}, lambda n: n >= 12 and n % 2 == 1),
    "no such label": ({"labels": {"team": "c"}}, lambda n: False),
    "input": ({"input": {"order": {"number": 7}}}, lambda n: n == 7),
    "input in a list": ({"input": {"order": {"tags": ["t1"]}}}, lambda n: n % 3 == 1),
    "input that nothing holds": ({"input": {"order": {"number": "7"}}}, lambda n: False),
    "input with NUL": ({"input": {"order": "\x00"}}, lambda n: False),
    "any input": ({"input": {}}, lambda n: True),
    "q in any case": ({"q": "SHOP"}, lambda n: True),
    "q with wildcards": ({"q": "p_1"}, lambda n: n == 1 or (10 < n < 20 and n % 2 == 1)),
    "q with per cent": ({"q": "3% OFF"}, lambda n: n in {3, 13, 23}),
    "q by id": ({"q": "run-1"}, lambda n: 10 <= n < 20),
    "q with NUL": ({"q": "\x00"}, lambda n: False),
    "stalled": ({"stalled": True}, lambda n: n % 4 == 2 and n % 3 != 0),
    "not stalled": ({"stalled": False}, lambda n: n % 4 != 2 or n % 3 == 0),
    "together": ({"status": "initiated", "stalled": True, "labels": {"team": "b"}, "q": "shop"},
                 lambda n: n >= 12 and n % 4 == 2 and n % 3 != 0),
}  # fmt: skip


@pytest.mark.parametrize("limit", [1, 5, 100])
async def test_lists_are_newest_first_and_pages_have_no_seam(filled: RunLog, queries: Queries, limit: int) -> None:
    """Whatever the filter and the size of pages: every run once, none left out, newest first."""
    for name, (filters, wanted) in FILTERS.items():
        expected = [f"run-{number:02}" for number in reversed(range(24)) if wanted(number)]
        assert await walk(queries, limit, **filters) == expected, name


async def test_pages_stay_whole_while_runs_begin(
    postgres_url: str, filled: RunLog, db: Database, queries: Queries
) -> None:
    """A new run does not push one from a page to the next."""
    first = await queries.list_workflows(limit=10)
    filled.create("brand-new")
    await project(postgres_url, filled, db)
    second = await queries.list_workflows(limit=100, cursor=first.next_cursor)
    assert [row.workflow_id for row in second.items] == [f"run-{number:02}" for number in reversed(range(14))]


async def test_runs_made_in_the_same_microsecond_are_told_apart(
    postgres_url: str, log: RunLog, db: Database, queries: Queries
) -> None:
    """The id decides, on every page alike."""
    for number in range(7):
        log.now -= 10_000
        log.create(f"twin-{number}")
    await project(postgres_url, log, db)
    assert await walk(queries, 2) == [f"twin-{number}" for number in reversed(range(7))]


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "bnVsbA", "WzEsMl0", "WzkyMjMzNzIwMzY4NTQ3NzU4MDcsImEiXQ", "ü"])
async def test_a_cursor_that_is_none_of_ours(filled: RunLog, queries: Queries, cursor: str) -> None:
    """Refused as bad input, never as an error of ours."""
    with pytest.raises(InvalidInput, match="cursor"):
        await queries.list_workflows(cursor=cursor)


@pytest.mark.parametrize("bad", [{"status": "flying"}, {"limit": 0}, {"limit": 501}, {"status": "completed,"}])
async def test_filters_that_cannot_be(queries: Queries, bad: dict[str, Any]) -> None:
    """Refused with what would be right, without asking Postgres."""
    with pytest.raises(InvalidInput):
        await queries.list_workflows(**bad)


async def test_a_run_with_its_outputs(filled: RunLog, queries: Queries) -> None:
    """Outputs are in the order of stages; a run that is not there is None."""
    row = await queries.get_workflow("run-00")
    assert row is not None
    snapshot = filled.snapshot("run-00")
    assert list(row.stage_outputs.items()) == list(snapshot.stage_outputs().items())
    assert (row.status, row.progress_percentage, row.current_stage) == ("completed", 100, None)
    assert row.created_at.endswith("Z")
    assert row.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert await queries.get_workflow("nobody") is None
    assert await queries.get_workflow("no\x00body") is None


async def test_stages_and_tasks_of_a_run(filled: RunLog, queries: Queries) -> None:
    """In the order of the definition, and of dispatch."""
    stages = await queries.stages("run-00")
    assert [stage.stage for stage in stages] == list(filled.snapshot("run-00").state.stages)
    assert {stage.status for stage in stages} == {"completed"}
    tasks = await queries.tasks("run-00")
    assert [task.stage for task in tasks] == [stage.stage for stage in stages]
    assert {(task.status, task.worker, task.deliveries) for task in tasks} == {("completed", "w1", 1)}
    assert await queries.stages("nobody") == []


async def test_the_history_of_a_run(filled: RunLog, queries: Queries) -> None:
    """As it stood in the log, over a version, in pieces."""
    partition = 0 if any(entry.workflow_id == "run-00" for entry in filled.entries(0)) else 1
    entries = [entry for entry in filled.entries(partition) if entry.workflow_id == "run-00"]
    assert await queries.events("run-00") == entries
    assert await queries.events("run-00", 3, 4) == entries[3:7]
    assert await queries.archived_version("run-00") == len(entries)
    assert await queries.archived_version("nobody") == 0
    assert await queries.log(partition, 5, 3) == filled.entries(partition)[5:8]


async def test_stalls_open_and_past(postgres_url: str, filled: RunLog, db: Database, queries: Queries) -> None:
    """Newest first; one that was cleared is not among the open ones."""
    stalled = [f"run-{number:02}" for number in reversed(range(24)) if number % 4 == 2 and number % 3 != 0]
    filled.do(stalled[0], ApplyReport(report=started(f"{stalled[0]}:initialization:1")))
    await project(postgres_url, filled, db)
    assert [row.workflow_id for row in await queries.stalls()] == stalled
    assert [row.workflow_id for row in await queries.stalls(open_only=True)] == stalled[1:]
    (row,) = await queries.stalls(workflow_id=stalled[0])
    assert row.cleared_at is not None


async def test_the_overview_counts(filled: RunLog, queries: Queries) -> None:
    """Every status is there, also those that no run has."""
    overview = await queries.overview()
    assert overview.total == 24
    assert overview.by_status == {
        "initiated": 24 - 8 - 4, "running": 0, "paused": 0, "completed": 8, "failed": 0, "cancelled": 4,
    }  # fmt: skip
    assert overview.stalled == 4
    assert overview.open_tasks == {"agent": overview.by_status["initiated"]}


async def test_figures_of_agents(postgres_url: str, log: RunLog, db: Database, queries: Queries) -> None:
    """The success rate is over what finished; without anything finished there is none."""
    log.create("a")
    log.advance("a")
    log.do("a", ApplyReport(report=failed("a:scaffolding:1", delivery=3)))
    await project(postgres_url, log, db)
    (stats,) = await queries.agent_stats("agent")
    assert (stats.tasks, stats.completed, stats.failed, stats.success_rate) == (2, 1, 1, 0.5)
    assert stats.redelivered == 1
    assert stats.mean_run_seconds == pytest.approx(0.005, abs=0.005)
    assert await queries.agent_stats("nobody") == []
    assert [row.agent for row in await queries.agent_stats()] == ["agent"]


async def test_checkpoints(postgres_url: str, filled: RunLog, db: Database, queries: Queries) -> None:
    """Who reads what and how far.

    An owner that finds nothing new to read confirms what the one before it left.
    """
    async with projecting(postgres_url, filled, name="me"):
        await until(lambda: db.value("SELECT bool_and(owner LIKE 'me-%') FROM tailrace.partitions"))
        rows = await queries.checkpoints()
        assert {row.projection for row in rows} == {projection.name for projection in standard_projections()}
        for row in rows:
            assert row.seq == len(filled.entries(row.partition))
            assert row.position == filled.entries(row.partition)[-1].entry_id
            assert row.owner is not None
            assert row.owner.startswith("me-")
            assert row.problem is None
        await until(lambda: db.value("SELECT bool_and(confirmed_seq = seq) FROM tailrace.checkpoints"))


async def test_the_read_model_of_another_namespace_is_refused(postgres_url: str, filled: RunLog) -> None:
    """Rows of another namespace would look like ours: they are not shown."""
    async with Queries(postgres_url, instance_id="another") as queries:
        with pytest.raises(IdentityMismatch, match=filled.instance_id):
            await queries.list_workflows()
    async with Queries(postgres_url, instance_id=filled.instance_id) as queries:
        assert len((await queries.list_workflows()).items) == 24
