"""The clients: they ask gateways that may die or lose the store, ask again for a run, and remember what was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from zlib import crc32

from tailrace.core.commands import Command, CreateWorkflow, FlagStall
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import (
    AlreadyExists,
    CommandRefused,
    ReadModelUnavailable,
    StoreUnavailable,
    TailraceError,
    VersionConflict,
)
from tailrace.core.store.inputs import GIVEN_BYTES
from tailrace.core.testing.builders import TRACEPARENT, create_workflow
from tailrace.core.testing.simulation import Trace
from tailrace.core.workflow.definition import Pipeline
from tests.simulation.workload import Order, Wish, Workload


class Gone(Exception):
    """The gateway died while it had the request, or there is none."""


class Door(Protocol):
    """How to get to a gateway."""

    async def ask(self, request: Callable[[CommandHandler], Awaitable[Any]]) -> Any:
        """Have one of the gateways carry a request out; raises `Gone`, or what the command handler raises."""

    def version_of(self, workflow_id: str) -> int | None:
        """The version of a run that somebody sees who looks now."""


class People:
    """Those who order runs and give commands. `acknowledged` maps an actor to the run and version he was told.

    `refused` maps an actor to the run that would not have his command.
    """

    def __init__(self, door: Door, workload: Workload, trace: Trace) -> None:
        self.created: set[str] = set()
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.refused: dict[str, str] = {}
        self.surprises: list[str] = []
        self._door = door
        self._workload = workload
        self._trace = trace

    async def live(self) -> None:
        """Ask for everything, at its time."""
        async with asyncio.TaskGroup() as group:
            for order in self._workload.orders:
                for number in range(order.times):
                    group.create_task(self._order(order, f"client-{order.workflow_id}-{number}"))
                if order.mistaken:
                    group.create_task(self._mistake(order))
            for wish in self._workload.wishes:
                group.create_task(self._wish(wish))

    async def _order(self, order: Order, actor: str) -> None:
        """Ask until somebody says that the run is there."""
        await asyncio.sleep(order.at)
        command = _creation(self._workload.pipeline, order, body_hash="body")
        while order.workflow_id not in self.created:
            try:
                await self._door.ask(lambda handler: handler.create(command, actor=actor, traceparent=TRACEPARENT))
                self.created.add(order.workflow_id)
                self._trace.add(actor, "is told", order.workflow_id)
            except (Gone, StoreUnavailable, ReadModelUnavailable):
                await asyncio.sleep(0.3)
            except AlreadyExists:
                # Somebody else was faster, with another body: the id is taken.
                return
            except TailraceError as error:
                self.surprises.append(f"creating {order.workflow_id}: {error!r}")
                return

    async def _mistake(self, order: Order) -> None:
        await asyncio.sleep(order.at + 0.5)
        command = _creation(self._workload.pipeline, order, body_hash="another body")
        try:
            outcome = await self._door.ask(lambda handler: handler.create(command, actor="mistaken"))
            self.created.add(order.workflow_id)
            if outcome.snapshot.created.body_hash != command.body_hash:
                self.surprises.append(f"{order.workflow_id} was given to a request with another body")
        except (Gone, StoreUnavailable, ReadModelUnavailable, AlreadyExists):
            return

    async def _wish(self, wish: Wish) -> None:
        await asyncio.sleep(wish.at)
        version = self._door.version_of(wish.workflow_id) if wish.conditional else None
        if version is None and isinstance(wish.command, FlagStall):
            # Nobody finds a run standing that is not there. (Without its version it could be found twice.)
            return
        await self._give(wish.workflow_id, wish.command, f"person-{wish.number}", version)
        if wish.then is not None:
            await asyncio.sleep(wish.later)
            await self._give(wish.workflow_id, wish.then, f"person-{wish.number}-then")

    async def _give(self, workflow_id: str, command: Command, actor: str, version: int | None = None) -> None:
        name = type(command).__name__
        try:
            snapshot = await self._door.ask(
                lambda handler: handler.execute(workflow_id, command, actor=actor, version=version)
            )
        except (Gone, TailraceError) as error:
            self._trace.add(actor, name, workflow_id, type(error).__name__)
            # What the watchdog finds is not remembered: when the reply is lost, a conflict may be with itself.
            if isinstance(error, CommandRefused | VersionConflict) and name != "FlagStall":
                self.refused[actor] = workflow_id
            return
        self._trace.add(actor, name, workflow_id, snapshot.state.version)
        if name != "FlagStall":
            self.acknowledged[actor] = (workflow_id, snapshot.state.version)


def _creation(pipeline: Pipeline, order: Order, *, body_hash: str) -> CreateWorkflow:
    # The request of two runs in three goes with their tasks; the others' workers have to read it.
    large = crc32(f"{order.workflow_id} {pipeline.hash}".encode()) % 3 == 0
    requirements = "x" * GIVEN_BYTES if large else ""
    return create_workflow(
        pipeline, order.workflow_id, priority=order.priority, body_hash=body_hash, requirements=requirements
    )
