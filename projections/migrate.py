"""Migrations of the schema `tailrace`, and whose database this is.

All of it is one transaction under an advisory lock: several processes may start at once, and a crash leaves the schema
as it was. A migration that was applied is never edited; its checksum is kept and compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging

import asyncpg

from tailrace.core.errors import ConfigurationError, IdentityMismatch, ReadModelUnavailable
from tailrace.projections.session import UNAVAILABLE, Session, connect, unavailable
from tailrace.projections.sql import migrations, statements

_SQL = statements("migrate")
_log = logging.getLogger(__name__)

#: How long to wait for another process that migrates.
MIGRATION_SECONDS = 300.0


async def migrate(url: str, *, instance_id: str, partitions: int) -> list[str]:
    """Bring the database up to this code and claim it for the store `instance_id`; gives the names of what was applied.

    Raises `ConfigurationError` when the database is newer than this code or was migrated differently,
    `IdentityMismatch` when it belongs to another namespace, `ReadModelUnavailable` when it can't be reached.
    """
    try:
        connection = await connect(url, "tailrace migrate", statement_seconds=MIGRATION_SECONDS)
    except (asyncpg.InvalidCatalogNameError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise ConfigurationError(f"the Postgres URL does not lead to a database: {error}") from error
    except UNAVAILABLE as error:
        raise unavailable(error) from error
    try:
        async with connection.transaction():
            await connection.execute(_SQL["lock"])
            applied = await _apply(connection)
            await _claim(connection, instance_id, partitions)
        return applied
    except asyncpg.SyntaxOrAccessError as error:  # a missing privilege, too
        raise ConfigurationError(f"the schema 'tailrace' can't be made in this database: {error}") from error
    except UNAVAILABLE as error:
        raise unavailable(error) from error
    finally:
        connection.terminate()


async def wait_migrated(url: str, *, instance_id: str, partitions: int, retry_seconds: float = 1.0) -> list[str]:
    """Like `migrate`, but waits for a Postgres that is not there yet."""
    said = False
    while True:
        try:
            return await migrate(url, instance_id=instance_id, partitions=partitions)
        except ReadModelUnavailable as error:
            _log.log(logging.DEBUG if said else logging.WARNING, "waiting for Postgres: %s", error)
            said = True
            await asyncio.sleep(retry_seconds)


async def _apply(connection: Session) -> list[str]:
    if not await connection.fetchval(_SQL["exists"]):
        if not await connection.fetchval(_SQL["schema_exists"]):  # it may have been made for a user who may not
            await connection.execute(_SQL["schema"])
        await connection.execute(_SQL["table"])
    applied = {row["version"]: (row["name"], row["checksum"]) for row in await connection.fetch(_SQL["applied"])}
    known = migrations()
    newer = sorted(set(applied) - {version for version, _, _ in known})
    if newer:
        raise ConfigurationError(
            f"the database has migration {newer[-1]} ({applied[newer[-1]][0]}), which this version of Tailrace does not "
            "know: run the newer version, or give it another database"
        )
    done = []
    for version, name, text in known:
        checksum = hashlib.sha256(text.encode()).hexdigest()
        if version not in applied:
            await connection.execute(text)
            await connection.execute(_SQL["record"], version, name, checksum)
            done.append(f"{version:04}_{name}")
        elif applied[version][1] != checksum:
            raise ConfigurationError(
                f"migration {version} ({name}) was applied to this database with another content: "
                "the database belongs to another build of Tailrace; give this one its own database"
            )
    return done


async def _claim(connection: Session, instance_id: str, partitions: int) -> None:
    await connection.execute(_SQL["identify"], instance_id, partitions)
    row = await connection.fetchrow(_SQL["identity"])
    assert row is not None
    if row["instance_id"] != instance_id:
        raise IdentityMismatch(
            f"the database holds the read model of the store {row['instance_id']}, and this process is on {instance_id}: "
            "check TAILRACE_REDIS_URL and TAILRACE_POSTGRES_URL, or give this namespace another database"
        )
    if row["partitions"] != partitions:
        raise IdentityMismatch(
            f"the database was made for {row['partitions']} partitions, and the namespace has {partitions}"
        )
    await connection.execute(_SQL["partitions"], partitions)
