"""What a task may read of its run: the request, its own settings, and the outputs of the stages that it needs.

An append puts them into the task's entry while they are small, so that its worker need not ask for them; larger ones, and those
of a run that its orchestrator has not read whole, are named there and read by the worker. Both ways give the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tailrace.core.codec import encode
from tailrace.core.events import WorkflowCreated
from tailrace.core.store.port import Given, TaskMessage
from tailrace.core.workflow.history import output_key

#: Up to how many bytes are given along: a few times what a task's entry has otherwise.
GIVEN_BYTES: Final = 1024


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """The request and all outputs of a run so far, `size` bytes altogether: what its next tasks can be given."""

    request: Given
    outputs: Mapping[str, bytes]
    size: int

    def given_to(self, inputs: Sequence[tuple[str, int]]) -> Given | None:
        """The request, with the outputs that a task reads; None when one of them is not known."""
        if not inputs:
            return self.request
        try:
            outputs = [self.outputs[output_key(stage, attempt)] for stage, attempt in inputs]
        except KeyError:
            return None
        return msgspec.structs.replace(self.request, outputs=outputs)


def carry(created: WorkflowCreated, outputs: Mapping[str, bytes]) -> Carried | None:
    """What a run's tasks can be given; None when it is too much."""
    request = Given(
        name=created.name,
        description=created.description,
        requirements=created.requirements,
        input=created.input,
    )
    return _within(Carried(request=request, outputs={}, size=len(encode(request))), outputs)


def carry_on(carried: Carried | None, outputs: Mapping[str, bytes]) -> Carried | None:
    """As `carry`, for a run that has these outputs now as well."""
    return carried if carried is None or not outputs else _within(carried, outputs)


def _within(carried: Carried, outputs: Mapping[str, bytes]) -> Carried | None:
    size = carried.size + sum(map(len, outputs.values()))
    if size > GIVEN_BYTES:
        return None
    return Carried(request=carried.request, outputs={**carried.outputs, **outputs}, size=size)


def input_of(message: TaskMessage, request: Given | WorkflowCreated, outputs: Sequence[bytes]) -> dict[str, Any]:
    """What a task reads, as `TaskInput` takes it: out of its own entry, or out of what its run has stored."""
    return {
        "name": request.name,
        "description": request.description,
        "requirements": request.requirements,
        "input": request.input,
        "params": message.params,
        "stages": {
            stage: msgspec.msgpack.decode(output) for (stage, _), output in zip(message.inputs, outputs, strict=True)
        },
    }
