"""Looking at the store from outside: where tasks are, who works, what waits. Reads only; the basis of every diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from redis.exceptions import RedisError

from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend import scripts
from tailrace.core.redis_backend.connection import Call, translate
from tailrace.core.redis_backend.replies import entries, info, names, pairs
from tailrace.core.store.port import OpenEntry, ParkedEntry, PartitionFacts, Queue, WorkerBeat

if TYPE_CHECKING:
    from tailrace.core.redis_backend.store import RedisStore

#: A worker that has been silent for so long is forgotten, in seconds.
FORGET_SECONDS: Final = 60

_AHEAD_LIMIT: Final = 10_000

_CONFIGURATION: Final = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory", "maxmemory-policy")


async def open_entries(store: RedisStore, workflow_id: str) -> list[OpenEntry]:
    """Where each open task of a run is."""
    part = store.keys.partition(partition_of(workflow_id, store.partitions))
    fields = pairs(await store.client.command("HGETALL", part.workflow(workflow_id)))
    found = []
    for name, value in fields.items():
        if name.startswith(b"t:"):
            agent, lane, entry_id = value.decode().split(" ")
            stream = part.tasks(agent, urgent=lane == "high")
            found.append(await _open_entry(store, stream, name[2:].decode(), agent, entry_id))
    return found


async def _open_entry(store: RedisStore, stream: str, task_id: str, agent: str, entry_id: str) -> OpenEntry:
    state, *found = await store.client.call(scripts.ENTRY, [stream], [agent, entry_id])
    entry = OpenEntry(task_id=task_id, agent=agent, entry_id=entry_id, state=state.decode())
    match entry.state:
        case "delivered":
            worker, idle, deliveries = found
            return msgspec.structs.replace(
                entry, worker=worker.decode(), idle_us=int(idle) * 1000, deliveries=int(deliveries)
            )
        case "queued":
            (last,) = found
            # Counted by itself: a script that counts thousands would hold up everybody.
            before = await store.client.command(
                "XRANGE", stream, f"({last.decode()}", f"({entry_id}", "COUNT", _AHEAD_LIMIT
            )
            return msgspec.structs.replace(entry, ahead=len(before))
        case _:
            return entry


async def owner_of_entry(store: RedisStore, partition: int, place: str) -> tuple[str, str]:
    """The run and task whose entry `<stream key> <entry id>` is gone; two empty strings when no open run has it.

    A scan over the partition's open runs: it happens only after somebody deleted an entry behind the engine's back.
    """
    stream, _, entry_id = place.rpartition(" ")
    part = store.keys.partition(partition)
    for workflow_id in await store.open_workflows(partition, count=1_000_000):
        fields = pairs(await store.client.command("HGETALL", part.workflow(workflow_id)))
        for name, value in fields.items():
            if name.startswith(b"t:"):
                agent, lane, known = value.decode().split(" ")
                if known == entry_id and part.tasks(agent, urgent=lane == "high") == stream:
                    return workflow_id, name[2:].decode()
    return "", ""


async def queues(store: RedisStore, agents: Sequence[str]) -> list[Queue]:
    """Backlog is what was never delivered: the group's own `lag` is wrong as soon as entries are deleted.

    All is read in one script, because tasks come and go between two commands; one round trip for all of them, because
    a watchdog asks every few seconds.
    """
    places = [(agent, partition) for agent in agents for partition in range(store.partitions)]
    now = await store.now()
    replies = await store.client.calls(
        [Call(scripts.QUEUE, _queue_keys(store, agent, partition), [agent]) for agent, partition in places]
    )
    for reply in replies:
        if isinstance(reply, RedisError):
            raise translate(reply) from reply
    return [_queue(agent, partition, reply, now) for (agent, partition), reply in zip(places, replies, strict=True)]


def _queue_keys(store: RedisStore, agent: str, partition: int) -> list[str]:
    part = store.keys.partition(partition)
    return [part.cancels, *(part.tasks(agent, urgent=urgent) for urgent in (True, False))]


def _queue(agent: str, partition: int, reply: Sequence[Any], now: int) -> Queue:
    """The replies for both lanes: what waits, what is pending (-1 without a group), the oldest entry, runs to look at, and who
    holds how many.
    """
    backlog = pending = oldest_us = told = 0
    has_group = True
    by_worker: dict[str, int] = {}
    runs: dict[str, list[str]] = {"acknowledged": [], "repeated": [], "oldest": []}
    for waiting, held, oldest, acknowledged, repeated, first, closed, *consumers in reply:
        has_group = has_group and held >= 0
        pending += max(0, held)
        backlog += waiting
        told += closed
        for found, workflows in zip(runs.values(), (acknowledged, repeated, first), strict=True):
            found += [workflow_id.decode(errors="replace") for workflow_id in workflows]
        for consumer, count in consumers:
            name = consumer.decode()
            by_worker[name] = by_worker.get(name, 0) + int(count)
        if oldest:
            oldest_us = max(oldest_us, now - _entry_us(oldest))
    return Queue(
        agent=agent,
        partition=partition,
        has_group=has_group,
        backlog=backlog,
        pending=pending,
        oldest_age_us=oldest_us,
        pending_by_worker=by_worker,
        told=told,
        **{name: tuple(found) for name, found in runs.items()},
    )


async def parked(store: RedisStore, partition: int, count: int) -> list[ParkedEntry]:
    """The latest reports that could not be applied; timers are parked beside them, and are no reports."""
    key = store.keys.partition(partition).parked
    found = []
    for entry_id, fields in entries(await store.client.command("XREVRANGE", key, "+", "-", "COUNT", count)):
        if fields.get(b"source") == b"report":
            workflow_id, task_id, reason = (
                fields.get(name, b"").decode(errors="replace") for name in (b"workflow", b"task", b"reason")
            )
            at = _entry_us(entry_id.encode())
            found.append(ParkedEntry(workflow_id=workflow_id, task_id=task_id, reason=reason, at=at))
    return found


async def unexpected(store: RedisStore, partition: int, workflow_ids: Sequence[str]) -> list[str]:
    """One ZMSCORE."""
    if not workflow_ids:
        return []
    key = store.keys.partition(partition).expect
    scores = await store.client.command("ZMSCORE", key, *workflow_ids)
    return [workflow_id for workflow_id, score in zip(workflow_ids, scores, strict=True) if score is None]


async def workers(store: RedisStore, agent: str) -> list[WorkerBeat]:
    """Workers of an agent, latest beat first."""
    now = await store.now()
    beating = await store.client.command(
        "ZREVRANGEBYSCORE", store.keys.workers(agent), "+inf", now - FORGET_SECONDS * 1_000_000
    )
    if not beating:
        return []
    replies = await store.client.pipeline(
        [("HMGET", store.keys.worker(agent, name), "data", "at") for name in names(beating)]
    )
    beats = []
    for data, at in replies:
        if data is not None:
            try:
                beats.append(msgspec.structs.replace(msgspec.json.decode(data, type=WorkerBeat), at=int(float(at))))
            except (msgspec.MsgspecError, TypeError, ValueError):
                continue  # no beat of a worker that we know: it counts as silent, and hides no others
    return beats


async def partition_facts(store: RedisStore, partition: int) -> PartitionFacts:
    """Reports that wait, the orchestrator's lease, timers past their time, what is parked."""
    part = store.keys.partition(partition)
    now = await store.now()
    reports, oldest, owner, overdue, parked = await store.client.pipeline(
        [
            ("XLEN", part.reports),
            ("XRANGE", part.reports, "-", "+", "COUNT", 1),
            ("HMGET", part.owner, "name", "until"),
            ("ZCOUNT", part.timers, "-inf", now),
            ("XLEN", part.parked),
        ]
    )
    name, until = owner
    return PartitionFacts(
        partition=partition,
        reports=int(reports),
        oldest_report_age_us=max(0, now - _entry_us(oldest[0][0])) if oldest else 0,
        owner=name.decode() if name else "",
        owner_until=int(float(until)) if until else 0,
        overdue_timers=int(overdue),
        parked=int(parked),
    )


async def settings(store: RedisStore) -> dict[str, str]:
    """INFO and CONFIG GET; a server that keeps its configuration to itself gives only what it is."""
    server, replication, persistence, *configured = await store.client.pipeline_tolerant(
        [
            *(("INFO", part) for part in ("server", "replication", "persistence")),
            *(("CONFIG", "GET", name) for name in _CONFIGURATION),
        ]
    )
    found: dict[str, str] = {}
    if isinstance(server, bytes):
        lines = info(server)
        found["server"] = lines.get("server_name", "redis")
        found["version"] = lines.get(f"{found['server']}_version", lines.get("redis_version", ""))
    if isinstance(replication, bytes):
        lines = info(replication)
        found |= {"role": lines.get("role", ""), "replicas": lines.get("connected_slaves", "0")}
    if isinstance(persistence, bytes):
        found["aof_last_write_status"] = info(persistence).get("aof_last_write_status", "ok")
    for reply in configured:
        if isinstance(reply, list):
            found |= {name.decode(): value.decode() for name, value in pairs(reply).items()}
    return found


def _entry_us(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0]) * 1000
