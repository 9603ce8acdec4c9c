"""Requests: what a client may send, read strictly. Unknown fields are refused, and every fault is pointed at.

Reading is done in one go by a typed decoder; only when that fails the body is looked at again, field by field, to say all
that is wrong with it at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from tailrace.core.codec import check_value
from tailrace.core.errors import FieldError, InvalidInput
from tailrace.gateway.problems import Refusal

MAX_TEXT_BYTES: Final = 8 * 1024
MAX_LABELS: Final = 32
MAX_LABEL_KEY: Final = 63
MAX_LABEL_VALUE: Final = 255
MAX_DEPTH: Final = 64

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
StageName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Reason = Annotated[str, msgspec.Meta(max_length=1000)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all request bodies."""


class CreateWorkflowRequest(Request, frozen=True, kw_only=True):
    """`POST /workflows`."""

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    name: Name
    description: str = ""
    requirements: str = ""
    priority: Literal["low", "medium", "high", "critical"] = "medium"
    input: dict[str, Any] = {}
    labels: dict[str, str] = {}


class CancelRequest(Request, frozen=True, kw_only=True):
    """`POST /workflows/{id}/cancel`."""

    reason: Reason = ""


class PauseRequest(Request, frozen=True, kw_only=True):
    """`POST /workflows/{id}/pause`."""

    reason: Reason = ""


class ResumeRequest(Request, frozen=True, kw_only=True):
    """`POST /workflows/{id}/resume`."""


class RetryRequest(Request, frozen=True, kw_only=True):
    """`POST /workflows/{id}/retry`."""

    from_stage: StageName | None = None


RequestT = TypeVar("RequestT", bound=Request)
_decoders: dict[type[Request], msgspec.json.Decoder[Any]] = {}


def read(body: bytes, cls: type[RequestT]) -> RequestT:
    """A request out of its body; raises `Refusal` (400) for what is no JSON, `InvalidInput` for what does not fit."""
    decoder = _decoders.get(cls)
    if decoder is None:
        decoder = _decoders[cls] = msgspec.json.Decoder(cls)
    try:
        request: RequestT = decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidInput("the request does not fit", _faults(parse(body), cls)) from None
    errors = list(_limits(request)) if isinstance(request, CreateWorkflowRequest) else list(_unfit(request))
    if errors:
        raise InvalidInput("the request does not fit", errors)
    return request


def parse(body: bytes) -> Any:
    """Builtin values out of JSON; raises `Refusal` (400) with the place, `InvalidInput` for values that can't be stored."""
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refusal(
            400, "bad-json", f"the body is not JSON: {error.msg} at {place} (character {error.pos})"
        ) from None
    except UnicodeDecodeError as error:
        raise Refusal(400, "bad-json", f"the body is not UTF-8 at byte {error.start}") from None
    except (RecursionError, ValueError):
        raise Refusal(
            400, "bad-json", "the body can't be read: it is nested too deeply, or has a number out of range"
        ) from None
    errors = list(_unstorable(value, ""))
    if errors:
        raise InvalidInput("the request holds what can't be stored", errors)
    return value


def _faults(document: Any, cls: type[Request]) -> list[FieldError]:
    """Everything that is wrong with a document that `cls` refused."""
    if not isinstance(document, dict):
        return [FieldError(pointer="", detail="the body must be a JSON object")]
    fields = {field.name: field for field in msgspec.structs.fields(cls)}
    errors = [
        FieldError(pointer=f"/{escape(name)}", detail=f"there is no field {name!r}; fields are: {', '.join(fields)}")
        for name in document
        if name not in fields
    ]
    for name, field in fields.items():
        if name not in document:
            if field.required:
                errors.append(FieldError(pointer=f"/{name}", detail="this field is required"))
            continue
        try:
            msgspec.convert(document[name], field.type)
        except msgspec.ValidationError as error:
            errors.append(_fault(f"/{name}", error))
    return errors or [FieldError(pointer="", detail="the body does not fit")]


