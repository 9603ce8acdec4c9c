"""The embedded Postgres: durable, with an ordinary role, and up again whatever was left of it."""

import asyncio
import signal
from pathlib import Path

import asyncpg
import pytest

from tailrace.infra.embedded import DataDirectoryUnusableError, EmbeddedPostgres
from tests.integration.embedded.support import SECONDS, answers, query, start_program, until


async def test_postgres_is_durable_and_its_role_is_ordinary(tmp_path: Path) -> None:
    """fsync is on, the application is no superuser, and the superuser cannot log in."""
    async with EmbeddedPostgres(tmp_path) as server:
        assert (
            await query(server.url, "SELECT current_setting('fsync') || current_setting('server_encoding')") == "onUTF8"
        )
        assert await query(server.url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        as_superuser = server.url.replace("postgresql://tailrace:", "postgresql://postgres:")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await query(as_superuser, "SELECT 1")


async def test_lost_postgres_password_is_replaced(tmp_path: Path) -> None:
    """A wrong password file is named; a deleted one gives a new password and the old data."""
    async with EmbeddedPostgres(tmp_path) as server:
        await query(server.url, "CREATE TABLE kept AS SELECT 1 AS value")
        old = server.url
    (tmp_path / "password").write_text("wrong")
    with pytest.raises(DataDirectoryUnusableError, match="delete it"):
        await EmbeddedPostgres(tmp_path).start()
    (tmp_path / "password").unlink()
    async with EmbeddedPostgres(tmp_path) as server:
        assert await query(server.url, "SELECT value FROM kept") == 1
        assert server.url.partition("@")[0] != old.partition("@")[0]


async def test_postgres_killed_keeps_what_it_committed(tmp_path: Path) -> None:
    """kill -9 of the server and its children loses no commit."""
    async with EmbeddedPostgres(tmp_path) as server:
        await query(server.url, "CREATE TABLE log (n int)")
        acknowledged = 0

        async def write() -> None:
            nonlocal acknowledged
            connection = await asyncpg.connect(server.url)
            try:
                while True:
                    await connection.execute("INSERT INTO log VALUES ($1)", acknowledged)
                    acknowledged += 1
            finally:
                connection.terminate()

        writer = asyncio.create_task(write())
        await until(lambda: acknowledged > 100)
        assert await server.kill() == -signal.SIGKILL
        with pytest.raises(
            (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError)
        ):
            await writer
        await server.start()
        assert await query(server.url, "SELECT count(*) FROM log") in {acknowledged, acknowledged + 1}


async def test_paused_postgres_freezes_open_sessions(tmp_path: Path) -> None:
    """Sessions are processes of their own; a pause holds them too."""
    async with EmbeddedPostgres(tmp_path) as server:
        connection = await asyncpg.connect(server.url)
        server.pause()
        asking = asyncio.create_task(connection.fetchval("SELECT 1"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asking), 0.3)
        server.resume()
        assert await asyncio.wait_for(asking, SECONDS) == 1
        await connection.close()


async def test_reused_process_id_does_not_keep_postgres_down(tmp_path: Path) -> None:
    """Postgres refuses to start while *any* process has the id of its dead predecessor; we know better."""
    stranger = start_program(["cat"])
    try:
        async with EmbeddedPostgres(tmp_path) as server:
            await server.kill()
            pid_file = tmp_path / "cluster" / "postmaster.pid"
            lines = pid_file.read_text().splitlines()
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
            await server.start()
            assert await answers(server)
        assert stranger.poll() is None
    finally:
        stranger.communicate()
