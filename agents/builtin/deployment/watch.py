"""Watches an app for a while: is it there, is it healthy, how quickly does it answer?"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec

from tailrace.agents.builtin.web import request
from tailrace.agents.sdk import TaskContext

SAMPLE_TIMEOUT_SECONDS = 2.0


class MonitoringParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the stage: how long and how often to look, and what counts as healthy."""

    watch_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 3.0
    interval_seconds: Annotated[float, msgspec.Meta(ge=0.01, le=60)] = 0.25
    min_availability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9
    max_p95_ms: Annotated[float, msgspec.Meta(gt=0)] = 1000.0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look. `problem` is empty if the app was healthy."""

    at_seconds: float
    milliseconds: float
    problem: str = ""


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """All looks, and what they come to. Latencies are those of healthy answers; 0 if there was none."""

    seconds: float
    failures: int
    availability: float
    p50_ms: float
    p95_ms: float
    samples: tuple[Sample, ...]


async def watch(context: TaskContext, url: str, distribution: str, params: MonitoringParams) -> Watched:
    """Look at `url`, which should be the health of `distribution`, until the time is over."""
    started = time.monotonic()
    samples: list[Sample] = []
    while (passed := time.monotonic() - started) < params.watch_seconds:
        samples.append(await _look(url, distribution, passed))
        await context.progress(round(min(passed / params.watch_seconds, 1.0), 3), f"{len(samples)} samples")
        rest = started + len(samples) * params.interval_seconds - time.monotonic()
        await asyncio.sleep(max(rest, 0.0))
    return summarize(samples, time.monotonic() - started)


def summarize(samples: Sequence[Sample], seconds: float) -> Watched:
    """Count and rank."""
    healthy = sorted(sample.milliseconds for sample in samples if not sample.problem)
    return Watched(
        seconds=round(seconds, 2),
        failures=len(samples) - len(healthy),
        availability=round(len(healthy) / len(samples), 4) if samples else 0.0,
        p50_ms=percentile(healthy, 0.50),
        p95_ms=percentile(healthy, 0.95),
        samples=tuple(samples),
    )


def percentile(ranked: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed (nearest rank); 0 for none."""
    return ranked[max(math.ceil(share * len(ranked)) - 1, 0)] if ranked else 0.0


def problems(watched: Watched, params: MonitoringParams) -> list[str]:
    """Why the app is not healthy, in words."""
    said = []
    if watched.availability < params.min_availability:
        said.append(f"it was available in {watched.availability:.0%} of {len(watched.samples)} looks")
    if watched.samples and watched.samples[-1].problem:
        said.append(f"at the last look: {watched.samples[-1].problem}")
    if watched.p95_ms > params.max_p95_ms:
        said.append(f"95 % of answers took up to {watched.p95_ms:g} ms, {params.max_p95_ms:g} ms are allowed")
    return said


async def _look(url: str, distribution: str, at_seconds: float) -> Sample:
    started = time.perf_counter()
    try:
        answer = await request(url, timeout_seconds=SAMPLE_TIMEOUT_SECONDS)
    except OSError as error:
        took = round((time.perf_counter() - started) * 1000, 2)
        return Sample(at_seconds=round(at_seconds, 3), milliseconds=took, problem=f"no answer: {error}"[:200])
    health = answer.json()
    name = health.get("name") if isinstance(health, dict) else None
    problem = ""
    if answer.status != 200 or not isinstance(health, dict) or health.get("status") != "ok":
        problem = f"status {answer.status}: {answer.text()[:150]}"
    elif name != distribution:
        problem = f"another app answers: {str(name)[:100]!r}"
    return Sample(at_seconds=round(at_seconds, 3), milliseconds=answer.milliseconds, problem=problem)
