"""A run of the built-in agents without a server: one folder, the outputs so far, and what is left running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tailrace.agents.builtin import load
from tailrace.agents.sdk import Agent, TaskError
from tailrace.agents.testing import LocalContext, run_action
from tailrace.core.artifacts import ArtifactRef

AGENTS = {
    "initialization": "scaffold",
    "scaffolding": "scaffold",
    "validation": "validation",
    "e2e_testing": "e2e",
    "integration": "integration",
    "deployment": "deployment",
    "monitoring": "deployment",
}


class Run:
    """One run: stages are played in any order, each with the outputs of those before it."""

    def __init__(self, folder: Path, name: str = "calculator-app", requirements: str = "add and divide") -> None:
        self.folder = folder
        self.name = name
        self.requirements = requirements
        self.stages: dict[str, Any] = {}
        self.agents: dict[str, Agent] = {}
        self.context = LocalContext(folder)

    @property
    def workspace(self) -> Path:
        """The run's folder."""
        root: Path = self.context.workspace.root
        return root

    async def play(self, *stages: str, attempt: int = 1, **params: Any) -> Any:
        """Play stages and give the last output."""
        for stage in stages:
            agent = self.agents.setdefault(AGENTS[stage], load(AGENTS[stage]))
            context = LocalContext(self.folder, stage=stage, attempt=attempt)
            self.stages[stage] = await run_action(
                agent,
                stage,
                context,
                stages={name: output for name, output in self.stages.items() if name != stage},
                name=self.name,
                requirements=self.requirements,
                params=params,
            )
        return self.stages[stages[-1]]

    async def fails(self, stage: str, **params: Any) -> TaskError:
        """Play a stage that fails with a named reason."""
        with pytest.raises(TaskError) as caught:
            await self.play(stage, **params)
        return caught.value

    async def fails_after(self, *stages: str) -> TaskError:
        """Play stages of which the last one fails with a named reason."""
        await self.play(*stages[:-1])
        return await self.fails(stages[-1])

    async def artifact(self, ref: dict[str, Any]) -> bytes:
        """What a reference in an output is about."""
        return await self.context.get_artifact(ArtifactRef(**ref))

    def replace(self, file: str, old: str, new: str) -> None:
        """Change a file of the run's folder."""
        path = self.workspace / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def processes(self) -> list[int]:
        """Programs that run on behalf of this run."""
        return list(self.commands())

    def commands(self) -> dict[int, str]:
        """Programs that run on behalf of this run, with their command, which names its folder."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended since
                command = entry.read_bytes().decode(errors="replace")
                if str(self.folder) in command:
                    found[int(entry.parent.name)] = command
        return found

    async def close(self) -> None:
        """What a worker does when it shuts down."""
        for agent in self.agents.values():
            for closer in agent.closers:
                await closer()


async def wait_until(condition: Callable[[], Any], *, seconds: float = 15.0) -> None:
    """Wait for the state of other processes."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the state of another process makes no event
            await asyncio.sleep(0.01)
