"""Histories while the log is trimmed under their readers: archive and tail are joined without a seam."""

from __future__ import annotations

from tailrace.core.partitioning import partition_of
from tailrace.core.store.port import RawEntry
from tailrace.gateway.history import History, Missing
from tailrace.projections.queries import Queries
from tailrace.projections.retention import RetentionKeeper, RetentionOptions
from tests.integration.gateway_harness import Event, Gateway
from tests.support.waiting import beside, eventually


class LateArchive:
    """The archive as it is while it is behind, and then is not: what it did not have yet is trimmed from the log by then."""

    def __init__(self, gateway: Gateway) -> None:
        self._store = gateway.store
        self._queries: Queries = gateway.services.queries
        self.asked = 0

    async def archived_version(self, workflow_id: str) -> int:
        """As it is."""
        return await self._queries.archived_version(workflow_id)

    async def events(self, workflow_id: str, after_version: int = 0, limit: int = 500) -> list[RawEntry]:
        """Only the beginning and no more, before the log is emptied; then all of it."""
        self.asked += 1
        if self.asked == 1:
            return await self._queries.events(workflow_id, after_version=after_version, limit=4)
        if self.asked == 2:
            part = self._store.keys.partition(partition_of(workflow_id, self._store.partitions))
            await self._store.client.command("XTRIM", part.log, "MAXLEN", 0)
            return []
        return await self._queries.events(workflow_id, after_version=after_version, limit=limit)


async def test_what_is_trimmed_between_two_reads_is_read_from_the_archive(projected: Gateway) -> None:
    """The archive was asked while it was behind, and the log after it was trimmed: the archive is asked again."""
    run = await projected.finished()
    await projected.archived(run)
    history = History(projected.store, LateArchive(projected))  # type: ignore[arg-type]  # as much of it as is needed
    versions: list[int] = []
    async for page in history.read(await history.status(run["workflow_id"]), 0):
        assert not isinstance(page, Missing), page
        versions += [entry.version for entry in page]
    assert versions == list(range(1, run["version"] + 1))


async def test_what_neither_has_is_told(served: Gateway) -> None:
    """Without an archive what was trimmed is missing, once, and the rest is there."""
    run = await served.finished()
    partition = partition_of(run["workflow_id"], served.store.partitions)
    entries = await served.store.read_log(partition, "0-0", count=1000)
    own = [entry for entry in entries if entry.workflow_id == run["workflow_id"]]
    log = served.store.keys.partition(partition).log
    await served.store.client.command("XDEL", log, own[2].entry_id, own[3].entry_id, own[-1].entry_id)
    history = History(served.store, served.services.queries)
    pages = [page async for page in history.read(await history.status(run["workflow_id"]), 0)]
    missing = [page for page in pages if isinstance(page, Missing)]
    told = [entry.version for page in pages if not isinstance(page, Missing) for entry in page]
    assert [(page.first, page.last, page.unavailable) for page in missing] == [(3, 4, True), (len(own), len(own), True)]
    assert told == [1, 2, *range(5, len(own))]


async def test_streams_go_through_a_log_that_is_trimmed_all_the_time(projected: Gateway, database_url: str) -> None:
    """One run's events and those of all, resumed from the beginning: each once and in order, none announced as gone."""
    keeper = RetentionKeeper(
        database_url,
        projected.store,
        owner=await owner(projected),
        owned=lambda: range(projected.store.partitions),
        options=RetentionOptions(tail_events=0, poll_seconds=0.02),
    )
    async with projected.stream("/events") as events:
        await projected.wait_listening()
        first = await projected.submit()
        begun = (await events.until(lambda event: bool(event.id)))[-1]
    async with beside(keeper.run()):
        runs = [first, *[await projected.finished() for _ in range(30)]]
        await eventually(lambda: trimmed(projected))
        for run in (runs[1], runs[-1]):
            async with projected.stream(f"/workflows/{run['workflow_id']}/events") as events:
                told = await events.rest()
            assert [event.version for event in told if event.id] == list(range(1, run["version"] + 1))
        open_runs = {run["workflow_id"] for run in runs[1:]}

        def all_have_ended(event: Event) -> bool:
            if event.name == "WorkflowCompleted":
                open_runs.discard(event.data["subject"])
            return not open_runs

        async with projected.stream("/events", Last_Event_ID=begun.id) as events:
            told = await events.until(all_have_ended)
        assert "gap" not in {event.name for event in told}
        for run in runs[1:]:
            versions = [event.version for event in told if event.data["subject"] == run["workflow_id"]]
            assert versions == list(range(1, run["version"] + 1))


async def owner(gateway: Gateway) -> str:
    """The projector that reads everything."""
    names = {row.owner for row in await gateway.services.queries.checkpoints()}
    (name,) = names
    assert name is not None
    return name


async def trimmed(gateway: Gateway) -> bool:
    """True when the beginning of every log is gone."""
    firsts = [await gateway.store.read_log(number, "0-0", count=1) for number in range(gateway.store.partitions)]
    return all(found and found[0].seq > 50 for found in firsts)
