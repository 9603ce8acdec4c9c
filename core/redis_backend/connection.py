"""Connections to Redis: bounded, never retried by the driver, and translated errors.

Blocking reads have clients of their own, so a publish never waits behind one. The driver's own retries are off: by default
it sends a command up to ten times more without a word, and a second XADD is a second entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)
from redis.retry import Retry

from tailrace.core.errors import StoreCorrupt, StoreFull, StoreUnavailable
from tailrace.core.redis_backend.exchange import Argument, Exchange, first_error
from tailrace.core.redis_backend.scripts import Script

#: How long a blocking read may wait on the server, in seconds; its socket waits `BLOCK_GRACE_SECONDS` longer.
MAX_BLOCK_SECONDS: Final = 5.0
BLOCK_GRACE_SECONDS: Final = 5.0


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach Redis. Timeouts in seconds; `timeout` limits every call that does not block on purpose."""

    url: str
    connect_timeout: float = 2.0
    timeout: float = 3.0
    max_connections: int = 16


class Call(msgspec.Struct, frozen=True):
    """One script call."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument]

    @property
    def command(self) -> tuple[Argument, ...]:
        """As it is sent."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)


@contextmanager
def translated() -> Iterator[None]:
    """Drivers' errors leave as the errors of this project."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, BusyLoadingError, OSError) as error:
        raise StoreUnavailable(f"Redis can't be reached: {str(error) or type(error).__name__}") from error
    except RedisError as error:
        raise translate(error) from error


def translate(error: RedisError) -> StoreUnavailable | StoreFull | StoreCorrupt:
    """The error of this project for one that came as a reply."""
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "OOM " in text or "maxmemory" in text:
        return StoreFull("Redis is at its memory limit")
    transient = (
        "LOADING",
        "MASTERDOWN",
        "READONLY",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MISCONF",
        "BUSY ",
        "NOREPLICAS",
        "UNBLOCKED",
        "NOAUTH",
        "NOPERM",
        "WRONGPASS",
        "TRYAGAIN",
        "UNKILLABLE",
    )
    away = RedisConnectionError | RedisTimeoutError | BusyLoadingError | NoPermissionError
    if isinstance(error, away) or text.startswith(transient):
        return StoreUnavailable(f"Redis can't serve now: {text}")
    return StoreCorrupt(text)


class Client:
    """Connections for short calls, and others for blocking reads."""

    def __init__(self, settings: RedisSettings) -> None:
        common: dict[str, Any] = {
            "protocol": 2,
            "socket_connect_timeout": settings.connect_timeout,
            "retry": AsyncRetry(NoBackoff(), 0),
            "most": settings.max_connections,
            "client_name": "tailrace",
        }
        self.settings = settings
        self._short = Exchange(settings.url, timeout=settings.timeout, **common)
        self._blocking = Exchange(settings.url, timeout=MAX_BLOCK_SECONDS + BLOCK_GRACE_SECONDS, **common)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._short.aclose()
        await self._blocking.aclose()

    async def command(self, *parts: Argument) -> Any:
        """One command; raises `StoreUnavailable`, `StoreFull` or `StoreCorrupt`."""
        (reply,) = await self.pipeline([parts])
        return reply

    async def block(self, *commands: Sequence[Argument]) -> list[Any]:
        """Commands of which the first may wait on the server, on a connection of their own; the others come after it."""
        with translated():
            replies = await self._blocking.send(commands)
        _raise_first(replies)
        return replies

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Several commands in one round trip; raises the first error among the replies.

        What belongs to one moment is a script: Redis 7.0 refuses to queue for MULTI, reads too, when its memory is full.
        """
        replies = await self.pipeline_tolerant(commands)
        _raise_first(replies)
        return replies

    async def pipeline_tolerant(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """As `pipeline`, but an error among the replies is given as that error: for looking at what may be missing."""
        with translated():
            return await self._short.send(commands)

    async def along(self, command: Sequence[Argument], *, turns: int) -> Any:
        """A command that leaves with the next of these short calls; None where none begins within so many turns of the loop.

        A reply that is an error is given as that error.
        """
        with translated():
            return await self._short.send_along(command, turns=turns)

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run one script."""
        (reply,) = replies = await self.calls([Call(script, keys, args)])
        _raise_first(replies)
        return reply

    async def calls(self, calls: Sequence[Call]) -> list[Any]:
        """Run several scripts in one round trip; a reply that is an error is given as that error.

        After a restart the server knows no script: only the calls that say so are sent again, the others had their effect.
        """
        with translated():
            replies = await self._short.send([call.command for call in calls])
            unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                texts = {calls[index].script.text for index in unknown}
                await self._short.send([("SCRIPT", "LOAD", text) for text in texts])
                again = await self._short.send([calls[index].command for index in unknown])
                for index, reply in zip(unknown, again, strict=True):
                    replies[index] = reply
            return replies


async def ask(url: str) -> None:
    """Return when the server answers; raises `StoreUnavailable` when it does not, or does not let us in."""
    client = Client(RedisSettings(url=url, max_connections=1))
    try:
        await client.command("PING")
    finally:
        await client.aclose()


def _raise_first(replies: Sequence[Any]) -> None:
    error = first_error(replies)
    if error is not None:
        raise translate(error) from error


class ThreadClient:
    """A synchronous client for a thread of its own: one connection, the same rules."""

    def __init__(self, settings: RedisSettings) -> None:
        self._redis = redis.Redis.from_url(
            settings.url,
            protocol=2,
            socket_connect_timeout=settings.connect_timeout,
            socket_timeout=settings.timeout,
            retry=Retry(NoBackoff(), 0),
            max_connections=1,
            client_name="tailrace-leases",
        )
        self._redis.response_callbacks.clear()

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run one script."""
        with translated():
            try:
                return self._redis.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
            except NoScriptError:
                self._redis.execute_command("SCRIPT", "LOAD", script.text)
                return self._redis.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
