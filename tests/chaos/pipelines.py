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
    {
        "name": "undone",
        "cancel_grace_seconds": 5.0,
        "stages": [
            {"name": "first", "agent": "alpha", "compensate": {"agent": "beta", "retry": _RETRY}},
            {"name": "second", "agent": "beta", "needs": ["first"], "compensate": {"agent": "beta", "retry": _RETRY}},
            {"name": "beside", "agent": "alpha", "needs": ["first"], "compensate": {"agent": "alpha", "retry": _RETRY}},
            {"name": "last", "agent": "beta", "needs": ["second"]},
        ],
    },
    ALONE,
)


_KINDS: Final = (
    "chain",
    "chain",
    "diamond",
    "diamond",
    "retried",
    "slow",
    "limited",
    "failing",
    "large",
    "stubborn",
    "commanded",
    "commanded",
    "undone",
    "undone",
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
    kind = random.choice(_KINDS)
    definition, stages = _script(kind, random)
    commands: tuple[Command, ...] = ()
    ends = frozenset({"completed"})
    if kind == "failing":
        # (Failed at last as well, when nobody could be reached to ask for the retry.)
        commands, ends = random.choice(((_asked(random, retry=2.0), ends | {"failed"}), ((), frozenset({"failed"}))))
    elif kind == "commanded":
        commands = random.choice(
            (
                _asked(random, cancel=4.0),
                _asked(random, cancel=2.0, retry=2.0),
                _asked(random, pause=2.0, resume=4.0),
                _asked(random, pause=2.0, cancel=2.0),
            )
        )
        ends |= {"cancelled"} if any(command.asked == "cancel" for command in commands) else set()
    elif kind == "undone":
        commands, ends = random.choice(
            ((_asked(random, cancel=4.0), ends | {"cancelled", "failed"}), ((), frozenset({"failed"})))
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
        ends=ends,
        twice=random.random() < 0.15,
    )


def _asked(random: Random, **most: float) -> tuple[Command, ...]:
    """Commands in this order, each after a while of at most so many seconds."""
    return tuple(
        Command(asked=msgspec.convert(asked, Asked), after=random.uniform(0, seconds))
        for asked, seconds in most.items()
    )


def alone(key: str) -> RunPlan:
    """A run of one task that goes on until the run is cancelled."""
    script = {"simulate": {"work": [{"do": "hang"}]}}
    return RunPlan(key=key, body={"type": "alone", "name": key, "input": script}, ends=frozenset({"cancelled"}))


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
        case "large":
            # Too large for an event: input and output are stored beside the log.
            large: Step = {"do": "succeed", "output": {"text": f"{random.random()} " * 1000}}
            return "diamond", {"begin": [large], "left": [large], "end": [_slow(0.1)]}
        case "stubborn":
            # The first holds the loop of its worker, whose leases are renewed nevertheless.
            blocking: Step = {"do": "block-loop", "seconds": random.uniform(0.2, 2)}
            return "chain", {"s0": [blocking], "s1": [{"do": "ignore-cancel", "seconds": random.uniform(0.5, 2)}]}
        case "undone":
            # (That nothing can be undone is not what ends a run differently.)
            given_up: Step = {"do": "fail", "reason": "cannot"}
            return "undone", {
                "last": [{"do": "fail", "reason": "on-purpose", "seconds": random.uniform(0, 0.5)}],
                "beside": [random.choice((_slow(0.5), {"do": "ignore-cancel", "seconds": random.uniform(0.5, 8)}))],
                "compensate-second": [random.choice((_slow(0.2), given_up))],
                "compensate-first": [flaky, flaky, _slow(0.1)],
            }
        case "failing":
            broken: Step = {"do": "fail", "reason": "on-purpose"}
            return "chain", {random.choice(("s0", "s2")): [broken, _slow(0.1)]}
        case _:
            return "chain", {f"s{number}": [_slow(random.uniform(0, 0.6))] for number in range(4)}


def _slow(seconds: float) -> Step:
    return {"do": "slow", "seconds": round(seconds, 3)}
