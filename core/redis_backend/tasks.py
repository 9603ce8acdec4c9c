"""`TaskQueue` and `LeaseKeeper` on Redis: one worker's view of its agent's task streams.

The pending list is the lease table. Own pending is taken by XCLAIM, never by reading history: a history read raises the
delivery count in memory only, and a restart of the server would forget it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import msgspec
from redis.exceptions import RedisError

from tailrace.core.codec import decode, encode
from tailrace.core.commands import Report
from tailrace.core.errors import InvalidInput, StoreCorrupt, StoreFull, TailraceError, Undecodable
from tailrace.core.events import WorkflowCreated
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend import scripts
from tailrace.core.redis_backend.connection import MAX_BLOCK_SECONDS, Call, ThreadClient, translate
from tailrace.core.redis_backend.exchange import Argument
from tailrace.core.redis_backend.inspection import FORGET_SECONDS
from tailrace.core.redis_backend.keys import RELEASED
from tailrace.core.redis_backend.replies import Fields, entries, pairs
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.redis_backend.together import MOST, Places, carry_out
from tailrace.core.store.checks import not_about
from tailrace.core.store.inputs import input_of
from tailrace.core.store.port import Delivery, Renewal, TaskMessage, WorkerBeat
from tailrace.core.workflow.history import output_key

log = logging.getLogger(__name__)

#: How long a worker with few free slots watches some of its streams before it looks at all of them again.
WATCH_SECONDS: Final = 0.5

#: How many turns of the event loop a read waits for an exchange to go along with: what does nothing has reported by then.
ALONG_TURNS: Final = 6

#: How often a worker's place in the index is written anew, in microseconds; its beat is written each time.
ENLIST_US: Final = 10_000_000

BEAT_EXPIRY_MS: Final = FORGET_SECONDS * 1000
_FINAL: Final = frozenset({"completed", "failed", "cancelled"})


class RedisTasks:
    """The tasks of `agent`, for the worker `name`."""

    def __init__(self, store: RedisStore, agent: str, name: str) -> None:
        self._store = store
        self._client = store.client
        self._agent = agent
        self._name = name
        self._parts = [store.keys.partition(number) for number in range(store.partitions)]
        self._turn = 0

    async def join(self) -> None:
        """Make the groups where they are missing."""
        await self._store.provision([self._agent])

    async def take(self, free: int, *, block_seconds: float) -> list[Delivery]:
        """With a slot for every stream one read of all of them; else one partition after the other.

        COUNT counts per stream: asking all streams with too few slots would leave tasks waiting here with their lease
        running. So with few slots it waits on as many streams as there are slots, in turns, and looks at all in between.
        """
        streams = self._streams
        if free >= len(streams) and block_seconds > 0:
            count = free // len(streams)
            return await self._read_along(streams, count) or await self._read(streams, count, block_seconds)
        deadline = time.monotonic() + block_seconds
        while free > 0:
            taken = await self._take_nowait(free)
            left = deadline - time.monotonic()
            if taken or left <= 0:
                return taken
            self._turn += free
            watched = [streams[(self._turn + offset) % len(streams)] for offset in range(free)]
            taken = await self._read(watched, 1, min(left, WATCH_SECONDS))
            if taken:
                return taken
        return []

    async def _read_along(self, streams: Sequence[tuple[int, str]], count: int) -> list[Delivery]:
        """What is there, asked for together with the reports of what was taken before, if these are about to leave.

        That is one exchange instead of two, and one write to disk.
        """
        command = self._reading(streams, count)
        reply = await self._client.along(command, turns=ALONG_TURNS)
        # (What is wrong with a stream the blocking read finds out.)
        return [] if isinstance(reply, RedisError) else _taken(streams, reply)

    async def _read(self, streams: Sequence[tuple[int, str]], count: int, block_seconds: float) -> list[Delivery]:
        """One blocking read of several streams, `count` from each at most."""
        block = max(1, round(min(block_seconds, MAX_BLOCK_SECONDS) * 1000))
        try:
            (reply,) = await self._client.block(self._reading(streams, count, "BLOCK", block))
        except StoreCorrupt as error:
            if "NOGROUP" not in str(error):
                raise
            await self.join()
            return []
        return _taken(streams, reply)

    def _reading(self, streams: Sequence[tuple[int, str]], count: int, *options: Argument) -> list[Argument]:
        parts: list[Argument] = ["XREADGROUP", "GROUP", self._agent, self._name, "COUNT", count, *options]
        return [*parts, "STREAMS", *(stream for _, stream in streams), *(">" for _ in streams)]

    async def _take_nowait(self, free: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for offset in range(len(self._parts)):
            partition = (self._turn + offset) % len(self._parts)
            if len(deliveries) >= free:
                break
            keys = self._lanes(partition)
            try:
                reply = await self._client.call(scripts.TAKE, keys, [self._agent, self._name, free - len(deliveries)])
            except StoreCorrupt as error:
                if "NOGROUP" not in str(error):
                    raise
                await self.join()
                continue
            for index, entry_id, fields in reply:
                stream = keys[index - 1]
                deliveries.append(_delivery(partition, stream, entry_id.decode(), pairs(fields), 1))
        self._turn += 1
        return deliveries

    async def reconcile(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Own pending entries that this process does not hold, taken again."""
        return await self._claim("own", 1000, held)

    async def claim(self, free: int) -> list[Delivery]:
        """Tasks whose lease ran out; also the poll that keeps the pulse, with no slot free."""
        return await self._claim("expired", free, ())

    async def _claim(self, mode: str, free: int, held: Sequence[Delivery]) -> list[Delivery]:
        """All partitions in one round trip, with the free slots dealt out; then those that have more, with what is left."""
        self._turn += 1
        order = [(self._turn + offset) % len(self._parts) for offset in range(len(self._parts))]
        each, over = divmod(max(0, free), len(order))
        calls = [
            self._claim_call(mode, partition, each + (place < over), held) for place, partition in enumerate(order)
        ]
        deliveries: list[Delivery] = []
        more: list[int] = []
        problem: Exception | None = None
        for partition, reply in zip(order, await self._client.calls(calls), strict=True):
            if isinstance(reply, RedisError):
                problem = translate(reply)
                continue
            status, *claimed = reply
            deliveries += self._claimed(partition, claimed)
            if status == b"more":
                more.append(partition)
            elif status == b"nogroup":
                await self.join()
        for partition in more:
            if len(deliveries) < free:
                call = self._claim_call(mode, partition, free - len(deliveries), held)
                _, *claimed = await self._client.call(call.script, call.keys, call.args)
                deliveries += self._claimed(partition, claimed)
        if problem is not None and not deliveries:
            raise problem
        return deliveries

    def _claim_call(self, mode: str, partition: int, slots: int, held: Sequence[Delivery]) -> Call:
        limits, part = self._store.limits, self._parts[partition]
        lease_ms, pulse_us = round(limits.lease_seconds * 1000), round(limits.pulse_seconds * 1_000_000)
        args: list[Argument] = [mode, self._agent, self._name, lease_ms, slots, limits.delivery_limit, pulse_us]
        # (With the stream: entries of two streams may have one id.)
        args += (f"{delivery.stream} {delivery.entry_id}" for delivery in held if delivery.partition == partition)
        return Call(scripts.CLAIM, [part.pulse, part.reports, part.cancels, *self._lanes(partition)], args)

    def _claimed(self, partition: int, claimed: Sequence[Any]) -> list[Delivery]:
        lanes = self._lanes(partition)
        return [
            _delivery(partition, lanes[index - 1], entry_id.decode(), pairs(fields), int(delivery))
            for index, entry_id, delivery, _former, fields in claimed
        ]

    async def report(self, reports: Sequence[tuple[Delivery, Report, str]]) -> list[bool | TailraceError]:
        """One script call for many of a partition, all in one round trip. What is not final may be dropped by a full store."""
        answers: list[bool | TailraceError] = [False] * len(reports)
        arguments: dict[int, tuple[Delivery, list[Argument]]] = {}
        of_partition: dict[int, Places] = {}
        for place, (delivery, report, traceparent) in enumerate(reports):
            if (strange := not_about(delivery, report)) is not None:
                answers[place] = strange
                continue
            try:
                arguments[place] = (delivery, _report_arguments(delivery, report, traceparent))
            except (TypeError, ValueError, OverflowError) as error:
                answers[place] = InvalidInput(f"the report can't be encoded: {error}")
                continue
            of_partition.setdefault(delivery.partition, []).append(place)
        # Several about one task may share a call: it answers them in their order.
        dealt = [found[begin : begin + MOST] for found in of_partition.values() for begin in range(0, len(found), MOST)]

        def call(places: Places) -> Call:
            return self._report_call([arguments[place] for place in places])

        for place, reply in (await carry_out(self._client, dealt, call)).items():
            if isinstance(reply, RedisError):
                problem = translate(reply)
                is_final = reports[place][1].kind in _FINAL
                answers[place] = problem if is_final or not isinstance(problem, StoreFull) else True
            else:
                answers[place] = reply == b"ok"
        return answers

    def _report_call(self, reports: Sequence[tuple[Delivery, list[Argument]]]) -> Call:
        part = self._parts[reports[0][0].partition]
        streams: dict[str, int] = {}
        own: list[Argument] = []
        for delivery, arguments in reports:
            own += (streams.setdefault(delivery.stream, len(streams) + 1), *arguments)
        shared = (self._agent, self._name, len(streams))
        return Call(scripts.REPORT, [part.reports, part.cancels, *streams], [*shared, *own])

    async def renew(self, held: Sequence[Delivery]) -> list[Renewal]:
        """As `RedisLeases.renew`, on the event loop."""
        renewals: list[Renewal] = []
        for keys, args, group in _renew_calls(self._store, self._agent, self._name, held):
            renewals += _renewals(group, await self._client.call(scripts.RENEW, keys, args))
        return renewals

    async def release(self, held: Sequence[Delivery]) -> None:
        """Hand tasks back."""
        await self._client.calls(
            [
                Call(
                    scripts.RELEASE,
                    [delivery.stream],
                    [self._agent, self._name, delivery.entry_id, delivery.delivery, RELEASED],
                )
                for delivery in held
            ]
        )

    async def inputs(self, messages: Sequence[TaskMessage]) -> list[dict[str, Any]]:
        """The request and the named outputs, read from the run in one round trip."""
        commands = []
        for message in messages:
            part = self._parts[partition_of(message.workflow_id, len(self._parts))]
            fields = [f"o:{output_key(stage, attempt)}" for stage, attempt in message.inputs]
            commands.append(("HMGET", part.workflow(message.workflow_id), "in", *fields))
        replies = await self._client.pipeline(commands)
        return [_input(message, reply) for message, reply in zip(messages, replies, strict=True)]

    async def beat(self, beat: WorkerBeat) -> None:
        """The beat, and this worker's place in the index of its agent."""
        key = self._store.keys.worker(self._agent, self._name)
        now = await self._client.call(scripts.BEAT, [key], [msgspec.json.encode(beat), BEAT_EXPIRY_MS])
        forget = int(now) - FORGET_SECONDS * 1_000_000
        await self._client.call(scripts.ENLIST, [self._store.keys.workers(self._agent)], [self._name, now, forget])

    async def leave(self) -> None:
        """Out of the index; out of the groups too, where nothing is pending under this name."""
        await self._client.call(scripts.ENLIST, [self._store.keys.workers(self._agent)], [self._name, "", 0])
        await self._client.command("DEL", self._store.keys.worker(self._agent, self._name))
        await self._client.calls(
            [Call(scripts.REMOVE_CONSUMER, [stream], [self._agent, self._name]) for _, stream in self._streams]
        )

    def _lanes(self, partition: int) -> list[str]:
        part = self._parts[partition]
        return [part.tasks(self._agent, urgent=True), part.tasks(self._agent)]

    @cached_property
    def _streams(self) -> Sequence[tuple[int, str]]:
        """Every stream of the agent with its partition, urgent ones first."""
        return [
            (partition, part.tasks(self._agent, urgent=urgent))
            for urgent in (True, False)
            for partition, part in enumerate(self._parts)
        ]


