"""One history: all processes on one loop and one store, what goes wrong with them, and what people want of them.

Everything comes from the seed. Faults stop after a while; then the world has to settle, and the history is checked.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from tailrace.agents.runtime import Worker, WorkerOptions
from tailrace.core.artifacts import FileArtifacts
from tailrace.core.codec import decode
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.core.errors import ReadModelUnavailable, StoreUnavailable
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.testing.simulation import (
    Faults,
    Process,
    SimulatedClock,
    SimulatedLoop,
    Trace,
    UnreliableKeeper,
    UnreliableQueue,
    UnreliableStore,
    Wire,
    Witness,
    draw_plan,
)
from tailrace.core.testing.simulation.faults import Timed
from tailrace.core.workflow.history import Snapshot
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog.watchdog import Watchdog
from tests.simulation.checker import check_world
from tests.simulation.damage import Damage, draw_damage
from tests.simulation.forgetter import Forgetter
from tests.simulation.handlers import Handlers
from tests.simulation.leases import LoopLeases
from tests.simulation.people import Gone, People
from tests.simulation.projector import Database, Projector
from tests.simulation.workload import AGENTS, draw_workload

#: How long after the last fault everything must have come to its end, in seconds of the simulation.
SETTLE_SECONDS: Final = 150.0
_LOOK_SECONDS: Final = 0.5
_REQUEST_SECONDS: Final = 8.0

#: Runs are forgotten after seconds here, and whoever stood still for as long may look for one. (It is days otherwise.)
_OF_FORGOTTEN: Final = re.compile(r"log-diverged: run |timer .* belongs to no workflow; it is removed$")

Main = Callable[["Unit", Process], Coroutine[Any, Any, None]]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a history ended: `violations` is empty when all went as promised. `happened` counts what not every history has,
    `lines` is the whole trace.
    """

    seed: int
    violations: tuple[str, ...]
    injected: dict[str, int]
    crashed: dict[str, int]
    happened: dict[str, int]
    events: int
    runs: int
    statuses: dict[str, int]
    seconds: float
    lines: tuple[str, ...] = ()


class Unit:
    """A process that is started again when it died or was stopped: `process` and `task` are the present ones."""

    def __init__(self, kind: str, name: str, main: Main) -> None:
        self.kind = kind
        self.name = name
        self.main = main
        self.process: Process | None = None
        self.task: asyncio.Task[None] | None = None
        self.died: asyncio.Future[None] | None = None
        self.stop: Callable[[], object] = lambda: None
        self.handler: CommandHandler | None = None


