"""The `spans` reader: follows the log of the partitions its projector owns, and sends the spans that end in it.

Off the hot path and behind nobody's back: it has positions of its own and holds back no projection, and trimming only while it
moves and is not far behind. At least once: after a crash a stretch is read again, and gives the same spans. What was trimmed
before it was read comes from the archive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from tailrace.core.errors import ReadModelUnavailable, StoreUnavailable
from tailrace.core.store.port import WorkflowStore
from tailrace.infra.telemetry.exporter import SpanExporter
from tailrace.infra.telemetry.partition import PartitionSpans, ReaderOptions
from tailrace.infra.telemetry.ports import Archive, Exporter, Log, PositionKeeper
from tailrace.infra.telemetry.settings import TelemetrySettings
from tailrace.projections.positions import Positions
from tailrace.projections.queries import Queries
from tailrace.projections.runtime import Projector

log = logging.getLogger(__name__)

READER = "spans"


class SpanReader:
    """Reads what `owned()` says is ours, until cancelled. Fails for nobody: whatever goes wrong is tried again."""

    def __init__(
        self,
        store: Log,
        archive: Archive,
        positions: PositionKeeper,
        exporter: Exporter,
        *,
        owned: Callable[[], Collection[int]],
        options: ReaderOptions | None = None,
    ) -> None:
        self._store = store
        self._archive = archive
        self._positions = positions
        self._exporter = exporter
        self._owned = owned
        self._options = options or ReaderOptions()

    async def run(self) -> None:
        """Take up and give up partitions as the projector does."""
        reading: dict[int, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                owned = frozenset(self._owned())
                for partition, task in list(reading.items()):
                    if partition not in owned or task.done():
                        task.cancel()
                        del reading[partition]
                for partition in owned - reading.keys():
                    reading[partition] = group.create_task(self._read(partition), name=f"spans of {partition}")
                await asyncio.sleep(self._options.poll_seconds)

    async def _read(self, partition: int) -> None:
        failures = 0
        while True:
            reading = PartitionSpans(
                partition, self._store, self._archive, self._positions, self._exporter, self._options
            )
            try:
                await reading.begin()
                while await reading.step():
                    failures = 0
                log.info("spans of partition %d are sent by another projector", partition)
                return
            except (StoreUnavailable, ReadModelUnavailable) as error:
                log.log(
                    logging.DEBUG if failures else logging.WARNING, "spans of partition %d wait: %s", partition, error
                )
            except Exception:
                log.exception("spans of partition %d can't be sent; trying again", partition)
            waits = self._options.backoff_seconds
            await asyncio.sleep(waits[min(failures, len(waits) - 1)])
            failures += 1


async def send_spans(
    settings: TelemetrySettings, *, store: WorkflowStore, postgres_url: str, projector: Projector
) -> None:
    """Send engine spans of the partitions that `projector` owns, until cancelled. Runs beside it, in its process."""
    async with (
        Queries(postgres_url, size=2, application_name="tailrace spans") as archive,
        Positions(postgres_url, reader=READER, owner=projector.name) as positions,
    ):
        exporter = SpanExporter(settings)
        await SpanReader(store, archive, positions, exporter, owned=lambda: projector.partitions).run()
