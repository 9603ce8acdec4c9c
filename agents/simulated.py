"""An agent that does what its run's input says: for tests and trials of everything around agents.

The input holds a script: `{"simulate": {"<stage or action>": [step, …]}}`. Attempt n plays step n, and the last step
stands for all further attempts; without a script a task succeeds at once. The steps of a compensation stand under
`compensate-<stage>`; its attempts count on from those of the stage. Nothing is left to chance: the same input and attempt
always behave the same.

    {"simulate": {"validation": [{"do": "fail", "reason": "flaky", "retryable": true}, {"do": "succeed"}]}}
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Annotated, Any, Final, Literal, assert_never

import msgspec

from tailrace.agents.sdk import Agent, TaskContext, TaskError, TaskInput
from tailrace.core.codec import INLINE_LIMIT_BYTES
from tailrace.core.ids import TaskId
from tailrace.core.workflow.definition import compensating_action

Behaviour = Literal["succeed", "fail", "slow", "hang", "crash", "ignore-cancel", "bad-report", "block-loop", "progress"]
BadReport = Literal["nul", "nan", "surrogate", "too-large"]

MAX_SECONDS: Final = 366 * 86400.0
PROGRESS_STEPS: Final = 10
_BAD: Final[dict[BadReport, Any]] = {
    "nul": "a\x00b",
    "nan": float("nan"),
    "surrogate": "\ud800",
    "too-large": "x" * (INLINE_LIMIT_BYTES + 1),
}


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one attempt does.

    `seconds` is how long `slow`, `progress`, `ignore-cancel` and `block-loop` take, and how long `succeed`, `fail`,
    `crash` and `bad-report` wait before they do it. `fail` raises `TaskError(reason, retryable=…)`; with the reason
    `handler-error` it raises something that is none. `bad` chooses what no log takes. `output` is merged into the output.
    """

    do: Behaviour = "succeed"
    seconds: Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)] = 0.0
    retryable: bool = False
    reason: str = "simulated"
    bad: BadReport = "nul"
    output: dict[str, Any] = {}


def simulated_agent(name: str) -> Agent:
    """An agent called `name` that can do any action."""
    agent = Agent(name)

    @agent.action("*")
    async def simulate(context: TaskContext, task: TaskInput) -> dict[str, Any]:
        task_id = TaskId.parse(context.task_id)
        stage = compensating_action(task_id.stage) if context.compensating else task_id.stage
        step = step_for(task, stage, name, context.attempt)
        context.log.info("simulating %s, attempt %d: %s", stage, context.attempt, step.do)
        done = {"simulated": step.do, "stage": task_id.stage, "attempt": context.attempt}
        await _play(context, step)
        return done | ({"bad": _BAD[step.bad]} if step.do == "bad-report" else {}) | step.output

    return agent


def step_for(task: TaskInput, stage: str, agent: str, attempt: int) -> Step:
    """The step that the input has for this attempt: by stage, else by agent, else by `*`.

    Raises `TaskError` `simulation-invalid` for a script that can't be read.
    """
    script = task.input.get("simulate", {})
    if not isinstance(script, dict):
        raise TaskError("simulation-invalid", "`simulate` must be a table of lists of steps")
    steps = next((script[key] for key in (stage, agent, "*") if key in script), None)
    if not steps:
        return Step()
    try:
        known = msgspec.convert(steps, list[Step])
    except msgspec.ValidationError as error:
        raise TaskError("simulation-invalid", f"the steps of {stage!r} can't be read: {error}") from error
    return known[min(attempt, len(known)) - 1]


async def _play(context: TaskContext, step: Step) -> None:
    match step.do:
        case "succeed" | "slow" | "bad-report":
            await asyncio.sleep(step.seconds)
        case "fail":
            await asyncio.sleep(step.seconds)
            _fail(step)
        case "hang":
            await asyncio.Event().wait()
        case "crash":
            await asyncio.sleep(step.seconds)
            os.kill(os.getpid(), signal.SIGKILL)
        case "ignore-cancel":
            await _ignore_cancel(step.seconds)
        case "block-loop":
            # The fault itself: a handler that holds the event loop, as a careless one would.
            time.sleep(step.seconds)  # noqa: ASYNC251
        case "progress":
            await _progress(context, step.seconds)
        case _:
            assert_never(step.do)


def _fail(step: Step) -> None:
    if step.reason == "handler-error":
        raise RuntimeError("a simulated fault in the handler")
    raise TaskError(step.reason, "a simulated failure", retryable=step.retryable, details={"simulated": True})


async def _ignore_cancel(seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while (rest := end - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(rest)
        except asyncio.CancelledError:
            continue


async def _progress(context: TaskContext, seconds: float) -> None:
    for number in range(1, PROGRESS_STEPS + 1):
        await asyncio.sleep(seconds / PROGRESS_STEPS)
        await context.progress(number / PROGRESS_STEPS, f"step {number} of {PROGRESS_STEPS}")
