"""H29: the time is that of the server: clocks of processes that are an hour wrong change nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tailrace.agents.sdk import TaskContext
from tailrace.core.testing.builders import pipeline, stage
from tailrace.core.workflow.definition import RetryPolicy
from tests.support.audit import audit, record
from tests.support.bench import Bench
from tests.support.waiting import pass_server_time


def skewed(real: Callable[[], float], seconds: float) -> Callable[[], float]:
    """A clock that is wrong by so much."""
    return lambda: real() + seconds


@pytest.mark.hole("H29")
@pytest.mark.parametrize("skew", [3600.0, -3600.0], ids=["fast", "slow"])
async def test_h29_wrong_clocks_move_no_timer(bench: Bench, skew: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateway, orchestrator and worker have them: no timer fires early or late, and no event is dated by one of them."""
    for name, factor in (("time", 1), ("time_ns", 1_000_000_000)):
        monkeypatch.setattr(time, name, skewed(getattr(time, name), skew * factor))
    once = RetryPolicy(max_attempts=1)
    limited = (
        await bench.prepare(pipeline(stage("only", agent="nobody", start_timeout_seconds=60.0, retry=once)))
    ).pipeline
    short = (
        await bench.prepare(pipeline(stage("only", agent="nobody", start_timeout_seconds=0.3, retry=once)))
    ).pipeline
    works = (await bench.prepare(pipeline(stage("only", timeout_seconds=60.0)))).pipeline
    begin = await bench.store.now()
    left: list[float] = []

    async def act(context: TaskContext) -> None:
        """By its own clock a handler has as much time as its stage gives it."""
        assert context.deadline_us is not None
        left.append(context.deadline_us / 1_000_000 - time.time())

    async with bench.orchestrating(), bench.working(act=act):
        early, late, done = [
            await bench.submit(definition, name)
            for definition, name in ((limited, "early"), (short, "late"), (works, "done"))
        ]
        await bench.wait_status("completed", done)
        await bench.wait_status("failed", late, timeout=5.0)
        await pass_server_time(bench.store, 0.6)
        assert (await bench.state(early)).status == "initiated"
    assert 50.0 < left[0] <= 60.0
    end = await bench.store.now()
    records = [record(entry) for entries in (await audit(bench.store)).values() for entry in entries]
    assert all(begin <= item.at <= end for item in records)
    assert all(item.command is None or begin <= item.command.now <= end for item in records)
