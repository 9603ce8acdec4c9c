"""The circuit breaker on a clock turned by hand."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.agents.breaker import Breaker, State
from tailrace.core.errors import TaskError


class HandClock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def breaker(clock: HandClock) -> Breaker:
    return Breaker("model", clock=clock)


async def fail() -> None:
    raise ConnectionError("no credit")


async def succeed() -> str:
    return "answer"


async def open_it(breaker: Breaker) -> None:
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await breaker.call(fail)


@pytest.mark.failure(31)
async def test_five_failures_in_a_row_open_it(breaker: Breaker, clock: HandClock) -> None:
    """The fifth failure opens the breaker; the next call is refused without being made, with the facts."""
    for count in range(1, 5):
        with pytest.raises(ConnectionError):
            await breaker.call(fail)
        assert (breaker.state, breaker.snapshot().failures) == (State.closed, count)
    with pytest.raises(ConnectionError):
        await breaker.call(fail)
    assert breaker.state is State.open
    clock.now += 18
    with pytest.raises(TaskError) as caught:
        await breaker.call(succeed)
    assert caught.value.reason == "dependency-open"
    assert caught.value.may_retry
    assert caught.value.details == {
        "dependency": "model",
        "retry_after_seconds": 42.0,
        "last_error": "ConnectionError: no credit",
    }


async def test_a_success_between_failures_starts_the_count_again(breaker: Breaker) -> None:
    """Only failures in a row count."""
    for _ in range(3):
        for _ in range(4):
            with pytest.raises(ConnectionError):
                await breaker.call(fail)
        assert await breaker.call(succeed) == "answer"
    assert breaker.snapshot().failures == 0


async def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: HandClock) -> None:
    """After sixty seconds one call goes through, and its success ends the trouble."""
    await open_it(breaker)
    clock.now += 59.9
    assert breaker.state is State.open
    clock.now += 0.1
    assert breaker.state is State.half_open
    assert await breaker.call(succeed) == "answer"
    assert breaker.snapshot().state is State.closed
    assert breaker.snapshot().open_until is None


async def test_a_probe_that_fails_opens_it_again(breaker: Breaker, clock: HandClock) -> None:
    """One failed probe is enough for another sixty seconds."""
    await open_it(breaker)
    clock.now += 60
    with pytest.raises(ConnectionError):
        await breaker.call(fail)
    assert breaker.snapshot().state is State.open
    assert breaker.snapshot().open_until == clock.now + 60


async def test_only_one_probe_at_a_time(breaker: Breaker, clock: HandClock) -> None:
    """While a probe is under way everybody else is refused."""
    await open_it(breaker)
    clock.now += 60
    inside, release = asyncio.Event(), asyncio.Event()

    async def probe() -> None:
        async with breaker:
            inside.set()
            await release.wait()

    task = asyncio.create_task(probe())
    await inside.wait()
    with pytest.raises(TaskError, match="failed 5 times"):
        await breaker.call(succeed)
    release.set()
    await task
    assert breaker.state is State.closed


async def test_a_cancelled_probe_frees_its_place(breaker: Breaker, clock: HandClock) -> None:
    """Cancellation is neither a success nor a failure: the next call probes."""
    await open_it(breaker)
    clock.now += 60
    inside = asyncio.Event()

    async def probe() -> None:
        async with breaker:
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(probe())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.state is State.half_open
    assert await breaker.call(succeed) == "answer"
    assert breaker.state is State.closed


async def test_a_late_outcome_does_not_close_an_open_breaker(breaker: Breaker) -> None:
    """A call that began before the breaker opened says nothing about the dependency now."""
    inside, release = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with breaker:
            inside.set()
            await release.wait()

    task = asyncio.create_task(slow())
    await inside.wait()
    await open_it(breaker)
    release.set()
    await task
    assert breaker.state is State.open


async def test_a_refused_request_is_an_answer(breaker: Breaker) -> None:
    """A failure that no retry mends is about the request; one that a retry may mend is about the dependency."""

    async def refuse(retryable: bool) -> None:
        raise TaskError("bad-prompt", "no", retryable=retryable)

    for _ in range(6):
        with pytest.raises(TaskError, match="no"):
            await breaker.call(refuse, False)
    assert breaker.state is State.closed
    for _ in range(5):
        with pytest.raises(TaskError, match="no"):
            await breaker.call(refuse, True)
    assert breaker.state is State.open
