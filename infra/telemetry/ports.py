"""What the `spans` reader asks of others: the log, the archive behind it, a place for its positions, and a way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tailrace.core.store.port import RawEntry
from tailrace.infra.telemetry.span import Span
from tailrace.projections.checkpoints import Place


class Log(Protocol):
    """The part of `WorkflowStore` the reader needs."""

    async def now(self) -> int: ...

    async def read_log(
        self, partition: int, after: str, *, count: int, block_seconds: float = 0
    ) -> Sequence[RawEntry]: ...


class Archive(Protocol):
    """What was in the log (`projections.queries.Queries`)."""

    async def events(self, workflow_id: str, after_version: int = 0, limit: int = 500) -> Sequence[RawEntry]:
        """The history of a run over a version."""

    async def log(self, partition: int, after_seq: int = 0, limit: int = 500) -> Sequence[RawEntry]:
        """The log of a partition over a `seq`."""


class PositionKeeper(Protocol):
    """Where the reader's positions are kept (`projections.positions.Positions`)."""

    async def load(self, partition: int) -> Place | None:
        """None when the reader was never there."""

    async def save(self, partition: int, place: Place) -> bool:
        """False when the partition is not ours any more."""


class Exporter(Protocol):
    """Who delivers spans (`exporter.SpanExporter`)."""

    async def export(self, spans: Sequence[Span]) -> None:
        """Return once they are delivered."""
