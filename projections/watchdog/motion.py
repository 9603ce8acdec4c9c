"""`Motion`: since when something has looked the same. One look can't tell a queue that stands from one that moves."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from tailrace.core.clock import SECOND

#: What was not looked at for so long is forgotten.
_MEMORY_US: Final = 60 * SECOND


class Motion:
    """Remembers looks at things by name. Times are microseconds by the store's clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Hashable, int, int]] = {}
        self._pruned_at = 0

    def still_us(self, name: str, looks: Hashable, now: int) -> int:
        """Note how `name` looks, and give since how long it has looked so: 0 at the first look and after each change."""
        known, since, _ = self._seen.get(name, (None, now, now))
        if known != looks:
            since = now
        self._seen[name] = (looks, since, now)
        return now - since

    def prune(self, now: int) -> None:
        """Forget what was not looked at for a minute."""
        if now - self._pruned_at > _MEMORY_US:
            self._pruned_at = now
            self._seen = {name: seen for name, seen in self._seen.items() if now - seen[2] <= _MEMORY_US}
