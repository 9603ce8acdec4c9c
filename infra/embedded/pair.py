"""Both embedded servers under one data directory, started and stopped together."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from tailrace.infra.embedded.postgres import EmbeddedPostgres
from tailrace.infra.embedded.redis import EmbeddedRedis


class EmbeddedServers(msgspec.Struct, frozen=True, kw_only=True):
    """The two servers, both ready."""

    redis: EmbeddedRedis
    postgres: EmbeddedPostgres


@asynccontextmanager
async def embedded_servers(
    data_dir: Path,
    *,
    redis_server: str | None = None,
    postgres_bin: str | None = None,
    tcp: bool = False,
    maxmemory_bytes: int | None = None,
) -> AsyncIterator[EmbeddedServers]:
    """Start both at once in `data_dir/redis` and `data_dir/postgres`; stop both at the end, whatever happened.

    When one does not start the other is stopped, and its EmbeddedError is raised.
    """
    redis = EmbeddedRedis(data_dir / "redis", server=redis_server, tcp=tcp, maxmemory_bytes=maxmemory_bytes)
    postgres = EmbeddedPostgres(data_dir / "postgres", bin_dir=postgres_bin, tcp=tcp)
    try:
        _raise_first(await asyncio.gather(redis.start(), postgres.start(), return_exceptions=True))
        yield EmbeddedServers(redis=redis, postgres=postgres)
    finally:
        _raise_first(await asyncio.gather(redis.close(), postgres.close(), return_exceptions=True))


def _raise_first(outcomes: Iterable[BaseException | None]) -> None:
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
