"""Exchanges with Redis: commands that leave together, and their replies in the same order.

The driver makes and greets the connections; sending and reading is done here, because its clients and pools cost several
times what an exchange itself does. Invariant: a connection serves one exchange at a time, and one whose exchange did not end
is closed, so that no reply is ever read by somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hiredis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

Argument = str | bytes | int | float

#: At C speed; its stubs say that a command has one word.
_packed: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


class _Passenger(NamedTuple):
    """A command that goes along with an exchange, and where its reply is waited for."""

    command: Sequence[Argument]
    answered: asyncio.Future[Any]


class Exchange:
    """Connections of one purpose, at most `most` of them; an exchange takes `timeout` seconds at most, waiting included."""

    def __init__(self, url: str, *, timeout: float, most: int, **options: Any) -> None:
        # Without a timeout of the driver's: one around the whole exchange costs less, and also bounds the greeting.
        self._pool = redis.asyncio.ConnectionPool.from_url(url, socket_timeout=None, **options)
        self._timeout = timeout
        self._places = asyncio.Semaphore(most)
        self._made: list[AbstractConnection] = []
        self._idle: list[AbstractConnection] = []
        self._passengers: list[_Passenger] = []

    async def send(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """The replies to these commands; one that is an error is given as that error.

        Raises errors of the connection, `TimeoutError` among them: then any of the commands may have had its effect.
        """
        if not commands or not self._passengers:
            return await self._exchange(commands)
        passengers, self._passengers = self._passengers, []
        try:
            replies = await self._exchange([*commands, *(passenger.command for passenger in passengers)])
        except BaseException as error:
            reason = error if isinstance(error, Exception) else ConnectionError("the exchange was given up")
            for passenger in passengers:
                if not passenger.answered.done():
                    passenger.answered.set_exception(reason)
            raise
        for passenger, reply in zip(passengers, replies[len(commands) :], strict=True):
            if not passenger.answered.done():
                passenger.answered.set_result(reply)
        return replies[: len(commands)]

    async def send_along(self, command: Sequence[Argument], *, turns: int) -> Any:
        """The reply to a command that leaves with the next exchange of somebody else; None where that does not begin soon.

        Soon: within so many turns of the event loop. Errors are given and raised as by `send`.
        """
        passenger = _Passenger(command, asyncio.get_running_loop().create_future())
        self._passengers.append(passenger)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
                if passenger not in self._passengers:
                    return await passenger.answered
            return None
        finally:
            if passenger in self._passengers:
                self._passengers.remove(passenger)

    async def _exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        if not commands:
            return []
        packed = b"".join([_packed(tuple(command)) for command in commands])
        async with asyncio.timeout(self._timeout), self._places:
            connection = self._idle.pop() if self._idle else self._make()
            whole = False
            try:
                await _make_ready(connection)
                await connection.send_packed_command(packed, check_health=False)
                replies = [await _reply(connection) for _ in commands]
                whole = True
            finally:
                if not whole:
                    await connection.disconnect(nowait=True)
                self._idle.append(connection)
        return replies

    async def aclose(self) -> None:
        """Close every connection; an exchange under way ends with an error."""
        for connection in self._made:
            await connection.disconnect()

    def _make(self) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # so in redis-py
        self._made.append(connection)
        return connection


async def _make_ready(connection: AbstractConnection) -> None:
    """Connected, and nothing to be read: the server may have closed it since, or said something that nobody asked for."""
    if connection.is_connected and await connection.can_read():
        await connection.disconnect(nowait=True)
    if not connection.is_connected:
        await connection.connect()  # type: ignore[no-untyped-call]  # so in redis-py


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        return error


def first_error(replies: Sequence[Any]) -> RedisError | None:
    """The first of the replies that is an error."""
    return next((reply for reply in replies if isinstance(reply, RedisError)), None)
