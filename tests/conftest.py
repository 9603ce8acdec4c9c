"""Real servers for the tests: one Redis and one Postgres per run of the suite, a fresh namespace for each test.

Tests that stop, kill or fill a server start one of their own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.servers import redis_program

pytest_plugins = ["tests.support.ceiling"]

# The suites are shipped with the package: their assertions are rewritten as those of tests are, before any is imported.
pytest.register_assert_rewrite("tailrace.core.testing")


@pytest.fixture(scope="session")
def server_runner() -> Iterator[asyncio.Runner]:
    """The event loop that servers of the whole run belong to."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def redis_server(server_runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A Redis for all tests that leave it running; durable as in production."""
    server = EmbeddedRedis(
        tmp_path_factory.mktemp("redis"),
        server=redis_program(),
        maxmemory_bytes=512 * 1024 * 1024,
    )
    server_runner.run(server.start())
    yield server
    server_runner.run(server.stop())


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A namespace that no other test uses."""
    return f"t{os.urandom(6).hex()}"


@pytest.fixture
async def redis_store(redis_server: EmbeddedRedis, namespace: str) -> AsyncIterator[RedisStore]:
    """A store on a fresh namespace of two partitions, with leases of production."""
    store = await RedisStore.open(RedisSettings(url=redis_server.url), namespace=namespace, partitions=2)
    yield store
    await store.aclose()
