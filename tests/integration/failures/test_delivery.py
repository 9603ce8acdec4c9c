"""Work and results that get lost, or are done twice, on the way between an engine and its agents."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tailrace.agents.sdk import TaskContext, TaskError
from tailrace.core.ids import TaskId
from tailrace.core.store.port import Delivery, Limits
from tailrace.core.testing.builders import completed, diamond, line, pipeline, stage, workflow_id_in
from tailrace.core.workflow.definition import RetryPolicy
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.watchdog import diagnose
from tests.support.bench import Bench
from tests.support.engine_process import program
from tests.support.waiting import beside, eventually, pass_server_time

#: Commands of the ways to send a message that are no stream.
OTHER_WAYS = ("publish", "spublish", "lpush", "rpush", "blpop", "brpop", "subscribe")


@pytest.mark.failure(1)
async def test_f01_an_answer_may_come_before_anybody_listens(bench: Bench) -> None:
    """The worker has its result and is gone before there is any orchestrator."""
    definition = (await bench.prepare(line("only"))).pipeline

    async def reported() -> bool:
        return [entry.report.kind for entry in await bench.reports() if entry.report] == ["completed"]

    async with bench.working():
        run = await bench.submit(definition)
        await eventually(reported)
    async with bench.orchestrating():
        await bench.wait_status("completed", run)
    assert await bench.reports() == []


@pytest.mark.failure(2)
@pytest.mark.failure(25)
async def test_f02_a_worker_is_ready_when_its_streams_answer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It is connected, and one of its streams can't be read: it neither says that it is ready nor beats."""
    caplog.set_level(logging.WARNING, "tailrace.agents.runtime")
    definition = (await bench.prepare(line("only"))).pipeline
    broken = bench.store.keys.partition(0).tasks("agent")
    await bench.store.client.command("RENAME", broken, f"{broken}:aside")
    await bench.store.client.command("SET", broken, "nonsense")
    run = await bench.submit(definition, workflow_id_in(1, 2))
    ready = asyncio.Event()

    async def work() -> None:
        async with bench.working():
            ready.set()
            await asyncio.Event().wait()

    async def refused() -> bool:
        return any("joining: WRONGTYPE" in message for message in caplog.messages)

    async with bench.orchestrating(), beside(work()):
        await eventually(refused)
        # Time for more tries: it goes on asking, and says so once.
        await pass_server_time(bench.store, 0.5)
        assert not ready.is_set()
        assert await bench.store.workers("agent") == []
        assert [entry.state for entry in await bench.open_entries(run)] == ["queued"]
        await bench.store.client.command("DEL", broken)
        await bench.wait_status("completed", run)
        assert ready.is_set()


async def raises(error: BaseException) -> Any:
    """A handler that raises this."""
    raise error


async def gives(value: Any) -> Any:
    """A handler that returns this."""
    return value


async def cancels_itself() -> Any:
    """A handler that waits for a task of its own which was cancelled: by a library, or by a timeout gone wrong."""
    inner = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    inner.cancel()
    await inner


class Outrageous(BaseException):
    """What no handler should raise."""


ENDINGS: dict[str, tuple[Callable[[], Awaitable[Any]], str]] = {
    "an-error": (lambda: raises(ValueError("no")), "handler-error"),
    "a-typed-error": (lambda: raises(TaskError("no-credit", "pay first")), "no-credit"),
    "a-group": (lambda: raises(ExceptionGroup("several", [OSError("a"), KeyError("b")])), "handler-error"),
    "a-timeout": (lambda: raises(TimeoutError()), "handler-error"),
    "a-cancellation": (cancels_itself, "handler-error"),
    "no-json": (lambda: gives(object()), "handler-error"),
    "no-number": (lambda: gives(float("nan")), "report-rejected"),
    "half-a-character": (lambda: gives("\ud800"), "report-rejected"),
}


@pytest.mark.failure(4)
async def test_f04_whatever_a_handler_does_is_an_outcome(bench: Bench) -> None:
    """Errors of all kinds, and results that can't be stored: each run fails, and says by what. None waits for a lease."""
    once = RetryPolicy(max_attempts=1)
    definitions = {name: (await bench.prepare(pipeline(stage(name, retry=once)))).pipeline for name in ENDINGS}

    async def act(context: TaskContext) -> Any:
        handler, _ = ENDINGS[TaskId.parse(context.task_id).stage]
        return await handler()

    async with bench.orchestrating(), bench.working(act=act, concurrency=len(ENDINGS)):
        ids = {name: await bench.submit(definition) for name, definition in definitions.items()}
        await bench.wait_status("failed", *ids.values(), timeout=2.5)
    for name, run in ids.items():
        error = (await bench.state(run)).error
        assert error is not None
        reason = error.details.get("last_reason", error.reason)
        assert (name, reason) == (name, ENDINGS[name][1])


