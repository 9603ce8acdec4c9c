"""The bytes of events, commands, reports and states: msgpack, decoded in one place.

What Postgres or JSON could not hold (NUL, non-finite numbers, lone surrogates) is refused here, before it can enter the
log. Anything that can't be read raises `Undecodable`, and whoever reads parks it.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeVar

import msgspec

from tailrace.core.commands import COMMANDS, Command, Report
from tailrace.core.errors import InvalidInput, Undecodable
from tailrace.core.events import EVENTS, Event
from tailrace.core.upcasting import schema_of, upcast

#: Values inside an event: larger ones belong into an artifact.
INLINE_LIMIT_BYTES: Final = 8 * 1024

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_json = msgspec.json.Encoder()


class CommandRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command as the log keeps it: with its id, who gave it, and the time it was decided at."""

    id: str
    type: str
    actor: str
    now: int
    payload: msgspec.Raw


class EventData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The field `data` of a log entry."""

    at: int
    event: msgspec.Raw
    schema: int = 1
    command: CommandRecord | None = None


class DecodedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event out of the log, without its place in it."""

    at: int
    event: Event
    command: CommandRecord | None


_event_data = msgspec.msgpack.Decoder(EventData)
_reports = msgspec.msgpack.Decoder(Report)
_events: dict[str, msgspec.msgpack.Decoder[Any]] = {name: msgspec.msgpack.Decoder(cls) for name, cls in EVENTS.items()}
_commands: dict[str, msgspec.msgpack.Decoder[Any]] = {
    name: msgspec.msgpack.Decoder(cls) for name, cls in COMMANDS.items()
}


def encode(value: Any) -> bytes:
    """msgpack of any struct or builtin."""
    return _encoder.encode(value)


def encode_event(event: Event, *, at: int, command: CommandRecord | None = None) -> bytes:
    """The field `data` of a log entry for `event`."""
    raw = msgspec.Raw(_encoder.encode(event))
    return _encoder.encode(EventData(at=at, event=raw, schema=schema_of(type(event).__name__), command=command))


def decode_event(event_type: str, data: bytes) -> DecodedEvent:
    """Read the field `data` of a log entry of `event_type`; raises `Undecodable`."""
    decoder = _events.get(event_type)
    if decoder is None:
        raise Undecodable(f"no event is called {event_type!r}")
    try:
        envelope = _event_data.decode(data)
        if envelope.schema == schema_of(event_type):
            event = decoder.decode(envelope.event)
        else:
            fields = msgspec.msgpack.decode(envelope.event, type=dict[str, Any])
            event = msgspec.convert(upcast(event_type, envelope.schema, fields), EVENTS[event_type])
    except (msgspec.MsgspecError, KeyError) as error:
        raise Undecodable(f"{event_type} can't be read: {error}") from error
    return DecodedEvent(at=envelope.at, event=event, command=envelope.command)


def record_command(command: Command, *, command_id: str, actor: str, now: int) -> CommandRecord:
    """A command as it is stored with its first event."""
    payload = msgspec.Raw(_encoder.encode(command))
    return CommandRecord(id=command_id, type=type(command).__name__, actor=actor, now=now, payload=payload)


def decode_command(record: CommandRecord) -> Command:
    """The command behind a record; raises `Undecodable`."""
    try:
        command: Command = _commands[record.type].decode(record.payload)
    except (msgspec.MsgspecError, KeyError) as error:
        raise Undecodable(f"command {record.type!r} can't be read: {error}") from error
    return command


def decode_report(data: bytes) -> Report:
    """The field `data` of a report entry; raises `Undecodable`, also for values that must not enter the log."""
    try:
        report = _reports.decode(data)
    except msgspec.MsgspecError as error:
        raise Undecodable(f"report can't be read: {error}") from error
    try:
        check_value(msgspec.to_builtins(report))
    except InvalidInput as error:
        raise Undecodable(str(error)) from error
    return report


def check_value(value: Any, pointer: str = "") -> None:
    """Refuse what a JSON document in Postgres can't hold; raises `InvalidInput` naming the place.

    Source: Postgres `jsonb` refuses U+0000, non-finite numbers and unpaired surrogates.
    """
    match value:
        case str():
            if "\x00" in value:
                raise InvalidInput(f"{pointer or '/'}: text holds a NUL character")
            if not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    raise InvalidInput(f"{pointer or '/'}: text holds a lone surrogate") from None
        case float():
            if not math.isfinite(value):
                raise InvalidInput(f"{pointer or '/'}: {value} is not a finite number")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise InvalidInput(f"{pointer or '/'}: the key {key!r} is not text")
                check_value(key, pointer)
                check_value(item, f"{pointer}/{key}")
        case list() | tuple():
            for index, item in enumerate(value):
                check_value(item, f"{pointer}/{index}")
        case bytes() | bytearray() | memoryview():
            raise InvalidInput(f"{pointer or '/'}: raw bytes don't fit into JSON; store them as an artifact")
        case int() if not -(2**63) <= value < 2**64:
            raise InvalidInput(f"{pointer or '/'}: {value} is out of the range of 64 bits")
        case _:
            pass


def encode_value(value: Any, what: str) -> bytes:
    """msgpack of a value that goes into an event; raises `InvalidInput` when it can't or is over `INLINE_LIMIT_BYTES`."""
    check_value(value)
    try:
        data = _encoder.encode(value)
    except (TypeError, OverflowError, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise InvalidInput(f"{what} can't be stored: {error}") from error
    if len(data) > INLINE_LIMIT_BYTES:
        raise InvalidInput(f"{what} takes {len(data)} bytes; values over {INLINE_LIMIT_BYTES} belong into an artifact")
    return data


def decode(data: bytes, cls: type[T]) -> T:
    """msgpack to `cls`; raises `Undecodable`."""
    try:
        return msgspec.msgpack.decode(data, type=cls)
    except msgspec.MsgspecError as error:
        raise Undecodable(f"{cls.__name__} can't be read: {error}") from error


def to_json(value: Any) -> bytes:
    """JSON of any struct or builtin."""
    return _json.encode(value)
