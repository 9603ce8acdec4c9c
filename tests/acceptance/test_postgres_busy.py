"""A read model that is locked by somebody's transaction: lists wait and say so, runs do not care."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest

from tailrace.infra.client import GatewayError
from tests.acceptance.figures import measured
from tests.acceptance.installation import Installation
from tests.acceptance.scripted import script, slow
from tests.acceptance.waiting import until

CLIENTS = 24
"""Three times as many as the gateway has connections."""


@contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    """Hold a table so that nobody reads it."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url, timeout=10))
        try:
            runner.run(connection.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            yield
        finally:
            runner.run(connection.execute("ROLLBACK"))
            runner.run(connection.close())


def list_refused(installation: Installation) -> tuple[dict[str, Any], float]:
    """The problem a list request ends with, and the seconds it waited."""
    began = time.monotonic()
    with pytest.raises(GatewayError) as caught:
        installation.gateway.get("/workflows")
    return caught.value.problem, time.monotonic() - began


def test_lists_wait_and_are_refused_while_runs_go_on(shared: Installation) -> None:
    """Requests queue for connections and end as 503 problems; a live run is shown and completes; afterwards lists work."""
    before = shared.pids()
    open_run = shared.submit("trial", input=script(s1=slow(4)))
    with locked(shared.ready()["postgres_url"], "tailrace.workflows"):
        with ThreadPoolExecutor(CLIENTS) as pool:
            lists = [pool.submit(list_refused, shared) for _ in range(CLIENTS)]
            began = time.monotonic()
            assert shared.run(open_run)["status"] in {"initiated", "running"}
            measured(f"a live run is shown in {time.monotonic() - began:.3f} s meanwhile")
            started_meanwhile = shared.submit("trial")
            assert shared.wait(started_meanwhile)["status"] == "completed"
        problems = [future.result() for future in lists]
        waited = sorted(seconds for _, seconds in problems)
        measured(f"{CLIENTS} lists were refused after {waited[0]:.1f} to {waited[-1]:.1f} s")
        assert {(problem["status"], problem["code"]) for problem, _ in problems} == {(503, "read-model-unavailable")}
        assert waited[-1] < 15
        assert shared.wait(open_run)["status"] == "completed"

    def listed() -> list[str] | None:
        try:
            ids = [
                item["workflow_id"]
                for item in shared.gateway.get("/workflows")["items"]
                if item["status"] == "completed"
            ]
        except GatewayError:
            return None
        return ids if {open_run, started_meanwhile} <= set(ids) else None

    began = time.monotonic()
    until(listed, "lists show both runs")
    measured(f"lists show them {time.monotonic() - began:.1f} s after the lock is gone")
    assert shared.pids() == before, "nothing crashed"
