"""Servers and parts that the integration tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tailrace.infra.embedded import EmbeddedRedis
from tests.integration.gateway_harness import Gateway, gateway


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway_redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a real server that the gateway's tests share, each in a namespace of its own."""
    async with EmbeddedRedis(tmp_path_factory.mktemp("gateway") / "redis", appendfsync="no") as server:
        yield server.url


@pytest.fixture
async def served(gateway_redis: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with a working worker, while Postgres is down."""
    async with gateway(gateway_redis, tmp_path) as found:
        yield found
