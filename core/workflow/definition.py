"""Definitions: named pipelines of stages, validated whole, immutable and known by their content hash.

`Pipeline` is a definition made ready for deciding: the order of its stages and what each needs, directly or not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from tailrace.core.clock import to_us
from tailrace.core.codec import check_value
from tailrace.core.errors import FieldError, InvalidInput

MAX_STAGES: Final = 200

#: How long compensation waits for handlers that were told to stop, where a definition does not say.
CANCEL_GRACE_SECONDS: Final = 10.0
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")

Seconds = Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)]


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a stage is tried in one round, and how long to wait in between: `backoff x factor^n`, up to the maximum."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    backoff_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 1.0
    factor: Annotated[float, msgspec.Meta(ge=1, le=100)] = 2.0
    max_backoff_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 60.0


class CompensationDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How what a stage did is undone: by an action of an agent, with a time limit and attempts of its own.

    `action` defaults to `compensate-` and the stage's action: never to the action itself, which an agent that knows nothing of
    compensation would do once more.
    """

    agent: str
    action: str = ""
    timeout_seconds: Seconds | None = 600.0
    retry: RetryPolicy = RetryPolicy()


class StageDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage. Without `needs` it may start at once; `action` defaults to the stage's name.

    `timeout_seconds` limits one attempt, counted from its start; None is no limit. `start_timeout_seconds` limits the
    time from dispatch to start; by default there is none, because a task may wait for a worker as long as it takes.
    `expect_start_seconds` is when the watchdog begins to ask why a dispatched task was not started. `compensate` says how what
    the stage did is undone when the run fails or is cancelled; left out, it is not.
    """

    name: str
    agent: str
    action: str = ""
    needs: tuple[str, ...] = ()
    weight: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 1
    timeout_seconds: Seconds | None = 600.0
    start_timeout_seconds: Seconds | None = None
    expect_start_seconds: Seconds = 5.0
    retry: RetryPolicy = RetryPolicy()
    params: dict[str, Any] = {}
    # Unset fields are not encoded: a definition that does without them keeps its hash.
    compensate: CompensationDefinition | UnsetType = UNSET


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pipeline: a name, and stages that form a DAG through `needs`.

    `cancel_grace_seconds` is how long compensation waits for handlers that were told to stop; left out, 10 s.
    """

    name: str
    stages: tuple[StageDefinition, ...]
    description: str = ""
    cancel_grace_seconds: Seconds | UnsetType = UNSET

    def content_hash(self) -> str:
        """The SHA-256, in hex, of the canonical JSON form."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class Pipeline:
    """A validated definition with what the decider asks of it, worked out once."""

    def __init__(self, definition: Definition, content_hash: str | None = None) -> None:
        self.definition = definition
        self.hash = content_hash or definition.content_hash()
        self.stages: Mapping[str, StageDefinition] = {stage.name: stage for stage in definition.stages}
        #: For each stage that declares one its compensation, in the form of a stage.
        self.compensations: Mapping[str, StageDefinition] = {
            stage.name: _compensation(stage, stage.compensate)
            for stage in definition.stages
            if stage.compensate is not UNSET
        }

    @cached_property
    def cancel_grace_us(self) -> int:
        """How long compensation waits for handlers that were told to stop, in microseconds."""
        seconds = self.definition.cancel_grace_seconds
        return to_us(CANCEL_GRACE_SECONDS if seconds is UNSET else seconds)

    @cached_property
    def ancestors(self) -> Mapping[str, tuple[str, ...]]:
        """For each stage, all stages it needs, directly or through others, in the definition's order."""
        closure: dict[str, set[str]] = {}
        for name in _topological(self.definition):
            needs = self.stages[name].needs
            closure[name] = set(needs).union(*(closure[need] for need in needs))
        return {name: tuple(stage for stage in self.stages if stage in closure[name]) for name in self.stages}

    @cached_property
    def descendants(self) -> Mapping[str, frozenset[str]]:
        """For each stage, all stages that need it, directly or through others."""
        return {
            name: frozenset(other for other in self.stages if name in self.ancestors[other]) for name in self.stages
        }

    @cached_property
    def agents(self) -> tuple[str, ...]:
        """Every agent of the pipeline, once, in order of first use."""
        both = (*self.definition.stages, *self.compensations.values())
        return tuple(dict.fromkeys(stage.agent for stage in both))


