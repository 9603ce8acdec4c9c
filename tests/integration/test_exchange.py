"""Exchanges with a real server: replies belong to whom they are for, whatever happens to those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from tailrace.core.redis_backend.exchange import Exchange
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.servers import redis_program
from tests.support.waiting import eventually


@pytest.fixture
async def exchange(redis_server: EmbeddedRedis) -> AsyncIterator[Exchange]:
    """Two connections at most."""
    made = Exchange(redis_server.url, timeout=2.0, most=2)
    yield made
    await made.aclose()


async def test_replies_come_in_order_and_errors_among_them(exchange: Exchange, namespace: str) -> None:
    """An error is the reply of its command alone; words may be text, bytes and numbers."""
    number, text, wrong, after = await exchange.send(
        [("INCRBY", namespace, 41), ("ECHO", b"\x00\r\n"), ("LPUSH", namespace, 1.5), ("INCR", namespace)]
    )
    assert (number, text, after) == (41, b"\x00\r\n", 42)
    assert isinstance(wrong, ResponseError)
    assert await exchange.send([]) == []


async def test_an_exchange_that_was_given_up_leaves_no_reply_for_the_next(exchange: Exchange, namespace: str) -> None:
    """Its connection is closed: the late reply must not answer another question."""
    reading = asyncio.create_task(exchange.send([("BLPOP", namespace, 0)]))

    async def blocked() -> bool:
        (clients,) = await exchange.send([("CLIENT", "LIST")])
        return b"cmd=blpop" in clients

    await eventually(blocked, 5.0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await exchange.send([("RPUSH", namespace, "late")])
    replies = await asyncio.gather(*(exchange.send([("ECHO", str(number))]) for number in range(50)))
    assert replies == [[str(number).encode()] for number in range(50)]


async def test_waiting_for_a_connection_ends_with_the_time(redis_server: EmbeddedRedis, namespace: str) -> None:
    """And so does waiting for a reply; the next exchange finds a connection again."""
    short = Exchange(redis_server.url, timeout=0.2, most=1)
    try:
        ended = await asyncio.gather(*(short.send([("BLPOP", namespace, 0)]) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in ended] == [TimeoutError] * 3
        assert await short.send([("ECHO", "again")]) == [b"again"]
    finally:
        await short.aclose()


async def test_connections_that_a_restart_has_ended_are_made_again(tmp_path: Path) -> None:
    """At rest, when it happens: the next exchange does not even notice."""
    async with EmbeddedRedis(tmp_path / "redis", server=redis_program(), maxmemory_bytes=64 * 1024 * 1024) as server:
        exchange = Exchange(server.url, timeout=2.0, most=4)
        try:
            await asyncio.gather(*(exchange.send([("ECHO", "before")]) for _ in range(4)))
            await server.stop()
            await server.start()
            replies = await asyncio.gather(*(exchange.send([("ECHO", "after")]) for _ in range(4)))
            assert replies == [[b"after"]] * 4
        finally:
            await exchange.aclose()


async def test_a_command_goes_along_with_the_next_exchange(exchange: Exchange, namespace: str) -> None:
    """Behind the others, on their connection; whoever sent them gets theirs only. Without any it is not sent."""
    assert await exchange.send_along(("INCR", namespace), turns=5) is None
    along = asyncio.create_task(exchange.send_along(("INCR", namespace), turns=5))
    await asyncio.sleep(0)
    assert await exchange.send([("SET", namespace, 7), ("GET", namespace)]) == [b"OK", b"7"]
    assert await along == 8
    assert await exchange.send([("GET", namespace)]) == [b"8"]


async def test_what_goes_along_shares_the_end_of_the_exchange(redis_server: EmbeddedRedis, namespace: str) -> None:
    """Its error and its being given up; a refused command is an error of its own."""
    short = Exchange(redis_server.url, timeout=0.2, most=2)
    try:
        refused = asyncio.create_task(short.send_along(("LPUSH", namespace), turns=5))
        await asyncio.sleep(0)
        await short.send([("PING",)])
        assert isinstance(await refused, ResponseError)
        for end, error in ((None, TimeoutError), ("cancel", ConnectionError)):
            along = asyncio.create_task(short.send_along(("PING",), turns=5))
            await asyncio.sleep(0)
            reading = asyncio.create_task(short.send([("BLPOP", namespace, 0)]))
            await asyncio.sleep(0.05)
            if end == "cancel":
                reading.cancel()
            ended, other = await asyncio.gather(along, reading, return_exceptions=True)
            assert isinstance(ended, error)
            assert isinstance(other, asyncio.CancelledError if end == "cancel" else error)
        # One that waits no more is not sent, or its reply is nobody's.
        for turns in (0, 3):
            along = asyncio.create_task(short.send_along(("INCR", namespace), turns=5))
            await asyncio.sleep(0)
            sending = asyncio.create_task(short.send([("PING",)]))
            for _ in range(turns):
                await asyncio.sleep(0)
            along.cancel()
            assert await sending == [b"PONG"]
            with pytest.raises(asyncio.CancelledError):
                await along
        assert await short.send([("ECHO", "in order")]) == [b"in order"]
    finally:
        await short.aclose()
