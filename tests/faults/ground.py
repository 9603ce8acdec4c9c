"""Where cases are played: a Redis, a Postgres and one well-equipped namespace for all, and others for who breaks more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tailrace.infra.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.faults.site import Site
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import redis_program

#: The agent of the shared namespace that always has a worker, with slots for all.
COMMON = "common"
SLOTS = 64
_MIB = 1024 * 1024


class Ground:
    """Servers, and the namespace `shared` whose engine runs all the time."""

    def __init__(self, folder: Path, redis: EmbeddedRedis, ended: AsyncExitStack) -> None:
        self.folder = folder
        self.redis = redis
        self._ended = ended
        self._shared: Site | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._starting = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Ground]:
        """A Redis; all else is started when it is asked for, and ended here."""
        async with AsyncExitStack() as ended:
            redis = await ended.enter_async_context(cls._redis(folder / "redis"))
            yield cls(folder, redis, ended)

    @staticmethod
    def _redis(place: Path, mebibytes: int = 512) -> EmbeddedRedis:
        return EmbeddedRedis(place, server=redis_program(), maxmemory_bytes=mebibytes * _MIB)

    async def shared(self) -> Site:
        """The namespace for faults that belong to one agent or one run: with engine, and a worker of `COMMON`."""
        async with self._starting:
            if self._shared is None:
                site = await self._ended.enter_async_context(Site.open(self.folder, self.redis.url))
                await asyncio.gather(site.engine(), site.worker(COMMON, slots=SLOTS))
                self._shared = site
        return self._shared

    @asynccontextmanager
    async def site(self, **options: Any) -> AsyncIterator[Site]:
        """A fresh namespace on the Redis of all; nothing runs there yet."""
        async with Site.open(self.folder, self.redis.url, **options) as site:
            yield site

    @asynccontextmanager
    async def behind_proxy(self, **options: Any) -> AsyncIterator[tuple[Site, FaultProxy]]:
        """A fresh namespace whose processes reach Redis through a proxy."""
        async with FaultProxy(self.redis.url) as proxy, self.site(processes_url=proxy.url, **options) as site:
            yield site, proxy

    @asynccontextmanager
    async def own_redis(self, *, mebibytes: int = 512, **options: Any) -> AsyncIterator[tuple[Site, EmbeddedRedis]]:
        """A namespace on a server of its own."""
        place = self.folder / f"redis-{os.urandom(3).hex()}"
        async with self._redis(place, mebibytes) as server, Site.open(self.folder, server.url, **options) as site:
            yield site, server

    async def database(self) -> str:
        """The URL of an empty database."""
        async with self._starting:
            if self._postgres is None:
                self._postgres = await self._ended.enter_async_context(EmbeddedPostgres(self.folder / "postgres"))
        name = f"faults_{os.urandom(5).hex()}"
        admin = await asyncpg.connect(self._postgres.url)
        try:
            await admin.execute(f"CREATE DATABASE {name}")
        finally:
            await admin.close()
        return urlsplit(self._postgres.url)._replace(path=f"/{name}").geturl()
