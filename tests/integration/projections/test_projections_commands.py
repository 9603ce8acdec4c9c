"""`tailrace projections …`: what a person sees of the read models, and does to them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tailrace.core.commands import ApplyReport
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.testing.builders import completed, started
from tailrace.core.testing.runner import Runner
from tailrace.infra.cli import main
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.beside import rebuildable
from tailrace.projections.runtime import standard_projections
from tests.integration.projections.rebuild_process import killed
from tests.integration.projections.run_log import NONSENSE, SEVEN
from tests.integration.projections.support import Database, projecting, until

RUNS = ("run-a", "run-b", "run-c")


class Said:
    """How a command ended, and what it printed."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """The document on standard output."""
        return json.loads(self.out)


Command: TypeAlias = Callable[..., Awaitable[Said]]


#: As they are told.
ALL = ", ".join(projection.name for projection in rebuildable())


@pytest.fixture
def command(
    redis_server: EmbeddedRedis,
    redis_store: RedisStore,
    postgres_url: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Command:
    """Runs `tailrace projections` with these servers."""
    monkeypatch.setenv("TAILRACE_REDIS_URL", redis_server.url)
    monkeypatch.setenv("TAILRACE_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("TAILRACE_NAMESPACE", namespace)
    monkeypatch.setenv("TAILRACE_DATA_DIR", str(tmp_path))

    def run(arguments: tuple[str, ...]) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(("projections", *arguments))
        out, err = capsys.readouterr()
        return Said(ended.value.code, out, err)

    async def call(*arguments: str) -> Said:
        return await asyncio.to_thread(run, arguments)

    return call


@pytest.fixture
async def runner(redis_store: RedisStore, postgres_url: str, db: Database) -> Runner:
    """Three finished runs, projected; the projector is gone."""
    runner = Runner(redis_store, SEVEN)
    await runner.prepare()
    for run in RUNS:
        await finish(runner, run)
    await catch_up(postgres_url, redis_store, db)
    return runner


async def finish(runner: Runner, workflow_id: str) -> None:
    """Create a run and bring it to its end."""
    await runner.create(workflow_id)
    for name in SEVEN.stages:
        task_id = f"{workflow_id}:{name}:1"
        await runner.carry_out(workflow_id, ApplyReport(report=started(task_id)))
        await runner.carry_out(workflow_id, ApplyReport(report=completed(task_id, {"stage": name})))


async def catch_up(url: str, store: RedisStore, db: Database) -> None:
    """Project all there is."""
    async with projecting(url, store):
        await until(lambda: is_caught_up(store, db))


async def is_caught_up(store: RedisStore, db: Database) -> bool:
    """True when every projection is at the end of the log."""
    heads = [(await store.head(partition)).seq for partition in range(store.partitions)]
    seqs = await db.projected()
    return len(seqs) == len(standard_projections()) * store.partitions and all(
        seq == heads[partition] for (_, partition), seq in seqs.items()
    )


async def test_status_tells_place_lag_and_owner(
    command: Command, runner: Runner, redis_store: RedisStore, postgres_url: str
) -> None:
    """Without a projector the lag grows, and nobody is the owner; with one it goes, and its name is there."""
    await runner.create("late")
    document = (await command("status", "--json")).json
    assert document["store"] == "ok"
    behind = [item for item in document["projections"] if item["lag_events"]]
    assert {item["projection"] for item in behind} == {projection.name for projection in standard_projections()}
    assert len({item["partition"] for item in behind}) == 1
    assert all(item["lag_events"] == item["head"] - item["seq"] > 0 < item["lag_seconds"] < 60 for item in behind)
    assert all(item["owner"] is None for item in document["projections"])
    async with projecting(postgres_url, redis_store, name="keeper"):

        async def even() -> bool:
            items = (await command("status", "--json")).json["projections"]
            return all(item["lag_events"] == 0 == item["lag_seconds"] for item in items)

        await until(even)
        said = await command("status")
        assert said.code == 0
        assert "keeper-" in said.out


async def test_status_without_the_store_tells_what_postgres_knows(
    command: Command, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The places are there, the lag is not made up."""
    monkeypatch.setenv("TAILRACE_REDIS_URL", "redis://127.0.0.1:1")
    said = await command("status", "--json")
    assert said.code == 0
    assert "store-unreachable" in said.json["store"]
    assert any(item["seq"] for item in said.json["projections"])
    assert all(item["lag_events"] is None for item in said.json["projections"])
    assert "lag is not known" in (await command("status")).out


