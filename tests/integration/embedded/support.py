"""What tests of the embedded servers share: clients, programs that hold the servers, and the look at processes."""

import asyncio
import pwd
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from tailrace.infra.embedded import EmbeddedPostgres, EmbeddedRedis
from tailrace.infra.embedded.server import EmbeddedServer

HOLDER = Path(__file__).with_name("holder.py")
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
