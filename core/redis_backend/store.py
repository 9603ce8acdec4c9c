"""`WorkflowStore` on Redis: the log, the snapshots, reports and timers, through the scripts of this package."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from tailrace.core.clock import to_us
from tailrace.core.codec import decode, decode_report
from tailrace.core.commands import Report
from tailrace.core.errors import (
    ConfigurationError,
    IdentityMismatch,
    LogDiverged,
    NotFound,
    StoreCorrupt,
    Undecodable,
)
from tailrace.core.events import WorkflowCreated
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend import appending, inspection, retention, scripts
from tailrace.core.redis_backend.connection import MAX_BLOCK_SECONDS, Call, Client, RedisSettings
from tailrace.core.redis_backend.exchange import Argument
from tailrace.core.redis_backend.keys import Keys
from tailrace.core.redis_backend.replies import Fields, flat_entries, info, microseconds, names, pairs, stream_entries
from tailrace.core.redis_backend.together import Joined, Places, carry_out
from tailrace.core.store.checks import check_append
from tailrace.core.store.port import (
    Append,
    Appended,
    Head,
    Limits,
    OpenEntry,
    Ownership,
    ParkedEntry,
    PartitionFacts,
    Queue,
    RawEntry,
    ReportEntry,
    TimerRef,
    WorkerBeat,
)
from tailrace.core.store.retention import EndedRun, LogPlace
from tailrace.core.workflow.definition import Definition, Pipeline, validate
from tailrace.core.workflow.history import Snapshot
from tailrace.core.workflow.state import WorkflowState

SCHEMA_VERSION: Final = 1
PARKED_LIMIT: Final = 10_000

#: How long the server's time is counted on before it is asked for again.
TIME_SECONDS: Final = 1.0

#: Fields of a log entry, and how many digits a number among them may have: those of 64 bits.
_LOG_FIELDS: Final = (b"type", b"workflow", b"version", b"seq", b"traceparent", b"data")
_DIGITS: Final = 19


class RedisStore:
    """The workflows of one namespace. Open it with `open`; close it with `aclose`."""

    def __init__(self, client: Client, keys: Keys, *, epochs: Sequence[str], instance_id: str, limits: Limits) -> None:
        self.client = client
        self.keys = keys
        self.limits = limits
        self._partitions = len(epochs)
        self._epochs = list(epochs)
        self._instance_id = instance_id
        self._pipelines: dict[str, Pipeline] = {}
        self._parts = [keys.partition(number) for number in range(self._partitions)]
        self._appends = Joined(self._carry_out)
        self._times = Joined(self._ask_time)
        #: What the last answer to TIME said, and when it was here by the monotonic clock; when it was asked for last.
        self._told, self._told_at, self._asked_at = 0, 0.0, -TIME_SECONDS - 1.0

    @classmethod
    async def open(
        cls,
        settings: RedisSettings,
        *,
        namespace: str,
        partitions: int | None = None,
        default_partitions: int = 8,
        limits: Limits | None = None,
        create: bool = True,
    ) -> RedisStore:
        """Join the namespace, making it when it is new, with `partitions`, or `default_partitions` when that is None.

        Without `create` nothing is written. Raises `StoreUnavailable`, `IdentityMismatch` when the namespace was made
        otherwise, `ConfigurationError` when there is none and it must not be made, or `LogDiverged` when a part of it is gone.
        """
        client = Client(settings)
        keys = Keys(namespace)
        try:
            if create:
                await _check_new_or_whole(client, keys)
                meta = await client.call(
                    scripts.INIT, [keys.meta], [partitions or default_partitions, SCHEMA_VERSION, os.urandom(16).hex()]
                )
            else:
                meta = await client.command("HMGET", keys.meta, "partitions", "schema", "instance")
                if None in meta:
                    raise ConfigurationError(
                        f"there is no namespace {namespace!r} in this Redis; correct TAILRACE_NAMESPACE or the URL, "
                        "or start a process that makes it (`tailrace up`, `tailrace gateway`)"
                    )
            made_with, schema, instance_id = int(meta[0]), int(meta[1]), meta[2].decode()
            if schema != SCHEMA_VERSION:
                raise IdentityMismatch(f"namespace {namespace!r} has schema {schema}, this build {SCHEMA_VERSION}")
            if partitions is not None and partitions != made_with:
                raise IdentityMismatch(
                    f"namespace {namespace!r} was made with {made_with} partitions, not {partitions}; the number is fixed"
                )
            epochs = [await _begin_log(client, keys, number, create=create) for number in range(made_with)]
        except BaseException:
            await client.aclose()
            raise
        return cls(client, keys, epochs=epochs, instance_id=instance_id, limits=limits or Limits())

    async def aclose(self) -> None:
        """Close every connection."""
        await self.client.aclose()

    @property
    def partitions(self) -> int:
        """P, fixed when the namespace was made."""
        return self._partitions

    @property
    def instance_id(self) -> str:
        """The identity of the namespace."""
        return self._instance_id

    async def check_identity(self, partition: int) -> None:
        """One round trip."""
        instance, epoch = await self.client.pipeline(
            [("HGET", self.keys.meta, "instance"), ("HGET", self._parts[partition].head, "epoch")]
        )
        if instance is None:
            raise LogDiverged(partition, f"namespace {self.keys.namespace!r} is gone from Redis: it was emptied")
        if instance.decode() != self._instance_id:
            raise LogDiverged(
                partition,
                f"the namespace was made anew as {instance.decode()}, and this process joined {self._instance_id}",
            )
        self._check_epoch(partition, epoch)

    def _check_epoch(self, partition: int, epoch: bytes | None) -> None:
        if epoch is None:
            raise LogDiverged(partition, "the head of the log is gone: Redis was emptied, or somebody removed it")
        if epoch.decode() != self._epochs[partition]:
            raise LogDiverged(
                partition,
                f"the log has epoch {epoch.decode()}, and this process joined epoch {self._epochs[partition]}",
            )

    async def now(self) -> int:
        """Redis TIME, in microseconds since the epoch: asked for once a second, and counted on from its answer.

        So it is late by what that answer took to come, as a TIME for each question would be, and never early.
        """
        if time.monotonic() - self._asked_at > TIME_SECONDS:
            (self._told,) = await self._times.ask([None])
            self._asked_at = self._told_at = time.monotonic()
        return self._counted_on()

    def _counted_on(self) -> int:
        return self._told + int((time.monotonic() - self._told_at) * 1_000_000)

    def _hear_time(self, now: int) -> None:
        """An answer to TIME that came with something else: nothing later is said to have been before it."""
        if now > self._counted_on():
            self._told, self._told_at = now, time.monotonic()

    async def _ask_time(self, asked: Sequence[None]) -> list[int]:
        """One TIME for all who ask at this moment."""
        return [microseconds(await self.client.command("TIME"))] * len(asked)

    # Definitions

    async def put_definition(self, definition: Definition) -> Pipeline:
        """Keep the body by its hash, append the hash to the name's versions, make the agents' groups."""
        validate(definition)
        await self.check_identity(0)
        pipeline = Pipeline(definition)
        body = msgspec.json.encode(definition, order="deterministic")
        key = self.keys.definition(pipeline.hash)
        # (Looked at first: a process that puts its definitions at each start must not have to write in a full store.)
        if await self.client.command("GET", key) != body:
            await self.client.command("SET", key, body)
        versions = (await self.definitions()).get(definition.name, [])
        if not versions or versions[-1] != pipeline.hash:
            versions = [*(known for known in versions if known != pipeline.hash), pipeline.hash]
            await self.client.command("HSET", self.keys.definitions, definition.name, msgspec.json.encode(versions))
        await self.provision(pipeline.agents)
        self._pipelines[pipeline.hash] = pipeline
        return pipeline

    async def provision(self, agents: Sequence[str]) -> None:
        """Make the groups of these agents in all partitions, from the beginning of their streams; idempotent."""
        for partition in range(self._partitions):
            await self.check_identity(partition)
        known = await self.client.command("SMISMEMBER", self.keys.agents, *agents)
        if not all(known):
            await self.client.command("SADD", self.keys.agents, *agents)
        for agent in agents:
            for part in self._parts:
                for urgent in (True, False):
                    await ensure_group(self.client, part.tasks(agent, urgent=urgent), agent)

    async def pipeline(self, content_hash: str) -> Pipeline:
        """From memory, or read once: a hash never means anything else."""
        known = self._pipelines.get(content_hash)
        if known is None:
            body = await self.client.command("GET", self.keys.definition(content_hash))
            if body is None:
                await self.check_identity(0)
                raise NotFound("definition", content_hash)
            try:
                known = Pipeline(msgspec.json.decode(body, type=Definition), content_hash)
            except msgspec.MsgspecError as error:
                raise StoreCorrupt(f"definition {content_hash} can't be read: {error}") from error
            self._pipelines[content_hash] = known
        return known

    async def latest(self, name: str) -> Pipeline:
        """The newest version of a definition."""
        versions = (await self.definitions()).get(name)
        if not versions:
            await self.check_identity(0)
            raise NotFound("definition", name)
        return await self.pipeline(versions[-1])

    async def definitions(self) -> dict[str, list[str]]:
        """Every name with its hashes, oldest first."""
        reply = await self.client.command("HGETALL", self.keys.definitions)
        return {name.decode(): msgspec.json.decode(versions, type=list[str]) for name, versions in pairs(reply).items()}

    # Workflows

    async def load(self, workflow_id: str) -> Snapshot | None:
        """One HGETALL; None also for the tombstone of an archived run."""
        return (await self.load_all([workflow_id]))[0]

    async def load_all(self, workflow_ids: Sequence[str]) -> list[Snapshot | None]:
        """One pipeline of HGETALL."""
        replies = await self.client.pipeline(
            [("HGETALL", self._part(workflow_id).workflow(workflow_id)) for workflow_id in workflow_ids]
        )
        found = [pairs(reply) for reply in replies]
        await self._check_missing(
            [name for name, fields in zip(workflow_ids, found, strict=True) if not fields.get(b"s")]
        )
        return [_snapshot(workflow_id, fields) for workflow_id, fields in zip(workflow_ids, found, strict=True)]

    async def _check_missing(self, workflow_ids: Sequence[str]) -> None:
        """Runs that are not there: none of them, or is all of it gone?"""
        for partition in {partition_of(workflow_id, self._partitions) for workflow_id in workflow_ids}:
            await self.check_identity(partition)

    async def load_states(self, workflow_ids: Sequence[str]) -> list[WorkflowState | None]:
        """One pipeline of HGET."""
        replies = await self.client.pipeline(
            [("HGET", self._part(workflow_id).workflow(workflow_id), "s") for workflow_id in workflow_ids]
        )
        await self._check_missing([name for name, reply in zip(workflow_ids, replies, strict=True) if not reply])
        return [decode(reply, WorkflowState) if reply else None for reply in replies]

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        """One script call for many runs of a partition; all calls in one round trip, with those of other callers."""
        for append in appends:
            check_append(append)
        answers = await self._appends.ask(appends)
        return [appending.appended(answer, partition) for partition, answer in answers]

    async def _carry_out(self, appends: Sequence[Append]) -> list[tuple[int, Any]]:
        """The partition of each, and what the script said of it."""
        partitions = [partition_of(append.workflow_id, self._partitions) for append in appends]

        def call(places: Places) -> Call:
            partition = partitions[places[0]]
            chosen = [appends[place] for place in places]
            return appending.call(chosen, self._parts[partition], self._epochs[partition])

        answers = await carry_out(self.client, appending.together(appends, partitions), call)
        return [(partition, answers[place]) for place, partition in enumerate(partitions)]

    # Ownership, reports, timers

    async def acquire(self, partition: int, name: str, epoch: int | None) -> Ownership | None:
        """Take it (`epoch` None) or renew it."""
        lease = round(self.limits.owner_seconds * 1_000_000)
        reply = await self.client.call(
            scripts.OWNER, [self._parts[partition].owner], [name, "" if epoch is None else epoch, lease]
        )
        return Ownership(partition=partition, name=name, epoch=int(reply)) if reply else None

    async def release_ownership(self, ownership: Ownership) -> None:
        """End the lease now."""
        await self.client.call(
            scripts.OWNER, [self._parts[ownership.partition].owner], [ownership.name, ownership.epoch, 0]
        )

    async def read_reports(self, partition: int, *, count: int, block_seconds: float) -> list[ReportEntry]:
        """XREAD from the beginning, what was applied is not there any more; and TIME, in the same round trip."""
        block = max(1, round(min(block_seconds, MAX_BLOCK_SECONDS) * 1000))
        key = self._parts[partition].reports
        reply, told = await self.client.block(
            ("XREAD", "COUNT", count, "BLOCK", block, "STREAMS", key, "0-0"), ("TIME",)
        )
        now = microseconds(told)
        self._hear_time(now)
        entries = [_report_entry(entry_id, fields, now) for entry_id, fields in stream_entries(reply)]
        for place, entry in enumerate(entries):
            report = entry.report
            if report is not None and report.kind == "lost" and not report.task_id:
                # The entry is gone, and with it the task's id: whose it was is written in the open runs.
                workflow_id, task_id = await inspection.owner_of_entry(self, partition, report.message)
                report = replace(report, task_id=task_id)
                entries[place] = replace(entry, workflow_id=workflow_id, report=report)
        return entries

    async def park_report(self, partition: int, entry_id: str, reason: str) -> bool:
        """Out of the reports and into the parked ones, in one script."""
        part = self._parts[partition]
        reply = await self.client.call(
            scripts.PARK, [part.reports, part.parked], [entry_id, reason[:500], PARKED_LIMIT]
        )
        return bool(reply)

    async def due_timers(self, partition: int, *, count: int) -> tuple[list[TimerRef], int | None]:
        """Due timers and the time of the next one; updates the pulse."""
        part = self._parts[partition]
        following, *due = await self.client.call(scripts.TIMERS, [part.timers, part.pulse], self._poll_limits(count))
        timers = [
            TimerRef(name=name.decode(errors="surrogateescape"), due_at=round(float(score)))
            for name, score in zip(due[::2], due[1::2], strict=True)
        ]
        return timers, round(float(following)) if following else None

    async def park_timer(self, partition: int, timer: TimerRef, reason: str) -> bool:
        """Out of the timers and into what is parked, in one script."""
        part = self._parts[partition]
        name = timer.name.encode(errors="surrogateescape")
        reply = await self.client.call(
            scripts.PARK_TIMER, [part.timers, part.parked], [name, timer.due_at, reason[:500], PARKED_LIMIT]
        )
        return bool(reply)

    async def drop_timer(self, partition: int, timer: TimerRef) -> None:
        """ZREM."""
        await self.client.command("ZREM", self._parts[partition].timers, timer.name)

    def _poll_limits(self, count: int) -> list[Argument]:
        """How many, the lease, and when a poll shows that the store was away; in microseconds."""
        return [count, to_us(self.limits.lease_seconds), to_us(self.limits.pulse_seconds)]

    # The log

    async def read_log(self, partition: int, after: str, *, count: int, block_seconds: float = 0) -> list[RawEntry]:
        """XREAD behind a position; it does not fail when the log was trimmed: compare `seq`."""
        key = self._parts[partition].log
        parts: list[Argument] = ["XREAD", "COUNT", count]
        if block_seconds > 0:
            parts += ["BLOCK", max(1, round(min(block_seconds, MAX_BLOCK_SECONDS) * 1000))]
        parts += ["STREAMS", key, after]
        (reply,) = await (self.client.block(parts) if block_seconds > 0 else self.client.pipeline([parts]))
        return [_raw_entry(partition, entry_id.decode(), flat) for entry_id, flat in flat_entries(reply)]

    async def has_entry(self, partition: int, entry_id: str) -> bool:
        """XRANGE of one id."""
        return bool(await self.client.command("XRANGE", self._parts[partition].log, entry_id, entry_id))

    async def head(self, partition: int) -> Head:
        """The counters of the log and its last entry."""
        part = self._parts[partition]
        seq, epoch, last = await self.client.call(scripts.HEAD, [part.head, part.log], [])
        self._check_epoch(partition, None if seq is None else epoch)
        return Head(seq=int(seq), epoch=epoch.decode(), last_entry_id=last.decode())

    # What is let go of

    async def trim_log(self, partition: int, first: LogPlace, *, count: int) -> int:
        """XTRIM in whole nodes, some ten entries each: what is left of the last one stays."""
        part, epoch = self._parts[partition], self._epochs[partition]
        return await retention.trim_log(self.client, part, partition, epoch, first=first, count=count)

    async def expire_runs(self, partition: int, runs: Sequence[EndedRun]) -> int:
        """A hash with nothing but the version takes the place of the run's."""
        part, epoch = self._parts[partition], self._epochs[partition]
        return await retention.expire_runs(self.client, part, partition, epoch, runs)

    # What the watchdog looks at

    async def overdue(self, partition: int, *, count: int) -> list[str]:
        """Open runs past their expectation."""
        part = self._parts[partition]
        reply = await self.client.call(scripts.OVERDUE, [part.expect, part.pulse], self._poll_limits(count))
        return names(reply)

    async def postpone(self, workflow_id: str, *, version: int, expect_at: int) -> bool:
        """Only while the run is at `version`."""
        part = self._part(workflow_id)
        keys = [part.workflow(workflow_id), part.expect]
        return bool(await self.client.call(scripts.POSTPONE, keys, [workflow_id, version, expect_at]))

    async def open_workflows(self, partition: int, *, count: int) -> list[str]:
        """The index of open runs is the set of expectations."""
        reply = await self.client.command("ZRANGE", self._parts[partition].expect, 0, count - 1)
        return names(reply)

    async def open_count(self) -> int:
        """A ZCARD per partition, in one round trip."""
        return sum(await self.client.pipeline([("ZCARD", part.expect) for part in self._parts]))

    async def open_entries(self, workflow_id: str) -> list[OpenEntry]:
        """Where each open task of a run is."""
        return await inspection.open_entries(self, workflow_id)

    async def parked(self, partition: int, *, count: int) -> list[ParkedEntry]:
        """See `inspection.parked`."""
        return await inspection.parked(self, partition, count)

    async def unexpected(self, partition: int, workflow_ids: Sequence[str]) -> list[str]:
        """See `inspection.unexpected`."""
        return await inspection.unexpected(self, partition, workflow_ids)

    async def queues(self, agents: Sequence[str]) -> list[Queue]:
        """The task streams of these agents."""
        return await inspection.queues(self, agents)

    async def workers(self, agent: str) -> list[WorkerBeat]:
        """Workers with a beat, latest first."""
        return await inspection.workers(self, agent)

    async def agents(self) -> list[str]:
        """Every agent that was provisioned."""
        return sorted(names(await self.client.command("SMEMBERS", self.keys.agents)))

    async def partition_facts(self, partition: int) -> PartitionFacts:
        """What the partition's orchestrator has to do, and who it is."""
        return await inspection.partition_facts(self, partition)

    async def fullness(self) -> float:
        """Used memory as a share of `maxmemory`. A server that could not write to its disk refuses all that is new, too."""
        replies = await self.client.pipeline([("INFO", "memory"), ("INFO", "persistence")])
        memory, persistence = (info(reply) for reply in replies)
        if persistence.get("aof_last_write_status", "ok") != "ok":
            return 1.0
        limit = int(memory.get("maxmemory", 0))
        return int(memory["used_memory"]) / limit if limit else 0.0

    async def settings(self) -> dict[str, str]:
        """What the server is, and how it keeps what it is told."""
        return await inspection.settings(self)

    def _part(self, workflow_id: str) -> Any:
        return self._parts[partition_of(workflow_id, self._partitions)]


