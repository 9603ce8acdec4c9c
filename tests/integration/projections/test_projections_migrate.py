"""Migrations: once, whole, by however many processes at a time, and only of the right database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from tailrace.core.errors import ConfigurationError, IdentityMismatch, ReadModelUnavailable
from tailrace.infra.embedded import EmbeddedPostgres
from tailrace.projections import migrate as module
from tailrace.projections.migrate import migrate
from tailrace.projections.sql import migrations
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, projecting

Migrations = list[tuple[int, str, str]]


async def test_a_migrated_database_is_left_alone(postgres_url: str, db: Database) -> None:
    """The second time nothing is applied, and nothing is said."""
    names = [f"{version:04}_{name}" for version, name, _ in migrations()]
    assert await migrate(postgres_url, instance_id="a", partitions=2) == names
    assert await migrate(postgres_url, instance_id="a", partitions=2) == []
    assert await db.value("SELECT count(*) FROM tailrace.partitions") == 2


async def test_many_processes_at_once(postgres_url: str) -> None:
    """One of them migrates, the others wait for it."""
    applied = await asyncio.gather(*(migrate(postgres_url, instance_id="a", partitions=2) for _ in range(8)))
    assert sorted(map(len, applied)) == [0] * 7 + [len(migrations())]


async def test_a_migration_that_fails_leaves_nothing(
    postgres_url: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is one transaction: the schema is as it was, and the next attempt starts afresh."""
    known = migrations()
    broken = (known[-1][0] + 1, "broken", "CREATE TABLE tailrace.half (a integer); SELECT 1 FROM tailrace.nowhere")
    with monkeypatch.context() as patched:
        patched.setattr(module, "migrations", lambda: [*known, broken])
        with pytest.raises(ConfigurationError, match="nowhere"):
            await migrate(postgres_url, instance_id="a", partitions=2)
        assert await db.value("SELECT to_regnamespace('tailrace') IS NULL")
    assert len(await migrate(postgres_url, instance_id="a", partitions=2)) == len(known)


async def test_a_later_migration_is_added(postgres_url: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is missing is applied."""
    await migrate(postgres_url, instance_id="a", partitions=2)
    known = migrations()
    later = (known[-1][0] + 1, "later", "CREATE TABLE tailrace.later (a integer)")
    monkeypatch.setattr(module, "migrations", lambda: [*known, later])
    assert await migrate(postgres_url, instance_id="a", partitions=2) == [f"{later[0]:04}_later"]
    assert await db.value("SELECT count(*) FROM tailrace.later") == 0


def without_the_last(known: Migrations) -> Migrations:
    """This code is older than the database."""
    return known[:-1]


def edited(known: Migrations) -> Migrations:
    """This code was built with another content."""
    version, name, text = known[-1]
    return [*known[:-1], (version, name, text + "\n-- edited")]


@pytest.mark.parametrize(("other", "says"), [(without_the_last, "newer version"), (edited, "another content")])
async def test_a_database_of_another_build_is_refused(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, other: Callable[[Migrations], Migrations], says: str
) -> None:
    """The error says what does not fit, and what to do."""
    await migrate(postgres_url, instance_id="a", partitions=2)
    known = other(migrations())
    monkeypatch.setattr(module, "migrations", lambda: known)
    with pytest.raises(ConfigurationError, match=says):
        await migrate(postgres_url, instance_id="a", partitions=2)


@pytest.mark.failure(28)
async def test_a_database_of_another_namespace_is_refused(postgres_url: str) -> None:
    """Two namespaces never mix in one read model; the projector ends with the reason."""
    await migrate(postgres_url, instance_id="the-first", partitions=2)
    with pytest.raises(IdentityMismatch, match="the-first"):
        await migrate(postgres_url, instance_id="the-second", partitions=2)
    with pytest.raises(IdentityMismatch, match="2 partitions"):
        await migrate(postgres_url, instance_id="the-first", partitions=8)
    with pytest.raises(IdentityMismatch, match="the-first"):
        async with projecting(postgres_url, RunLog(instance_id="the-second")):
            raise AssertionError("it must not get ready")


async def test_no_such_database(postgres_server: EmbeddedPostgres) -> None:
    """A wrong URL is a setting to mend; a server that is away is one to wait for."""
    with pytest.raises(ConfigurationError, match="nirvana"):
        await migrate(postgres_server.url.replace("/tailrace?", "/nirvana?"), instance_id="a", partitions=2)
    with pytest.raises(ReadModelUnavailable):
        await migrate("postgresql://u:p@127.0.0.1:1/x", instance_id="a", partitions=2)


async def test_a_user_without_rights(postgres_url: str, db: Database) -> None:
    """Says that it is about rights, at once."""
    await db.execute("CREATE SCHEMA tailrace")
    await db.execute("REVOKE CREATE ON SCHEMA tailrace FROM PUBLIC, tailrace")
    with pytest.raises(ConfigurationError, match="permission denied"):
        await migrate(postgres_url, instance_id="a", partitions=2)
    await db.execute("DROP SCHEMA tailrace")


async def test_a_lock_held_too_long_is_not_waited_for_for_ever(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hangs in its migration does not hang all others."""
    monkeypatch.setattr(module, "MIGRATION_SECONDS", 0.2)
    holder = await asyncpg.connect(postgres_url)
    try:
        await holder.execute("SELECT pg_advisory_lock(hashtextextended('tailrace.migrations', 0))")
        with pytest.raises(ReadModelUnavailable):
            await migrate(postgres_url, instance_id="a", partitions=2)
    finally:
        await holder.close()
