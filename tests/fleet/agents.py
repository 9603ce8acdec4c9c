"""Three agents whose tasks take a moment and count: the last stage of a line of seven gives 7."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from tailrace.agents.sdk import Agent, TaskContext, TaskInput

NAMES: Final = ("build", "check", "ship")
TASK_SECONDS: Final = 0.2


def _counting(name: str) -> Agent:
    agent = Agent(name, files=False)

    @agent.action("*")
    async def step(_: TaskContext, input: TaskInput) -> dict[str, Any]:
        await asyncio.sleep(TASK_SECONDS)
        return {"number": 1 + max((output["number"] for output in input.stages.values()), default=0)}

    return agent


build, check, ship = (_counting(name) for name in NAMES)
