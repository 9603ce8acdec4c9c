"""Checks on facts about a whole installation: what would stop runs or lose them, before it does. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from tailrace.core.clock import SECOND
from tailrace.core.engine.command_handler import FULL_MARK
from tailrace.core.store.port import PartitionFacts, Undelivered
from tailrace.projections.watchdog.facts import HEALS_US, AgentFacts
from tailrace.projections.watchdog.rules import FULL

Status = Literal["ok", "warning", "failed"]

#: The oldest servers that have all the commands in use.
OLDEST: Final[Mapping[str, tuple[int, int]]] = {"redis": (7, 0), "valkey": (7, 2)}

#: What a setting has to be, what it means when it is not, and how bad that is.
_WANTED: Final[Sequence[tuple[str, str, Status, str]]] = (
    ("appendonly", "yes", "failed", "nothing survives the end of the server"),
    ("appendfsync", "always", "warning", "a power cut loses what was acknowledged last"),
    ("no-appendfsync-on-rewrite", "no", "warning", "a power cut during a rewrite loses what was acknowledged last"),
    ("maxmemory-policy", "noeviction", "failed", "a full store drops runs without a word"),
)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `failed` stops runs or loses them, `warning` may come to that."""

    name: str
    status: Status
    detail: str
    suggestion: str = ""


def server(settings: Mapping[str, str]) -> Iterator[Check]:
    """Version, durability and topology, by what the server says of itself."""
    name = settings.get("server", "unknown")
    if name == "memory":
        yield Check(name="durability", status="warning", detail="a store in memory: nothing survives this process")
        return
    yield _version(name, settings.get("version", ""))
    if settings.get("aof_last_write_status", "ok") != "ok":
        detail = "the server can't write to its disk, and refuses what it is asked to keep"
        yield Check(
            name="disk", status="failed", detail=detail, suggestion="make room on the disk of Redis: it goes on then"
        )
    wrong = [(key, wanted, status, so) for key, wanted, status, so in _WANTED if settings.get(key, wanted) != wanted]
    for key, wanted, status, so in wrong:
        detail = f"{key} is {settings[key]!r}, not {wanted!r}: {so}"
        yield Check(name="durability", status=status, detail=detail, suggestion=f"CONFIG SET {key} {wanted}")
    unknown = [key for key, *_ in _WANTED if key not in settings]
    if unknown:
        detail = f"the server does not show {', '.join(unknown)}"
        yield Check(name="durability", status="warning", detail=detail, suggestion="look at its configuration")
    elif not wrong:
        yield Check(name="durability", status="ok", detail="what is acknowledged is on disk, and nothing is evicted")
    yield _topology(settings)


def notices(waiting: Sequence[Undelivered]) -> Iterator[Check]:
    """Receivers of notices that do not take them: people are not told of what goes wrong."""
    for target in waiting:
        if target.attempts:
            yield Check(
                name="notices",
                status="warning",
                detail=f"{target.count} wait for {target.title}, after {target.attempts} attempts: {target.problem}",
                suggestion="look at the receiver, or correct its setting for the watchdog",
            )


def _version(name: str, version: str) -> Check:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest = OLDEST.get(name)
    if oldest is None or len(numbers) < 2:
        return Check(
            name="version", status="warning", detail=f"{name} {version or 'of unknown version'} was never tried"
        )
    status: Status = "ok" if numbers >= oldest else "failed"
    needed = ".".join(str(number) for number in oldest)
    return Check(name="version", status=status, detail=f"{name} {version}; {needed} or later is needed")


def _topology(settings: Mapping[str, str]) -> Check:
    role, replicas = settings.get("role", "unknown"), settings.get("replicas", "0")
    if role != "master":
        detail = f"the server is a {role or 'server of unknown role'}: it takes no writes"
        return Check(name="replication", status="failed", detail=detail, suggestion="use the URL of the primary")
    if replicas != "0":
        detail = f"{replicas} replicas: a failover may lose acknowledged events"
        return Check(
            name="replication", status="warning", detail=detail, suggestion="CONFIG SET min-replicas-to-write 1"
        )
    return Check(name="replication", status="ok", detail="one server")


