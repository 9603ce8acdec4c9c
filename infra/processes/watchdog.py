"""The process `tailrace watchdog`."""

from __future__ import annotations

import asyncio

from tailrace.core.engine.command_handler import CommandHandler
from tailrace.infra.config import Settings
from tailrace.infra.parent import say_ready
from tailrace.infra.processes.running import open_store, run_process, until_stopped
from tailrace.projections.watchdog import Watchdog


def run_watchdog(settings: Settings) -> None:
    """Look for runs that stand still, and say why, until a signal."""

    async def main(stop: asyncio.Event) -> None:
        async with open_store(settings) as store:
            watchdog = Watchdog(store, CommandHandler(store))
            say_ready()
            await until_stopped(stop, watchdog.run())

    run_process(main, settings)
