"""An agent that does nothing, and a line of stages for it: what is measured with it is the engine."""

from __future__ import annotations

from typing import Any

from tailrace.agents.sdk import Agent, TaskContext, TaskInput
from tailrace.core.workflow.definition import Definition, StageDefinition

#: For `tailrace up` and `tailrace worker`.
APP = f"{__name__}:agent"

agent = Agent("noop", files=False)


@agent.action("*")
async def step(_: TaskContext, input: TaskInput) -> dict[str, Any]:
    """Do nothing but count: the highest number that came in, and one."""
    return {"number": 1 + max((output["number"] for output in input.stages.values()), default=0)}


def line(steps: int) -> Definition:
    """So many stages, one after the other; the last one gives `{"number": steps}`."""
    names = [last_stage(number) for number in range(1, steps + 1)]
    needs: list[tuple[str, ...]] = [(), *((name,) for name in names)]
    stages = (
        StageDefinition(name=name, agent=agent.name, needs=need) for name, need in zip(names, needs, strict=False)
    )
    return Definition(name="noop", stages=tuple(stages))


def last_stage(steps: int) -> str:
    """The name of the last stage of a line."""
    return f"s{steps}"
