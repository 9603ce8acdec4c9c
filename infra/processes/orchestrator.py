"""The process `tailrace orchestrator`."""

from __future__ import annotations

import asyncio
import os
import socket

from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.infra.config import Settings
from tailrace.infra.parent import say_ready
from tailrace.infra.processes.running import open_store, run_process, until_stopped


def run_orchestrator(settings: Settings) -> None:
    """Own partitions, apply reports and timers, until a signal."""

    async def main(stop: asyncio.Event) -> None:
        async with open_store(settings, max_connections=4 + 4 * (settings.partitions or 8)) as store:
            name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
            orchestrator = Orchestrator(store, name)
            say_ready()
            await until_stopped(stop, orchestrator.run())

    run_process(main, settings)
