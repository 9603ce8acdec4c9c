"""Positions of readers that write no rows here: how far each has come in the partitions that its projector owns.

Invariant: only the projector that owns a partition moves a position in it, so of several readers one goes on. Trimming
waits for a reader that moves and is not far behind; what was trimmed before a reader came to it, the archive still has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

from tailrace.projections.checkpoints import Place
from tailrace.projections.session import UNAVAILABLE, Session, connect, unavailable
from tailrace.projections.sql import statements

_SQL = statements("positions")


class Positions:
    """The positions of `reader` for the projector called `owner`; on one session, made when it is needed."""

    def __init__(self, url: str, *, reader: str, owner: str) -> None:
        self._url = url
        self._reader = reader
        self._owner = owner
        self._session: Session | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Positions:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session at once."""
        if self._session is not None:
            self._session.terminate()
            self._session = None

    async def load(self, partition: int) -> Place | None:
        """Where the reader is; None when it never was anywhere. Raises `ReadModelUnavailable`."""
        row = await self._call(lambda session: session.fetchrow(_SQL["load"], self._reader, partition))
        return None if row is None else Place(position=row["position"], seq=row["seq"])

    async def save(self, partition: int, place: Place) -> bool:
        """Move to a place; False when the projector does not own the partition any more. Raises `ReadModelUnavailable`."""
        status: str = await self._call(
            lambda session: session.execute(
                _SQL["save"], self._reader, partition, self._owner, place.position, place.seq
            )
        )
        return status != "INSERT 0 0"

    async def _call(self, statement: Callable[[Session], Any]) -> Any:
        async with self._turn:
            try:
                if self._session is None or self._session.is_closed():
                    self._session = await connect(self._url, f"tailrace {self._reader}")
                return await statement(self._session)
            except asyncpg.UndefinedTableError as error:
                raise unavailable(error) from error  # the projector has not migrated yet
            except UNAVAILABLE as error:
                self.close()
                raise unavailable(error) from error
            except BaseException:
                self.close()
                raise