def _report_entry(entry_id: str, fields: Fields, now: int) -> ReportEntry:
    report, problem = None, ""
    try:
        report = _decode_report(fields)
    except Undecodable as error:
        problem = str(error)
    return ReportEntry(
        entry_id=entry_id,
        workflow_id=fields.get(b"workflow", b"").decode(errors="replace"),
        report=report,
        traceparent=fields.get(b"traceparent", b"").decode(errors="replace"),
        read_at=now,
        problem=problem,
    )


def _decode_report(fields: Fields) -> Report:
    """A report as it was sent; raises `Undecodable`, also for one on another task than the one whose entry was given for it.

    Workers of ours don't send such a one. From others it would end a task that they do not hold.
    """
    report = decode_report(fields.get(b"data", b""))
    task_id = fields.get(b"task", b"").decode(errors="replace")
    if task_id != report.task_id:
        raise Undecodable(f"report on task {report.task_id!r} came with the entry of task {task_id!r}")
    return report


def _snapshot(workflow_id: str, fields: Fields) -> Snapshot | None:
    if not fields.get(b"s"):
        return None
    try:
        return Snapshot(
            state=decode(fields[b"s"], WorkflowState),
            created=decode(fields[b"in"], WorkflowCreated),
            outputs={key[2:].decode(): value for key, value in fields.items() if key.startswith(b"o:")},
        )
    except (Undecodable, KeyError) as error:
        raise StoreCorrupt(f"workflow {workflow_id} can't be read: {error}") from error


