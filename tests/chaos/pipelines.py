"""The runs of a trial: their definitions, what each stage of each run does, what people ask of them, and how they may end.

All of it comes from the seed and the number of the run.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final, Literal, TypeAlias

import msgspec

Asked: TypeAlias = Literal["cancel", "pause", "resume", "retry"]
Step: TypeAlias = dict[str, Any]

_RETRY: Final = {"max_attempts": 4, "backoff_seconds": 0.2, "factor": 2.0, "max_backoff_seconds": 1.0}

#: Nothing else plays `gamma` than the workers whose recovery is measured.
ALONE: Final = {"name": "alone", "stages": [{"name": "work", "agent": "gamma"}]}

DEFINITIONS: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": "chain",
        "stages": [
            {"name": f"s{number}", "agent": agent, "retry": _RETRY, **({"needs": [f"s{number - 1}"]} if number else {})}
            for number, agent in enumerate(("alpha", "beta", "alpha", "beta"))
        ],
    },
    {
        "name": "diamond",
        "stages": [
            {"name": "begin", "agent": "alpha"},
            {"name": "left", "agent": "beta", "needs": ["begin"], "weight": 3},
            {"name": "middle", "agent": "alpha", "needs": ["begin"]},
            {"name": "right", "agent": "beta", "needs": ["begin"], "retry": _RETRY},
            {"name": "end", "agent": "alpha", "needs": ["left", "middle", "right"]},
        ],
    },
    {
        "name": "limited",
        "stages": [
            {
                "name": "first",
                "agent": "alpha",
                "timeout_seconds": 2.0,
                "retry": {**_RETRY, "max_attempts": 50},
            },
            {"name": "second", "agent": "beta", "needs": ["first"]},
        ],
    },
    ALONE,
)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asks of a run, `after` so many seconds from what was asked before."""

    asked: Asked
    after: float


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One run: what it is created with, what is asked of it, and the statuses it may end with.

    `twice`: the request is sent twice at once, as by a client that lost patience.
    """

    key: str
    body: dict[str, Any]
    commands: tuple[Command, ...] = ()
    ends: frozenset[str] = frozenset({"completed"})
    twice: bool = False


def plan_run(seed: int, number: int) -> RunPlan:
    """The run with that number."""
    random = Random(f"run {seed} {number}")
    commands: tuple[Command, ...] = ()
    ends = {"completed"}
    kind = random.choice(("chain", "chain", "diamond", "diamond", "retried", "slow", "limited", "failing", "commanded"))
    definition, stages = _script(kind, random)
    if kind == "failing":
        commands = (Command(asked="retry", after=random.uniform(0.5, 2)),)
        ends |= {"failed"}  # nobody could reach it to ask
    elif kind == "commanded":
        commands, ends = random.choice(
            (
                ((Command(asked="cancel", after=random.uniform(0, 4)),), {"completed", "cancelled"}),
                (
                    (
                        Command(asked="cancel", after=random.uniform(0, 2)),
                        Command(asked="retry", after=random.uniform(0, 2)),
                    ),
                    {"completed", "cancelled"},
                ),
                (
                    (
                        Command(asked="pause", after=random.uniform(0, 2)),
                        Command(asked="resume", after=random.uniform(0, 4)),
                    ),
                    {"completed"},
                ),
                (
                    (
                        Command(asked="pause", after=random.uniform(0, 2)),
                        Command(asked="cancel", after=random.uniform(0, 2)),
                    ),
                    {"completed", "cancelled"},
                ),
            )
        )
    return RunPlan(
        key=f"{seed}-{number}",
        body={
            "type": definition,
            "name": f"run-{number}",
            "priority": random.choice(("low", "medium", "medium", "high", "critical")),
            "labels": {"kind": kind},
            "input": {"simulate": stages},
        },
        commands=commands,
        ends=frozenset(ends),
        twice=random.random() < 0.15,
    )


def alone(key: str, seconds: float) -> RunPlan:
    """A run of one task that takes so many seconds."""
    script = {"simulate": {"work": [_slow(seconds)]}}
    return RunPlan(key=key, body={"type": "alone", "name": key, "input": script})


def _script(kind: str, random: Random) -> tuple[str, dict[str, list[Step]]]:
    """The definition, and what each stage does at each attempt."""
    flaky: Step = {"do": "fail", "reason": "flaky", "retryable": True, "seconds": random.uniform(0, 0.3)}
    match kind:
        case "diamond":
            names = ("begin", "left", "middle", "right", "end")
            return "diamond", {name: [_slow(random.uniform(0, 0.5))] for name in names}
        case "retried":
            return "chain", {"s1": [flaky] * random.randint(1, 3) + [_slow(0.1)], "s3": [flaky, _slow(0.1)]}
        case "slow":
            long: Step = {"do": "progress", "seconds": random.uniform(1, 4)}
            return "diamond", {"begin": [_slow(0.2)], random.choice(("left", "middle", "right")): [long]}
        case "limited":
            return "limited", {"first": [{"do": "hang"}, _slow(0.1)]}
        case "failing":
            broken: Step = {"do": "fail", "reason": "on-purpose"}
            return "chain", {random.choice(("s0", "s2")): [broken, _slow(0.1)]}
        case _:
            return "chain", {f"s{number}": [_slow(random.uniform(0, 0.6))] for number in range(4)}


def _slow(seconds: float) -> Step:
    return {"do": "slow", "seconds": round(seconds, 3)}
