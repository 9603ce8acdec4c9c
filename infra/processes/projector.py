"""The process `tailrace projector`."""

from __future__ import annotations

import asyncio

from tailrace.infra.config import Settings
from tailrace.infra.parent import say_ready
from tailrace.infra.processes.running import open_store, run_process, until_stopped
from tailrace.projections.runtime import Projector


def run_projector(settings: Settings) -> None:
    """Read the log into Postgres until a signal."""
    postgres_url = settings.require_postgres()

    async def main(stop: asyncio.Event) -> None:
        async with open_store(settings) as store:
            projector = Projector(postgres_url, store)

            async def tell() -> None:
                await projector.wait_ready()
                say_ready()
                await stop.wait()

            await until_stopped(stop, projector.run(), tell())

    run_process(main, settings)