class World:
    """Everything there is in one history."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        choose = Random(f"{seed}/world")
        self.loop = SimulatedLoop(Random(f"{seed}/order"))
        self.loop.on_death = self._bury
        self.begun = self.loop.time()
        self.trace = Trace(self.loop)
        self.clock = SimulatedClock(self.loop)
        self.data = MemoryBackend(self.clock, partitions=choose.choice((1, 2)))
        self.store = self.data.store()
        self.witness = Witness(self.data)
        plan = draw_plan(Random(f"{seed}/faults"), seconds=choose.choice((6.0, 12.0, 20.0)))
        self.faults = Faults(plan, Random(f"{seed}/calls"))
        self.workload = draw_workload(Random(f"{seed}/work"), plan.seconds)
        self.handlers = Handlers(f"{seed}/handlers", self.faults, self.loop)
        self.database = Database(self.store.partitions)
        self.people = People(self, self.workload, self.trace)
        self.violations: list[str] = []
        self._choose = choose
        self._command_numbers = 0
        self._damaged: set[str] = set()
        self._concurrency = choose.choice((1, 2, 4))
        self._agents = {name: self.handlers.agent(name) for name in AGENTS}
        self._units = [
            *(Unit("gateway", f"gateway-{number}", self._gateway) for number in (1, 2)),
            *(Unit("orchestrator", f"orchestrator-{number}", self._orchestrator) for number in (1, 2)),
            *(Unit("worker", f"{agent}-{number}", self._worker) for agent in AGENTS for number in (1, 2)),
            *(Unit("projector", f"projector-{number}", self._projector) for number in range(1, choose.choice((2, 3)))),
            Unit("forgetter", "forgetter-1", self._forgetter),
            *(Unit("watchdog", f"watchdog-{number}", self._watchdog) for number in (1, 2)),
        ]
        self._forget_seconds = choose.choice((1.0, 4.0, 15.0))

    def run(self) -> None:
        """Let it happen, from the first process to the last check."""
        try:
            self.loop.run_until_complete(self._live())
            if not self.violations:
                self.violations += self.loop.run_until_complete(check_world(self))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what this seed shows
            self.violations.append(f"the simulation ended by {error!r}")
        self.violations += self.loop.problems
        self.trace.end()
        self.faults.over = True
        self.loop.shut_down()

    async def ask(self, request: Callable[[CommandHandler], Awaitable[Any]]) -> Any:
        """Have one of the gateways carry a request out; raises `Gone` when it dies over it or takes too long."""
        gateways = [unit for unit in self._units if unit.handler is not None and unit.process and unit.process.alive]
        if not gateways:
            raise Gone
        unit = self._choose.choice(gateways)
        assert unit.process is not None
        assert unit.died is not None
        assert unit.handler is not None
        task = self.loop.spawn(unit.process, _carry_out(request, unit.handler), name="request")
        await asyncio.wait((task, unit.died), timeout=_REQUEST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()

    def version_of(self, workflow_id: str) -> int | None:
        """The version of a run that somebody sees who looks now."""
        run = self.data.partition_of(workflow_id).runs.get(workflow_id)
        return None if run is None else run.version

    async def _live(self) -> None:
        await self.store.put_definition(self.workload.pipeline.definition)
        for unit in self._units:
            self.loop.call_later(self._choose.uniform(0.0, 0.5), self._start, unit)
        people = self.loop.spawn(self.loop.world, self.people.live(), name="people")
        for fault in self.faults.plan.timed:
            self.loop.call_later(fault.at, self._inject, fault)
        for damage in draw_damage(Random(f"{self.seed}/damage"), self.faults.plan.seconds):
            self.loop.call_later(damage.at, self._damage, damage)
        await asyncio.sleep(self.faults.plan.seconds)
        self.faults.active = False
        self.faults.outages = 0
        self.trace.add("world", "no more faults")
        await self._settle(people)

    async def _settle(self, people: asyncio.Task[None]) -> None:
        until = self.loop.time() + SETTLE_SECONDS
        while True:
            self.violations += self.witness.violations
            if self.violations or self.loop.problems:
                return
            left = ["people still ask"] if not people.done() else self._left()
            if not left:
                people.result()
                return
            if self.loop.time() > until:
                self.violations += [f"not settled {SETTLE_SECONDS:.0f} s after the last fault: {what}" for what in left]
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def states(self) -> Iterator[WorkflowState]:
        """Every run as it is stored."""
        for partition in self.data.partitions:
            for run in partition.runs.values():
                if not run.is_tombstone:
                    yield decode(run.state, WorkflowState)

    def forgotten(self) -> dict[str, int]:
        """Every run that is forgotten, and the version that is left of it."""
        runs = (item for partition in self.data.partitions for item in partition.runs.items())
        return {workflow_id: run.version for workflow_id, run in runs if run.is_tombstone}

    def _left(self) -> list[str]:
        """What has not come to its end. A paused run may have open tasks: its clocks stand still."""
        states = {state.workflow_id: state for state in self.states()}
        left = [
            f"{state.workflow_id} is {state.status}"
            for state in states.values()
            if not state.terminal and state.status != "paused"
        ]
        for partition in self.data.partitions:
            if len(partition.reports):
                left.append(f"{len(partition.reports)} reports wait")
            if self.database.places[partition.number].seq != partition.seq:
                left.append(f"the projector of partition {partition.number} is behind")
            for stream in partition.streams.values():
                names = [stream.names[entry_id] for entry_id in {**stream.entries, **stream.group.pending}]
                left += [
                    f"{name.task_id} is still in {stream.name}"
                    for name in names
                    if name.workflow_id not in states or states[name.workflow_id].status != "paused"
                ]
        return left

    # Processes.

    def _start(self, unit: Unit) -> None:
        if self.faults.over:
            return
        process = unit.process = Process(unit.kind, unit.name)
        unit.died = self.loop.create_future()
        self.trace.add(unit.name, "starts")
        unit.task = self.loop.spawn(process, unit.main(unit, process))
        unit.task.add_done_callback(lambda task: self._ended(unit, process, task), context=self.loop.world.context)

    def _ended(self, unit: Unit, process: Process, task: asyncio.Task[None]) -> None:
        if self.faults.over:
            return
        if not task.cancelled() and (error := task.exception()) is not None:
            self.violations.append(f"{unit.name} ended by {error!r}")
        elif unit.process is process:
            self.trace.add(unit.name, "ended")
            self.loop.call_later(self._choose.uniform(0.05, 2.0), self._start, unit)

    def _bury(self, process: Process, point: str) -> None:
        self.trace.add(process.name, "dies", point)
        for unit in self._units:
            if unit.process is process:
                assert unit.died is not None
                unit.died.set_result(None)
                wait = self._choose.choice((0.05, 0.5, 1.0, 4.0)) * self._choose.uniform(0.5, 1.5)
                self.loop.call_later(wait, self._start, unit, context=self.loop.world.context)

    def _wire(self, process: Process) -> Wire:
        return Wire(self.loop, process, self.faults, self.trace, self.data.changed)

    async def _gateway(self, unit: Unit, process: Process) -> None:
        store = UnreliableStore(self.data.store(), self._wire(process), self.witness)
        wire = self._wire(process)

        async def archived(workflow_id: str) -> Snapshot | None:
            async def look() -> Snapshot | None:
                return self.database.archived(workflow_id)

            try:
                return await wire.call("archived", look)
            except StoreUnavailable:
                raise ReadModelUnavailable("no answer") from None

        unit.handler = CommandHandler(store, archived=archived, command_ids=self._command_id)
        unit.stop = lambda: None
        await self.loop.create_future()

    def _command_id(self) -> str:
        self._command_numbers += 1
        return f"command-{self._command_numbers}"

    async def _orchestrator(self, unit: Unit, process: Process) -> None:
        store = UnreliableStore(self.data.store(), self._wire(process), self.witness)
        task = asyncio.current_task()
        assert task is not None
        unit.stop = task.cancel
        await Orchestrator(store, unit.name).run()

    async def _worker(self, unit: Unit, process: Process) -> None:
        agent = self._agents[unit.name.partition("-")[0]]
        wire = self._wire(process)
        stop = asyncio.Event()
        unit.stop = stop.set
        worker = Worker(
            agent,
            UnreliableQueue(self.data.queue(agent.name, unit.name), wire, self.witness),
            UnreliableKeeper(self.data.keeper(agent.name, unit.name), wire),
            FileArtifacts(Path("/nowhere")),
            WorkerOptions(
                name=unit.name, workspaces=Path("/nowhere"), concurrency=self._concurrency, drain_seconds=2.0
            ),
            leases=LoopLeases,
        )
        await worker.run(stop)

    async def _projector(self, unit: Unit, process: Process) -> None:
        wire = self._wire(process)
        task = asyncio.current_task()
        assert task is not None
        unit.stop = task.cancel
        await Projector(UnreliableStore(self.data.store(), wire, self.witness), wire, self.database).run()

    async def _forgetter(self, unit: Unit, process: Process) -> None:
        task = asyncio.current_task()
        assert task is not None
        unit.stop = task.cancel
        wire = self._wire(process)
        forgetter = Forgetter(self.data, self.data.store(), wire, self.database, after_seconds=self._forget_seconds)
        await forgetter.run(Random(f"{self.seed}/forgetter"))

    async def _watchdog(self, unit: Unit, process: Process) -> None:
        store = UnreliableStore(self.data.store(), self._wire(process), self.witness)
        task = asyncio.current_task()
        assert task is not None
        unit.stop = task.cancel
        await Watchdog(store, CommandHandler(store, command_ids=self._command_id)).run()

    # Faults at set times.

    def _inject(self, fault: Timed) -> None:
        alive = [unit for unit in self._units if unit.process is not None and unit.process.alive]
        unit = alive[int(fault.which * len(alive))] if alive else None
        self.trace.add("world", fault.kind, unit.name if unit and fault.kind in {"kill", "stop", "stall"} else "")
        self.faults.injected[fault.kind] += 1
        match fault.kind:
            case "outage":
                self.faults.outages += 1
                self.data.changed.wake()
                self.loop.call_later(fault.seconds, self._end_outage)
            case "freeze":
                for other in alive:
                    assert other.process is not None
                    self.loop.stall(other.process, fault.seconds)
            case "clock-forth":
                self.clock.advance(fault.seconds)
            case "clock-back":
                self.clock.advance(-min(fault.seconds, 2.0))
            case "entry-gone":
                self._drop_entry(fault.which)
            case "kill" if unit is not None and unit.process is not None:
                self.loop.kill(unit.process, "anywhere")
            case "stall" if unit is not None and unit.process is not None:
                self.loop.stall(unit.process, fault.seconds)
            case "stop" if unit is not None:
                unit.stop()
            case _:
                pass

    def _end_outage(self) -> None:
        self.faults.outages = max(0, self.faults.outages - 1)

    def _drop_entry(self, which: float) -> None:
        """Somebody deletes the entry of a task that a worker holds."""
        held = [
            (stream, entry_id)
            for partition in self.data.partitions
            for stream in partition.streams.values()
            for entry_id in stream.group.pending
            if entry_id in stream.entries
        ]
        if held:
            stream, entry_id = held[int(which * len(held))]
            self._damaged.add(stream.names[entry_id].task_id)
            stream.delete(entry_id)

    def _damage(self, damage: Damage) -> None:
        """What the watchdog has to mend: nobody else finds out."""
        tasks = [
            (task_id, place)
            for partition in self.data.partitions
            for run in partition.runs.values()
            for task_id, place in run.open_tasks.items()
            # (What is acknowledged and deleted leaves no trace: of that only the end of its time tells, if it has one.)
            if place.entry_id in place.stream.entries and task_id not in self._damaged
        ]
        timers = [(partition, name) for partition in self.data.partitions for name in partition.timers]
        held = [(task_id, place) for task_id, place in tasks if place.entry_id in place.stream.group.pending]
        done = ""
        if damage.kind == "task-gone" and tasks:
            done, place = tasks[int(damage.which * len(tasks))]
            place.stream.delete(place.entry_id)
        elif damage.kind == "acknowledged" and held:
            done, place = held[int(damage.which * len(held))]
            del place.stream.group.pending[place.entry_id]
        elif damage.kind == "timer-gone" and timers:
            partition, done = timers[int(damage.which * len(timers))]
            self.witness.gone[done] = partition.timers.pop(done)
        if done:
            self._damaged.add(done)
            self.trace.add("world", damage.kind, done)
            self.faults.injected[damage.kind] += 1


def simulate(seed: int, *, traced: bool = False) -> Outcome:
    """The history of a seed. With `traced` the outcome has every line of it, also when nothing is wrong."""
    with _errors_noted() as errors:
        world = World(seed)
        world.run()
    violations = (*world.violations, *errors)
    return Outcome(
        seed=seed,
        violations=violations,
        injected=dict(world.faults.injected),
        crashed=dict(world.faults.crashed),
        happened=dict(world.witness.happened),
        events=sum(partition.seq for partition in world.data.partitions),
        runs=sum(len(partition.runs) for partition in world.data.partitions),
        statuses=dict(Counter(state.status for state in world.states()) + Counter(forgotten=len(world.forgotten()))),
        seconds=world.loop.time() - world.begun,
        lines=tuple(world.trace.lines()) if traced or violations else (),
    )


class _Errors(logging.Handler):
    """Keeps what code logs as an error: what it could not do and nobody else would hear of."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # What a handler raises is part of the play.
        if record.name != "tailrace.task" and not _OF_FORGOTTEN.match(record.getMessage()):
            self.messages.append(f"logged by {record.name}: {record.getMessage()}")


@contextmanager
def _errors_noted() -> Iterator[list[str]]:
    logger, errors = logging.getLogger("tailrace"), _Errors()
    propagate, disabled = logger.propagate, logging.root.manager.disable
    logger.addHandler(errors)
    logger.propagate = False
    logging.disable(logging.WARNING)
    try:
        yield errors.messages
    finally:
        logging.disable(disabled)
        logger.propagate = propagate
        logger.removeHandler(errors)


async def _carry_out(request: Callable[[CommandHandler], Awaitable[Any]], handler: CommandHandler) -> Any:
    return await request(handler)
