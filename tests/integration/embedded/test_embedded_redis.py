"""The embedded Redis as a durable log: its settings, kill -9 under load, and its last words."""

import asyncio
import signal
from ctypes.util import find_library
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from tailrace.infra.embedded import EmbeddedRedis, ServerStartError
from tailrace.infra.embedded.allocator import preloading
from tailrace.infra.embedded.choose import REDIS, wheel_program
from tests.integration.embedded.support import redis_client, until


@pytest.mark.hole("H33")
async def test_redis_is_a_durable_log(tmp_path: Path) -> None:
    """The settings durability and bounded memory rest on are in force."""
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "auto-aof-rewrite-min-size": str(256 * 1024 * 1024),
        "maxmemory-policy": "noeviction",
        "maxmemory": str(64 * 1024 * 1024),
        "save": "",
        "port": "0",
    }
    async with EmbeddedRedis(tmp_path, maxmemory_bytes=64 * 1024 * 1024) as server, redis_client(server.url) as client:
        found = await client.config_get(*wanted)
    assert {name: found[name] for name in wanted} == wanted


async def test_redis_runs_with_jemalloc_where_there_is_one(tmp_path: Path) -> None:
    """The wheel's server is built with the C library's allocator: it gets the better one, and others keep theirs."""
    async with EmbeddedRedis(tmp_path, server=str(wheel_program(REDIS))) as server:
        mapped = await asyncio.to_thread(Path(f"/proc/{server.pid}/maps").read_text)
    assert ("jemalloc" in mapped) == (find_library("jemalloc") is not None)
    assert preloading("jemalloc-5.3.0") == {}
    assert preloading("") == {}


@pytest.mark.experiment("g")
async def test_redis_killed_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """kill -9 under load loses no acknowledged entry, at most one more is there, and the address is the same."""
    async with EmbeddedRedis(tmp_path) as server:
        acknowledged = 0

        async def write() -> None:
            nonlocal acknowledged
            async with redis_client(server.url) as client:
                while True:
                    await client.xadd("log", {"n": acknowledged})
                    acknowledged += 1

        writer = asyncio.create_task(write())
        await until(lambda: acknowledged > 200)
        assert await server.kill() == -signal.SIGKILL
        with pytest.raises(RedisError):
            await writer
        await server.start()
        async with redis_client(server.url) as client:
            assert await client.xlen("log") in {acknowledged, acknowledged + 1}


async def test_server_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    """The error has the server's last words, and the directory is free again."""
    async with EmbeddedRedis(tmp_path):
        pass
    base = next((tmp_path / "appendonlydir").glob("*.base.rdb"))
    base.write_bytes(b"no database")
    with pytest.raises(ServerStartError, match=r"(?s)last words.*Mend") as caught:
        await EmbeddedRedis(tmp_path).start()
    assert caught.value.code == "embedded-start-failed"
    assert caught.value.exit_code not in {None, 0}
    assert any("base.rdb" in line or "signature" in line for line in caught.value.log_lines)
    with pytest.raises(ServerStartError):
        await EmbeddedRedis(tmp_path).start()
