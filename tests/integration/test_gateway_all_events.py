"""The stream of all runs: from now, from a cursor, filtered, and over gaps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tailrace.core.commands import CreateWorkflow, PauseWorkflow, ResumeWorkflow
from tailrace.core.partitioning import partition_of
from tailrace.gateway import cursors
from tailrace.gateway.cursors import LogCursor, Position
from tailrace.gateway.streams import epoch_of, heads_of
from tailrace.infra.embedded import EmbeddedRedis
from tests.integration.gateway_harness import APP, Event, EventReader, Gateway, gateway

Told = list[tuple[str, int]]


def places(events: list[Event]) -> Told:
    """Which event of which run, in the order they came."""
    return [(event.data["subject"], event.version) for event in events]


def by_run(told: Told) -> dict[str, list[int]]:
    """The versions told of each run."""
    found: dict[str, list[int]] = {}
    for workflow_id, version in told:
        found.setdefault(workflow_id, []).append(version)
    return found


async def ends(events: EventReader, workflow_ids: set[str]) -> list[Event]:
    """Events up to the last terminal one of these runs."""
    left = set(workflow_ids)

    def is_last(event: Event) -> bool:
        if event.name == "WorkflowCompleted":
            left.discard(event.data["subject"])
        return not left

    return await events.until(is_last)


async def begun(events: EventReader) -> None:
    """Wait until the stream is open: its first bytes are written when the ends of the logs are known."""
    assert (await events.response.content.readline()).startswith(b"retry: ")


async def test_all_runs_are_told_from_now_on(served: Gateway) -> None:
    """Nothing of the past, everything from then, in order per run."""
    await served.finished()
    async with served.stream("/events") as events:
        await begun(events)
        runs = [await served.submit() for _ in range(5)]
        told = await ends(events, {run["workflow_id"] for run in runs})
    assert by_run(places(told)) == {run["workflow_id"]: list(range(1, 12)) for run in runs}


@pytest.mark.hole("H25")
async def test_the_stream_resumes_behind_any_event(served: Gateway) -> None:
    """From each cursor exactly the rest is told, in both partitions."""
    async with served.stream("/events") as events:
        await begun(events)
        runs = {(await served.submit())["workflow_id"] for _ in range(6)}
        while {partition_of(run, 2) for run in runs} != {0, 1}:
            # Ids are random: six runs in one partition are rare, not impossible.
            runs.add((await served.submit())["workflow_id"])
        told = await ends(events, runs)
    for number in range(0, len(told), 7):
        async with served.stream("/events", Last_Event_ID=told[number].id) as events:
            rest = [(await events.until(lambda event: bool(event.id)))[-1] for _ in told[number + 1 :]]
        assert sorted(places(rest)) == sorted(places(told[number + 1 :]))
        assert by_run(places(rest)) == by_run(places(told[number + 1 :]))


async def test_filters(served: Gateway) -> None:
    """By run and by type, with or without the prefix."""
    one, two = await served.submit(), await served.submit()
    start = cursors.encode(LogCursor(await epoch(served), (Position(), Position())))
    wanted = one["workflow_id"]
    async with served.stream(f"/events?workflow_id={wanted}&after={start}") as events:
        told = await ends(events, {wanted})
    assert by_run(places(told)) == {wanted: list(range(1, 12))}
    types = "type=WorkflowCreated,WorkflowCompleted&type=dev.tailrace.StageCompleted"
    async with served.stream(f"/events?{types}&after={start}") as events:
        told = await ends(events, {wanted, two["workflow_id"]})
    assert {event.name for event in told} == {"WorkflowCreated", "StageCompleted", "WorkflowCompleted"}
    assert len(told) == 10


@pytest.mark.hole("H25")
async def test_history_and_future_join_while_runs_start(served: Gateway) -> None:
    """A resumed stream tells every version of every run once, while others are appended all the time."""
    pipeline = await served.store.latest(APP.name)
    start = cursors.encode(LogCursor(await epoch(served), (Position(), Position())))

    async def make(number: int) -> str:
        command = CreateWorkflow(workflow_id=f"run-{number}", definition=pipeline.hash, type="app", name="x")
        await served.commands.create(command, actor="test")
        return command.workflow_id

    async def follow(wanted: set[str]) -> Told:
        async with served.stream(f"/events?after={start}") as events:
            return places(await ends(events, wanted))

    wanted = {f"run-{number}" for number in range(60)}
    followers = []
    for number in range(60):
        await make(number)
        if number % 6 == 0:
            followers.append(asyncio.ensure_future(follow(wanted)))
    for told in await asyncio.gather(*followers):
        found = by_run(told)
        assert set(found) == wanted
        assert all(versions == list(range(1, 12)) for versions in found.values())


async def test_a_cursor_of_another_log_is_told(served: Gateway) -> None:
    """`gap`, and then what happens from now on."""
    await served.finished()
    other = cursors.encode(LogCursor("other", (Position("1-1", 1), Position("1-1", 1))))
    async with served.stream(f"/events?after={other}") as events:
        (gap,) = await events.until(lambda event: event.name == "gap")
        assert (gap.id, gap.data["reason"]) == ("", "other-log")
        run = await served.submit()
        told = await ends(events, {run["workflow_id"]})
    assert by_run(places(told)) == {run["workflow_id"]: list(range(1, 12))}


async def test_a_log_that_was_trimmed_under_a_cursor_is_told(served: Gateway) -> None:
    """With Postgres down there is a gap for each partition that lost something; what is left is told."""
    start = cursors.encode(LogCursor(await epoch(served), (Position(), Position())))
    run = await served.finished()
    lost = partition_of(run["workflow_id"], 2)
    part = served.store.keys.partition(lost)
    await served.store.client.command("XTRIM", part.log, "MAXLEN", 3)
    async with served.stream(f"/events?after={start}") as events:
        told = await ends(events, {run["workflow_id"]})
    assert (told[0].name, told[0].data["reason"], told[0].data["partition"]) == ("gap", "history-gone", lost)
    assert by_run(places(told[1:])) == {run["workflow_id"]: [9, 10, 11]}
    await served.store.client.command("XTRIM", part.log, "MAXLEN", 0)
    async with served.stream(f"/events?after={start}") as events:
        (gap,) = await events.until(lambda event: event.name == "gap")
    assert gap.data["partition"] == lost


@pytest.mark.hole("H25")
async def test_the_archive_fills_what_was_trimmed(projected: Gateway) -> None:
    """With Postgres there is no gap."""
    start = cursors.encode(LogCursor(await epoch(projected), (Position(), Position())))
    run = await projected.finished()
    await projected.archived(run)
    part = projected.store.keys.partition(partition_of(run["workflow_id"], 2))
    await projected.store.client.command("XTRIM", part.log, "MAXLEN", 3)
    async with projected.stream(f"/events?after={start}") as events:
        told = await ends(events, {run["workflow_id"]})
    assert by_run(places(told)) == {run["workflow_id"]: list(range(1, 12))}


async def test_a_cursor_ahead_of_the_log_is_told(served: Gateway) -> None:
    """A log that went back, within the same epoch, is a gap as well."""
    await served.finished()
    ahead = cursors.encode(LogCursor(await epoch(served), (Position("9-1", 999), Position("9-1", 999))))
    async with served.stream(f"/events?after={ahead}") as events:
        gaps = await events.until(lambda event: event.name == "gap" and event.data["partition"] == 1)
    assert [gap.data["partition"] for gap in gaps] == [0, 1]


async def test_a_log_that_is_cut_back_under_a_stream_ends_it(served: Gateway) -> None:
    """The feed notices that the log does not continue: the stream says so, and breaks off."""
    served.worker.hold("plan")
    run = await served.submit()
    part = served.store.keys.partition(partition_of(run["workflow_id"], 2))
    async with served.stream(f"/events?workflow_id={run['workflow_id']}") as events:
        await begun(events)
        await served.wait_listening()
        await served.store.client.command("HINCRBY", part.head, "seq", -2)
        *_, gap = await events.until(lambda event: event.name == "gap")
    assert gap.data["reason"] == "log-diverged"


@pytest.mark.parametrize("after", ["7", "nonsense", cursors.encode(LogCursor("e", (Position(),)))])
async def test_a_cursor_that_is_none_is_refused(served: Gateway, after: str) -> None:
    """400 for text that no stream of this installation gave."""
    problem = await served.call("GET", f"/events?after={after}", headers={"Accept": "text/event-stream"}, status=400)
    assert problem["code"] == "bad-cursor"


async def test_it_is_a_stream_only(served: Gateway) -> None:
    """There is no page of all events."""
    await served.call("GET", "/events", headers={"Accept": "application/json"}, status=406)


async def test_streams_are_limited(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """One stream over the limit is 503 with Retry-After; one that ends makes room."""
    async with gateway(redis_server.url, tmp_path, max_streams=1, heartbeat_seconds=0.05) as served:
        async with served.stream("/events") as events:
            await begun(events)
            async with served.client.get(f"{served.url}/api/v1/events") as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "5"
        await served.wait_no_streams()
        async with served.stream("/events") as events:
            await begun(events)


async def test_a_stopping_gateway_breaks_streams_off(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """Within the time of a shutdown, and so that a client knows it was not the end."""
    told: list[Any] = []
    async with gateway(redis_server.url, tmp_path) as served:
        response = await served.client.get(f"{served.url}/api/v1/events")
        reading = asyncio.ensure_future(response.content.read())
        await served.wait_listening()
        await served.stop()
        told += await asyncio.gather(reading, return_exceptions=True)
    assert isinstance(told[0], Exception)


async def test_a_hundred_streams_hear_the_same(served: Gateway) -> None:
    """One reader per partition feeds them all."""
    served.worker.hold("plan")
    run = await served.submit()
    workflow_id = run["workflow_id"]

    async def follow() -> list[int]:
        async with served.stream(f"/workflows/{workflow_id}/events") as events:
            return [event.version for event in await events.rest()]

    followers = [asyncio.ensure_future(follow()) for _ in range(90)]
    for _ in range(10):
        await served.commands.execute(workflow_id, PauseWorkflow(), actor="test")
        await served.commands.execute(workflow_id, ResumeWorkflow(), actor="test")
    ended = await served.call("POST", f"/workflows/{workflow_id}/cancel", status=200)
    for told in await asyncio.gather(*followers):
        assert told == list(range(1, ended["version"] + 1))


async def epoch(gateway: Gateway) -> str:
    """The epoch that cursors of all runs carry."""
    return epoch_of(await heads_of(gateway.store))
