"""What Redis keeps: an installation whose log is trimmed as soon as it is archived, and nobody misses what is gone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tests.acceptance.conftest import started
from tests.acceptance.scripted import AGENTS, chain, script, slow
from tests.acceptance.waiting import until

STAGES = 6
RUNS = 12

#: What may be left in each partition besides the tail: a node of the stream that is not yet full.
NODE = 100


def lengths(redis_url: str) -> list[tuple[int, int]]:
    """Of each partition's log: how many entries it holds, and how many there were."""

    async def ask() -> list[tuple[int, int]]:
        store = await RedisStore.open(RedisSettings(url=redis_url), namespace="tailrace", create=False)
        try:
            return [
                (len(await store.read_log(number, "0-0", count=100_000)), (await store.head(number)).seq)
                for number in range(store.partitions)
            ]
        finally:
            await store.aclose()

    return asyncio.run(ask())


def test_a_trimmed_log_is_not_missed(folder: Path) -> None:
    """Runs that ended and one that goes on are told whole by every command, and a retry goes on where it was."""
    with started(folder, agents=AGENTS, environment={"TAILRACE_LOG_TAIL": "0"}) as installation:
        installation.apply(chain("six", STAGES))
        waiting = installation.submit("six", input=script(s1=slow(30)))
        installation.wait_started(waiting, "s1")
        runs = [installation.submit("six", input={}) for _ in range(RUNS)]
        ended = [installation.wait(run) for run in runs]
        redis_url = installation.ready()["redis_url"]
        until(lambda: max(left for left, _ in lengths(redis_url)) <= NODE + 1, "the log was trimmed", 30)
        assert sum(seq for _, seq in lengths(redis_url)) > 2 * NODE
        for run in (ended[0], ended[-1], installation.run(waiting)):
            expected = list(range(1, run["version"] + 1))
            assert [event["version"] for event in installation.events(run["workflow_id"])] == expected
            told = installation.ok("replay", "show", run["workflow_id"], "--json").out.splitlines()
            assert [json.loads(line)["version"] for line in told] == expected
        installation.ok("retry", runs[0], "--from-stage", f"s{STAGES}")
        again = installation.wait(runs[0])
        assert (again["status"], again["version"] > ended[0]["version"]) == ("completed", True)
        installation.ok("cancel", waiting)
        assert installation.wait(waiting)["status"] == "cancelled"
