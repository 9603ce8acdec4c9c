"""What handlers do in a simulation: what the seed says of this task and this run of it, until faults stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

from tailrace.agents.sdk import Agent, TaskContext, TaskError, TaskInput
from tailrace.core.store.inputs import GIVEN_BYTES
from tailrace.core.testing.simulation import Faults, SimulatedLoop, current_process

#: The more often a word stands here, the more often a handler behaves so.
_BEHAVIOURS = (
    *("at-once", "quick", "quick", "slow") * 5,
    *("fail", "hang", "stubborn") * 2,
    *("raise", "fail-for-good", "progress", "unfit", "gives-up"),
)

#: The share of tasks that kill every worker that runs them.
_DEADLY = 0.015


class Handlers:
    """Agents whose handlers behave by seed.

    `runs` counts how often each task ran, `read` is what its runs were given to read, `outputs` what they gave.
    """

    def __init__(self, seed: str, faults: Faults, loop: SimulatedLoop) -> None:
        self.runs: Counter[str] = Counter()
        self.read: dict[str, list[TaskInput]] = {}
        self.outputs: dict[str, list[dict[str, Any]]] = {}
        self._seed = seed
        self._faults = faults
        self._loop = loop

    def agent(self, name: str) -> Agent:
        """An agent that can do everything."""
        # No files: a folder's lock would outlive a process that dies only in the simulation.
        agent = Agent(name, files=False)

        @agent.action("*")
        async def work(context: TaskContext, input: TaskInput) -> dict[str, Any]:
            self.read.setdefault(context.task_id, []).append(input)
            return await self._work(context)

        return agent

    async def _work(self, context: TaskContext) -> dict[str, Any]:
        task_id = context.task_id
        self.runs[task_id] += 1
        number = self.runs[task_id]
        random = Random(f"{self._seed}/{task_id}/{number}")
        behaviour = random.choice(_BEHAVIOURS) if self._faults.active else "quick"
        if self._faults.active and Random(f"{self._seed}/{task_id}").random() < _DEADLY:
            await asyncio.sleep(random.uniform(0.0, 0.5))
            self._faults.injected["deadly handler"] += 1
            self._loop.kill(current_process(), "handler")
            await self._loop.create_future()
        match behaviour:
            case "quick":
                await asyncio.sleep(random.uniform(0.001, 0.3))
            case "slow":
                await asyncio.sleep(random.uniform(0.5, 5.0))
            case "progress":
                for tenth in (2, 4, 8):
                    await context.progress(tenth / 10, "going on")
                    await asyncio.sleep(random.uniform(0.1, 6.0))
            case "fail":
                await asyncio.sleep(random.uniform(0.0, 1.0))
                raise TaskError("out-of-luck", "this time", retryable=True)
            case "fail-for-good" if random.random() < 0.3:
                raise TaskError("no-use", "never", retryable=False)
            case "raise":
                raise RuntimeError("a mistake")
            case "unfit" if random.random() < 0.3:
                return {"value": float("nan")}
            case "gives-up":
                raise asyncio.CancelledError
            case "hang" if context.deadline_us is not None:
                # Not for ever: the clocks of a paused run stand still, and its handlers keep their slots.
                await asyncio.sleep(60.0)
            case "stubborn":
                await self._ignoring_cancel(random.uniform(0.5, 6.0))
        # Small outputs go with the tasks behind them; after a larger one their workers have to read.
        output = {"task": task_id, "run": number, "more": "x" * random.choice((0, 0, 0, 200, GIVEN_BYTES))}
        self.outputs.setdefault(task_id, []).append(output)
        return output

    async def _ignoring_cancel(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not self._faults.over:
            try:
                await asyncio.sleep(until - loop.time())
            except asyncio.CancelledError:
                continue
