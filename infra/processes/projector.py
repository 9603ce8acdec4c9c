"""The process `tailrace projector`."""

from __future__ import annotations

from tailrace.infra.config import Settings
from tailrace.infra.processes.running import Life, open_store, run_process, until_stopped
from tailrace.infra.telemetry.settings import telemetry_settings
from tailrace.projections.retention import RetentionKeeper, RetentionOptions
from tailrace.projections.runtime import Projector


def run_projector(settings: Settings, *, as_json: bool = False) -> None:
    """Read the log into Postgres, and let Redis forget what is archived, until a signal."""
    postgres_url = settings.require_postgres()
    telemetry = telemetry_settings()
    retention = RetentionOptions(tail_events=settings.log_tail_events, run_seconds=settings.run_days * 86_400)

    async def main(life: Life) -> None:
        async with open_store(settings) as store:
            projector = Projector(postgres_url, store)

            async def tell() -> None:
                await projector.wait_ready()
                life.ready()
                await life.stop.wait()

            keeper = RetentionKeeper(
                postgres_url, store, owner=projector.name, owned=lambda: projector.partitions, options=retention
            )
            services = [projector.run(), keeper.run(), tell()]
            if telemetry is not None:
                from tailrace.infra.telemetry.reader import send_spans  # noqa: PLC0415  # heavy without a collector

                services.append(send_spans(telemetry, store=store, postgres_url=postgres_url, projector=projector))
            await until_stopped(life.stop, *services)

    run_process("projector", main, settings, as_json=as_json)
