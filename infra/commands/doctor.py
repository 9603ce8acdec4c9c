"""`tailrace doctor`: every dependency, group, version, durability setting and process; exit 1 with reasons."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from tailrace.core.errors import ConfigurationError, IdentityMismatch, LogDiverged, StoreUnavailable, TailraceError
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.notices import RedisNotices
from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.client import Gateway
from tailrace.infra.commands.options import data_dir_option, json_option, print_json
from tailrace.infra.config import UP_FILE, Settings, load_settings
from tailrace.infra.processes.running import run_loop
from tailrace.projections.watchdog.check_rules import Status
from tailrace.projections.watchdog.checks import Check, check_notices, check_store

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}
_STORE_SECONDS = 10.0

#: Less room than this on the disk is said, in bytes; and less than this ends servers soon.
_LOW_BYTES = 1024 * 1024 * 1024
_NO_BYTES = 16 * 1024 * 1024


@click.command("doctor")
@data_dir_option
@json_option
def doctor_command(data_dir: Path | None, as_json: bool) -> int:
    """Check everything a deployment needs, and say what to do about what is wrong.

    \b
    Example:
      tailrace doctor
    """
    checks = run_loop(collect_checks(load_settings(data_dir=data_dir)))
    failed = [check for check in checks if check.status == "failed"]
    if as_json:
        print_json({"status": "failed" if failed else "ok", "checks": [msgspec.to_builtins(check) for check in checks]})
    else:
        for check in checks:
            mark, colour = _MARKS[check.status]
            click.secho(f"{mark} {check.name:<28}", fg=colour, nl=False)
            click.echo(f" {check.detail}")
            if check.suggestion and check.status != "ok":
                click.echo(f"  {'':<28} try: {check.suggestion}")
    return 1 if failed else 0


async def collect_checks(settings: Settings) -> list[Check]:
    """All checks, in the order in which they are shown."""
    return [check async for check in _checks(settings)]


async def _checks(settings: Settings) -> AsyncIterator[Check]:
    for check in _processes(settings):
        yield check
    for check in _disk(settings.data_dir):
        yield check
    store_id: str | None = None
    if settings.redis_url is None:
        yield Check(
            name="redis",
            status="failed",
            detail="no Redis is configured, and no `tailrace up` runs here",
            suggestion="tailrace up, or set TAILRACE_REDIS_URL",
        )
    else:
        store_id, checks = await _store(settings, settings.redis_url)
        for check in checks:
            yield check
    for check in await _postgres(settings, store_id):
        yield check
    yield await asyncio.to_thread(_gateway, settings)


def _processes(settings: Settings) -> list[Check]:
    """What the supervisor on this machine says of its processes."""
    try:
        processes: dict[str, dict[str, str]] = json.loads((settings.data_dir / UP_FILE).read_text())["processes"]
    except (OSError, ValueError, KeyError):
        return []
    down = {name: facts for name, facts in processes.items() if facts["state"] not in {"running", "starting"}}
    if not down:
        return [Check(name="processes", status="ok", detail=f"{len(processes)} run", suggestion="")]
    return [
        Check(
            name=f"process {name}",
            status="failed",
            detail=facts["detail"] or facts["state"],
            suggestion=f"look into {_log(settings.data_dir, name)}",
        )
        for name, facts in down.items()
    ]


def _disk(folder: Path) -> list[Check]:
    """Room where data is kept on this machine. A full disk ends Redis: it acknowledges nothing that it can't keep."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return []  # nothing is kept here
    status: Status = "ok" if free >= _LOW_BYTES else "warning" if free >= _NO_BYTES else "failed"
    detail = f"{free / 1024 / 1024:.0f} MiB are free in {folder}"
    return [
        Check(
            name="disk", status=status, detail=detail, suggestion="make room there: a full disk ends Redis and Postgres"
        )
    ]


def _log(folder: Path, name: str) -> Path:
    """The log of a process, or of an embedded server."""
    return folder / name / "server.log" if name in {"redis", "postgres"} else folder / "logs" / f"{name}.log"


