"""What people want in a simulation: pipelines, runs of them, and commands, drawn from the seed before it begins."""

from __future__ import annotations

from random import Random
from typing import Final

import msgspec

from tailrace.core.commands import (
    CancelWorkflow,
    Command,
    FlagStall,
    PauseWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
)
from tailrace.core.testing.builders import pipeline
from tailrace.core.workflow.definition import CompensationDefinition, Pipeline, RetryPolicy, StageDefinition

AGENTS: Final = ("alpha", "beta")

_WISHES: Final = (
    *("pause", "resume", "retry", "retry-from") * 2,
    *("cancel", "flag", "pause-shortly"),
)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A command that somebody gives `at` seconds after the beginning; `then` follows it after `later` seconds.

    A `conditional` one is meant for the version that he sees, and for no other.
    """

    at: float
    number: int
    workflow_id: str
    command: Command
    conditional: bool
    later: float = 0.0
    then: Command | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A run that somebody wants; asked for `times` times at once, and once more with another body if `mistaken`."""

    at: float
    workflow_id: str
    priority: str
    times: int
    mistaken: bool


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """All that people want in one history."""

    pipeline: Pipeline
    orders: tuple[Order, ...]
    wishes: tuple[Wish, ...]


def draw_workload(random: Random, seconds: float) -> Workload:
    """Orders and wishes within the first `seconds`."""
    planned = _pipeline(random)
    orders = tuple(
        Order(
            at=random.uniform(0.0, seconds * 0.6),
            workflow_id=f"run-{number}",
            priority=random.choice(("medium", "medium", "high")),
            times=random.choice((1, 1, 1, 2)),
            mistaken=random.random() < 0.1,
        )
        for number in range(1, random.choice((2, 3, 4, 6)))
    )
    names = list(planned.stages)
    wishes: list[Wish] = []
    for number in range(random.choice((0, 1, 2, 4, 8, 12))):
        wish = _wish(random, number, orders, names, seconds)
        if wishes and random.random() < 0.3:
            # People come together: several want something of the same run at about the same time.
            last = wishes[-1]
            soon = random.choice((0.0, 0.02, 0.3)) * random.random()
            wish = msgspec.structs.replace(wish, workflow_id=last.workflow_id, at=last.at + soon)
        wishes.append(wish)
    wishes += _late_wishes(Random(random.random()), orders, names, seconds)
    return Workload(pipeline=planned, orders=orders, wishes=tuple(wishes))


def _late_wishes(random: Random, orders: tuple[Order, ...], stages: list[str], seconds: float) -> list[Wish]:
    """Somebody comes back to a run when it has ended, and may be forgotten."""
    return [
        Wish(
            at=random.uniform(seconds * 0.5, seconds * 2.0 + 10.0),
            number=100 + number,
            workflow_id=order.workflow_id,
            command=RetryWorkflow(from_stage=random.choice((None, *stages))),
            conditional=random.random() < 0.2,
        )
        for number, order in enumerate(orders)
        if random.random() < 0.4
    ]


def _pipeline(random: Random) -> Pipeline:
    """Half of the histories are of pipelines that undo what some of their stages did."""
    stages = _stages(random)
    # (Drawn apart, so that what else a seed means does not depend on it.)
    undoing = Random(random.random())
    if undoing.random() < 0.5:
        return pipeline(*stages, name="simulated")
    stages = [
        msgspec.structs.replace(stage, compensate=_compensation(undoing)) if undoing.random() < 0.7 else stage
        for stage in stages
    ]
    return pipeline(*stages, name="simulated", cancel_grace_seconds=undoing.choice((1.0, 4.0, 10.0)))


def _compensation(random: Random) -> CompensationDefinition:
    return CompensationDefinition(
        agent=random.choice(AGENTS),
        timeout_seconds=random.choice((None, 3.0, 6.0)),
        retry=RetryPolicy(
            max_attempts=random.choice((1, 2, 3)), backoff_seconds=random.choice((0.0, 0.3, 2.0)), factor=2.0
        ),
    )


def _stages(random: Random) -> list[StageDefinition]:
    names: list[str] = []
    stages = []
    for index in range(random.choice((1, 2, 3, 3, 4, 5))):
        name = f"s{index}"
        stages.append(
            StageDefinition(
                name=name,
                agent=random.choice(AGENTS),
                needs=tuple(random.sample(names, random.randint(0, min(2, len(names))))),
                weight=random.randint(0 if index else 1, 3),
                timeout_seconds=random.choice((None, 3.0, 6.0)),
                start_timeout_seconds=random.choice((None, None, None, 5.0)),
                retry=RetryPolicy(
                    max_attempts=random.choice((1, 2, 3, 3)),
                    backoff_seconds=random.choice((0.0, 0.3, 1.0)),
                    factor=2.0,
                ),
            )
        )
        names.append(name)
    return stages


def _wish(random: Random, number: int, orders: tuple[Order, ...], stages: list[str], seconds: float) -> Wish:
    order = random.choice(orders)
    then: Command | None = None
    command: Command
    match random.choice(_WISHES):
        case "pause":
            command = PauseWorkflow(reason="lunch")
        case "pause-shortly":
            command, then = PauseWorkflow(), ResumeWorkflow()
        case "resume":
            command = ResumeWorkflow()
        case "retry":
            command = RetryWorkflow()
        case "retry-from":
            command = RetryWorkflow(from_stage=random.choice(stages))
        case "flag":
            command = FlagStall(cause="overdue", hop="worker", summary="somebody looked")
        case _:
            command = CancelWorkflow(reason="changed my mind")
    return Wish(
        at=order.at + random.uniform(0.0, seconds),
        number=number,
        workflow_id=order.workflow_id,
        command=command,
        # What the watchdog finds is about one version, and is appended to that one only.
        conditional=isinstance(command, FlagStall) or random.random() < 0.2,
        later=random.uniform(0.1, 3.0),
        then=then,
    )
