"""What `doctor` says of the read model while Redis and Postgres are both there."""

from __future__ import annotations

import asyncpg

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.commands.doctor import collect_checks
from tailrace.infra.config import Settings
from tailrace.infra.embedded import EmbeddedRedis
from tailrace.projections.watchdog import Check
from tests.integration.projections.support import projecting, until


async def test_partitions_that_nobody_reads_and_runs_that_are_parked(
    redis_server: EmbeddedRedis, namespace: str, database_url: str
) -> None:
    """A projector that is gone stands nowhere as a problem: its leases have run out, which is enough to say so."""
    settings = Settings(redis_url=redis_server.url, postgres_url=database_url, namespace=namespace)

    async def checks(name: str) -> list[Check]:
        return [check for check in await collect_checks(settings) if check.name == name]

    store = await RedisStore.open(RedisSettings(url=redis_server.url), namespace=namespace, partitions=2)
    connection = await asyncpg.connect(database_url)
    try:
        async with projecting(database_url, store) as projector:

            async def all_owned() -> bool:
                return len(projector.partitions) == 2

            await until(all_owned)
            assert await checks("projector") == []
            assert await checks("projections") == []
        (unread,) = await checks("projector")
        assert (unread.status, unread.suggestion) == ("failed", "tailrace projector")
        assert unread.detail.startswith("nobody reads partitions 0, 1: ")
        await connection.execute(
            "INSERT INTO tailrace.parked (partition, seq, entry_id, workflow_id, version, type, traceparent, raw, reason)"
            " VALUES (0, 1, '1-0', 'run', 1, 'x', '', '', 'no event'), (0, 2, '2-0', 'run', 2, 'x', '', '', 'behind it')"
        )
        (parked,) = await checks("projections")
        assert (parked.status, parked.suggestion) == ("warning", "tailrace projections redrive")
        assert parked.detail.startswith("1 runs ")
    finally:
        await connection.close()
        await store.aclose()
