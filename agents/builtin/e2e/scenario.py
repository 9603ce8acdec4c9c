"""What a user does with the app, as data: the same scenario is played over HTTP and in a browser."""

from __future__ import annotations

import msgspec

from tailrace.agents.builtin.operations import BY_NAME
from tailrace.agents.builtin.outputs import Kind, Scaffolded


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """One calculation: `label` is what its button says, the numbers are written as people write them."""

    operation: str
    label: str
    operands: tuple[float, ...]
    result: float
    shown: str


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """`zero` is the operation to provoke a division by zero with, empty if there is none."""

    url: str
    title: str
    kind: Kind
    sums: tuple[Sum, ...]
    zero: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried. `detail` says what was seen instead, where it failed."""

    name: str
    driver: str
    passed: bool
    milliseconds: float
    detail: str = ""


def scenario_of(project: Scaffolded, url: str) -> Scenario:
    """What the project promises, to be tried at `url`."""
    known = [BY_NAME[name] for name in project.operations if name in BY_NAME]
    sums = tuple(
        Sum(
            operation=operation.name,
            label=operation.label,
            operands=operation.example[:-1],
            result=operation.result,
            shown=f"{operation.result:g}",
        )
        for operation in known
    )
    zero = next((operation.label for operation in known if operation.name == "divide"), "")
    return Scenario(url=url, title=project.title, kind=project.kind, sums=sums, zero=zero)
