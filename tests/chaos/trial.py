"""One trial, from nothing to nothing: recovery in quiet, then faults and runs, then rest, then every check."""

from __future__ import annotations

import asyncio
import signal
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.workflow.state import WorkflowState
from tests.acceptance.proc import ours_in
from tests.chaos import checks, recovery
from tests.chaos.injector import Injector
from tests.chaos.pipelines import DEFINITIONS, plan_run
from tests.chaos.result import BOUND_SECONDS, Distribution, Result
from tests.chaos.schedule import schedule
from tests.chaos.stand_by import StandBy
from tests.chaos.submitter import Submitter
from tests.chaos.world import World
from tests.support.audit import audit
from tests.support.waiting import eventually

#: How long everything may take to come to rest on a busy machine.
REST_SECONDS: Final = 120.0

Show = Callable[[str, int, int], None]
"""What a trial tells while it runs: what it is at, how far, of how much."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything. Of `workers` that hold tasks up to half die at a time, before the faults, until it was `kills`."""

    seed: int
    seconds: float = 120.0
    runs: int = 300
    postgres_away_seconds: float = 30.0
    workers: int = 6
    kills: int = 24


async def trial(options: Options, folder: Path, show: Show) -> Result:
    """All of it; what does not hold is among the result's `failures`, and so is an end that never came."""
    began = time.monotonic()
    result = Result(seed=options.seed)
    try:
        show("starting", 0, 1)
        async with World.open(folder) as world:
            result.phases["start"] = time.monotonic() - began
            await _torment(world, options, result, show)
            with _phase("end", result):
                await _end(world, result)
    except Exception as error:  # noqa: BLE001  # whatever it is, the table and the seed are to be told
        result.failures.append(_told(error))
    result.seconds = time.monotonic() - began
    return result


async def _torment(world: World, options: Options, result: Result, show: Show) -> None:
    async with (
        world.store() as store,
        Submitter.open(world.url) as submitter,
        recovery.team(world, options.workers) as workers,
    ):
        for definition in DEFINITIONS:
            await submitter.define(definition)
        with _phase("workers killed in quiet", result):
            await _recover(workers, store, submitter, options, result, show)
        injector = Injector(world)
        faults = schedule(
            options.seed, options.seconds, postgres_away_seconds=min(options.postgres_away_seconds, options.seconds / 2)
        )
        plans = [plan_run(options.seed, number) for number in range(options.runs)]
        showing = asyncio.create_task(_tell(submitter, injector, options.seconds, show))
        try:
            with _phase("faults", result):
                async with asyncio.TaskGroup() as group:
                    group.create_task(injector.run(faults, options.seconds))
                    group.create_task(submitter.run(plans, options.seconds))
        finally:
            showing.cancel()
            result.injected, result.skipped = dict(injector.injected), injector.skipped
            result.lost = world.redis_proxy.faults_done + world.postgres_proxy.faults_done
        with _phase("rest", result):
            rested = await _rest(world, store, submitter, result, show)
        if rested:
            with _phase("checks", result):
                await _check(world, store, submitter, result, show)


@contextmanager
def _phase(name: str, result: Result) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        result.phases[name] = time.monotonic() - began


async def _recover(
    workers: list[StandBy], store: RedisStore, submitter: Submitter, options: Options, result: Result, show: Show
) -> None:
    show(f"killing {options.kills} workers in quiet", 0, 1)
    result.worker_kills, found = await recovery.measure(
        workers, store, submitter, seed=options.seed, kills=options.kills
    )
    for way in sorted({one.way for one in found}):
        result.recovery[way] = Distribution.of([one.seconds for one in found if one.way == way])
    if found:
        result.recovery["all"] = Distribution.of([one.seconds for one in found])
    slow = [one.seconds for one in found if one.seconds > BOUND_SECONDS]
    if slow:
        result.failures.append(f"tasks of killed workers were started again only after {slow} s")


