"""A real Postgres for the whole run, and a fresh database for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count
from urllib.parse import urlsplit

import asyncpg
import pytest

from tailrace.infra.embedded import EmbeddedPostgres
from tailrace.projections.queries import Queries
from tests.integration.projections.run_log import RunLog
from tests.integration.projections.support import Database, open_database
from tests.support.databases import drop_database

_numbers = count(1)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The server that all tests share; never stop it."""
    with asyncio.Runner() as runner:
        server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "data")
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.close())


@pytest.fixture
async def postgres_url(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    """An empty database of its own."""
    name = f"test_{next(_numbers)}"
    admin = await asyncpg.connect(postgres_server.url)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield urlsplit(postgres_server.url)._replace(path=f"/{name}").geturl()
        await drop_database(admin, name)
    finally:
        await admin.close()


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    """A look at the database from outside."""
    async with open_database(postgres_url) as database:
        yield database


@pytest.fixture
async def queries(postgres_url: str) -> AsyncIterator[Queries]:
    """The read side."""
    async with Queries(postgres_url) as found:
        yield found


@pytest.fixture
def log() -> RunLog:
    """An empty log of two partitions."""
    return RunLog()
