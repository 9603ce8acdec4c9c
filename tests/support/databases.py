"""Databases of tests on a shared server."""

from __future__ import annotations

import asyncpg

from tests.support.waiting import eventually


async def drop_database(admin: asyncpg.Connection[asyncpg.Record], name: str) -> None:
    """Drop it, whoever is connected; the server's own vacuum can't be sent away, and is waited for."""

    async def dropped() -> bool:
        try:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        except (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectInUseError):
            return False
        return True

    await eventually(dropped)
