"""A command whose request was given up, and arrives while it is sent again, is one command."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from random import Random

import pytest

from tailrace.core.commands import PauseWorkflow
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import StoreUnavailable, VersionConflict
from tailrace.core.store.memory import MemoryBackend, MemoryStore
from tailrace.core.store.port import Append, Appended
from tailrace.core.testing.builders import create_workflow, line
from tailrace.core.testing.simulation import SimulatedLoop


class LateStore(MemoryStore):
    """The next append is not answered, and takes effect right before the one after it."""

    late: Sequence[Append] | None = None
    losing = False

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        if self.losing:
            self.losing, self.late = False, appends
            raise StoreUnavailable("append: no answer")
        if self.late is not None:
            late, self.late = self.late, None
            await super().append(late)
        return await super().append(appends)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_command_that_arrives_late_is_not_a_conflict_with_itself(conditional: bool) -> None:
    """Whoever named the version that he saw is told that it was carried out, as everybody else is."""

    async def course() -> None:
        store = LateStore(MemoryBackend())
        pipeline = await store.put_definition(line("only").definition)
        handler = CommandHandler(store)
        created = (await handler.create(create_workflow(pipeline, "run-1"), actor="test")).snapshot.state
        store.losing = True
        version = created.version if conditional else None
        paused = await handler.execute("run-1", PauseWorkflow(), actor="test", version=version)
        assert (paused.state.status, paused.state.version) == ("paused", created.version + 1)

    run(course)


def test_a_version_that_is_not_the_present_one_is_a_conflict() -> None:
    """Nothing is decided on another version than the one that was named."""

    async def course() -> None:
        store = MemoryStore(MemoryBackend())
        pipeline = await store.put_definition(line("only").definition)
        handler = CommandHandler(store)
        created = (await handler.create(create_workflow(pipeline, "run-1"), actor="test")).snapshot.state
        with pytest.raises(VersionConflict):
            await handler.execute("run-1", PauseWorkflow(), actor="test", version=created.version - 1)

    run(course)


def run(course: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run it on a loop without a wall clock: waits between tries take no time."""

    loop = SimulatedLoop(Random(1))
    try:
        loop.run_until_complete(course())
    finally:
        loop.shut_down()