async def test_status_of_a_partition_that_stands_still_is_an_error(
    command: Command, runner: Runner, db: Database
) -> None:
    """Scripts see it by the exit code, people by the reason."""
    await db.execute("UPDATE tailrace.partitions SET problem = 'log-diverged: it went back' WHERE partition = 1")
    said = await command("status")
    assert said.code == 1
    assert "log-diverged: it went back" in said.out


async def test_verify_shows_each_row_that_is_wrong_and_rebuild_mends_it(
    command: Command, runner: Runner, db: Database
) -> None:
    """One row was changed, one is missing, one is too many: each is named with its run."""
    assert (await command("verify")).code == 0
    await db.execute("UPDATE tailrace.workflows SET name = 'other' WHERE workflow_id = 'run-a'")
    await db.execute("DELETE FROM tailrace.stages WHERE workflow_id = 'run-b' AND stage = 'validation'")
    await db.execute(
        "INSERT INTO tailrace.tasks (workflow_id, task_id, partition, stage, attempt, agent, status, dispatched_at)"
        " VALUES ('run-c', 'run-c:more:1', 0, 'more', 1, 'a', 'running', now())"
    )
    said = await command("verify")
    assert said.code == 1
    for line in ("different   run-a", "missing     run-b validation", "unexpected  run-c run-c:more:1"):
        assert line in said.out
    document = (await command("verify", "stages", "--json")).json
    assert [(item["projection"], item["differ"]) for item in document["verdicts"]] == [("stages", 1)]
    assert document["verdicts"][0]["differences"] == [{"workflow_id": "run-b", "key": "validation", "kind": "missing"}]

    said = await command("rebuild", "stages")
    assert said.code == 0
    assert "stages       21 rows, 1 differed before" in said.out
    assert "events" in said.err, "progress without a terminal is lines on standard error"
    assert (await command("verify", "stages")).code == 0
    assert (await command("verify")).code == 1
    rebuilt = await command("rebuild", "--all", "--json")
    assert rebuilt.json == {
        "rows": {"totals": 1, "hours": 1, "agents": 1, "workflows": 3, "stages": 21, "tasks": 21, "stalls": 0},
        "differed": dict.fromkeys(("totals", "hours", "agents", "stages", "stalls"), 0) | {"workflows": 1, "tasks": 1},
        "resumed": False,
    }
    assert rebuilt.err == ""
    assert (await command("verify")).code == 0


async def test_what_was_replaced_is_put_back_or_dropped(command: Command, runner: Runner, db: Database) -> None:
    """`--rollback` says from where projectors go on; `--discard` frees the space, and then there is nothing to put back."""
    assert (await command("rebuild", "tasks", "--rollback")).code == 1
    assert (await command("rebuild", "tasks")).code == 0
    said = await command("rebuild", "tasks", "--rollback")
    assert said.code == 0
    seqs = await db.projected()
    places = [f"{seqs['tasks', partition]:,} in partition {partition}" for partition in (0, 1)]
    assert f"tasks        is back, and goes on from {', '.join(places)}" in said.out
    document = (await command("rebuild", "--rollback", "--json")).json
    assert document == {"rolled_back": [{"projection": "tasks", "seq": {"0": seqs["tasks", 0], "1": seqs["tasks", 1]}}]}
    status = (await command("status")).out
    assert "can be put back with `rebuild --rollback`: tasks" in status
    assert "rebuild of" not in status
    assert (await command("rebuild", "--discard", "--json")).json["discarded"]["kept"] == ["tasks"]
    assert "nothing was left" in (await command("rebuild", "--discard")).out
    assert "nothing is kept of any projection" in (await command("rebuild", "--rollback")).err
    for wrong in (("tasks", "--discard"), ("--rollback", "--discard")):
        assert (await command("rebuild", *wrong)).code == 2