def compensating_action(action: str) -> str:
    """The action that undoes `action`, where a definition names no other one."""
    return f"compensate-{action}"


def _compensation(stage: StageDefinition, compensation: CompensationDefinition) -> StageDefinition:
    return msgspec.structs.replace(
        stage,
        agent=compensation.agent,
        action=compensation.action or compensating_action(stage.action or stage.name),
        timeout_seconds=compensation.timeout_seconds,
        start_timeout_seconds=None,
        retry=compensation.retry,
        compensate=UNSET,
    )


def parse_definition(document: Any) -> Definition:
    """A definition out of builtin values (from JSON or TOML), validated whole; raises `InvalidInput` with pointers."""
    try:
        definition = msgspec.convert(document, Definition)
    except msgspec.ValidationError as error:
        detail, _, place = str(error).partition(" - at `$")
        pointer = place.rstrip("`").replace(".", "/").replace("[", "/").replace("]", "")
        raise InvalidInput("the definition is not valid", [FieldError(pointer=pointer, detail=detail)]) from error
    validate(definition)
    return definition


def validate(definition: Definition) -> None:
    """Check what types can't say; raises `InvalidInput` listing everything that is wrong."""
    try:
        check_value(msgspec.to_builtins(definition))
    except InvalidInput as error:
        raise InvalidInput(f"the definition can't be stored: {error}", error.errors) from error
    errors = list(_problems(definition))
    if not errors:
        circular = _circular(definition)
        errors = [
            FieldError(pointer=f"/stages/{index}/needs", detail=f"stage {stage.name!r} needs itself, through a circle")
            for index, stage in enumerate(definition.stages)
            if stage.name in circular
        ]
    if errors:
        raise InvalidInput(f"the definition {definition.name!r} is not valid", errors)


def _problems(definition: Definition) -> Iterator[FieldError]:
    if not _NAME.fullmatch(definition.name):
        yield FieldError(pointer="/name", detail="a name is a-z, 0-9, '_' and '-', starts with a letter, up to 64")
    if not 1 <= len(definition.stages) <= MAX_STAGES:
        yield FieldError(pointer="/stages", detail=f"a definition has 1 to {MAX_STAGES} stages")
    if definition.stages and not any(stage.weight for stage in definition.stages):
        yield FieldError(pointer="/stages", detail="at least one stage must have a weight over 0")
    names: set[str] = set()
    known = {stage.name for stage in definition.stages}
    for index, stage in enumerate(definition.stages):
        at = f"/stages/{index}"
        if not _NAME.fullmatch(stage.name):
            yield FieldError(pointer=f"{at}/name", detail=f"{stage.name!r} is not a name for a stage")
        if stage.name in names:
            yield FieldError(pointer=f"{at}/name", detail=f"there are two stages {stage.name!r}")
        names.add(stage.name)
        if not _NAME.fullmatch(stage.agent):
            yield FieldError(pointer=f"{at}/agent", detail=f"{stage.agent!r} is not a name for an agent")
        if stage.compensate is not UNSET and not _NAME.fullmatch(stage.compensate.agent):
            detail = f"{stage.compensate.agent!r} is not a name for an agent"
            yield FieldError(pointer=f"{at}/compensate/agent", detail=detail)
        for position, need in enumerate(stage.needs):
            if need not in known:
                yield FieldError(pointer=f"{at}/needs/{position}", detail=f"there is no stage {need!r}")


def _circular(definition: Definition) -> set[str]:
    """Stages of a circle, or between two circles; those that only wait for a circle are not to blame."""
    ordered = set(_topological(definition))
    left = {stage.name: stage.needs for stage in definition.stages if stage.name not in ordered}
    while ends := left.keys() - {need for needs in left.values() for need in needs}:
        left = {name: needs for name, needs in left.items() if name not in ends}
    return set(left)


def _topological(definition: Definition) -> list[str]:
    """Stage names with every need before what needs it; stages in a circle are left out."""
    order: dict[str, None] = {}
    waiting = list(definition.stages)
    while ready := [stage for stage in waiting if all(need in order for need in stage.needs)]:
        order.update(dict.fromkeys(stage.name for stage in ready))
        waiting = [stage for stage in waiting if stage.name not in order]
    return list(order)
