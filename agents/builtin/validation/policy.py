"""The policy: how many findings each tool may have, and how much of the code tests must reach."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Annotated, Any

import msgspec

from tailrace.agents.sdk import TaskError

Share = Annotated[float, msgspec.Meta(ge=0, le=100)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class MaxFindings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most findings that are let through, for each tool."""

    compile: Count
    ruff: Count
    mypy: Count
    pytest: Count


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold. `coverage_percent` counts lines and branches."""

    coverage_percent: Share
    max_findings: MaxFindings

    def flat(self) -> dict[str, float]:
        """The values as one table, for reports."""
        return {"coverage_percent": self.coverage_percent, **msgspec.to_builtins(self.max_findings)}


def load_policy(override: Any = None) -> Policy:
    """The shipped policy with single values replaced; raises `TaskError` `policy-invalid`."""
    shipped = resources.files("tailrace.agents.builtin.validation").joinpath("policy.toml").read_text(encoding="utf-8")
    values: dict[str, Any] = tomllib.loads(shipped)
    given = override or {}
    if not isinstance(given, dict) or not isinstance(given.get("max_findings", {}), dict):
        raise TaskError("policy-invalid", "the parameter `policy` must be a table, and so must its `max_findings`")
    limits = values["max_findings"] | given.get("max_findings", {})
    try:
        return msgspec.convert(values | given | {"max_findings": limits}, Policy)
    except msgspec.ValidationError as error:
        raise TaskError("policy-invalid", f"the parameter `policy` does not fit: {error}") from error
