"""The pool that readers share: bounded in size, in waiting and in time, and mended by itself.

Invariant: every call ends within `acquire_seconds + query_seconds` and a little more, with rows or with
`ReadModelUnavailable`. A connection on which anything went wrong is not used again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import asyncpg
import msgspec

from tailrace.core.errors import IdentityMismatch
from tailrace.projections.session import CONNECT_SECONDS, UNAVAILABLE, server_settings, unavailable
from tailrace.projections.sql import statements

#: What shows that a pooled connection had died unnoticed: worth a try on the next one, of which as many may be dead as
#: there are. The last error is what the driver says when the server's farewell is read together with a statement.
_DEAD: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

#: How much longer than the server the client waits for the end of a statement.
_GRACE_SECONDS: Final = 1.0

_IDENTITY: Final = statements("migrate")["identity"]


class _DiedUnnoticed(Exception):
    """A pooled connection was dead when it was used; nothing of the statement is left behind."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Pool:
    """Up to `size` connections, made when they are needed. Those who find none wait in order, for `acquire_seconds`."""

    def __init__(
        self,
        url: str,
        *,
        application_name: str,
        instance_id: str | None,
        size: int,
        acquire_seconds: float,
        query_seconds: float,
    ) -> None:
        self._acquire_seconds = acquire_seconds
        self._query_seconds = query_seconds
        self._instance_id = instance_id
        self._url = url
        self._size = size
        # Filters come as parameters that may be null: planned for the values given, they use the indexes.
        self._settings = server_settings(
            application_name,
            statement_seconds=query_seconds,
            plan_cache_mode="force_custom_plan",
            default_transaction_read_only="on",
        )
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    async def fetch(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """The rows of a reading statement; raises `ReadModelUnavailable`, or `IdentityMismatch`."""
        try:
            for _ in range(self._size):
                with suppress(_DiedUnnoticed):
                    return await self._fetch(sql, values)
            return await self._fetch(sql, values)
        except _DiedUnnoticed as error:
            raise unavailable(error.cause) from error.cause
        except UNAVAILABLE as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        """End all connections at once."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def _fetch(self, sql: str, values: tuple[Any, ...]) -> list[asyncpg.Record]:
        pool = await self._opened()
        async with asyncio.timeout(self._acquire_seconds):
            connection = await pool.acquire()
        try:
            rows: list[asyncpg.Record] = await connection.fetch(
                sql, *values, timeout=self._query_seconds + _GRACE_SECONDS
            )
        except asyncpg.QueryCanceledError:
            raise  # ended by the server, at its limit: the connection is as good as before
        except BaseException as error:
            with suppress(asyncpg.InterfaceError):  # when it has ended by itself, it is out of the pool already
                connection.terminate()
            if isinstance(error, _DEAD) and not isinstance(error, TimeoutError):
                raise _DiedUnnoticed(error) from error
            raise
        finally:
            await pool.release(connection)
        return rows

    async def _opened(self) -> asyncpg.Pool[asyncpg.Record]:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=self._size,
                    timeout=CONNECT_SECONDS,
                    init=self._prepare,
                    reset=_keep,
                    server_settings=self._settings,
                )
        return self._pool

    async def _prepare(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Let JSON come decoded, and refuse the read model of another namespace: its rows would look like ours."""
        for name in ("json", "jsonb"):
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=_to_json, decoder=msgspec.json.decode, format="text"
            )
        if self._instance_id is None:
            return
        found = await connection.fetchval(_IDENTITY, timeout=CONNECT_SECONDS)
        if found != self._instance_id:
            raise IdentityMismatch(
                f"the database holds the read model of the store {found}, and this process is on {self._instance_id}"
            )


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def _keep(_: asyncpg.Connection[asyncpg.Record]) -> None:
    """Nothing to reset: reading leaves no trace in a session."""