class RedisLeases:
    """Renewals and beats, for a thread: a handler that blocks the event loop must not cost its worker the lease."""

    def __init__(self, store: RedisStore, agent: str, name: str) -> None:
        self._store = store
        self._agent = agent
        self._name = name
        self._client = ThreadClient(store.client.settings)
        self._enlisted_at = 0

    def renew(self, held: Sequence[Delivery]) -> list[Renewal]:
        """Renew what is still ours; name what is lost or to be cancelled."""
        renewals: list[Renewal] = []
        for keys, args, group in _renew_calls(self._store, self._agent, self._name, held):
            try:
                renewals += _renewals(group, self._client.call(scripts.RENEW, keys, args))
            except StoreCorrupt as error:
                # A key of this partition is broken: its leases run out, and those of the others are renewed.
                log.error("leases of partition %d can't be renewed: %s", group[0].partition, error)  # noqa: TRY400
        return renewals

    def beat(self, beat: WorkerBeat) -> None:
        """As `RedisTasks.beat`."""
        key = self._store.keys.worker(self._agent, self._name)
        now = int(self._client.call(scripts.BEAT, [key], [msgspec.json.encode(beat), BEAT_EXPIRY_MS]))
        if now - self._enlisted_at >= ENLIST_US:
            forget = now - FORGET_SECONDS * 1_000_000
            self._client.call(scripts.ENLIST, [self._store.keys.workers(self._agent)], [self._name, now, forget])
            self._enlisted_at = now

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _report_arguments(delivery: Delivery, report: Report, traceparent: str) -> list[Argument]:
    """What `report.lua` takes for one report behind its stream; raises what encoding raises."""
    return [
        delivery.entry_id,
        delivery.delivery,
        "1" if report.kind in _FINAL else "0",
        delivery.message.task_id,
        delivery.message.workflow_id,
        traceparent,
        encode(report),
    ]