def _fault(pointer: str, error: msgspec.ValidationError) -> FieldError:
    detail, _, place = str(error).partition(" - at `$")
    inner = re.sub(
        r"\[(\d+)\]|\.(\w+)|\[\.\.\.\]", lambda match: f"/{match[1] or match[2]}" if match[1] or match[2] else "", place
    )
    return FieldError(pointer=pointer + inner.rstrip("`"), detail=detail)


def _limits(request: CreateWorkflowRequest) -> Iterator[FieldError]:
    for name in ("description", "requirements"):
        size = len(getattr(request, name).encode("utf-8", "surrogatepass"))
        if size > MAX_TEXT_BYTES:
            yield FieldError(pointer=f"/{name}", detail=f"{size} bytes; at most {MAX_TEXT_BYTES}")
    if len(request.labels) > MAX_LABELS:
        yield FieldError(pointer="/labels", detail=f"{len(request.labels)} labels; at most {MAX_LABELS}")
    for key, value in request.labels.items():
        if not 1 <= len(key) <= MAX_LABEL_KEY:
            yield FieldError(
                pointer=f"/labels/{escape(key)}", detail=f"a label's key has 1 to {MAX_LABEL_KEY} characters"
            )
        if len(value) > MAX_LABEL_VALUE:
            yield FieldError(
                pointer=f"/labels/{escape(key)}", detail=f"a label's value has at most {MAX_LABEL_VALUE} characters"
            )
    if _is_deep(request.input):
        yield FieldError(pointer="/input", detail=f"nested more than {MAX_DEPTH} levels deep")
    else:
        yield from _unfit(request)


def _unfit(request: Request) -> Iterator[FieldError]:
    for field in request.__struct_fields__:
        yield from _unstorable(getattr(request, field), f"/{field}")


def _unstorable(value: Any, pointer: str) -> Iterator[FieldError]:
    try:
        check_value(value, pointer)
    except InvalidInput as error:
        at, _, detail = str(error).partition(": ")
        yield FieldError(pointer="" if at == "/" else at, detail=detail)
    except RecursionError:
        yield FieldError(pointer=pointer, detail=f"nested more than {MAX_DEPTH} levels deep")


def _is_deep(value: Any) -> bool:
    """Breadth first: a hostile document must not use up the stack."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def escape(name: str) -> str:
    """A name as one token of a JSON pointer (RFC 6901), shortened, and without what a response can't carry."""
    shown = name[:100].encode("utf-8", "replace").decode()
    return shown.replace("~", "~0").replace("/", "~1")


def check_query(query: Iterable[str], *known: str) -> None:
    """Refuse fields of a query that nobody would read; raises `InvalidInput`, which points to each of them."""
    unknown = [name for name in dict.fromkeys(query) if name not in known]
    if unknown:
        errors = [
            FieldError(pointer=f"/{name.replace('~', '~0').replace('/', '~1')}", detail="there is no such query field")
            for name in unknown
        ]
        raise InvalidInput(f"no query field is called {unknown[0]!r}; known are: {', '.join(known)}", errors)


def query_flag(query: Mapping[str, str], name: str) -> bool | None:
    """`true` or `false` in a query; raises `InvalidInput`."""
    match query.get(name):
        case None:
            return None
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case _:
            raise InvalidInput(f"`{name}` is true or false")


def query_number(query: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    """A whole number in a query; raises `InvalidInput`."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise InvalidInput(f"`{name}` is a whole number from {least} to {most}")
    return int(text)


def query_object(query: Mapping[str, str], name: str) -> dict[str, Any] | None:
    """A JSON object in a query; raises `InvalidInput`."""
    text = query.get(name)
    if text is None:
        return None
    try:
        value = parse(text.encode("utf-8", "surrogatepass"))
    except Refusal as error:
        raise InvalidInput(f"`{name}` is a JSON object: {error}") from None
    if not isinstance(value, dict) or _is_deep(value):
        raise InvalidInput(f'`{name}` is a JSON object, like {{"customer": "acme"}}')
    return value
