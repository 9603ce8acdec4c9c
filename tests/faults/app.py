"""An agent whose outside service is down: `tailrace worker fragile --app tests.faults.app:agents`."""

from __future__ import annotations

from tailrace.agents.sdk import Agent, TaskContext, TaskInput

fragile = Agent("fragile", files=False)
agents = [fragile]


@fragile.action("*")
async def ask(context: TaskContext, task: TaskInput) -> dict[str, str]:
    """Ask a service that refuses every connection, through its breaker."""
    async with context.circuit("model-api"):
        raise ConnectionRefusedError("nobody listens")
