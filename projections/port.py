"""What a projection is, and what the projector asks of the log it reads.

A projection is a pure function of events: it gets a folded batch and writes rows, in the transaction that also moves its
checkpoint. It keeps nothing in memory, and what it writes can be thrown away and built again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tailrace.core.store.port import Head, RawEntry
from tailrace.core.store.retention import Retention
from tailrace.projections.batch import Batch
from tailrace.projections.session import Session


class Projection(Protocol):
    """One read model."""

    @property
    def name(self) -> str:
        """The name in `checkpoints`; never changed once released."""

    @property
    def counts(self) -> str:
        """The projection whose rows this one counts, and which it comes before; empty for one that has rows of runs."""

    async def apply(self, session: Session, batch: Batch) -> None:
        """Write what the batch changes. Runs inside a transaction, in order, once per batch."""

    async def clear(self, session: Session, partition: int, workflow_id: str | None = None) -> None:
        """Remove the rows of a partition, or of one of its runs, before they are built again."""


class LogSource(Protocol):
    """The part of `WorkflowStore` a projector needs."""

    @property
    def partitions(self) -> int: ...

    @property
    def instance_id(self) -> str: ...

    async def read_log(
        self, partition: int, after: str, *, count: int, block_seconds: float = 0
    ) -> Sequence[RawEntry]: ...

    async def has_entry(self, partition: int, entry_id: str) -> bool: ...

    async def head(self, partition: int) -> Head: ...


class ForgettingStore(Retention, Protocol):
    """The part of a store that lets go of what is archived."""

    async def now(self) -> int: ...

    async def head(self, partition: int) -> Head: ...
