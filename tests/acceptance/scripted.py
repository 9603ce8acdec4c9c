"""Pipelines of simulated agents, and what a run's input tells them to do: the ways to have work of a known kind."""

from __future__ import annotations

from typing import Any

#: The agent of every stage here, and the worker that `--agents` starts for it.
AGENT = "alpha"
AGENTS = f"simulated:{AGENT}"
WORKER = f"worker-{AGENTS}"

#: How many stages the definition `long` has.
LONG = 12

Step = dict[str, Any]


def chain(name: str, stages: int, **settings: str | float) -> str:
    """A definition, as TOML: stages `s1`, `s2`, … one after the other. `settings` are lines of each stage."""
    text = f'name = "{name}"\n'
    for number in range(1, stages + 1):
        text += f'[[stages]]\nname = "s{number}"\n'
        if number > 1:
            text += f'needs = ["s{number - 1}"]\n'
        for key, value in {"agent": AGENT, **settings}.items():
            text += f"{key} = {value!r}\n" if "{" not in str(value) else f"{key} = {value}\n"
    return text


def script(**stages: Step | list[Step]) -> dict[str, Any]:
    """The input of a run: what each stage does, one step per attempt."""
    return {"simulate": {name: [steps] if isinstance(steps, dict) else steps for name, steps in stages.items()}}


def slow(seconds: float) -> Step:
    """Work for a while, then complete."""
    return {"do": "slow", "seconds": seconds}


def hang() -> Step:
    """Never end by itself."""
    return {"do": "hang"}
