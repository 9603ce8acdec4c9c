"""The process `tailrace watchdog`."""

from __future__ import annotations

import logging

from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.redis_backend.notices import RedisNotices
from tailrace.infra.config import Settings
from tailrace.infra.notice_settings import check_here
from tailrace.infra.notices import senders
from tailrace.infra.processes.running import Life, open_store, run_process, until_stopped
from tailrace.projections.watchdog import Watchdog, WatchdogOptions
from tailrace.projections.watchdog.delivery import Delivery
from tailrace.projections.watchdog.outage import Outage
from tailrace.projections.watchdog.repairs import parse_repairs
from tailrace.projections.watchdog.teller import Teller, TellerOptions
from tailrace.projections.watchdog.telling import TellingOptions

log = logging.getLogger(__name__)


def run_watchdog(settings: Settings, *, as_json: bool = False) -> None:
    """Look for runs that stand still, and say why, until a signal; and tell those whom the settings name."""
    options = WatchdogOptions(repairs=parse_repairs(settings.repairs))
    check_here(settings.notices)
    telling = TellerOptions(telling=TellingOptions(quiet_seconds=settings.notices.quiet_seconds))

    async def main(life: Life) -> None:
        async with open_store(settings) as store, senders(settings, store) as told:
            services = [Watchdog(store, CommandHandler(store), options).run()]
            if told:
                log.info("faults are told to %s", ", ".join(sender.title for sender in told))
                book = RedisNotices(store)
                targets = {sender.target: sender.title for sender in told}
                outage = Outage(told, telling.telling)
                services.append(Teller(store, book, targets, telling, outage=outage).run())
                services += [Delivery(store, book, sender).run() for sender in told]
            life.ready()
            await until_stopped(life.stop, *services)

    run_process("watchdog", main, settings, as_json=as_json)
