"""How statements find their rows: neither what a batch costs nor a page of the list must depend on how many runs there are."""

from __future__ import annotations

import pytest

from tailrace.core.ids import idempotent_workflow_id
from tailrace.projections.session import connect, session
from tailrace.projections.sql import statements
from tailrace.projections.whole import IN_ORDER
from tests.bench.list_pages import ROWS
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, project

#: More than enough for the planner to prefer reading all of so small a table, when nobody tells it otherwise.
RUNS = 200


@pytest.mark.parametrize(
    ("file", "name", "types", "table"),
    [("workflows", "move", "json", "workflows"), ("archive", "earlier", "text[], bigint[]", "events")],
)
async def test_a_batch_finds_its_rows_by_key(
    postgres_url: str, db: Database, file: str, name: str, types: str, table: str
) -> None:
    """The plan is made while the table is small, and kept while it grows: it must never be to read all of it."""
    log = RunLog()
    for number in range(RUNS):
        log.create(idempotent_workflow_id("plan", str(number)))
    await project(postgres_url, log, db)
    async with session(postgres_url, "test") as reader:
        await reader.execute("SET plan_cache_mode = force_generic_plan")
        await reader.execute(f"PREPARE statement ({types}) AS {statements(file)[name]}")
        nothing = ", ".join(["NULL"] * len(types.split(",")))
        plan = "\n".join([row[0] for row in await reader.fetch(f"EXPLAIN EXECUTE statement ({nothing})")])
    assert f"Seq Scan on {table}" not in plan, plan
    assert "Index Cond: (workflow_id = " in plan or "Index Cond: ((workflow_id = " in plan, plan


@pytest.mark.parametrize("analyzed", [False, True])
async def test_the_archive_is_read_along_its_key(postgres_url: str, db: Database, analyzed: bool) -> None:
    """A stretch costs what is in it: nothing is sorted, whatever the planner knows of the table."""
    log = RunLog()
    for number in range(RUNS):
        log.create(idempotent_workflow_id("plan", str(number)))
    await project(postgres_url, log, db)
    if analyzed:
        await db.execute("ANALYZE tailrace.events")
    reader = await connect(postgres_url, "test", more=IN_ORDER)
    try:
        await reader.execute(f"PREPARE statement AS {statements('whole')['histories']}")
        plan = "\n".join([row[0] for row in await reader.fetch("EXPLAIN EXECUTE statement ('m', 3, 20000)")])
    finally:
        reader.terminate()
    assert "Index Scan using events_pkey on events" in plan, plan
    assert "Index Cond: (ROW(workflow_id, version) > ROW('m'" in plan, plan
    assert "Sort" not in plan, plan


#: Runs in a list. From about so many on reading all of them costs more than any index.
LISTED = 20_000


async def test_a_page_of_the_list_is_found_by_an_index(postgres_url: str, log: RunLog, db: Database) -> None:
    """Whatever is asked for, and with whatever else: runs are never all read, and those that are seldom have an index."""
    await project(postgres_url, log, db)
    await db.execute(ROWS, 1, LISTED)
    await db.execute("ANALYZE tailrace.workflows")
    wanted: dict[str, list[object]] = {
        "workflows_newest": [None] * 11,
        "workflows_by_status": ["failed", *[None] * 10],
        "workflows_by_type": [None, "bugfix", *[None] * 9],
        "workflows_by_label": [None, None, '{"customer": "c17"}', *[None] * 8],
        "workflows_stalled": [*[None] * 5, True, *[None] * 5],
        "workflows_by_input": [*[None] * 9, '{"order": 4711}', None],
    }
    for index, values in wanted.items():
        values[8] = 51
        rows = await db.rows(f"EXPLAIN {statements('queries')['workflows']}", *values)
        plan = "\n".join(row["QUERY PLAN"] for row in rows)
        assert index in plan, plan
        assert "Seq Scan" not in plan, plan
