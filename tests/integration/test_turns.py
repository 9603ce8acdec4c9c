"""Handlers of one run do not meet in its folder, unless they run side by side by plan."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tailrace.agents.sdk import TaskContext
from tailrace.agents.workspace import turn
from tailrace.core.commands import CancelWorkflow, RetryWorkflow
from tailrace.core.store.port import TaskMessage
from tailrace.core.testing.builders import line
from tests.support.bench import Bench
from tests.support.waiting import eventually

TASK = TaskMessage(task_id="r:s:1", workflow_id="r", stage="s", attempt=1, agent="agent", action="s")

HOLDER = """
import asyncio, sys
from pathlib import Path
from tailrace.agents.workspace import turn
from tailrace.core.store.port import TaskMessage

async def main():
    task = TaskMessage(task_id="r:s:1", workflow_id="r", stage="s", attempt=1, agent="agent", action="s")
    async with turn(Path(sys.argv[1]), task):
        print("there", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def enters(folder: Path, task: TaskMessage, *, grace_seconds: float = 30.0) -> asyncio.Task[None]:
    """Somebody who wants to work on `task` and leaves at once; has had the time to enter."""

    async def work() -> None:
        async with turn(folder, task, grace_seconds=grace_seconds):
            pass

    entering = asyncio.create_task(work())
    await asyncio.wait([entering], timeout=0.3)
    return entering


async def test_who_waits_for_whom(tmp_path: Path) -> None:
    """The next attempt of the stage, and whatever a later round does; neither another stage nor another run."""
    async with turn(tmp_path, TASK):
        again = await enters(tmp_path, replace(TASK, attempt=2))
        later = await enters(tmp_path, replace(TASK, stage="t", round=2))
        side = await enters(tmp_path, replace(TASK, stage="u"))
        other = await enters(tmp_path, replace(TASK, workflow_id="q"))
        assert [task.done() for task in (again, later, side, other)] == [False, False, True, True]
    await asyncio.wait_for(asyncio.gather(again, later), 5.0)
    assert list((tmp_path / ".turns").iterdir()) == []


async def test_one_that_does_not_leave_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """After the grace the next one begins."""
    async with turn(tmp_path, TASK):
        await asyncio.wait_for(await enters(tmp_path, replace(TASK, attempt=2), grace_seconds=0.1), 5.0)


async def test_a_killed_process_leaves_nothing_to_wait_for(tmp_path: Path) -> None:
    """Its turn ends with it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20.0) == b"there\n"
        waiting = await enters(tmp_path, replace(TASK, attempt=2))
        assert not waiting.done()
    finally:
        process.kill()
        await process.communicate()
    await asyncio.wait_for(waiting, 5.0)


async def test_a_retry_waits_for_the_handler_that_was_cancelled(bench: Bench) -> None:
    """It tidies up in the run's folder; the next attempt begins when it is done."""
    definition = (await bench.prepare(line("only"))).pipeline
    course: list[str] = []
    may_end = asyncio.Event()

    async def act(context: TaskContext) -> Any:
        course.append(f"{context.attempt} begins")
        if context.attempt == 1:
            try:
                await asyncio.Event().wait()
            finally:
                course.append("1 is told")
                await may_end.wait()
                course.append("1 ends")
        return None

    async with bench.working(act=act, renew_seconds=0.1), bench.orchestrating():
        run = await bench.submit(definition)

        async def reached(word: str) -> bool:
            return word in course

        await eventually(lambda: reached("1 begins"), 5.0)
        await bench.handler.execute(run, CancelWorkflow(), actor="test")
        await bench.handler.execute(run, RetryWorkflow(), actor="test")
        await eventually(lambda: reached("1 is told"), 5.0)

        async def second_started() -> bool:
            stage = (await bench.state(run)).stages["only"]
            return stage.attempt == 2 and stage.task is not None and stage.task.started_at is not None

        await eventually(second_started, 5.0)
        assert course == ["1 begins", "1 is told"]
        may_end.set()
        await bench.wait_status("completed", run)
    assert course == ["1 begins", "1 is told", "1 ends", "2 begins"]
