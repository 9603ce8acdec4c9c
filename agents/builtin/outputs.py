"""What each built-in stage hands to the stages after it.

These are the contracts between the agents: small values (8 KiB encoded at most), with references to artifacts for
whatever is larger. Fields are only ever added, with a default: a run may span two versions of the workers.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tailrace.core.artifacts import ArtifactRef

Kind = Literal["calculator", "service"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`initialization`: what is to be built. All texts are clean: one line, printable, bounded."""

    title: str
    distribution: str
    package: str
    kind: Kind
    version: str
    description: str
    features: tuple[str, ...]
    operations: tuple[str, ...]
    files: tuple[str, ...]
    assumptions: tuple[str, ...] = ()
    provider: str = "templates"


class Scaffolded(msgspec.Struct, frozen=True, kw_only=True):
    """`scaffolding`: a project in `folder` of the workspace, and the same project as an archive."""

    title: str
    distribution: str
    package: str
    kind: Kind
    version: str
    operations: tuple[str, ...]
    folder: str
    files: int
    lines: int
    source: ArtifactRef


class Validated(msgspec.Struct, frozen=True, kw_only=True):
    """`validation`: the project keeps the policy. `findings` counts what each tool said, `report` names each."""

    findings: dict[str, int]
    coverage_percent: float
    tests: int
    policy: dict[str, float]
    report: ArtifactRef


class BrowserUse(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a browser took part: `used`, `absent`, `broken` (found, but it did not work) or `off` (by parameter)."""

    state: Literal["used", "absent", "broken", "off"]
    reason: str = ""
    program: str = ""


class Explored(msgspec.Struct, frozen=True, kw_only=True):
    """`e2e_testing`: the running app did what a user expects."""

    drivers: tuple[str, ...]
    browser: BrowserUse
    steps: int
    screenshots: tuple[ArtifactRef, ...]
    report: ArtifactRef


class Integrated(msgspec.Struct, frozen=True, kw_only=True):
    """`integration`: the project is on `main`, tested there; `source` is what `main` holds now."""

    branch: str
    base_commit: str
    feature_commit: str
    merge_commit: str
    commits: int
    files_changed: int
    insertions: int
    deletions: int
    tests: int
    repository: str
    report: ArtifactRef
    source: ArtifactRef


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """`deployment`: the app runs at `url` and answers at `health_url`. `pid` ends it, and all it started, on SIGTERM."""

    url: str
    health_url: str
    distribution: str
    package: str
    version: str
    wheel: ArtifactRef
    wheel_sha256: str
    pid: int
    install_dir: str
    replaced: bool


class Monitored(msgspec.Struct, frozen=True, kw_only=True):
    """`monitoring`: how the app answered while it was watched."""

    verdict: Literal["healthy"]
    url: str
    samples: int
    failures: int
    availability: float
    p50_ms: float
    p95_ms: float
    watched_seconds: float
    started_again: bool
    note: str
    report: ArtifactRef
