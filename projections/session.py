"""Sessions with Postgres, and what its errors mean. The only place that knows how to connect.

Invariant: no call waits for ever. Connecting, every statement and an idle transaction have limits on both sides, so
that neither a dead network nor a frozen process holds locks for long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias

import asyncpg
import asyncpg.exceptions

from tailrace.core.errors import ConfigurationError, ReadModelUnavailable

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CONNECT_SECONDS: Final = 2.0
STATEMENT_SECONDS: Final = 30.0
IDLE_IN_TRANSACTION_SECONDS: Final = 3.0
UNANSWERED_SECONDS: Final = 6.0

#: What a batch names by its key is found by its key. Left alone, the planner reads all of a table that is small, and such a
#: plan is kept for the session's statements until the table is analyzed again, however much it has grown meanwhile.
BY_KEY: Final[Mapping[str, str]] = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}

#: For long work: a transaction may wait for its own side, which folds.
STAYS: Final[Mapping[str, str]] = {"idle_in_transaction_session_timeout": "60000"}

#: What a driver raises when the server is gone, busy, restarting, or took our side of a conflict: try again later.
UNAVAILABLE: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

#: What one value can do: it is too large, out of range, or breaks a constraint. The driver's own refusal of a value,
#: before it is sent, is a ValueError; Python's are the last three.
_VALUE_ERRORS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    TypeError,
    ArithmeticError,
)

_log = logging.getLogger(__name__)


def server_settings(application_name: str, *, statement_seconds: float, **more: str) -> dict[str, str]:
    """The settings of a session; times in seconds."""
    return {
        "application_name": application_name[:63],
        "statement_timeout": _milliseconds(statement_seconds),
        "idle_in_transaction_session_timeout": _milliseconds(IDLE_IN_TRANSACTION_SECONDS),
        "tcp_user_timeout": _milliseconds(UNANSWERED_SECONDS),
        "jit": "off",
        "search_path": "tailrace",
        "timezone": "UTC",
        **more,
    }


async def connect(
    url: str,
    application_name: str,
    *,
    statement_seconds: float = STATEMENT_SECONDS,
    search_path: str = "tailrace",
    more: Mapping[str, str] | None = None,
) -> Session:
    """A session that writes read models: its commits return before they are on disk (rows and checkpoint together).

    `more` are further settings. Raises what is in `UNAVAILABLE`.
    """
    settings = server_settings(
        application_name,
        statement_seconds=statement_seconds,
        synchronous_commit="off",
        search_path=search_path,
        **(more or {}),
    )
    async with asyncio.timeout(CONNECT_SECONDS):
        return await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=statement_seconds + UNANSWERED_SECONDS,
            server_settings=settings,
        )


async def end_with_client(session: Session) -> None:
    """Let the server notice within a second when this side is gone, also in the middle of a long statement.

    Without it, where its system can't tell, locks are held to the end of that statement.
    """
    with suppress(asyncpg.PostgresError):
        await session.execute("SET client_connection_check_interval = 1000")


async def ask(url: str) -> None:
    """Return when the server answers.

    Raises `ReadModelUnavailable` when it does not, `ConfigurationError` when there is no such database or user.
    """
    try:
        connection = await connect(url, "tailrace up")
    except (
        asyncpg.InvalidCatalogNameError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.exceptions.ClientConfigurationError,
    ) as error:
        raise ConfigurationError(f"the Postgres URL does not lead to a database: {error}") from error
    except UNAVAILABLE as error:
        raise unavailable(error) from error
    connection.terminate()


@asynccontextmanager
async def session(url: str, application_name: str) -> AsyncIterator[Session]:
    """A projector's session. It is ended at once on the way out: an open transaction is rolled back by the server."""
    connection = await connect(url, application_name, more=BY_KEY)
    try:
        yield connection
    finally:
        connection.terminate()


def is_poison(error: BaseException) -> bool:
    """True when a value caused the error, so that the same statement would fail for ever."""
    return isinstance(error, _VALUE_ERRORS)


def unavailable(error: BaseException) -> ReadModelUnavailable:
    """The error for callers of the read model: says what failed, without addresses."""
    if isinstance(error, TimeoutError):
        return ReadModelUnavailable("Postgres did not answer in time, or all its connections are busy")
    if isinstance(error, asyncpg.PostgresError):
        return ReadModelUnavailable(f"Postgres is not available: {error}")
    return ReadModelUnavailable(f"Postgres is not available: {type(error).__name__}")


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
