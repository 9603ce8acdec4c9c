"""A projector in a process of its own, to be killed: `projector_process.py REDIS_URL NAMESPACE POSTGRES_URL`."""

from __future__ import annotations

import asyncio
import sys

from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.projections.runtime import Projector


async def main(redis_url: str, namespace: str, postgres_url: str) -> None:
    """Project until killed, with the options that are shipped."""
    store = await RedisStore.open(RedisSettings(url=redis_url), namespace=namespace, partitions=2)
    await Projector(postgres_url, store, name="process").run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
