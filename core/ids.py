"""Ids: where they come from and how they are spelled. Nothing here is random by itself; entropy comes in from outside.

A workflow id is a UUIDv7 (sorts by time) or, with an idempotency key, a UUIDv5 of token and key. A task id is
`<workflow>:<stage>[<item>]:<attempt>`. Trace and span ids derive from these, so that a child can name its parent early.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid

import msgspec

from tailrace.core.errors import Undecodable

_IDEMPOTENCY = uuid.UUID("6f1c7f2e-6f7a-5a0d-9f0e-2d9d3c3b7a51")
_TASK = re.compile(
    r"(?P<workflow>[^:\[\]]+):(?P<stage>[^:\[\]]+)(?:\[(?P<item>0|[1-9][0-9]{0,8})\])?:(?P<attempt>[1-9][0-9]{0,8})"
)
_TRACEPARENT = re.compile(r"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")


class TaskId(msgspec.Struct, frozen=True, kw_only=True):
    """One dispatch of one stage. `item` is the index within a foreach, None outside of one."""

    workflow_id: str
    stage: str
    attempt: int
    item: int | None = None

    def __str__(self) -> str:
        item = "" if self.item is None else f"[{self.item}]"
        return task_id_of(self.workflow_id, f"{self.stage}{item}", self.attempt)

    @classmethod
    def parse(cls, text: str) -> TaskId:
        """Read a task id back; raises `Undecodable`."""
        match = _TASK.fullmatch(text)
        if match is None:
            raise Undecodable(f"{text!r} is not a task id")
        item = match["item"]
        return cls(
            workflow_id=match["workflow"],
            stage=match["stage"],
            attempt=int(match["attempt"]),
            item=None if item is None else int(item),
        )


def task_id_of(workflow_id: str, stage: str, attempt: int) -> str:
    """The task id of an attempt at a stage."""
    return f"{workflow_id}:{stage}:{attempt}"


def new_workflow_id(now_us: int) -> str:
    """A UUIDv7 (RFC 9562) for the instant `now_us`, in microseconds since the epoch."""
    value = (now_us // 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def idempotent_workflow_id(token: str, key: str) -> str:
    """The workflow id that belongs to an `Idempotency-Key` sent with a token."""
    return str(uuid.uuid5(_IDEMPOTENCY, f"{token}\n{key}"))


def new_command_id() -> str:
    """An id for one attempt to append, kept with its outcome so that a lost reply can be asked for again."""
    return os.urandom(8).hex()


def span_id(trace_id: str, *parts: str) -> str:
    """The 16 hex digits of the span that `parts` name within a trace: the same wherever it is computed."""
    digest = hashlib.sha256("\n".join((trace_id, *parts)).encode()).hexdigest()[:16]
    return digest if digest != "0" * 16 else "0" * 15 + "1"


def new_traceparent() -> str:
    """A sampled W3C `traceparent` of a new trace."""
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def child_traceparent(header: str, span: str) -> str:
    """The `traceparent` of another span in the trace of `header`, sampled as that one is; "" when it is not valid."""
    trace = trace_id_of(header)
    return f"00-{trace}-{span}-{header[-2:]}" if trace else ""


def trace_id_of(header: str) -> str | None:
    """The trace id in a `traceparent`; None when it is not a valid one."""
    match = _TRACEPARENT.fullmatch(header) if header else None
    return match["trace"] if match and match["trace"] != "0" * 32 and match["span"] != "0" * 16 else None


def span_id_of(header: str) -> str | None:
    """The parent span's id in a `traceparent`; None when it is not a valid one."""
    match = _TRACEPARENT.fullmatch(header)
    return match["span"] if match else None
