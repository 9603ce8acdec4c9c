"""Starting, stopping, pausing: what both servers do for whoever holds them, and what they leave behind."""

import asyncio
import os
import signal
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import uvloop
from redis.exceptions import RedisError

from tailrace.infra.embedded import embedded_servers, processtable
from tailrace.infra.embedded.choose import POSTGRES, wheel_program
from tailrace.infra.embedded.server import EmbeddedServer
from tests.integration.embedded.support import SECONDS, answers, each_server, gone, query, redis_client, until


@pytest.mark.parametrize("tcp", [False, True], ids=["sockets", "tcp"])
@pytest.mark.parametrize("postgres", ["chosen", "wheel"])
async def test_start_stop_start_keeps_data(tmp_path: Path, *, tcp: bool, postgres: str) -> None:
    """A new directory serves at once; stopped and started, also by another object, it has what was written."""
    program = wheel_program(POSTGRES)
    assert program is not None
    postgres_bin = str(program.parent) if postgres == "wheel" else None
    async with embedded_servers(tmp_path, tcp=tcp, postgres_bin=postgres_bin) as servers:
        async with redis_client(servers.redis.url) as client:
            await client.set("kept", "yes")
        await query(servers.postgres.url, "CREATE TABLE kept AS SELECT 'yes'::text AS value")
        before = servers.redis.url, servers.postgres.url
        assert await servers.redis.stop() == 0
        assert await servers.postgres.stop() == 0
        assert not servers.redis.running
        await servers.redis.start()
        await servers.postgres.start()
        assert (servers.redis.url, servers.postgres.url) == before
        async with redis_client(servers.redis.url) as client:
            assert await client.get("kept") == "yes"
    async with embedded_servers(tmp_path, postgres_bin=postgres_bin) as servers:
        async with redis_client(servers.redis.url) as client:
            assert await client.get("kept") == "yes"
        assert await query(servers.postgres.url, "SELECT value FROM kept") == "yes"


async def test_end_leaves_nothing(tmp_path: Path) -> None:
    """After the context: no process, no sockets; the directory can be used again at once."""
    async with embedded_servers(tmp_path) as servers:
        pids = [servers.redis.pid, servers.postgres.pid, *processtable.children(servers.postgres.pid)]
        places = [servers.redis.socket_path.parent, Path(servers.postgres.url.partition("host=")[2].partition("&")[0])]
        assert all(stat.S_IMODE(place.stat().st_mode) == 0o700 for place in places)
        assert len(os.fsencode(places[1] / ".s.PGSQL.5432")) < 104
    assert all(gone(pid) for pid in pids)
    assert not any(place.exists() for place in places)


def command_line(pid: int) -> str:
    """What anybody can read about a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_password_is_needed_and_never_visible(tmp_path: Path) -> None:
    """Sockets ask for the password too; it is in files of mode 0600 and on no command line."""
    async with embedded_servers(tmp_path) as servers:
        async with redis_client(f"unix://{servers.redis.socket_path}") as client:
            with pytest.raises(RedisError, match=r"(?i)auth"):
                await client.ping()
        secrets = [(tmp_path / name / "password").read_text().strip() for name in ("redis", "postgres")]
        assert secrets[0] != secrets[1]
        assert {stat.S_IMODE(path.stat().st_mode) for path in _containing(tmp_path, secrets)} == {0o600}
        for pid in (servers.redis.pid, servers.postgres.pid, *processtable.children(servers.postgres.pid)):
            assert not any(secret in command_line(pid) for secret in secrets)


def _containing(folder: Path, words: Sequence[str]) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(word.encode() in path.read_bytes() for word in words)]


@each_server
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_started_in_one_loop_used_in_another(
    tmp_path: Path, make: Callable[[Path], EmbeddedServer], run: Callable[..., object]
) -> None:
    """Servers outlive the event loop they were started in, as fixtures of a whole session need; uvloop is as good."""
    server = make(tmp_path)
    run(server.start())
    assert run(answers(server))
    assert run(server.kill()) == -signal.SIGKILL
    run(server.start())
    run(server.close())
    assert gone(server.pid)


@each_server
async def test_supervisor_learns_of_a_death_and_starts_again(
    tmp_path: Path, make: Callable[[Path], EmbeddedServer]
) -> None:
    """`wait` returns the exit code of a server killed from outside; `start` brings it back at the same address."""
    async with make(tmp_path) as server:
        url, first = server.url, server.pid
        watchers = [asyncio.create_task(server.wait()) for _ in range(2)]
        os.kill(first, signal.SIGKILL)  # Postgres' children notice by themselves that it is gone
        async with asyncio.timeout(SECONDS):
            assert await asyncio.gather(*watchers) == [-signal.SIGKILL] * 2
        assert not server.running
        await server.start()
        assert server.pid != first
        assert server.url == url
        assert await answers(server)


@each_server
async def test_paused_server_resumes(tmp_path: Path, make: Callable[[Path], EmbeddedServer]) -> None:
    """A paused server answers nobody, also not on an open connection; resumed, it goes on."""
    async with make(tmp_path) as server:
        assert await answers(server)
        server.pause()
        asking = asyncio.create_task(answers(server))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asking), 0.3)
        assert server.running
        server.resume()
        assert await asyncio.wait_for(asking, SECONDS)


@each_server
async def test_paused_server_can_be_stopped(tmp_path: Path, make: Callable[[Path], EmbeddedServer]) -> None:
    """Stopping does not depend on somebody resuming it first."""
    async with make(tmp_path) as server:
        server.pause()
        assert await server.stop() == 0


@each_server
async def test_cancelled_start_leaves_nothing(tmp_path: Path, make: Callable[[Path], EmbeddedServer]) -> None:
    """A start given up half way leaves no process and a directory that can be used at once."""
    server = make(tmp_path)
    starting = asyncio.create_task(server.start())
    await until((tmp_path / "server.lock").exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not server.running
    async with make(tmp_path) as again:
        assert await answers(again)
