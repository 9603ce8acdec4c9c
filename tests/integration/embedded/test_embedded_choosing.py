"""Which program is started: what a setting names or nothing, and never one that can't do the work."""

from pathlib import Path

import pytest

from tailrace.infra.embedded import (
    EmbeddedPostgres,
    EmbeddedRedis,
    ServerMissingError,
    ServerTooOldError,
    embedded_servers,
)
from tailrace.infra.embedded.choose import POSTGRES, REDIS, wheel_program
from tests.integration.embedded.support import script


async def test_too_old_server_is_refused(tmp_path: Path) -> None:
    """A setting that names an old server says what it is, what is needed, and what to do."""
    redis = script(tmp_path / "redis-server", "Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64")
    with pytest.raises(ServerTooOldError, match=r"redis 6\.2\.14 .*too old: Redis 7\.0 .*Install") as caught:
        await EmbeddedRedis(tmp_path / "data", server=str(redis)).start()
    assert caught.value.code == "embedded-server-too-old"
    programs = tmp_path / "bin"
    script(programs / "initdb", "initdb (PostgreSQL) 14.9")
    script(programs / "postgres", "postgres (PostgreSQL) 14.9 (Debian 14.9-1)")
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "postgres.bki").touch()
    with pytest.raises(ServerTooOldError, match=r"postgres 14\.9 .*Postgres 15 or newer"):
        await EmbeddedPostgres(tmp_path / "data", bin_dir=str(programs)).start()


async def test_setting_that_is_no_server_is_refused(tmp_path: Path) -> None:
    """It is never replaced silently by something else."""
    talker = script(tmp_path / "talker", "hello")
    for setting in (str(talker), str(tmp_path / "missing"), "no-such-program"):
        with pytest.raises(ServerMissingError, match="TAILRACE_REDIS_SERVER"):
            await EmbeddedRedis(tmp_path / "data", server=setting).start()
    half = script(tmp_path / "half" / "postgres", "postgres (PostgreSQL) 17.2").parent
    with pytest.raises(ServerMissingError, match="initdb is missing"):
        await EmbeddedPostgres(tmp_path / "data", bin_dir=str(half)).start()


async def test_unusable_system_servers_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old Redis and half a Postgres on PATH are not in the way of the wheels."""
    script(tmp_path / "bin" / "redis-server", "Redis server v=6.2.14 sha=0")
    script(tmp_path / "bin" / "postgres", "postgres (PostgreSQL) 17.2")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    async with embedded_servers(tmp_path / "data") as servers:
        assert servers.redis.program == wheel_program(REDIS)
        program = wheel_program(POSTGRES)
        assert program is not None
        assert servers.postgres.program == program.resolve()
