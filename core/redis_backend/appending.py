"""Appends as calls of `append.lua`: those of one partition share a call, and what it looks at for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from tailrace.core.codec import encode, encode_event
from tailrace.core.errors import LogDiverged, StoreFull, StoreUnavailable
from tailrace.core.events import TaskRedispatched
from tailrace.core.redis_backend import scripts
from tailrace.core.redis_backend.connection import Call, translate
from tailrace.core.redis_backend.exchange import Argument
from tailrace.core.redis_backend.keys import PartitionKeys
from tailrace.core.redis_backend.together import Places, deal
from tailrace.core.store.port import Append, Appended
from tailrace.core.workflow.state import encode_state


def together(appends: Sequence[Append], partitions: Sequence[int]) -> list[Places]:
    """Which of these can share a call: of one partition and one owner; creations by themselves."""
    return deal(
        ((partition, append.ownership, append.expected_version == 0), append.workflow_id)
        for partition, append in zip(partitions, appends, strict=True)
    )


def call(appends: Sequence[Append], part: PartitionKeys, epoch: str) -> Call:
    """The script call that carries them out; its answer has one for each."""
    owner = appends[0].ownership
    streams: dict[tuple[str, bool], int] = {}
    own: list[Argument] = []
    for append in appends:
        _add_arguments(own, append, streams)
    keys = [
        part.log,
        part.head,
        part.reports,
        part.timers,
        part.expect,
        part.owner,
        part.pulse,
        part.cancels,
        *(part.workflow(append.workflow_id) for append in appends),
        *(part.tasks(agent, urgent=urgent) for agent, urgent in streams),
    ]
    shared: tuple[Argument, ...] = (
        epoch,
        "" if owner is None else owner.name,
        "" if owner is None else owner.epoch,
        len(appends),
        len(streams),
        *(word for agent, urgent in streams for word in (agent, "high" if urgent else "normal")),
    )
    return Call(scripts.APPEND, keys, [*shared, *own])


def appended(answer: Any, partition: int) -> Appended:
    """How one of them ended; raises `LogDiverged` and `StoreUnavailable`."""
    if isinstance(answer, RedisError):
        error = translate(answer)
        if isinstance(error, StoreFull):
            return Appended(outcome="full")
        if isinstance(error, StoreUnavailable):
            raise error from answer
        # One broken key concerns one run: the others of the round trip have their outcomes.
        return Appended(outcome="broken", detail=str(error))
    outcome, version, seq = answer
    if outcome == b"diverged":
        raise LogDiverged(partition, "the log is not the one that this process joined; nothing was written")
    return Appended(outcome=outcome.decode(), version=version, seq=seq)


def _add_arguments(args: list[Argument], append: Append, streams: dict[tuple[str, bool], int]) -> None:
    """In the order in which the script reads them; `streams` numbers the task streams."""
    timer = append.timer
    counts = (
        f"{len(append.reports)} {len(append.records)} {len(append.outputs)} {len(append.closings)} "
        f"{len(append.dispatches)} {len(append.timers_set)} {len(append.timers_cleared)}"
    )
    args += (
        "rehydrate" if append.rehydrate else "create" if append.expected_version == 0 else "append",
        append.expected_version,
        b"" if append.state is None else encode_state(append.state),
        append.created or b"",
        "" if append.expect_at is None else append.expect_at,
        append.workflow_id,
        "" if timer is None else timer.name,
        "" if timer is None else timer.due_at,
        counts,
        *append.reports,
    )
    again: set[str] = set()
    for record in append.records:
        event = record.event
        if type(event) is TaskRedispatched:
            again.add(event.task_id)
        args += (
            type(event).__name__,
            record.traceparent,
            encode_event(event, at=record.at, command=record.command),
        )
    for key, output in append.outputs.items():
        args += (key, output)
    for closing in append.closings:
        index = streams.setdefault((closing.agent, closing.urgent), len(streams) + 1)
        args += (closing.task_id, index, "1" if closing.reported else "2" if closing.awaited else "0")
    for dispatch in append.dispatches:
        message = dispatch.message
        index = streams.setdefault((message.agent, dispatch.urgent), len(streams) + 1)
        args += (message.task_id, index, dispatch.traceparent, encode(message))
        args.append("1" if message.task_id in again else "0")
    for name, due in append.timers_set.items():
        args += (name, due)
    args += append.timers_cleared
