"""The simulated agent does what its script says, attempt by attempt."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tailrace.agents.sdk import TaskError
from tailrace.agents.simulated import simulated_agent
from tailrace.agents.testing import LocalContext, run_action
from tailrace.core.codec import encode_value
from tailrace.core.errors import InvalidInput


async def play(folder: Path, steps: Any, *, attempt: int = 1, stage: str = "build", key: str = "build") -> Any:
    context = LocalContext(folder, stage=stage, attempt=attempt)
    return await run_action(simulated_agent("worker"), stage, context, input={"simulate": {key: steps}})


async def test_without_a_script_it_succeeds(tmp_path: Path) -> None:
    """Any stage of any definition can be played."""
    context = LocalContext(tmp_path, stage="anything")
    output = await run_action(simulated_agent("worker"), "anything", context)
    assert output == {"simulated": "succeed", "stage": "anything", "attempt": 1}


async def test_each_attempt_has_its_step_and_the_last_one_repeats(tmp_path: Path) -> None:
    """A stage that fails twice and then succeeds, for ever."""
    steps = [{"do": "fail", "reason": "flaky", "retryable": True}, {"do": "fail"}, {"output": {"answer": 42}}]
    with pytest.raises(TaskError) as first:
        await play(tmp_path, steps)
    assert (first.value.reason, first.value.may_retry) == ("flaky", True)
    with pytest.raises(TaskError) as second:
        await play(tmp_path, steps, attempt=2)
    assert (second.value.reason, second.value.may_retry) == ("simulated", False)
    for attempt in (3, 4, 99):
        assert (await play(tmp_path, steps, attempt=attempt))["answer"] == 42


@pytest.mark.parametrize("key", ["build", "worker", "*"])
async def test_a_script_is_found_by_stage_agent_or_star(tmp_path: Path, key: str) -> None:
    """The most exact one counts."""
    assert (await play(tmp_path, [{"output": {"by": key}}], key=key))["by"] == key


async def test_a_fault_that_is_no_task_error(tmp_path: Path) -> None:
    """What a careless handler raises."""
    with pytest.raises(RuntimeError, match="fault"):
        await play(tmp_path, [{"do": "fail", "reason": "handler-error"}])


async def test_progress_is_said_in_steps(tmp_path: Path) -> None:
    """Ten steps up to the end."""
    context = LocalContext(tmp_path)
    await run_action(simulated_agent("worker"), "stage", context, input={"simulate": {"stage": [{"do": "progress"}]}})
    assert [fraction for fraction, _ in context.reports] == [number / 10 for number in range(1, 11)]


@pytest.mark.parametrize("bad", ["nul", "nan", "surrogate", "too-large"])
async def test_bad_reports_are_what_the_log_refuses(tmp_path: Path, bad: str) -> None:
    """Each of them would be turned away by the codec."""
    output = await play(tmp_path, [{"do": "bad-report", "bad": bad}])
    with pytest.raises(InvalidInput):
        encode_value(output, "output")


async def test_hanging_ends_by_cancellation(tmp_path: Path) -> None:
    """Nothing else ends it."""
    task = asyncio.create_task(play(tmp_path, [{"do": "hang"}]))
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_can_be_ignored(tmp_path: Path) -> None:
    """It goes on until its time is over, however often it is cancelled."""
    started = time.monotonic()
    task = asyncio.create_task(play(tmp_path, [{"do": "ignore-cancel", "seconds": 0.15}]))
    for _ in range(3):
        await asyncio.wait([task], timeout=0.02)
        task.cancel()
    assert (await task)["simulated"] == "ignore-cancel"
    assert time.monotonic() - started >= 0.15


async def test_the_loop_can_be_blocked(tmp_path: Path) -> None:
    """Nothing else runs meanwhile."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await play(tmp_path, [{"do": "block-loop", "seconds": 0.1}])
    ticker.cancel()
    assert ticks <= 1


def test_a_crash_is_a_kill(tmp_path: Path) -> None:
    """The process ends as by `kill -9`: no handler, no clean-up."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tailrace.agents.simulated import simulated_agent\n"
        "from tailrace.agents.testing import LocalContext, run_action\n"
        "steps = {'simulate': {'stage': [{'do': 'crash'}]}}\n"
        "context = LocalContext(Path(sys.argv[1]))\n"
        "asyncio.run(run_action(simulated_agent('worker'), 'stage', context, input=steps))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=30)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize("script", ["fail", [{"do": "dance"}], [{"doo": "fail"}], [1], {"do": "fail"}])
async def test_a_script_that_can_not_be_read_is_refused(tmp_path: Path, script: Any) -> None:
    """A typing error in a trial must not look like success."""
    with pytest.raises(TaskError) as caught:
        await play(tmp_path, script)
    assert caught.value.reason == "simulation-invalid"


async def test_simulate_must_be_a_table(tmp_path: Path) -> None:
    """Not a list."""
    with pytest.raises(TaskError) as caught:
        await run_action(simulated_agent("worker"), "stage", LocalContext(tmp_path), input={"simulate": [1]})
    assert caught.value.reason == "simulation-invalid"


async def test_a_compensation_has_steps_of_its_own(tmp_path: Path) -> None:
    """They stand under a key of their own; without them it succeeds, whatever its stage does."""
    script = {"simulate": {"build": [{"do": "fail"}], "compensate-build": [{"output": {"undone": True}}]}}
    context = LocalContext(tmp_path, stage="build", attempt=2, compensating=True)
    output = await run_action(simulated_agent("worker"), "compensate-build", context, input=script)
    assert output == {"simulated": "succeed", "stage": "build", "attempt": 2, "undone": True}
    del script["simulate"]["compensate-build"]
    assert (await run_action(simulated_agent("worker"), "compensate-build", context, input=script))["attempt"] == 2
