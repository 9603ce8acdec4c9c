"""The `spans` reader beside a real projector on a real Postgres: its positions, what it does after a restart, and whose
partitions it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tailrace.core.partitioning import partition_of
from tailrace.infra.telemetry.exporter import SpanExporter
from tailrace.infra.telemetry.partition import ReaderOptions
from tailrace.infra.telemetry.reader import SpanReader
from tailrace.infra.telemetry.settings import collector
from tailrace.projections.checkpoints import Place
from tailrace.projections.positions import Positions
from tailrace.projections.queries import Queries
from tailrace.projections.runtime import Projector
from tests.integration.otlp_receiver import Receiver, collecting
from tests.integration.projections.run_log import SEVEN, RunLog
from tests.integration.projections.support import Database, project, projecting, quick, until

#: Spans of one run of seven stages: the workflow, and for each stage itself, its sending and two reports.
WHOLE_RUN = 1 + 7 * 4

QUICK = ReaderOptions(poll_seconds=0.02, backoff_seconds=(0.02,))


class Clocked:
    """A `RunLog` with the store's clock."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self.read_log = log.read_log

    async def now(self) -> int:
        """The log's own time."""
        return self._log.now


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with collecting() as found:
        yield found


@asynccontextmanager
async def sending(
    url: str, log: RunLog, receiver: Receiver, projector: Projector, *, options: ReaderOptions = QUICK
) -> AsyncIterator[Positions]:
    """The reader of one projector process, while the block runs."""
    async with (
        Queries(url, size=2) as archive,
        Positions(url, reader="spans", owner=projector.name) as positions,
    ):
        exporter = SpanExporter(collector(receiver.endpoint), backoff_seconds=(0.02,))
        reader = SpanReader(
            Clocked(log), archive, positions, exporter, owned=lambda: projector.partitions, options=options
        )
        running = asyncio.create_task(reader.run())
        try:
            yield positions
            assert not running.done(), running
        finally:
            running.cancel()
            await asyncio.wait([running])


async def sent_up_to(database: Database, log: RunLog) -> bool:
    """True when the positions are at the end of every partition that holds anything."""
    if await database.value("SELECT to_regclass('tailrace.positions') IS NULL"):
        return False
    rows = await database.rows("SELECT partition, seq FROM tailrace.positions WHERE reader = 'spans'")
    heads = {partition: (await log.head(partition)).seq for partition in range(log.partitions)}
    return {row["partition"]: row["seq"] for row in rows} == heads


async def test_runs_are_sent_whole(postgres_url: str, log: RunLog, db: Database, receiver: Receiver) -> None:
    """Every span of every run arrives, and the positions are at the end of the log."""
    runs = [f"run-{number}" for number in range(6)]
    for run in runs:
        log.create(run)
        log.finish(run)
    async with projecting(postgres_url, log) as projector, sending(postgres_url, log, receiver, projector):
        await until(lambda: sent_up_to(db, log))
    for run in runs:
        of_run = [span for span in receiver.spans if span.attributes["tailrace.workflow_id"] == run]
        assert len(of_run) == len({span.span_id for span in of_run}) == WHOLE_RUN


async def test_a_restart_goes_on_where_it_was(postgres_url: str, log: RunLog, db: Database, receiver: Receiver) -> None:
    """A run that was open when the process went is known again from the archive: no span twice, none missing."""
    log.create("run-1")
    log.advance("run-1")
    async with projecting(postgres_url, log) as projector, sending(postgres_url, log, receiver, projector):
        await until(lambda: sent_up_to(db, log))
    log.finish("run-1")
    async with projecting(postgres_url, log) as projector, sending(postgres_url, log, receiver, projector):
        await receiver.wait(lambda: receiver.named("workflow line"))
    ids = [span.span_id for span in receiver.spans]
    assert len(ids) == len(set(ids)) == WHOLE_RUN


async def test_an_outage_of_the_collector_holds_up_nothing_but_spans(
    postgres_url: str, log: RunLog, db: Database, receiver: Receiver
) -> None:
    """While it is down projections go on and the position stays; when it is back everything arrives."""
    receiver.stop()
    log.create("run-1")
    log.finish("run-1")
    partition = partition_of("run-1", log.partitions)
    async with projecting(postgres_url, log) as projector, sending(postgres_url, log, receiver, projector) as positions:
        await until(lambda: db.is_caught_up(log))
        await until(lambda: positions.load(partition))
        place = await positions.load(partition)
        assert place is not None
        assert place.seq == 0
        receiver.start()
        await receiver.wait(lambda: len(receiver.spans) == WHOLE_RUN)
        await until(lambda: sent_up_to(db, log))


