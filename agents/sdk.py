"""What an agent's author writes against: an `Agent` with typed actions, and the `TaskContext` each of them gets.

An action is an async function of a context and a typed input that returns a typed output. It ends in exactly one way:
it returns (completed), raises `TaskError` (failed, with a named reason), raises anything else (failed, `handler-error`,
retried by policy), or is cancelled. Agents never name workflows or stages in what they report: the task id decides.

    agent = Agent("greeter")

    @agent.action("greet")
    async def greet(context: TaskContext, input: GreetInput) -> GreetOutput: ...

What an action did is undone by its compensation, when the run does not complete and the stage declares one.

    @agent.compensation("greet")
    async def take_back(context: TaskContext, input: GreetedInput) -> None: ...
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar, get_type_hints

import msgspec

from tailrace.core.artifacts import ArtifactRef
from tailrace.core.errors import InvalidInput, TaskError
from tailrace.core.workflow.definition import compensating_action

__all__ = ["Action", "Agent", "ArtifactRef", "TaskContext", "TaskError", "TaskInput"]

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


class TaskInput(msgspec.Struct, frozen=True, kw_only=True):
    """What every task carries. Subclass it to give `input`, `params` and `stages` a type of your own.

    `stages` holds the output of each completed stage this one needs, directly or through others, by stage name.
    `params` are the stage's own settings in the definition; `input` is what the client sent. For a compensation, which gets
    the same as its stage did, `output` is what that gave: what is to be undone.
    """

    name: str
    description: str = ""
    requirements: str = ""
    input: dict[str, Any] = {}
    params: dict[str, Any] = {}
    stages: dict[str, Any] = {}
    output: Any = None


class TaskContext(Protocol):
    """What a handler may know and do while its task runs."""

    @property
    def task_id(self) -> str:
        """`<workflow>:<stage>[<item>]:<attempt>`. The same for each delivery of one attempt."""

    @property
    def idempotency_key(self) -> str:
        """The task id: hand it to outside services, so that a second delivery has no second effect."""

    @property
    def workflow_id(self) -> str: ...

    @property
    def attempt(self) -> int:
        """1 for the first attempt of the stage, counting up, also over a retry."""

    @property
    def compensating(self) -> bool:
        """True when the task undoes what its stage did."""

    @property
    def deadline_us(self) -> int | None:
        """When the attempt times out, in microseconds since the epoch by this machine's clock; None if it has no limit.

        It is for a handler that wants to end before: compare it with `time.time()`. What counts is the time of the store.
        """

    @property
    def workspace(self) -> Any:
        """The run's own folder (`tailrace.agents.workspace.Workspace`)."""

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that carries the ids of the task."""

    @property
    def cancelled(self) -> bool:
        """True once the task was cancelled or lost; the handler is cancelled as well, by asyncio."""

    async def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the task is (0.0 to 1.0). At most one event in five seconds enters the log."""

    async def put_artifact(self, data: bytes, *, name: str, media_type: str = ...) -> ArtifactRef:
        """Store bytes that are too large for an output (inline values are limited to 8 KiB)."""

    async def get_artifact(self, ref: ArtifactRef) -> bytes:
        """Read what an earlier stage stored; raises `NotFound`."""

    def circuit(self, dependency: str) -> Any:
        """The breaker that guards an outside service (`tailrace.agents.breaker.Breaker`), shared within the process."""


Handler = Callable[[TaskContext, Any], Awaitable[Any]]


class Action(Generic[InputT, OutputT]):
    """A handler and the types of what goes in and comes out; both are checked, before and after it runs."""

    def __init__(self, name: str, handler: Callable[[TaskContext, InputT], Awaitable[OutputT]]) -> None:
        hints = get_type_hints(handler)
        parameters = list(inspect.signature(handler).parameters)
        if len(parameters) != 2:
            raise TypeError(f"action {name!r} must take a context and an input, not {parameters}")
        self.name = name
        self.handler = handler
        self.input_type: Any = hints.get(parameters[1], TaskInput)
        self.output_type: Any = hints.get("return", Any)

    async def __call__(self, context: TaskContext, raw: Mapping[str, Any]) -> Any:
        """Convert, run, and give the output as builtin types (dict, list, str, number, bool, None).

        Raises `TaskError` with reason `invalid-input` when the task does not fit the input type.
        """
        try:
            value = msgspec.convert(raw, self.input_type)
        except msgspec.ValidationError as error:
            raise TaskError("invalid-input", f"the task does not fit action {self.name!r}: {error}") from error
        return msgspec.to_builtins(await self.handler(context, value))


class Agent:
    """A named role: the consumer group `name`, and the actions it can do.

    A stage names its agent and, where the agent has several, the action; without one the stage's own name is tried,
    then an action called `*`.

    `files` says that its handlers may use the run's folder: then a handler begins only when handlers of earlier attempts,
    which were told to end, have left it. An agent without saves that.
    """

    def __init__(self, name: str, *, files: bool = True) -> None:
        if not name or not name.replace("-", "").replace("_", "").isalnum():
            raise InvalidInput(f"{name!r} is not a name for an agent: use letters, digits, '-' and '_'")
        self.name = name
        self.files = files
        self.actions: dict[str, Action[Any, Any]] = {}
        #: Awaited by the worker when it shuts down: what the agent keeps running or open ends there.
        self.closers: list[Callable[[], Awaitable[None]]] = []

    def action(
        self, name: str
    ) -> Callable[[Callable[[TaskContext, InputT], Awaitable[OutputT]]], Action[InputT, OutputT]]:
        """Register the decorated function as action `name`."""

        def register(handler: Callable[[TaskContext, InputT], Awaitable[OutputT]]) -> Action[InputT, OutputT]:
            if name in self.actions:
                raise ValueError(f"agent {self.name!r} has two actions {name!r}")
            action: Action[InputT, OutputT] = Action(name, handler)
            self.actions[name] = action
            return action

        return register

    def compensation(
        self, action: str
    ) -> Callable[[Callable[[TaskContext, InputT], Awaitable[OutputT]]], Action[InputT, OutputT]]:
        """Register the decorated function as what undoes `action`. It may run more than once, like every action."""
        return self.action(compensating_action(action))

    def find(self, name: str) -> Action[Any, Any]:
        """The action for `name`, or the one called `*`; raises `TaskError` with reason `unknown-action`."""
        action = self.actions.get(name)
        if action is None and "*" in self.actions:
            action = self.actions["*"]
        if action is None:
            known = ", ".join(sorted(self.actions)) or "none"
            raise TaskError("unknown-action", f"agent {self.name!r} has no action {name!r} (it has: {known})")
        return action
