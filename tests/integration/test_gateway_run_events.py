"""The events of one run: as pages, as a stream, and joined from archive, log and feed."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tailrace.core.commands import PauseWorkflow, ResumeWorkflow
from tailrace.core.partitioning import partition_of
from tailrace.gateway import cursors
from tailrace.gateway.cursors import RunCursor
from tailrace.infra.embedded import EmbeddedRedis
from tests.integration.gateway_harness import Event, Gateway, gateway
from tests.support.waiting import beside

ALL = [
    "WorkflowCreated",
    *["TaskDispatched", "TaskStarted", "StageCompleted"] * 3,
    "WorkflowCompleted",
]  # fmt: skip


async def test_a_finished_run_is_told_from_its_start_to_its_terminal_event(served: Gateway) -> None:
    """Every event once, in order, as CloudEvents; then the stream ends."""
    run = await served.finished()
    async with served.stream(f"/workflows/{run['workflow_id']}/events") as events:
        told = await events.rest()
    assert [event.name for event in told] == ALL
    assert [event.version for event in told] == list(range(1, run["version"] + 1))
    first = told[0].data
    assert first["specversion"] == "1.0"
    assert first["id"] == f"{run['workflow_id']}:1"
    assert first["type"] == "dev.tailrace.WorkflowCreated"
    assert first["subject"] == run["workflow_id"]
    assert first["source"] == f"urn:tailrace:{served.store.instance_id}"
    assert first["time"] == run["created_at"]
    assert first["traceparent"][3:35] == run["trace_id"]
    assert first["datacontenttype"] == "application/json"
    assert first["data"]["stages"][0] == {"name": "plan", "weight": 1}
    assert len({event.id for event in told}) == len(told)


async def test_a_running_run_is_followed_to_its_end(served: Gateway) -> None:
    """History first, then what happens, without a seam."""
    gate = served.worker.hold("build")
    run = await served.submit()
    async with served.stream(f"/workflows/{run['workflow_id']}/events") as events:
        told = await events.until(lambda event: event.name == "TaskStarted" and event.data["data"]["stage"] == "build")
        gate.set()
        told += await events.rest()
    assert [event.name for event in told] == ALL
    assert [event.version for event in told] == list(range(1, len(ALL) + 1))


async def test_a_stream_resumes_behind_any_event(served: Gateway) -> None:
    """From each cursor exactly the rest is told, by header and by query."""
    run = await served.finished()
    path = f"/workflows/{run['workflow_id']}/events"
    async with served.stream(path) as events:
        told = await events.rest()
    for number, event in enumerate(told[:-1], start=1):
        async with served.stream(path, Last_Event_ID=event.id) as events:
            assert [later.id for later in await events.rest()] == [later.id for later in told[number:]]
    async with served.stream(f"{path}?after={told[3].id}") as events:
        assert await events.rest() == told[4:]
    async with served.stream(f"{path}?after=4") as events:
        assert await events.rest() == told[4:]


async def test_behind_the_end_of_a_finished_run_there_is_nothing(served: Gateway) -> None:
    """204 tells a browser that reconnects to stop."""
    run = await served.finished()
    path = f"/workflows/{run['workflow_id']}/events"
    async with served.stream(path) as events:
        last = (await events.rest())[-1]
    async with served.client.get(
        f"{served.url}/api/v1{path}", headers={"Accept": "text/event-stream", "Last-Event-ID": last.id}
    ) as response:
        assert response.status == 204


@pytest.mark.hole("H25")
async def test_a_cursor_of_another_log_is_told(served: Gateway) -> None:
    """`gap`, without an id, and then the run from its start."""
    run = await served.finished()
    other = cursors.encode(RunCursor("other", 3, "1-1"))
    async with served.stream(f"/workflows/{run['workflow_id']}/events?after={other}") as events:
        told = await events.rest()
    assert (told[0].name, told[0].id, told[0].data["reason"]) == ("gap", "", "other-log")
    assert [event.name for event in told[1:]] == ALL


async def test_a_heartbeat_comes_when_nothing_happens(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """A comment each interval; it carries no id."""
    async with gateway(redis_server.url, tmp_path, working=False, heartbeat_seconds=0.05) as served:
        run = await served.submit()
        async with served.stream(f"/workflows/{run['workflow_id']}/events") as events:
            told = await events.until(lambda event: event.comment == "heartbeat")
            told += await events.until(lambda event: event.comment == "heartbeat")
    assert [event.name for event in told if event.id] == ["WorkflowCreated", "TaskDispatched"]
    assert told[-1] == Event(comment="heartbeat")


async def test_history_and_future_join_while_the_run_moves(served: Gateway) -> None:
    """Streams opened at any moment of a run that changes all the time tell every version once."""
    served.worker.hold("plan")
    run = await served.submit()
    workflow_id = run["workflow_id"]

    async def move() -> None:
        for _ in range(60):
            await served.commands.execute(workflow_id, PauseWorkflow(), actor="test")
            await served.commands.execute(workflow_id, ResumeWorkflow(), actor="test")
        await served.call("POST", f"/workflows/{workflow_id}/cancel", status=200)

    async def follow() -> list[int]:
        async with served.stream(f"/workflows/{workflow_id}/events") as events:
            return [event.version for event in await events.rest()]

    moving = asyncio.ensure_future(move())
    followers: list[asyncio.Future[list[int]]] = []
    while not moving.done():
        before = (await served.call("GET", f"/workflows/{workflow_id}", status=200))["version"]
        if before >= 4 * len(followers):
            followers.append(asyncio.ensure_future(follow()))
    await moving
    end = (await served.call("GET", f"/workflows/{workflow_id}", status=200))["version"]
    assert end > 120
    for told in await asyncio.gather(*followers):
        assert told == list(range(1, end + 1))


async def test_the_archive_tells_what_was_trimmed(projected: Gateway) -> None:
    """A run whose log is gone is told from the archive, with the same ids."""
    run = await projected.finished()
    await projected.archived(run)
    path = f"/workflows/{run['workflow_id']}/events"
    async with projected.stream(path) as events:
        before = await events.rest()
    await trim(projected, run["workflow_id"])
    async with projected.stream(path) as events:
        assert await events.rest() == before
    async with projected.stream(f"{path}?after={before[4].id}") as events:
        assert await events.rest() == before[5:]


@pytest.mark.hole("H25")
async def test_a_live_run_is_joined_from_archive_log_and_feed(projected: Gateway) -> None:
    """The beginning only in the archive, the rest only in the log or yet to come."""
    gate = projected.worker.hold("build")
    run = await projected.submit()
    workflow_id = run["workflow_id"]
    path = f"/workflows/{workflow_id}/events"
    async with projected.stream(path) as events:
        await events.until(lambda event: event.name == "TaskStarted" and event.data["data"]["stage"] == "build")
    await projected.archived(await projected.call("GET", f"/workflows/{workflow_id}", status=200))
    await trim(projected, workflow_id)
    async with projected.stream(path) as events:
        told = await events.until(lambda event: event.name == "TaskStarted" and event.data["data"]["stage"] == "build")
        gate.set()
        told += await events.rest()
    assert [event.version for event in told] == list(range(1, len(ALL) + 1))


async def test_what_nobody_has_is_a_gap(served: Gateway) -> None:
    """With Postgres down and the log trimmed, the stream says what is missing, and goes on."""
    gate = served.worker.hold("build")
    run = await served.submit()
    path = f"/workflows/{run['workflow_id']}/events"
    async with served.stream(path) as events:
        await events.until(lambda event: event.name == "TaskStarted" and event.data["data"]["stage"] == "build")
    await trim(served, run["workflow_id"])
    async with served.stream(path) as events:
        (gap,) = await events.until(lambda event: event.name == "gap")
        gate.set()
        told = await events.rest()
    assert gap.data["reason"] == "history-unavailable"
    assert (gap.data["first_version"], gap.data["last_version"]) == (1, 6)
    assert [event.version for event in told] == list(range(7, len(ALL) + 1))
    problem = await served.call("GET", path, status=503)
    assert problem["code"] == "read-model-unavailable"


async def test_an_entry_that_can_not_be_read_is_skipped_and_named(served: Gateway) -> None:
    """A comment with its entry id stands for it; the stream goes on."""
    served.worker.hold("plan")
    run = await served.submit()
    workflow_id = run["workflow_id"]
    path = f"/workflows/{workflow_id}/events"
    entry_id = await write_nonsense(served, workflow_id)
    comments = []
    async with served.stream(path) as events:
        async for event in events:
            if "skipped" in event.comment:
                comments.append(event.comment)
                await served.call("POST", f"/workflows/{workflow_id}/cancel", status=200)
            if event.name == "WorkflowCancelled":
                break
    assert len(comments) == 1
    assert entry_id in comments[0]
    page = await served.call("GET", path, status=200)
    assert [skipped["entry_id"] for skipped in page["skipped"]] == [entry_id]
    assert page["items"][-1]["type"] == "dev.tailrace.WorkflowCancelled"


async def test_pages_of_events(served: Gateway) -> None:
    """JSON pages by version or cursor; the last has no next."""
    run = await served.finished()
    path = f"/workflows/{run['workflow_id']}/events"
    found: list[int] = []
    after = ""
    while after is not None:
        page = await served.call("GET", f"{path}?limit=4&after={after}", status=200)
        found += [item["data"]["version"] for item in page["items"]]
        after = page["next_cursor"]
    assert found == list(range(1, len(ALL) + 1))
    page = await served.call("GET", f"{path}?after=9", status=200)
    assert [item["data"]["version"] for item in page["items"]] == [10, 11]


async def test_pages_read_their_own_writes(projected: Gateway) -> None:
    """A page shows what was appended a moment ago, though no projector has seen it."""
    projected.worker.hold("plan")
    run = await projected.submit()
    cancelled = await projected.call("POST", f"/workflows/{run['workflow_id']}/cancel", status=200)
    page = await projected.call("GET", f"/workflows/{run['workflow_id']}/events", status=200)
    assert page["items"][-1]["data"]["version"] == cancelled["version"]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_version_that_the_run_does_not_have_is_refused(served: Gateway, accept: str) -> None:
    """400 with the version that it has; behind the last one there is just nothing yet."""
    run = await served.finished()
    path, end = f"/workflows/{run['workflow_id']}/events", len(ALL)
    for after in (end + 1, 999_999):
        problem = await served.call("GET", f"{path}?after={after}", headers={"Accept": accept}, status=400)
        assert problem["code"] == "bad-cursor"
        assert f"version {end}" in problem["detail"]
    page = await served.call("GET", f"{path}?after={end}", status=200)
    assert (page["items"], page["next_cursor"]) == ([], None)


async def test_a_cursor_beyond_the_end_of_its_log_is_told(served: Gateway) -> None:
    """This log gave it, so the log went back since: 410 for a page; a stream says why and begins anew."""
    run = await served.finished()
    path = f"/workflows/{run['workflow_id']}/events"
    async with served.stream(path) as events:
        told = await events.rest()
    last = cursors.decode_run(told[-1].id)
    ahead = cursors.encode(RunCursor(last.epoch, last.version + 3, last.entry_id))
    async with served.stream(f"{path}?after={ahead}") as events:
        gap, *again = await events.rest()
    assert (gap.name, gap.id, gap.data["reason"]) == ("gap", "", "log-went-back")
    assert f"version {last.version + 3}" in gap.data["detail"]
    assert [event.version for event in again if event.id] == list(range(1, len(ALL) + 1))
    assert (await served.call("GET", f"{path}?after={ahead}", status=410))["code"] == "cursor-gone"


async def test_a_cursor_that_is_none_is_refused(served: Gateway) -> None:
    """400 for text that no stream gave."""
    run = await served.finished()
    for after in ("nonsense", "-1", "AAAA", cursors.encode(RunCursor("e", 1, "x"))):
        problem = await served.call("GET", f"/workflows/{run['workflow_id']}/events?after={after}", status=400)
        assert problem["code"] == "bad-cursor"


async def test_a_retried_run_is_told_through_both_rounds(served: Gateway) -> None:
    """A terminal event in the middle of the history does not end the stream."""
    run = await served.finished()
    workflow_id = run["workflow_id"]
    await served.call("POST", f"/workflows/{workflow_id}/retry", json={"from_stage": "ship"}, status=200)
    await served.wait_status(workflow_id, "completed")
    async with served.stream(f"/workflows/{workflow_id}/events") as events:
        names = [event.name for event in await events.rest()]
    assert names.count("WorkflowCompleted") == 2
    assert names[-1] == "WorkflowCompleted"


async def test_a_client_that_does_not_read_is_cut_off(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """What waits for it is bounded; it is disconnected, and resumes from its cursor without loss."""
    async with gateway(redis_server.url, tmp_path, stream_queue=4, write_timeout_seconds=0.2) as served:
        served.worker.hold("plan")
        run = await served.submit()
        workflow_id = run["workflow_id"]
        path = f"/workflows/{workflow_id}/events"
        reader, writer = await open_narrow(served.url)
        request = f"GET /api/v1{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
        writer.write(request.encode())
        first = await reader.readuntil(b"TaskDispatched")
        assert b"WorkflowCreated" in first
        async with beside(pause_and_resume(served, workflow_id)):
            await served.wait_no_streams()
        writer.close()
        async with asyncio.timeout(20):
            cancelled = await served.call("POST", f"/workflows/{workflow_id}/cancel", status=200)
            async with served.stream(f"{path}?after=2") as events:
                assert [event.version for event in await events.rest()] == list(range(3, cancelled["version"] + 1))


async def open_narrow(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which little can wait to be read."""
    parts = urlsplit(url)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, (parts.hostname, parts.port))
    return await asyncio.open_connection(sock=narrow, limit=8192)


