"""An agent that does nothing, and a line of stages for it: what is measured with it is the engine."""

from __future__ import annotations

from typing import Any, Final

from tailrace.agents.sdk import Agent, TaskContext, TaskInput
from tailrace.core.workflow.definition import Definition, StageDefinition

#: What `tailrace up` gets: this agent only, and as many of its tasks at once in its one worker.
WORKER: Final = ("--agents", "", "--app", f"{__name__}:agent", "--concurrency", "100")

agent = Agent("noop", files=False)


@agent.action("*")
async def step(_: TaskContext, input: TaskInput) -> dict[str, Any]:
    """Do nothing but count: the highest number that came in, and one."""
    return {"number": 1 + max((output["number"] for output in input.stages.values()), default=0)}


def line(steps: int, *, name: str = "noop", agent: str = agent.name, patience_seconds: float = 5.0) -> Definition:
    """So many stages, one after the other; the last one gives `{"number": steps}`.

    For an `agent` without a worker its runs stay where they are: a stage may wait `patience_seconds` before anybody asks why.
    """
    names = [last_stage(number) for number in range(1, steps + 1)]
    needs: list[tuple[str, ...]] = [(), *((name,) for name in names)]
    stages = (
        StageDefinition(name=stage, agent=agent, needs=need, expect_start_seconds=patience_seconds)
        for stage, need in zip(names, needs, strict=False)
    )
    return Definition(name=name, stages=tuple(stages))


def last_stage(steps: int) -> str:
    """The name of the last stage of a line."""
    return f"s{steps}"
