"""The process `tailrace watchdog`."""

from __future__ import annotations

from tailrace.core.engine.command_handler import CommandHandler
from tailrace.infra.config import Settings
from tailrace.infra.processes.running import Life, open_store, run_process, until_stopped
from tailrace.projections.watchdog import Watchdog, WatchdogOptions
from tailrace.projections.watchdog.repairs import parse_repairs


def run_watchdog(settings: Settings, *, as_json: bool = False) -> None:
    """Look for runs that stand still, and say why, until a signal."""
    options = WatchdogOptions(repairs=parse_repairs(settings.repairs))

    async def main(life: Life) -> None:
        async with open_store(settings) as store:
            watchdog = Watchdog(store, CommandHandler(store), options)
            life.ready()
            await until_stopped(life.stop, watchdog.run())

    run_process("watchdog", main, settings, as_json=as_json)