async def _store(settings: Settings, url: str) -> tuple[str | None, list[Check]]:
    """The identity of the namespace ("" when Redis has none, None when it does not answer), and what is found in it."""
    try:
        async with asyncio.timeout(_STORE_SECONDS):
            store = await RedisStore.open(RedisSettings(url=url), namespace=settings.namespace, create=False)
            try:
                checks = [*await check_store(store), *await check_notices(RedisNotices(store))]
                return store.instance_id, checks
            finally:
                await store.aclose()
    except (TimeoutError, StoreUnavailable) as error:
        detail = str(error) or f"no answer within {_STORE_SECONDS:.0f} s"
        suggestion = "start Redis (its log says why it ended: a full disk ends it), or correct TAILRACE_REDIS_URL"
        return None, [Check(name="redis", status="failed", detail=detail, suggestion=suggestion)]
    except LogDiverged as error:
        return None, [_diverged(str(error))]
    except (ConfigurationError, IdentityMismatch) as error:
        found = Check(name="namespace", status="failed", detail=str(error), suggestion="correct TAILRACE_NAMESPACE")
        return "" if isinstance(error, ConfigurationError) else None, [found]


def _diverged(detail: str) -> Check:
    return Check(
        name="log",
        status="failed",
        detail=f"{LogDiverged.code}: {detail}",
        suggestion="put the data of this Redis back, or correct TAILRACE_REDIS_URL; processes go on by themselves",
    )


async def _postgres(settings: Settings, store_id: str | None) -> list[Check]:
    """Postgres is not on the execution path: without it runs go on, so its absence is a warning."""
    from tailrace.projections.queries import Queries  # noqa: PLC0415  # asyncpg is slow to import

    if settings.postgres_url is None:
        suggestion = "set TAILRACE_POSTGRES_URL"
        return [Check(name="postgres", status="warning", detail="none is configured", suggestion=suggestion)]
    try:
        async with Queries(settings.postgres_url) as queries:
            rows, known, parked = await queries.checkpoints(), await queries.store_id(), await queries.parked_runs()
    except TailraceError as error:
        suggestion = "start Postgres: lists and history need it"
        return [Check(name="postgres", status="warning", detail=str(error), suggestion=suggestion)]
    if not rows:
        suggestion = "tailrace projector"
        return [Check(name="postgres", status="warning", detail="no projector has run yet", suggestion=suggestion)]
    checks = [Check(name="postgres", status="ok", detail=f"{len(rows)} checkpoints", suggestion="")]
    if store_id is not None and known != store_id:
        what = f"is of store {store_id}" if store_id else f"has no namespace {settings.namespace!r}: it was emptied"
        checks.append(_diverged(f"the read model was built from store {known}, and this Redis {what}"))
    problems = {row.partition: row.problem for row in rows if row.problem}
    checks += [_stands(partition, problem) for partition, problem in problems.items()]
    unread = sorted({row.partition for row in rows if row.owner is None and not row.problem})
    if unread:
        checks.append(_unread(unread))
    if parked:
        detail = f"{sum(parked.values())} runs could not be projected any further, and are parked"
        suggestion = "tailrace projections redrive"
        checks.append(Check(name="projections", status="warning", detail=detail, suggestion=suggestion))
    return checks


def _unread(partitions: Sequence[int]) -> Check:
    which = ", ".join(str(partition) for partition in partitions)
    detail = f"nobody reads partitions {which}: lists and history stand still, and the log is not trimmed"
    return Check(name="projector", status="failed", detail=detail, suggestion="tailrace projector")


def _stands(partition: int, problem: str) -> Check:
    detail = f"partition {partition} is not read: {problem}"
    return Check(name="projector", status="failed", detail=detail, suggestion="look into the projector's log")


def _gateway(settings: Settings) -> Check:
    try:
        health: dict[str, Any] = Gateway(settings.url, settings.token).health()
    except (TailraceError, OSError) as error:
        return Check(name="gateway", status="failed", detail=str(error), suggestion="tailrace gateway")
    good = health.get("status") in {"ok", "ready", "healthy"}
    return Check(
        name="gateway",
        status="ok" if good else "warning",
        detail=f"{settings.url} is {health.get('status')}",
        suggestion="" if good else f"curl {settings.url}/health",
    )