def memory(settings: Mapping[str, str], fullness: float | None) -> Check:
    """How full the store is, and whether it has a limit at all."""
    if settings.get("maxmemory") == "0":
        detail = "maxmemory is not set: the store grows until the system ends it"
        return Check(name="memory", status="warning", detail=detail, suggestion="CONFIG SET maxmemory 2gb")
    if fullness is None:
        return Check(name="memory", status="warning", detail="could not be asked")
    status: Status = "ok" if fullness < FULL_MARK else "warning" if fullness < FULL else "failed"
    detail = f"{fullness:.0%} full" + ("" if status == "ok" else f"; new runs are refused over {FULL_MARK:.0%}")
    return Check(
        name="memory", status=status, detail=detail, suggestion="" if status == "ok" else "CONFIG SET maxmemory"
    )


def agent(name: str, partitions: Sequence[AgentFacts]) -> Iterator[Check]:
    """Groups, live workers, their builds, their identity and their breakers."""
    missing = [facts.queue.partition for facts in partitions if not facts.queue.has_group]
    work = sum(facts.queue.backlog + facts.queue.pending for facts in partitions)
    any_facts = partitions[0]
    if missing:
        detail = f"no group in partitions {', '.join(str(partition) for partition in missing)}"
        yield Check(name=f"agent {name}", status="failed", detail=detail, suggestion=f"tailrace worker {name}")
    live = any_facts.live
    status: Status = "ok" if live else "failed" if work else "warning"
    detail = f"{len(live)} live workers, {any_facts.free_slots} free slots, {work} tasks"
    yield Check(
        name=f"agent {name}", status=status, detail=detail, suggestion="" if live else f"tailrace worker {name}"
    )
    strangers = [beat.name for beat in live if beat not in any_facts.fit]
    if strangers:
        detail = f"workers {', '.join(strangers)} belong to another store or namespace"
        yield Check(
            name=f"agent {name}", status="failed", detail=detail, suggestion="start them with the same settings"
        )
    if any_facts.open_breakers:
        detail = "can't reach " + ", ".join(
            f"{key} ({state})" for key, state in sorted(any_facts.open_breakers.items())
        )
        yield Check(name=f"agent {name}", status="warning", detail=detail)


def builds(facts: Sequence[AgentFacts]) -> Check:
    """Whether all live workers run the same code."""
    by_build: dict[str, list[str]] = {}
    for beat in {(beat.agent, beat.name): beat for agent_facts in facts for beat in agent_facts.live}.values():
        by_build.setdefault(beat.build or "unknown", []).append(f"{beat.agent}/{beat.name}")
    if len(by_build) < 2:
        return Check(name="builds", status="ok", detail=f"all workers run build {next(iter(by_build), 'none')}")
    detail = "; ".join(f"{build}: {', '.join(names)}" for build, names in sorted(by_build.items()))
    return Check(name="builds", status="warning", detail=detail, suggestion="restart the workers of the older build")


def partition(facts: PartitionFacts, now: int, *, timers_stand: bool) -> Iterator[Check]:
    """Its orchestrator, and what waits for it."""
    name = f"partition {facts.partition}"
    owned = facts.owner_until > now
    late = facts.reports > 0 and facts.oldest_report_age_us >= HEALS_US
    detail = f"owned by {facts.owner}" if owned else "no orchestrator"
    detail += f"; {facts.reports} reports wait, the oldest since {facts.oldest_report_age_us / SECOND:.1f} s"
    status: Status = "failed" if not owned or late else "ok"
    suggestion = "" if owned else "tailrace orchestrator"
    yield Check(name=name, status=status, detail=detail, suggestion=suggestion)
    if timers_stand:
        detail = f"{facts.overdue_timers} timers are due and don't fire"
        yield Check(name=name, status="failed", detail=detail, suggestion="restart the orchestrator")
    if facts.parked:
        detail = f"{facts.parked} reports or timers could not be applied and are parked"
        yield Check(name=name, status="warning", detail=detail, suggestion="tailrace why --all")
