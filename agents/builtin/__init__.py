"""The five agents that come with Tailrace, and do the work of the definitions `app`, `feature` and `bugfix`.

Each lives in a package of its own, which is imported only when that agent is asked for: a worker pays for the agent it
runs and for no other. What heavy libraries do (lint, types, browsers, builds) happens in programs that are started.
"""

from __future__ import annotations

import importlib

from tailrace.agents.sdk import Agent
from tailrace.core.errors import NotFound

__all__ = ["NAMES", "load"]

NAMES: tuple[str, ...] = ("scaffold", "validation", "e2e", "integration", "deployment")


def load(name: str) -> Agent:
    """A new agent called `name`; raises `NotFound` if none of the built-in ones is."""
    if name not in NAMES:
        raise NotFound("built-in agent", name)
    agent: Agent = importlib.import_module(f"{__name__}.{name}").agent()
    return agent