async def pause_and_resume(gateway: Gateway, workflow_id: str) -> None:
    """Make events until cancelled; large ones, so that a socket fills."""
    while True:
        await gateway.commands.execute(workflow_id, PauseWorkflow(reason="x" * 7000), actor="test")
        await gateway.commands.execute(workflow_id, ResumeWorkflow(), actor="test")


async def trim(gateway: Gateway, workflow_id: str) -> None:
    """Empty the log of a run's partition."""
    part = gateway.store.keys.partition(partition_of(workflow_id, gateway.store.partitions))
    await gateway.store.client.command("XTRIM", part.log, "MAXLEN", 0)


#: Give the entry a type that nobody knows. Entries can't be changed: it and those behind it are written again, in one step,
#: because others append at any time. Returns the entry's new id.
RETYPE = """
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+')
local fields = entries[1][2]
for at = 1, #fields, 2 do
  if fields[at] == 'type' then fields[at + 1] = ARGV[2] end
end
for _, entry in ipairs(entries) do redis.call('XDEL', KEYS[1], entry[1]) end
local ids = {}
for _, entry in ipairs(entries) do ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', unpack(entry[2])) end
return ids[1]
"""


async def write_nonsense(gateway: Gateway, workflow_id: str) -> str:
    """Append an event, and give it behind the store's back a type that nobody knows; gives its entry id."""
    await gateway.commands.execute(workflow_id, PauseWorkflow(), actor="test")
    partition = partition_of(workflow_id, gateway.store.partitions)
    entries = await gateway.store.read_log(partition, "0-0", count=1000)
    (entry,) = [entry for entry in entries if (entry.workflow_id, entry.type) == (workflow_id, "WorkflowPaused")]
    log = gateway.store.keys.partition(partition).log
    entry_id = await gateway.store.client.command("EVAL", RETYPE, 1, log, entry.entry_id, "FromTheFuture")
    return str(entry_id.decode())
