"""Events as they leave: CloudEvents 1.0 in JSON.

`id` is `<workflow>:<version>`: the same whether the event comes out of the log or out of the archive.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import msgspec

from tailrace.core.clock import to_rfc3339
from tailrace.core.codec import decode_event, to_json
from tailrace.core.store.port import RawEntry, WorkflowStore

TYPE_PREFIX: Final = "dev.tailrace."


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The envelope. `traceparent` is the extension for distributed tracing; `data` has the event's fields."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: str
    datacontenttype: str
    data: dict[str, Any]
    traceparent: str = ""


def to_cloud_event(entry: RawEntry, source: str) -> CloudEvent:
    """Decode one entry; raises `Undecodable`."""
    decoded = decode_event(entry.type, entry.data)
    data = {"version": entry.version, "seq": entry.seq, **plain(decoded.event)}
    return CloudEvent(
        specversion="1.0",
        id=f"{entry.workflow_id}:{entry.version}",
        source=source,
        type=TYPE_PREFIX + entry.type,
        subject=entry.workflow_id,
        time=to_rfc3339(decoded.at) or "",
        datacontenttype="application/json",
        data=data,
        traceparent=entry.traceparent,
    )


def source_of(store: WorkflowStore) -> str:
    """The `source` of every event of this installation."""
    return f"urn:tailrace:{store.instance_id}"


def plain(value: Any) -> Any:
    """Structs to dicts, with every field: a reader need not know the defaults."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


class Item:
    """An entry on its way to any number of clients: decoded and encoded once, and only when somebody wants it."""

    def __init__(self, entry: RawEntry, source: str) -> None:
        self.entry = entry
        self._source = source

    @cached_property
    def event(self) -> CloudEvent:
        """The event; raises `Undecodable`."""
        return to_cloud_event(self.entry, self._source)

    @cached_property
    def json(self) -> bytes:
        """The event as one line of JSON; raises `Undecodable`."""
        return to_json(self.event)
