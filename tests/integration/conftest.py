"""Parts that the integration tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.integration.gateway_harness import Gateway, gateway
from tests.support.bench import Bench
from tests.support.databases import drop_database


@pytest.fixture(scope="session")
def postgres_server(
    server_runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedPostgres]:
    """A Postgres for all tests that leave it running."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "data")
    server_runner.run(server.start())
    yield server
    server_runner.run(server.close())


@pytest.fixture
async def database_url(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    """An empty database of its own."""
    name = f"gateway_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(postgres_server.url)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield urlsplit(postgres_server.url)._replace(path=f"/{name}").geturl()
        await drop_database(admin, name)
    finally:
        await admin.close()


@pytest.fixture
async def bench(redis_store: RedisStore, tmp_path: Path) -> AsyncIterator[Bench]:
    """A namespace on the shared server."""
    async with Bench(redis_store, tmp_path) as made:
        yield made


@pytest.fixture
async def served(redis_server: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with a working worker, while Postgres is down."""
    async with gateway(redis_server.url, tmp_path) as found:
        yield found


@pytest.fixture
async def projected(redis_server: EmbeddedRedis, database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with a working worker, a Postgres and a projector."""
    async with gateway(redis_server.url, tmp_path, postgres_url=database_url) as found:
        yield found