async def _check_new_or_whole(client: Client, keys: Keys) -> None:
    """A namespace is made where nothing is: one that lost its `meta` could come back with another number of partitions."""
    meta, head = await client.pipeline([("EXISTS", keys.meta), ("EXISTS", keys.partition(0).head)])
    if head and not meta:
        raise LogDiverged(
            0, f"the log is there, and the meta of namespace {keys.namespace!r} is gone: somebody removed it"
        )


async def _begin_log(client: Client, keys: Keys, partition: int, *, create: bool) -> str:
    """The epoch of a partition's log, begun when there is none; one whose head is gone is not begun again."""
    part = keys.partition(partition)
    # (Asked before it is written: a process that joins a full store must not have to write.)
    known, entries = await client.pipeline([("HMGET", part.head, "epoch", "seq"), ("EXISTS", part.log)])
    if None in known:
        if entries or not create:
            raise LogDiverged(partition, "the head of the log is gone: Redis was emptied, or somebody removed it")
        begun = (("epoch", os.urandom(8).hex()), ("seq", 0))
        await client.pipeline([("HSETNX", part.head, name, value) for name, value in begun])
        known = await client.command("HMGET", part.head, "epoch")
    return bytes(known[0]).decode()


async def ensure_group(client: Client, stream: str, group: str) -> None:
    """Make a group at the beginning of its stream, unless it is there."""
    await client.call(scripts.GROUP, [stream], [group])


def _raw_entry(partition: int, entry_id: str, flat: list[bytes]) -> RawEntry:
    """A log entry; what has no readable place in the log gets `seq` and `version` 0, for its reader to park."""
    match flat:
        # As APPEND writes them; finding them by their names takes twice as long.
        case [b"type", kind, b"workflow", run, b"version", version, b"seq", seq, b"traceparent", parent, b"data", data]:
            pass
        case _:
            fields = pairs(flat)
            kind, run, version, seq, parent, data = (fields.get(name, b"") for name in _LOG_FIELDS)
    return RawEntry(
        partition=partition,
        entry_id=entry_id,
        seq=_number(seq),
        workflow_id=run.decode("utf-8", "replace"),
        version=_number(version),
        type=kind.decode("utf-8", "replace"),
        traceparent=parent.decode("utf-8", "replace"),
        data=data,
    )


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) <= _DIGITS else 0
