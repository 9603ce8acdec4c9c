"""The projector: takes its share of the partitions, and reads each into every projection.

Invariant: it only ever reads what it owns. Its leases are kept by one session, apart from those that write; a killed or
hanging projector is replaced when its leases run out, a stopped one hands over at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Sequence

import asyncpg
import msgspec

from tailrace.projections import ownership
from tailrace.projections.agents import Agents
from tailrace.projections.archive import Archive
from tailrace.projections.hours import Hours
from tailrace.projections.migrate import wait_migrated
from tailrace.projections.partition import PartitionReader, ReaderOptions
from tailrace.projections.port import LogSource, Projection
from tailrace.projections.session import UNAVAILABLE, Session, session
from tailrace.projections.stages import Stages
from tailrace.projections.stalls import Stalls
from tailrace.projections.tasks import Tasks
from tailrace.projections.totals import Totals
from tailrace.projections.workflows import Workflows

_log = logging.getLogger(__name__)

LEAVE_SECONDS = 2.0


class ProjectorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How partitions are held: a lease of `lease_seconds`, renewed each `beat_seconds`."""

    lease_seconds: float = 3.0
    beat_seconds: float = 0.7
    reader: ReaderOptions = ReaderOptions()


def standard_projections() -> tuple[Projection, ...]:
    """All read models, the archive first; those that count rows before those that write them."""
    return (Archive(), Totals(), Hours(), Agents(), Workflows(), Stages(), Tasks(), Stalls())


class _Held(msgspec.Struct, frozen=True, kw_only=True):
    epoch: int
    reader: asyncio.Task[None]


class Projector:
    """One projector process. Any number may run on one database; they share the partitions."""

    def __init__(
        self,
        url: str,
        log: LogSource,
        *,
        name: str | None = None,
        projections: Sequence[Projection] | None = None,
        options: ProjectorOptions | None = None,
    ) -> None:
        """`url` is the Postgres database; `name` is for people, and made unique here."""
        self.name = f"{name or f'{socket.gethostname()}-{os.getpid()}'}-{secrets.token_hex(3)}"
        self._url = url
        self._log = log
        self._projections = tuple(standard_projections() if projections is None else projections)
        self._options = options or ProjectorOptions()
        self._held: dict[int, _Held] = {}
        self._ready = asyncio.Event()

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions it reads now."""
        return frozenset(self._held)

    async def wait_ready(self) -> None:
        """Return once the schema is there and this projector takes its part."""
        await self._ready.wait()

    async def run(self) -> None:
        """Project until cancelled. Waits for a Postgres that is not there.

        Raises `IdentityMismatch` when the database belongs to another namespace, `ConfigurationError` when it can't be
        used by this version.
        """
        await wait_migrated(self._url, instance_id=self._log.instance_id, partitions=self._log.partitions)
        try:
            async with asyncio.TaskGroup() as readers:
                while True:
                    try:
                        async with session(self._url, f"tailrace projector {self.name}") as connection:
                            await self._keep_leases(connection, readers)
                    except UNAVAILABLE as error:
                        _log.warning("leases can't be renewed: %s: %s", type(error).__name__, error)
                    await asyncio.sleep(self._options.beat_seconds)
        finally:
            await self._leave()

    async def _keep_leases(self, connection: Session, readers: asyncio.TaskGroup) -> None:
        while True:
            held = {partition: item.epoch for partition, item in self._held.items()}
            seconds = self._options.lease_seconds
            situation = await ownership.beat(connection, self.name, held, lease_seconds=seconds)
            await self._drop([partition for partition in held if partition not in situation.owned])
            await self._drop([partition for partition, item in self._held.items() if item.reader.done()])
            surplus = sorted(self._held)[situation.share :]
            if surplus:
                await ownership.release(connection, self.name, await self._drop(surplus))
            for partition in situation.free:
                if len(self._held) < situation.share:
                    await self._take(connection, readers, partition)
            self._ready.set()
            await asyncio.sleep(self._options.beat_seconds)

    async def _take(self, connection: Session, readers: asyncio.TaskGroup, partition: int) -> None:
        names = [projection.name for projection in self._projections]
        try:
            tenure = await ownership.take(
                connection, self.name, partition, names, lease_seconds=self._options.lease_seconds
            )
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            return  # its last owner is in the middle of a batch: at the next beat
        if tenure is None:
            return
        _log.info("partition %d is read here (epoch %d)", partition, tenure.epoch)
        reader = PartitionReader(self._url, self._log, tenure, self._projections, self._options.reader)
        task = readers.create_task(reader.run(), name=f"partition {partition}")
        self._held[partition] = _Held(epoch=tenure.epoch, reader=task)

    async def _drop(self, partitions: Sequence[int]) -> dict[int, int]:
        """Stop reading partitions; gives their epochs. An open batch is rolled back."""
        dropped = {partition: self._held.pop(partition) for partition in partitions}
        for item in dropped.values():
            item.reader.cancel()
        if dropped:
            await asyncio.wait([item.reader for item in dropped.values()])
        return {partition: item.epoch for partition, item in dropped.items()}

    async def _leave(self) -> None:
        """Hand everything over, if Postgres can be told in time; else the leases run out."""
        held = {partition: item.epoch for partition, item in self._held.items()}
        self._held.clear()
        try:
            async with (
                asyncio.timeout(LEAVE_SECONDS),
                session(self._url, f"tailrace projector {self.name}") as connection,
            ):
                await ownership.release(connection, self.name, held)
                await ownership.leave(connection, self.name)
        except UNAVAILABLE as error:
            _log.warning("partitions could not be handed over: %s", type(error).__name__)
