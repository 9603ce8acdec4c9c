"""How a projector's statements find their rows: what a batch costs must not depend on how many runs there are."""

from __future__ import annotations

import pytest

from tailrace.core.ids import idempotent_workflow_id
from tailrace.projections.session import connect, session
from tailrace.projections.sql import statements
from tailrace.projections.whole import IN_ORDER
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
