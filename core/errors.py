"""Every error that crosses a module boundary, with a stable `code`, `retryable`, and its facts as attributes.

    TailraceError
    ├── InvalidInput            a request or definition that can't be accepted; carries JSON pointers
    ├── NotFound                no such workflow, definition or agent
    ├── AlreadyExists           the same id was created with another body
    ├── CommandRefused          the state forbids the command; names the state and what it allows
    ├── VersionConflict         somebody else appended first: load again, decide again
    ├── NotOwner                another orchestrator owns the partition
    ├── StoreUnavailable        Redis can't be reached, or did not answer in time
    ├── StoreFull               Redis is at its memory mark
    ├── StoreCorrupt            a key holds what it never should
    ├── LogDiverged             the log does not continue where a reader stopped
    ├── Undecodable             bytes that no codec understands; they are parked, never dropped
    ├── ReadModelUnavailable    Postgres can't be reached, or has no free connection
    ├── IdentityMismatch        a process of another build, namespace or Redis
    ├── ConfigurationError      a setting that can't work; says what to set
    └── TaskError               what a handler raises to fail its task with a typed reason

Drivers' errors are translated in their adapters (`raise … from`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with a document: where (`pointer`, RFC 6901) and what (`detail`)."""

    pointer: str
    detail: str


class TailraceError(Exception):
    """Base of all errors of this project."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class InvalidInput(TailraceError):
    """The document was not accepted; nothing was written."""

    code = "invalid-input"

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors)


class NotFound(TailraceError):
    """There is no `kind` called `name`."""

    code = "not-found"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"no {kind} {name!r}")
        self.kind = kind
        self.name = name


class AlreadyExists(TailraceError):
    """The workflow id was used before, for another request body."""

    code = "already-exists"

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"workflow {workflow_id} exists with another body")
        self.workflow_id = workflow_id


class CommandRefused(TailraceError):
    """The workflow's state forbids the command."""

    code = "command-refused"

    def __init__(self, command: str, status: str, allowed: Sequence[str], detail: str = "") -> None:
        reason = detail or f"a {status} workflow can't {command}"
        allows = f"; allowed now: {', '.join(allowed)}" if allowed else "; no command is allowed any more"
        super().__init__(reason + allows)
        self.command = command
        self.status = status
        self.allowed = tuple(allowed)


class VersionConflict(TailraceError):
    """The workflow moved on since it was loaded."""

    code = "version-conflict"
    retryable = True

    def __init__(self, workflow_id: str, expected: int, actual: int) -> None:
        super().__init__(f"workflow {workflow_id} is at version {actual}, not {expected}")
        self.workflow_id = workflow_id
        self.expected = expected
        self.actual = actual


class NotOwner(TailraceError):
    """The partition is owned by another orchestrator; stop and stand by."""

    code = "not-owner"
    retryable = True

    def __init__(self, partition: int) -> None:
        super().__init__(f"partition {partition} is owned by another orchestrator")
        self.partition = partition


class StoreUnavailable(TailraceError):
    """Redis can't be reached. Whether a write happened is unknown until it is asked again by command id."""

    code = "store-unreachable"
    retryable = True


class StoreFull(TailraceError):
    """Redis is over its memory mark: new runs are refused, open ones go on."""

    code = "store-full"
    retryable = True


class StoreCorrupt(TailraceError):
    """A key has a type or a content that no version of Tailrace writes."""

    code = "store-corrupt"


class LogDiverged(TailraceError):
    """The log does not continue where a reader stopped: it went back, or was trimmed under it."""

    code = "log-diverged"

    def __init__(self, partition: int, detail: str) -> None:
        super().__init__(f"partition {partition}: {detail}")
        self.partition = partition


class Undecodable(TailraceError):
    """Bytes that can't be decoded. Whoever meets them parks them with this reason."""

    code = "undecodable"


class ReadModelUnavailable(TailraceError):
    """Postgres can't be reached or all its connections are busy; runs go on without it."""

    code = "read-model-unavailable"
    retryable = True


class IdentityMismatch(TailraceError):
    """This process and the namespace it joined do not fit together."""

    code = "identity-mismatch"


class ConfigurationError(TailraceError):
    """A setting that can't work."""

    code = "configuration"


class TaskError(TailraceError):
    """Raised by a handler: the task failed for a reason that can be named.

    `reason` is a stable kebab-case word, `may_retry` says whether the retry policy applies, `details` are facts that
    fit into JSON.
    """

    code = "task-failed"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retryable: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.may_retry = retryable
        self.details: Mapping[str, Any] = details or {}
