"""A data directory has one server at a time, and one engine for its life."""

from pathlib import Path

import msgspec
import pytest

from tailrace.infra.embedded import (
    DataDirectoryLockedError,
    DataDirectoryMismatchError,
    DataDirectoryUnusableError,
    EmbeddedPostgres,
    EmbeddedRedis,
)
from tailrace.infra.embedded.choose import POSTGRES, REDIS, wheel_program
from tailrace.infra.embedded.engine import Engine
from tests.integration.embedded.support import answers, holder, query, script


async def test_second_starter_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    """The error names the process and the directory, and the first starter is not disturbed."""
    async with holder(tmp_path) as (process, held):
        for second in (EmbeddedRedis(tmp_path / "redis"), EmbeddedPostgres(tmp_path / "postgres")):
            with pytest.raises(DataDirectoryLockedError, match=f"process {process.pid}") as caught:
                await second.start()
            assert caught.value.holder_pid == process.pid
            assert caught.value.code == "data-dir-locked"
        assert await query(held.postgres_url, "SELECT 1") == 1
    async with EmbeddedRedis(tmp_path / "redis") as server:
        assert await answers(server)


async def test_engine_is_recorded_and_never_goes_back(tmp_path: Path) -> None:
    """Valkey's files are refused to Redis, and to an older Valkey, before either sees them."""
    async with EmbeddedRedis(tmp_path, server=str(wheel_program(REDIS))) as server:
        recorded = msgspec.json.decode((tmp_path / "engine.json").read_bytes(), type=Engine)
        assert (recorded.engine, recorded.version) == (server.engine, server.version) == ("valkey", recorded.version)
    for says in ("Redis server v=7.4.1 sha=0", "Valkey server v=8.0.1 sha=0"):
        older = script(tmp_path / "older" / "redis-server", says)
        with pytest.raises(DataDirectoryMismatchError, match="TAILRACE_REDIS_SERVER") as caught:
            await EmbeddedRedis(tmp_path, server=str(older)).start()
        assert caught.value.made_with == f"valkey {recorded.version}"
    async with EmbeddedRedis(tmp_path) as server:
        assert server.version == recorded.version


async def test_redis_7_data_opens_in_valkey(tmp_path: Path) -> None:
    """The one step between engines that is allowed; the record moves on with it."""
    (tmp_path / "engine.json").write_text('{"engine": "redis", "version": "7.0.15"}')
    async with EmbeddedRedis(tmp_path, server=str(wheel_program(REDIS))) as server:
        assert server.engine == "valkey"
    assert b"valkey" in (tmp_path / "engine.json").read_bytes()
    (tmp_path / "engine.json").write_text('{"engine": "redis", "version": "7.4.0"}')
    with pytest.raises(DataDirectoryMismatchError):
        await EmbeddedRedis(tmp_path, server=str(wheel_program(REDIS))).start()


async def test_postgres_data_belongs_to_its_major_version(tmp_path: Path) -> None:
    """Without a setting the version the data was made with is found again; another one is refused."""
    program = wheel_program(POSTGRES)
    assert program is not None
    async with EmbeddedPostgres(tmp_path, bin_dir=str(program.parent)) as server:
        version = server.version
    async with EmbeddedPostgres(tmp_path) as server:
        assert server.version == version, "not the system's, though that is first in order for a new directory"
    (tmp_path / "cluster" / "PG_VERSION").write_text("16\n")
    with pytest.raises(DataDirectoryMismatchError, match="TAILRACE_POSTGRES_BIN") as caught:
        await EmbeddedPostgres(tmp_path, bin_dir=str(program.parent)).start()
    assert caught.value.made_with == "postgres 16.0"


async def test_directory_of_someone_else_is_refused(tmp_path: Path) -> None:
    """What cannot be written is named, with what to do about it."""
    (tmp_path / "file").touch()
    with pytest.raises(DataDirectoryUnusableError, match="choose another one") as caught:
        await EmbeddedRedis(tmp_path / "file" / "data").start()
    assert caught.value.code == "data-dir-unusable"
