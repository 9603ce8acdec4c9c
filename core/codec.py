"""The bytes of events, commands, reports and states: msgpack, decoded in one place.

What Postgres or JSON could not hold (NUL, non-finite numbers, lone surrogates) is refused here, before it can enter the
log. Anything that can't be read raises `Undecodable`, and whoever reads parks it.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeVar

import msgspec

from tailrace.core.commands import COMMANDS, Command, Report
from tailrace.core.errors import FieldError, InvalidInput, Undecodable
from tailrace.core.events import EVENTS, Event
from tailrace.core.upcasting import schema_of, upcast

#: Values inside an event: larger ones belong into an artifact.
INLINE_LIMIT_BYTES: Final = 8 * 1024

#: How deep lists and objects may be nested in a value that comes from outside: far below what any decoder refuses.
MAX_DEPTH: Final = 100

#: What reading arbitrary bytes may raise: besides msgspec's own errors those of text that is no UTF-8, of values that are
#: nested too deep, and of upcasters that do not find what they expect.
_UNREADABLE: Final = (
    msgspec.MsgspecError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)

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


class _NewEventData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """As `EventData`, of an event that is still to be encoded."""

    at: int
    event: Event
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
    return _encoder.encode(_NewEventData(at=at, event=event, schema=schema_of(type(event).__name__), command=command))


def decode_event(event_type: str, data: bytes) -> DecodedEvent:
    """Read the field `data` of a log entry of `event_type`; raises `Undecodable`."""
    envelope, event = open_event(event_type, data)
    return DecodedEvent(at=envelope.at, event=event, command=envelope.command)


def open_event(event_type: str, data: bytes) -> tuple[EventData, Event]:
    """As `decode_event`, without making one value of it: for those who read very many."""
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
    except _UNREADABLE as error:
        raise Undecodable(f"{event_type} can't be read: {error}") from error
    return envelope, event


def record_command(command: Command, *, command_id: str, actor: str, now: int) -> CommandRecord:
    """A command as it is stored with its first event."""
    payload = msgspec.Raw(_encoder.encode(command))
    return CommandRecord(id=command_id, type=type(command).__name__, actor=actor, now=now, payload=payload)


def decode_command(record: CommandRecord) -> Command:
    """The command behind a record; raises `Undecodable`."""
    try:
        command: Command = _commands[record.type].decode(record.payload)
    except _UNREADABLE as error:
        raise Undecodable(f"command {record.type!r} can't be read: {error}") from error
    return command


def decode_report(data: bytes) -> Report:
    """The field `data` of a report entry; raises `Undecodable`, also for values that must not enter the log."""
    try:
        report = _reports.decode(data)
    except _UNREADABLE as error:
        raise Undecodable(f"report can't be read: {error}") from error
    if not _is_plain(msgspec.structs.astuple(report), MAX_DEPTH):
        _check_report(report)
    return report


def _check_report(report: Report) -> None:
    fields = msgspec.structs.asdict(report)
    if report.error is not None:
        fields["error"] = msgspec.structs.asdict(report.error)
    try:
        check_value(fields)
    except InvalidInput as error:
        raise Undecodable(str(error)) from error


def check_value(value: Any, pointer: str = "", *, depth: int = 0) -> None:
    """Refuse what a JSON document in Postgres can't hold; raises `InvalidInput` naming the place (RFC 6901).

    Source: Postgres `jsonb` refuses U+0000, non-finite numbers and unpaired surrogates.
    """
    if not depth and _is_plain(value, MAX_DEPTH):
        return
    if depth > MAX_DEPTH:
        raise _refused(pointer, f"values are nested over {MAX_DEPTH} deep")
    match value:
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise _refused(pointer, f"the key {key!r} is not text")
                _check_scalar(key, pointer)
                check_value(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", depth=depth + 1)
        case list() | tuple():
            for index, item in enumerate(value):
                check_value(item, f"{pointer}/{index}", depth=depth + 1)
        case _:
            _check_scalar(value, pointer)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a value is sure to pass, as nearly every one is: without looking for the place of what is wrong."""
    kind = type(value)
    if kind is str:
        return bool(value.isascii() and "\x00" not in value)
    if kind is dict:
        if depth <= 0:
            return False
        for key, item in value.items():
            if not (type(key) is str and key.isascii() and "\x00" not in key and _is_plain(item, depth - 1)):
                return False
        return True
    if kind is list or kind is tuple:
        if not depth:
            return False
        for item in value:  # noqa: SIM110  # a generator for `all` takes twice the time
            if not _is_plain(item, depth - 1):
                return False
        return True
    if kind is int:
        return bool(-(2**63) <= value < 2**64)
    return value is None or kind is bool or (kind is float and math.isfinite(value))


def _check_scalar(value: Any, pointer: str) -> None:
    problem = ""
    match value:
        case str():
            if "\x00" in value:
                problem = "text holds a NUL character"
            elif not _is_unicode(value):
                problem = "text holds a lone surrogate"
        case float():
            if not math.isfinite(value):
                problem = f"{value} is not a finite number"
        case int():
            if not -(2**63) <= value < 2**64:
                problem = f"{value} is out of the range of 64 bits"
        case bytes() | bytearray() | memoryview():
            problem = "raw bytes don't fit into JSON; store them as an artifact"
        case None:
            pass
        case _:
            problem = f"a {type(value).__name__} is not a JSON value"
    if problem:
        raise _refused(pointer, problem)


def _refused(pointer: str, problem: str) -> InvalidInput:
    # Of a place that is nested without end the beginning says enough.
    pointer = pointer if len(pointer) <= 200 else f"{pointer[:200]}…"
    return InvalidInput(f"{pointer or '/'}: {problem}", [FieldError(pointer=pointer, detail=problem)])


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    except _UNREADABLE as error:
        raise Undecodable(f"{cls.__name__} can't be read: {error}") from error


def to_json(value: Any) -> bytes:
    """JSON of any struct or builtin."""
    return _json.encode(value)
