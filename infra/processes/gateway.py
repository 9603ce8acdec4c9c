"""The process `tailrace gateway`."""

from __future__ import annotations

from typing import Final

import msgspec

from tailrace.core.artifacts import FileArtifacts
from tailrace.core.engine.command_handler import ArchiveLookup, CommandHandler
from tailrace.core.workflow.history import Record, Snapshot, fold
from tailrace.gateway.app import build_app
from tailrace.gateway.listen import serving
from tailrace.gateway.settings import GatewaySettings
from tailrace.infra.builtin_definitions import put_builtin_definitions
from tailrace.infra.config import Settings
from tailrace.infra.processes.running import Life, open_store, run_process, tracing
from tailrace.projections.fold import to_record
from tailrace.projections.queries import Queries
from tailrace.projections.watchdog import diagnose

ARCHIVE_PAGE: Final = 500


def archived(queries: Queries) -> ArchiveLookup:
    """Finds a run that is in Postgres only, by folding what was archived of it."""

    async def lookup(workflow_id: str) -> Snapshot | None:
        records: list[Record] = []
        while page := await queries.events(workflow_id, len(records), ARCHIVE_PAGE):
            records += [to_record(entry) for entry in page]
        return fold(records)

    return lookup


def run_gateway(settings: Settings, gateway: GatewaySettings, *, as_json: bool = False) -> None:
    """Serve HTTP until a signal."""
    postgres_url = settings.require_postgres()

    async def main(life: Life) -> None:
        async with (
            open_store(settings, max_connections=64) as store,
            Queries(postgres_url, instance_id=store.instance_id) as queries,
        ):
            await put_builtin_definitions(store)

            async def why(workflow_id: str) -> msgspec.Struct:
                return await diagnose(store, workflow_id, read_model=queries, archived=archived(queries))

            app = build_app(
                store=store,
                commands_handler=CommandHandler(store, archived=archived(queries)),
                queries=queries,
                diagnose=why,
                artifact_store=FileArtifacts(settings.data_dir / "artifacts"),
                settings=gateway,
            )
            async with serving(app, gateway) as url:
                life.ready(url)
                await life.stop.wait()

    with tracing("tailrace-gateway") as telemetry:
        telemetry.instrument_server()
        run_process("gateway", main, settings, as_json=as_json)
