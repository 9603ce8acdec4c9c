"""A recorded history: the bytes of a run as its log held them, the definition, and the state they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from tailrace.core.codec import decode_event
from tailrace.core.testing.history import History
from tailrace.core.workflow.definition import Definition, Pipeline
from tailrace.core.workflow.history import Record
from tailrace.core.workflow.state import encode_state

FOLDER: Final = Path(__file__).with_name("histories")


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A log entry: its type and, in hexadecimal, its field `data`."""

    type: str
    data: str


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `state` is the stored snapshot in hexadecimal, `outputs` are those of its stages."""

    workflow_id: str
    definition: Definition
    traceparent: str
    events: list[RecordedEvent]
    state: str
    outputs: dict[str, Any]

    @property
    def pipeline(self) -> Pipeline:
        """The definition, made ready for deciding."""
        return Pipeline(self.definition)

    @property
    def data(self) -> list[bytes]:
        """The events as the log holds them."""
        return [bytes.fromhex(event.data) for event in self.events]

    def records(self) -> list[Record]:
        """The events in their places, read by today's code."""
        decoded = [decode_event(event.type, bytes.fromhex(event.data)) for event in self.events]
        return [
            Record(
                partition=0,
                entry_id=f"{item.at // 1000}-{version}",
                seq=version,
                workflow_id=self.workflow_id,
                version=version,
                type=event.type,
                at=item.at,
                event=item.event,
                command=item.command,
                traceparent=self.traceparent,
            )
            for version, (event, item) in enumerate(zip(self.events, decoded, strict=True), 1)
        ]


def recorded(history: History) -> Recording:
    """What is kept of a run."""
    return Recording(
        workflow_id=history.workflow_id,
        definition=history.pipeline.definition,
        traceparent=history.state.traceparent,
        events=[
            RecordedEvent(type=record.type, data=data.hex())
            for record, data in zip(history.records, history.log(), strict=True)
        ],
        state=encode_state(history.state).hex(),
        outputs=history.folded().stage_outputs(),
    )


def load(path: Path) -> Recording:
    """Read a recording."""
    return msgspec.json.decode(path.read_bytes(), type=Recording)