async def _tell(submitter: Submitter, injector: Injector, seconds: float, show: Show) -> None:
    began = time.monotonic()
    while True:
        text = f"{len(submitter.acknowledged)} runs acknowledged, {sum(injector.injected.values())} faults"
        show(text, int(time.monotonic() - began), int(seconds))
        await asyncio.sleep(1)


async def _rest(world: World, store: RedisStore, submitter: Submitter, result: Result, show: Show) -> bool:
    """Wait until every run has ended and nothing waits anywhere; False when that never came, with the reasons told."""
    total = len(submitter.acknowledged)
    ids = list(submitter.acknowledged.values())
    states: list[WorkflowState | None] = []

    async def ended() -> bool:
        states[:] = await store.load_states(ids)
        for state in states:
            if state is not None and state.status == "paused":
                await submitter.ask(state.workflow_id, "resume")
        open_runs = [state for state in states if state is None or not state.terminal]
        show("waiting for the end of all runs", total - len(open_runs), total)
        return not open_runs

    if not await _reached(ended):
        for state in states:
            if state is None or not state.terminal:
                workflow_id = ids[states.index(state)]
                result.failures.append(f"{workflow_id} has not ended:\n{await world.why(workflow_id)}")
        return False
    show("waiting for rest", 0, 1)
    left: list[str] = []
    for what in (
        lambda: checks.leftovers(store),
        lambda: checks.behind(store, world.postgres.url),
        lambda: _down(world),
    ):
        if not await _reached(lambda what=what: _none(what, left)):  # type: ignore[misc]  # bound
            result.failures.append("this never came to rest: " + "; ".join(left))
    return not result.failures


async def _none(what: Callable[[], Awaitable[list[str]]], left: list[str]) -> bool:
    left[:] = await what()
    return not left


async def _down(world: World) -> list[str]:
    return world.down()


async def _reached(condition: Callable[[], Awaitable[bool]]) -> bool:
    try:
        await eventually(condition, REST_SECONDS)
    except AssertionError:
        return False
    return True


async def _check(world: World, store: RedisStore, submitter: Submitter, result: Result, show: Show) -> None:
    show("checking", 0, 1)
    histories = await audit(store)
    loaded = await store.load_states(list(histories))
    states = {state.workflow_id: state for state in loaded if state is not None}
    result.checked["runs whose snapshot is the fold of their log"] = len(histories)

    async def looked(name: str, check: Callable[[], Awaitable[int] | int]) -> None:
        try:
            count = check()
            result.checked[name] = count if isinstance(count, int) else await count
        except AssertionError as error:
            result.failures.append(f"{name}: {error}")

    async def by_status() -> int:
        result.runs = dict(sorted((await checks.ends(store, submitter)).items()))
        return sum(result.runs.values())

    url = world.postgres.url
    await looked("runs that ended as they may", by_status)
    await looked("acknowledged creations, each there once", lambda: checks.creations(histories, submitter))
    await looked("acknowledged commands, carried out", lambda: checks.commands(histories, submitter))
    await looked("events decided again, the same bytes", lambda: checks.decisions(store, histories))
    await looked("attempts with one outcome", lambda: checks.outcomes(histories))
    await looked("stages undone, in their order", lambda: checks.undone(store, histories))
    await looked("rounds without a step back", lambda: checks.rounds(histories))
    await looked("rows that equal the fold", lambda: checks.rows(url, states))
    await looked("places without parked entries", lambda: checks.parked(store, url))
    result.checked["partitions without leftovers"] = store.partitions


async def _end(world: World, result: Result) -> None:
    """Stop it as a user does: it ends with 0, and nothing of it is left."""
    before = len(world.installation.pids())
    code, _ = await asyncio.to_thread(world.installation.end, signal.SIGINT)
    stand_bys = {process.pid for process in world.stand_bys.values()}
    left = {pid: command for pid, command in ours_in(world.installation.folder).items() if pid not in stand_bys}
    if code or left:
        result.failures.append(f"`up` ended with {code} and left {left}")
    result.checked["processes that ended with `up`"] = before


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(_told(inner) for inner in error.exceptions)
    if isinstance(error, AssertionError):
        return str(error)
    return "".join(traceback.format_exception(error))