def _renew_calls(
    store: RedisStore, agent: str, name: str, held: Sequence[Delivery]
) -> list[tuple[list[str], list[Argument], list[Delivery]]]:
    """One call per partition: keys, arguments, and the deliveries it asks about."""
    calls = []
    for partition in sorted({delivery.partition for delivery in held}):
        part = store.keys.partition(partition)
        lanes = [part.tasks(agent, urgent=True), part.tasks(agent)]
        group = [delivery for delivery in held if delivery.partition == partition]
        args: list[Argument] = [agent, name]
        for delivery in group:
            index = lanes.index(delivery.stream) + 1
            args += (index, delivery.entry_id, delivery.delivery, delivery.message.task_id)
        calls.append(([part.cancels, part.reports, *lanes], args, group))
    return calls


def _renewals(held: Sequence[Delivery], reply: Any) -> list[Renewal]:
    return [
        Renewal(
            task_id=delivery.message.task_id,
            entry_id=delivery.entry_id,
            delivery=delivery.delivery,
            outcome=answer.decode(),
        )
        for delivery, answer in zip(held, reply, strict=True)
    ]


def _taken(streams: Sequence[tuple[int, str]], reply: Any) -> list[Delivery]:
    """What XREADGROUP of these streams gave."""
    partitions = {stream: partition for partition, stream in streams}
    taken: list[Delivery] = []
    for key, found in reply or ():
        stream = key.decode()
        partition = partitions[stream]
        taken += [_delivery(partition, stream, entry_id, fields, 1) for entry_id, fields in entries(found)]
    return taken