async def test_a_rebuild_that_was_killed_is_shown_and_goes_on(
    command: Command, runner: Runner, postgres_url: str
) -> None:
    """Or is dropped by who does not want it."""
    await killed(postgres_url, "indexes", 1)
    said = await command("status")
    assert f"a rebuild of {ALL} is interrupted, 100 % of the archive is folded" in said.out
    assert (await command("status", "--json")).json["rebuild"]["state"] == "interrupted"
    assert "went on with a rebuild that was interrupted" in (await command("rebuild")).out
    await killed(postgres_url, "indexes", 1)
    assert f"not finished: {ALL}" in (await command("rebuild", "--discard")).out
    assert (await command("rebuild", "--json")).json["resumed"] is False
    assert (await command("verify")).code == 0


async def test_progress_is_a_bar_in_a_terminal(
    command: Command, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the share that is done; it is on standard error, and gone at the end."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = await command("rebuild")
    assert said.code == 0
    assert "100%" in said.err
    assert "━" in said.err
    assert "━" not in said.out


async def test_wrong_names_are_told(command: Command, runner: Runner) -> None:
    """A projection that is not there, and two ways to say which."""
    said = await command("rebuild", "moods")
    assert said.code == 1
    assert "workflows, stages, tasks, stalls" in said.err
    assert (await command("rebuild", "tasks", "--all")).code == 2
    assert (await command("repair", "--partition", "7")).code == 2


async def test_another_namespace_does_not_repair(
    command: Command, runner: Runner, redis_server: EmbeddedRedis, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole archive would be set aside, because another log has none of it."""
    assert "nothing to repair" in (await command("repair")).out
    before = await db.dump()
    other = f"t{os.urandom(6).hex()}"
    store = await RedisStore.open(RedisSettings(url=redis_server.url), namespace=other, partitions=2)
    await store.aclose()
    monkeypatch.setenv("TAILRACE_NAMESPACE", other)
    said = await command("repair", "--json")
    assert said.code == 1
    assert json.loads(said.err)["code"] == "identity-mismatch"
    assert await db.dump() == before


async def test_parked_runs_are_redriven_under_a_running_projector(
    command: Command, runner: Runner, redis_store: RedisStore, postgres_url: str, db: Database
) -> None:
    """What can be read comes back, also for the projector that had parked it; what can't be stays, and is an error."""
    assert "nothing is parked" in (await command("redrive")).out
    await db.execute(
        "INSERT INTO tailrace.parked (partition, seq, entry_id, workflow_id, version, type, traceparent, raw, reason)"
        " SELECT partition, seq, entry_id, workflow_id, version, type, traceparent, raw, 'an older version'"
        " FROM tailrace.events WHERE workflow_id IN ('run-a', 'run-b') AND version > 3"
    )
    await db.execute("UPDATE tailrace.events SET raw = $1 WHERE workflow_id = 'run-b' AND version = 5", NONSENSE)
    parked = (await command("status", "--json")).json["projections"]
    assert sum(item["parked_runs"] for item in parked if item["projection"] == "stages") == 2
    async with projecting(postgres_url, redis_store) as projector:
        await until(lambda: db.value("SELECT count(DISTINCT workflow_id) = 1 FROM tailrace.parked"))
        said = await command("redrive", "run-b")
        assert said.code == 1
        assert "run-b stays parked" in said.out
        original = next(data for run, version, data in await redis_log(redis_store) if (run, version) == ("run-b", 5))
        await db.execute("UPDATE tailrace.events SET raw = $1 WHERE workflow_id = 'run-b' AND version = 5", original)
        said = await command("redrive", "--json")
        assert said.code == 0
        # (Or the projector was faster: it tries what is parked again when it has the partition back.)
        assert [run for item in said.json["redriven"] for run in item["runs"]] in (["run-b"], [])
        assert await db.value("SELECT count(*) FROM tailrace.parked") == 0
        await runner.create("after")
        await until(lambda: is_caught_up(redis_store, db))
        assert len(projector.partitions) == 2
    assert (await command("verify")).code == 0


async def redis_log(store: RedisStore) -> list[tuple[str, int, bytes]]:
    """(run, version, bytes) of every entry."""
    return [
        (entry.workflow_id, entry.version, entry.data)
        for partition in range(store.partitions)
        for entry in await store.read_log(partition, "0-0", count=1000)
    ]
