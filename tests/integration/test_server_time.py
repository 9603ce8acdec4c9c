"""The time of the store is the server's, though it is seldom asked for."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.core.redis_backend import store as module
from tailrace.core.redis_backend.replies import microseconds
from tailrace.core.redis_backend.store import RedisStore


async def test_time_is_counted_on_from_the_servers_answer(redis_store: RedisStore) -> None:
    """Never ahead of the server's, and not behind it by more than an answer takes to come."""
    asked = await _asked(redis_store)
    for _ in range(50):
        before = microseconds(await redis_store.client.command("TIME"))
        now = await redis_store.now()
        after = microseconds(await redis_store.client.command("TIME"))
        assert before - 1_000_000 < now <= after
        await asyncio.sleep(0.001)
    assert await _asked(redis_store) - asked <= 100 + 2


async def test_it_is_asked_for_again(redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a clock that is set, or another server, is noticed."""
    first = await redis_store.now()
    asked = await _asked(redis_store)
    assert await redis_store.now() >= first
    assert await _asked(redis_store) == asked
    monkeypatch.setattr(module, "TIME_SECONDS", 0.0)
    await redis_store.now()
    assert await _asked(redis_store) == asked + 1


async def _asked(store: RedisStore) -> int:
    """How many TIMEs the server has answered."""
    said = (await store.client.command("INFO", "commandstats")).decode()
    lines = [line for line in said.splitlines() if line.startswith("cmdstat_time:")]
    return int(lines[0].partition("calls=")[2].partition(",")[0]) if lines else 0