def _delivery(partition: int, stream: str, entry_id: str, fields: Fields, delivery: int) -> Delivery:
    """A task as it was delivered; one whose bytes can't be read keeps the ids that can, for a report to name it."""
    try:
        message = decode(fields.get(b"data", b""), TaskMessage)
    except Undecodable:
        message = TaskMessage(
            task_id=fields.get(b"task", b"").decode(errors="replace"),
            workflow_id=fields.get(b"workflow", b"").decode(errors="replace"),
            stage="",
            attempt=1,
            agent="",
            action="",
        )
    return Delivery(
        partition=partition,
        stream=stream,
        entry_id=entry_id,
        message=message,
        traceparent=fields.get(b"traceparent", b"").decode(errors="replace"),
        delivery=delivery,
    )


def _input(message: TaskMessage, reply: Sequence[bytes | None]) -> dict[str, Any]:
    raw, *outputs = reply
    if raw is None:
        raise StoreCorrupt(f"the request of workflow {message.workflow_id} is not there")
    for (stage, attempt), output in zip(message.inputs, outputs, strict=True):
        if output is None:
            raise StoreCorrupt(f"output {output_key(stage, attempt)} of workflow {message.workflow_id} is not there")
    return input_of(message, decode(raw, WorkflowCreated), [output for output in outputs if output is not None])