async def test_what_was_trimmed_comes_from_the_archive(
    postgres_url: str, log: RunLog, db: Database, receiver: Receiver
) -> None:
    """Spans do not hold back trimming, and lose nothing by it."""
    partition = partition_of("run-1", log.partitions)
    log.create("run-1")
    log.advance("run-1")
    async with projecting(postgres_url, log) as projector, sending(postgres_url, log, receiver, projector):
        await until(lambda: sent_up_to(db, log))
    log.finish("run-1")
    await project(postgres_url, log, db)
    log.trim(partition, keep=3)
    async with (
        projecting(postgres_url, log) as projector,
        sending(postgres_url, log, receiver, projector, options=ReaderOptions(poll_seconds=0.02, batch_size=5)),
    ):
        await receiver.wait(lambda: receiver.named("workflow line"))
    ids = [span.span_id for span in receiver.spans]
    assert len(ids) == len(set(ids)) == WHOLE_RUN


async def test_two_projectors_share_the_sending(
    postgres_url: str, log: RunLog, db: Database, receiver: Receiver
) -> None:
    """Each sends what it projects; when one goes the other takes over, and nothing is missing."""
    runs = [f"run-{number}" for number in range(8)]
    for run in runs:
        log.create(run)
        log.advance(run)
    async with projecting(postgres_url, log, name="a") as a, sending(postgres_url, log, receiver, a):
        async with projecting(postgres_url, log, name="b") as b, sending(postgres_url, log, receiver, b):
            await until(lambda: _both_own(a, b))
            await until(lambda: sent_up_to(db, log))
        for run in runs:
            log.finish(run)
        await until(lambda: sent_up_to(db, log))
    by_run = {
        run: {span.span_id for span in receiver.spans if span.attributes["tailrace.workflow_id"] == run} for run in runs
    }
    assert {len(ids) for ids in by_run.values()} == {WHOLE_RUN}


async def _both_own(a: Projector, b: Projector) -> bool:
    return len(a.partitions) == len(b.partitions) == 1


async def test_only_the_owner_moves_a_position(postgres_url: str, log: RunLog) -> None:
    """Somebody else's save changes nothing and says so."""
    async with projecting(postgres_url, log, options=quick()) as projector:
        await until(lambda: _owns_all(projector, log))
        async with (
            Positions(postgres_url, reader="spans", owner=projector.name) as ours,
            Positions(postgres_url, reader="spans", owner="somebody") as theirs,
        ):
            assert await ours.load(0) is None
            assert await ours.save(0, Place(position="5-0", seq=3))
            assert not await theirs.save(0, Place(position="9-0", seq=9))
            assert await theirs.load(0) == Place(position="5-0", seq=3)


async def _owns_all(projector: Projector, log: RunLog) -> bool:
    return len(projector.partitions) == log.partitions


async def test_a_run_that_cannot_be_read_stops_no_other(
    postgres_url: str, log: RunLog, db: Database, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Its spans end there, which is said once; all other runs of the partition have theirs."""
    log.create("run-1")
    log.put("run-1", log.version("run-1") + 1, "NoSuchEvent", b"\xc1")
    log.follow_poison("run-1")
    partition = partition_of("run-1", log.partitions)
    other = next(f"other-{n}" for n in range(100) if partition_of(f"other-{n}", log.partitions) == partition)
    log.create(other)
    log.finish("run-1", pipeline=SEVEN)
    log.finish(other)
    async with projecting(postgres_url, log) as projector, sending(postgres_url, log, receiver, projector):
        await until(lambda: sent_up_to(db, log))
    assert len([span for span in receiver.spans if span.attributes["tailrace.workflow_id"] == other]) == WHOLE_RUN
    assert caplog.text.count("run-1 has no more spans") == 1


async def test_an_old_log_is_not_sent_from_its_beginning(
    postgres_url: str, log: RunLog, db: Database, receiver: Receiver
) -> None:
    """Switched on for the first time, the reader begins a set time ago; a run that is open then is known from the archive."""
    log.create("run-1")
    log.advance("run-1")
    await project(postgres_url, log, db)
    log.now += 3600 * 1_000_000
    log._ids = log.now // 1000
    log.finish("run-1")
    options = ReaderOptions(poll_seconds=0.02, history_seconds=600.0)
    async with (
        projecting(postgres_url, log) as projector,
        sending(postgres_url, log, receiver, projector, options=options),
    ):
        await receiver.wait(lambda: receiver.named("workflow line"))
    assert receiver.named("stage initialization") == []
    assert len(receiver.named("stage monitoring")) == 1
