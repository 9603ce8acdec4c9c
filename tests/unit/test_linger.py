"""How long a reader of the log lets a batch grow: hardly under little load, and never longer than the read models may lag."""

from __future__ import annotations

from tailrace.core.store.port import Head, RawEntry
from tailrace.projections.checkpoints import Place
from tailrace.projections.ownership import Tenure
from tailrace.projections.partition import LOOK_SECONDS, PartitionReader, ReaderOptions

OPTIONS = ReaderOptions(linger_seconds=0.05, full_rate=4500.0)


class Log:
    """A log that has so many more events at each look."""

    partitions = 1
    instance_id = "log"

    def __init__(self, growth: int) -> None:
        self.looks = 0
        self._growth = growth

    async def head(self, partition: int) -> Head:
        """The counters; each time is a look."""
        self.looks += 1
        return Head(seq=100 + self.looks * self._growth, epoch="e", last_entry_id="1-0")

    async def has_entry(self, partition: int, entry_id: str) -> bool:
        """Not asked here."""
        raise NotImplementedError

    async def read_log(self, partition: int, after: str, *, count: int, block_seconds: float = 0) -> list[RawEntry]:
        """Not asked here."""
        raise NotImplementedError


def test_a_batch_grows_with_the_load() -> None:
    """A lone event is seen at once, a full log is read in batches of a third of a second, and none waits longer."""
    assert OPTIONS.linger(1, 2.0) == 0.05
    assert OPTIONS.linger(1, 0.0) == 0.05
    half = OPTIONS.linger(450, 0.2)
    assert 0.05 < half < 0.1
    assert OPTIONS.linger(900, 0.2) == OPTIONS.linger(1999, 0.01) == 0.05 * 6


def test_a_reader_that_does_not_linger_never_does() -> None:
    """Whoever asks for rows at once has them at once, also under load."""
    assert ReaderOptions(linger_seconds=0.0).linger(2000, 0.01) == 0.0


async def _looks(growth: int, events: int, seconds: float) -> int:
    log = Log(growth)
    reader = PartitionReader("", log, Tenure(partition=0, epoch=1), (), OPTIONS)
    await reader._linger(Place(position="1-0", seq=100), events, seconds)
    return log.looks


async def test_the_wait_ends_when_events_stop_coming() -> None:
    """At the next look, and not at its end; while they come it looks until then."""
    whole = 1 + int(OPTIONS.linger(900, 0.2) / LOOK_SECONDS)
    assert await _looks(0, 900, 0.2) == 1
    assert 1 < await _looks(2000, 900, 0.2) < whole


async def test_a_short_wait_is_not_looked_into() -> None:
    """Under little load nothing is asked of the log meanwhile."""
    assert await _looks(0, 1, 2.0) == 0
    assert await _looks(0, 450, 0.2) == 0
