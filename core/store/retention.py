"""The port `Retention`: what a store lets go of, once the archive holds it.

Invariant: whoever calls says what is archived, and the store believes it only as far as it sees the same itself. The log is
trimmed while it holds the entry that is to be its first one, under the number that the archive knows it by; a run expires
while it has ended, at the version that is archived. Every call is a short step: it never holds the server up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class LogPlace(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a partition's log: its id, and its `seq`."""

    entry_id: str
    seq: int


class EndedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has ended, and the version that is archived of it."""

    workflow_id: str
    version: int


class Retention(Protocol):
    """The part of a store that forgets."""

    async def trim_log(self, partition: int, first: LogPlace, *, count: int) -> int:
        """Remove entries from the beginning of the log, up to (without) `first`, at most `count`; gives how many.

        A store may leave some of them standing that it can't remove at once, never more than a hundred; it gives 0 when
        there is nothing more to remove. Raises `LogDiverged` when `first` is not that entry of the log that was joined.
        """

    async def expire_runs(self, partition: int, runs: Sequence[EndedRun]) -> int:
        """Forget these runs, all of that partition, except for their version: a tombstone, so that none of them begins
        anew; gives how many.

        What is open, at another version, or forgotten already stays as it is. Raises `LogDiverged` when the log is not
        the one that was joined.
        """
