"""Waiting in tests: for a condition, never for a time; and for the clock of a server, which can't be turned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tailrace.core.clock import to_us
from tailrace.core.store.port import WorkflowStore

T = TypeVar("T")

PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.02


async def eventually(condition: Callable[[], Awaitable[T]], timeout: float = PATIENCE_SECONDS) -> T:
    """The first answer that is true; fails with the last one after `timeout` seconds."""
    answer: T | None = None
    try:
        async with asyncio.timeout(timeout):
            while True:
                if answer := await condition():
                    return answer
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"still {answer!r} after {timeout:g} s: {condition}") from None


async def pass_server_time(store: WorkflowStore, seconds: float) -> None:
    """Return when the store's clock has moved on by so much."""
    until = await store.now() + to_us(seconds)
    while (left := until - await store.now()) > 0:  # noqa: ASYNC110 - the clock is the server's
        await asyncio.sleep(left / 1_000_000)


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Run these beside the block and cancel them with it; what one of them raises is the test's error."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error
