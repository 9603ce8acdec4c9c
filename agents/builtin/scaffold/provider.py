"""The port for whoever turns requirements into a plan, and a plan into files.

The one that ships is deterministic (`template_provider`); a language model would be another. A provider is an outside
service to its callers: they reach it through a breaker, so that one that is down is named and not taken for a fault of
the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from tailrace.agents.builtin.outputs import Plan


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """What the client asked for, raw."""

    name: str
    description: str
    requirements: str


class Provider(Protocol):
    """Raises `TaskError` where it can name the reason: not retryable for a bad brief, retryable for its own trouble."""

    @property
    def name(self) -> str:
        """What the plan and the breaker call it."""

    async def plan(self, brief: Brief) -> Plan:
        """Decide what to build; raises `TaskError` `requirements-empty` or `requirements-unclear`."""

    async def files(self, plan: Plan) -> Mapping[str, str]:
        """Write it: the text of each file by its path in the project."""
