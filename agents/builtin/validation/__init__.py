"""The validation agent: does the project compile, and does it keep the policy on lint, types, tests and coverage?

Every finding goes into a report that is stored as an artifact, also when the policy is not kept; the failure itself
carries the first few.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from tailrace.agents.builtin.inputs import params, stage_output
from tailrace.agents.builtin.outputs import Scaffolded, Validated
from tailrace.agents.builtin.source import materialize
from tailrace.agents.builtin.validation.checks import Checked, check
from tailrace.agents.builtin.validation.findings import Finding
from tailrace.agents.builtin.validation.policy import Policy, load_policy
from tailrace.agents.sdk import Agent, ArtifactRef, TaskContext, TaskError, TaskInput

SHOWN_FINDINGS = 10
TOOLS = ("compile", "ruff", "mypy", "pytest")


class ValidationParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the stage: `policy` replaces single values of the shipped one."""

    policy: dict[str, Any] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The artifact."""

    policy: Policy
    violations: tuple[str, ...]
    checked: Checked


def agent() -> Agent:
    """The agent `validation`."""
    validation = Agent("validation")

    @validation.action("validation")
    async def validate(context: TaskContext, task: TaskInput) -> Validated:
        policy = load_policy(params(task, ValidationParams).policy)
        project = stage_output(task, "scaffolding", Scaffolded)
        folder = await materialize(context, project.source, project.folder)
        await context.progress(0.1, "compiling, linting, checking types and testing")
        checked = await check(context.workspace, folder)
        await context.progress(0.9, f"{len(checked.findings)} findings, {checked.coverage_percent:g} % covered")
        violations = violated(policy, checked)
        report = await _store(context, Report(policy=policy, violations=violations, checked=checked))
        if violations:
            raise _violation(violations, checked, report)
        return Validated(
            findings=_counts(checked.findings),
            coverage_percent=checked.coverage_percent,
            tests=checked.tests,
            policy=policy.flat(),
            report=report,
        )

    return validation


def violated(policy: Policy, checked: Checked) -> tuple[str, ...]:
    """What of the policy was not kept, in words."""
    limits: dict[str, int] = msgspec.to_builtins(policy.max_findings)
    said = [
        f"{tool}: {count} findings, at most {limits[tool]} are allowed"
        for tool, count in _counts(checked.findings).items()
        if count > limits[tool]
    ]
    if checked.coverage_percent < policy.coverage_percent:
        said.append(f"coverage is {checked.coverage_percent:g} %, at least {policy.coverage_percent:g} % are asked for")
    return tuple(said)


def _counts(findings: tuple[Finding, ...]) -> dict[str, int]:
    return dict.fromkeys(TOOLS, 0) | Counter(finding.tool for finding in findings)


async def _store(context: TaskContext, report: Report) -> ArtifactRef:
    data = msgspec.json.format(msgspec.json.encode(report))
    return await context.put_artifact(data, name="validation-report.json", media_type="application/json")


def _violation(violations: tuple[str, ...], checked: Checked, report: ArtifactRef) -> TaskError:
    return TaskError(
        "policy-violated",
        "; ".join(violations),
        details={
            "violations": list(violations),
            "findings": msgspec.to_builtins(checked.findings[:SHOWN_FINDINGS]),
            "findings_total": len(checked.findings),
            "coverage_percent": checked.coverage_percent,
            "report": msgspec.to_builtins(report),
        },
    )
