"""How long a task waits whose worker was killed with -9, while nothing else is wrong.

Workers of an agent of their own hold tasks; some of them are killed at once. They stay down, and others take their tasks over
when the lease has run out; or, every other time, they are started again at once and find what is pending under their names.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http import HTTPStatus
from random import Random
from typing import Final, Literal, TypeAlias

import msgspec

from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.workflow.state import OpenTask
from tests.chaos.pipelines import alone
from tests.chaos.stand_by import StandBy
from tests.chaos.submitter import Submitter
from tests.chaos.world import World
from tests.support.waiting import eventually

AGENT: Final = "gamma"
STAGE: Final = "work"
SLOTS: Final = 8
TASKS_PER_WORKER: Final = 2
PATIENCE_SECONDS: Final = 30.0

Way: TypeAlias = Literal["taken over by another", "by the worker started again"]


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """One task of a killed worker: in which way it was started again, and after how many seconds."""

    way: Way
    seconds: float


@asynccontextmanager
async def team(world: World, size: int) -> AsyncIterator[list[StandBy]]:
    """The workers of this agent. They stay to the end, through all faults."""
    arguments = ["worker", f"simulated:{AGENT}", "--concurrency", str(SLOTS)]
    async with AsyncExitStack() as ended:
        yield [
            await ended.enter_async_context(world.beside(f"worker-{AGENT}-{number}", arguments))
            for number in range(size)
        ]


async def measure(
    workers: list[StandBy], store: RedisStore, submitter: Submitter, *, seed: int, kills: int
) -> tuple[int, list[Recovery]]:
    """Kill so many workers that hold a task, up to half of them at once; gives the kills and what became of the tasks."""
    random = Random(f"recovery {seed}")
    killed = turn = 0
    found: list[Recovery] = []
    while killed < kills:
        turn += 1
        by_name = await eventually(lambda: _by_name(store, workers), PATIENCE_SECONDS)
        plans = [alone(f"{seed}-alone-{turn}-{number}") for number in range(TASKS_PER_WORKER * len(workers))]
        runs = await asyncio.gather(*(submitter.play(plan) for plan in plans))
        held = await eventually(partial(_held, store, runs), PATIENCE_SECONDS)
        holders = sorted(set(held.values()))
        victims = random.sample(holders, min(len(holders), len(workers) // 2, kills - killed))
        way: Way = "taken over by another" if turn % 2 else "by the worker started again"
        for name in victims:
            if way == "taken over by another":
                by_name[name].hold()
            assert by_name[name].signal(signal.SIGKILL), f"{name} was down already"
        at = await store.now()
        lost = [workflow_id for workflow_id, name in held.items() if name in victims]
        found += [Recovery(way=way, seconds=seconds) for seconds in await _recovered(store, lost, at)]
        killed += len(victims)
        for process in workers:
            process.free()
        for workflow_id in runs:
            assert await submitter.ask(workflow_id, "cancel") == HTTPStatus.OK, f"{workflow_id} can't be cancelled"
    return killed, found


async def _by_name(store: RedisStore, team: list[StandBy]) -> dict[str, StandBy]:
    """The processes by the names that they beat with; empty until all of them do."""
    by_pid = {process.pid: process for process in team}
    named = {beat.name: by_pid[beat.pid] for beat in await store.workers(AGENT) if beat.pid in by_pid}
    return named if None not in by_pid and len(named) == len(team) else {}


async def _held(store: RedisStore, workflow_ids: list[str]) -> dict[str, str]:
    """Who works on which run; empty until all have been started."""
    tasks = await _tasks(store, workflow_ids)
    held = {workflow_id: task.worker for workflow_id, task in tasks.items() if task.started_at is not None}
    return held if len(held) == len(workflow_ids) else {}


async def _recovered(store: RedisStore, workflow_ids: list[str], at: int) -> list[float]:
    """Seconds from `at` until the task of each of these runs was started again."""
    again: dict[str, float] = {}

    async def all_again() -> bool:
        for workflow_id, task in (await _tasks(store, workflow_ids)).items():
            if task.started_at is not None and task.started_at > at:
                again.setdefault(workflow_id, (task.started_at - at) / 1_000_000)
        return len(again) == len(workflow_ids)

    try:
        await eventually(all_again, PATIENCE_SECONDS)
    except AssertionError:
        left = sorted(set(workflow_ids) - set(again))
        raise AssertionError(f"no worker took up {left} within {PATIENCE_SECONDS:g} s") from None
    return list(again.values())


async def _tasks(store: RedisStore, workflow_ids: list[str]) -> dict[str, OpenTask]:
    states = [state for state in await store.load_states(workflow_ids) if state is not None]
    return {state.workflow_id: task for state in states if (task := state.stages[STAGE].task) is not None}
