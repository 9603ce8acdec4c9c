"""What tests of the holes share: a server of their own to stop, kill and fill, and a bench with the parts of an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace.infra.embedded import EmbeddedRedis
from tests.support.bench import Bench
from tests.support.servers import redis_program


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A Redis that the test may end."""
    async with EmbeddedRedis(tmp_path / "redis", server=redis_program(), maxmemory_bytes=256 * 1024 * 1024) as server:
        yield server


@pytest.fixture
async def own_bench(own_server: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Bench]:
    """A namespace on a server of the test's own."""
    async with Bench.on(own_server.url, tmp_path) as made:
        yield made
