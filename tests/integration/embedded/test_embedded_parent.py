"""The servers live and die with the process that started them, and the next start clears up after it."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tailrace.infra.embedded import embedded_servers, processtable
from tests.integration.embedded.support import HOLDER, answers, gone, holder, query, redis_client, start_program, until


@pytest.mark.failure(29)
@pytest.mark.parametrize("words", [(), ("--in-thread",), ("--forbid-namespaces",)], ids=["plain", "thread", "jailed"])
async def test_parent_killed_leaves_no_process(tmp_path: Path, words: tuple[str, ...]) -> None:
    """kill -9 of whoever started them ends both servers and all their children; the next start has the data."""
    async with holder(tmp_path, *words) as (process, held):
        async with redis_client(held.redis_url) as client:
            await client.set("kept", "yes")
        await query(held.postgres_url, "CREATE TABLE kept AS SELECT 1 AS value")
        family = [held.redis_pid, held.postgres_pid, *processtable.children(held.postgres_pid)]
        assert len(family) > 3
        process.kill()
        await until(lambda: all(gone(pid) for pid in family))
        sockets = Path(held.redis_url.partition("@")[2].partition("?")[0]).parent
        assert sockets.exists()
    async with embedded_servers(tmp_path) as servers:
        async with redis_client(servers.redis.url) as client:
            assert await client.get("kept") == "yes"
        assert await query(servers.postgres.url, "SELECT value FROM kept") == 1
        assert not sockets.exists(), "the place for sockets of the killed parent is cleared away"


async def test_server_left_behind_is_stopped_first(tmp_path: Path) -> None:
    """Servers that could not hear of their parent's death (they were paused) are ended by the next start."""
    async with holder(tmp_path) as (process, held):
        async with redis_client(held.redis_url) as client:
            await client.set("kept", "yes")
        for pid in (held.redis_pid, held.postgres_pid):
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        process.wait()
        assert not gone(held.redis_pid)
        assert not gone(held.postgres_pid)
        async with embedded_servers(tmp_path) as servers:
            assert gone(held.redis_pid)
            assert gone(held.postgres_pid)
            async with redis_client(servers.redis.url) as client:
                assert await client.get("kept") == "yes"


async def test_first_start_cut_short_is_repeated(tmp_path: Path) -> None:
    """Killed while Postgres makes its data: nothing half made is ever opened, and no one works on it any more."""
    process = start_program([sys.executable, str(HOLDER), str(tmp_path)])
    await until((tmp_path / "postgres" / "cluster.new" / "base").exists)
    process.kill()
    process.communicate()
    assert not (tmp_path / "postgres" / "cluster").exists()
    async with embedded_servers(tmp_path) as servers:
        assert await answers(servers.postgres)
    assert not (tmp_path / "postgres" / "cluster.new").exists()
