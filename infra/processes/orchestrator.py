"""The process `tailrace orchestrator`."""

from __future__ import annotations

import os
import socket

from tailrace.core.engine.orchestrator import Orchestrator
from tailrace.infra.config import Settings
from tailrace.infra.processes.running import Life, open_store, run_process, until_stopped


def run_orchestrator(settings: Settings, *, as_json: bool = False) -> None:
    """Own partitions, apply reports and timers, until a signal."""

    async def main(life: Life) -> None:
        async with open_store(settings, max_connections=4 + 4 * (settings.partitions or 8)) as store:
            name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
            orchestrator = Orchestrator(store, name)
            life.ready()
            await until_stopped(life.stop, orchestrator.run())

    run_process("orchestrator", main, settings, as_json=as_json)