@pytest.mark.failure(4)
async def test_f04_what_leaves_no_outcome_becomes_poison(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """A handler that raises what is no `Exception` at all: it is delivered up to the limit, and then given up by name."""
    limits = Limits(lease_seconds=0.4, delivery_limit=2)
    async with Bench.on(redis_server.url, tmp_path, limits=limits) as bench:
        definition = (await bench.prepare(line("only"))).pipeline
        begun = 0

        async def act(context: TaskContext) -> Any:
            nonlocal begun
            begun += 1
            raise Outrageous

        async with bench.orchestrating(), bench.working(act=act, claim_poll_seconds=0.1):
            run = await bench.submit(definition)
            await bench.wait_status("failed", run)
        error = (await bench.state(run)).error
        assert error is not None
        assert (error.reason, begun) == ("poison", 2)


@pytest.mark.failure(3)
@pytest.mark.failure(4)
async def test_f03_a_task_that_ends_its_workers_is_named_and_given_up(bench: Bench, tmp_path: Path) -> None:
    """A worker that is killed with -9 whenever it has the task, and started again: `why` says so from the third time on; after
    the fifth nobody is given it any more, and the run fails by that.
    """
    definition = (await bench.prepare(pipeline(stage("only", params={"seconds": 60.0})))).pipeline
    place = (bench.store.client.settings.url, bench.store.keys.namespace, "w1", tmp_path)
    causes: list[str | None] = []
    async with bench.orchestrating():
        run = await bench.submit(definition)
        for delivery in range(1, 6):

            async def held(delivery: int = delivery) -> bool:
                (entry,) = await bench.open_entries(run)
                return (entry.state, entry.deliveries) == ("delivered", delivery)

            async with program("worker", *place) as process:
                await eventually(held)
                process.kill()
                await process.wait()
            causes.append((await diagnose(bench.store, run)).cause)
        async with program("worker", *place):
            await bench.wait_status("failed", run)
    assert causes == [None, None, "crash-loop", "crash-loop", "crash-loop"]
    assert (await diagnose(bench.store, run)).cause == "poison"
    assert (await bench.state(run)).stages["only"].attempt == 1


@pytest.mark.failure(6)
async def test_f06_a_group_neither_misses_nor_repeats(bench: Bench) -> None:
    """Tasks that were queued before anybody joined are taken; a group that was lost and made anew repeats none of them."""
    definition = (await bench.prepare(diamond())).pipeline
    runs = [await bench.submit(definition, workflow_id_in(number, 2)) for number in range(2)]
    await lose_groups(bench)
    begun: list[str] = []

    async def act(context: TaskContext) -> None:
        begun.append(context.task_id)

    async with bench.orchestrating():
        async with bench.working("w1", act):
            await bench.wait_status("completed", *runs)
        assert len(begun) == len(set(begun)) == 2 * 4
        await lose_groups(bench)
        late = await bench.submit(definition, "late")
        async with bench.working("w2", act):
            await bench.wait_status("completed", late)
    assert {TaskId.parse(task_id).workflow_id for task_id in begun[8:]} == {late}
    assert len(begun) == len(set(begun)) == 3 * 4


async def lose_groups(bench: Bench) -> None:
    """Destroy the agent's groups behind the back of everybody."""
    for partition in range(bench.store.partitions):
        for urgent in (True, False):
            key = bench.store.keys.partition(partition).tasks("agent", urgent=urgent)
            assert await bench.store.client.command("XGROUP", "DESTROY", key, "agent") == 1


@pytest.mark.failure(7)
async def test_f07_there_is_one_way_to_an_agent(bench: Bench) -> None:
    """With workers and orchestrators to spare every task is begun once, and nothing but streams carries a message."""
    definition = (await bench.prepare(diamond())).pipeline
    begun: Counter[str] = Counter()
    before = await calls_of(bench, OTHER_WAYS)

    async def act(context: TaskContext) -> None:
        begun[context.task_id] += 1

    async with bench.orchestrating("o1"), bench.orchestrating("o2"), bench.working("w1", act), bench.working("w2", act):
        runs = [await bench.submit(definition) for _ in range(25)]
        await bench.wait_status("completed", *runs)
    assert len(begun) == 25 * 4
    assert set(begun.values()) == {1}
    assert await calls_of(bench, OTHER_WAYS) == before


async def calls_of(bench: Bench, commands: Sequence[str]) -> list[int]:
    """How often each of these was called so far."""
    return [await bench.calls_of(command) for command in commands]


@pytest.mark.failure(3)
async def test_f03_what_was_acknowledged_is_reported(bench: Bench) -> None:
    """Whenever one looks a task that is not in its stream has its report: no moment lies between the two."""
    definition = (await bench.prepare(line("only"))).pipeline
    runs = [await bench.submit(definition, workflow_id_in(0, 2, number=number)) for number in range(1, 31)]
    queue = bench.queue()
    held: list[Delivery] = []
    while len(held) < len(runs):
        held += await queue.take(2 * len(runs), block_seconds=1)
    part = bench.part(runs[0])
    both = "return {redis.call('XLEN', KEYS[1]), redis.call('XLEN', KEYS[2])}"
    seen: set[tuple[int, int]] = set()

    async def look() -> None:
        while len(seen) < 2 or (0, 30) not in seen:
            left, reported = await bench.store.client.command("EVAL", both, 2, part.tasks("agent"), part.reports)
            seen.add((left, reported))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(look())
        for delivery in held:
            assert await queue.report([(delivery, completed(delivery.message.task_id), "")]) == [True]
    assert {left + reported for left, reported in seen} == {30}
