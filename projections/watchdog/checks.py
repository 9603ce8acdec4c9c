"""`check_store` and `check_notices`: look at a whole installation through the store, for `tailrace doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from tailrace.core.errors import TailraceError
from tailrace.core.store.port import NoticeBook, WorkflowStore
from tailrace.projections.watchdog import check_rules
from tailrace.projections.watchdog.check_rules import Check
from tailrace.projections.watchdog.collect import PROBE_SECONDS, Round
from tailrace.projections.watchdog.facts import AgentFacts
from tailrace.projections.watchdog.motion import Motion

__all__ = ["Check", "check_notices", "check_store"]

#: Timers that are due now are looked at again after so long: those that fire in time are gone by then.
TIMER_LOOK_SECONDS: Final = 1.0


async def check_notices(book: NoticeBook) -> list[Check]:
    """Whether those who are to be told of faults are told; nothing when all is well, or when nobody is to be."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return list(check_rules.notices(await book.undelivered()))
    except (TailraceError, TimeoutError) as error:
        detail = f"can't be looked at: {str(error) or 'no answer in time'}"
        return [Check(name="notices", status="warning", detail=detail)]


async def check_store(store: WorkflowStore, *, timer_look_seconds: float = TIMER_LOOK_SECONDS) -> list[Check]:
    """The server, the agents with their workers, the partitions. With a store that does not answer it is the only check."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            now = await store.now()
            settings = await store.settings()
            agents = await _agents(store)
    except (TailraceError, TimeoutError) as error:
        detail = f"no answer: {str(error) or 'not in time'}"
        return [Check(name="store", status="failed", detail=detail, suggestion="is it running, and is its URL right?")]
    looking = Round(store, now, Motion())
    found = [Check(name="store", status="ok", detail=f"answers as {store.instance_id}"), *check_rules.server(settings)]
    found.append(check_rules.memory(settings, await looking.fullness()))
    seen: list[AgentFacts] = []
    for agent in agents:
        facts = [await looking.agent(agent, partition) for partition in range(store.partitions)]
        known = [fact for fact in facts if fact is not None]
        if known:
            found += check_rules.agent(agent, known)
            seen += known
    found.append(check_rules.builds(seen))
    found += [check async for check in _partitions(store, looking, timer_look_seconds)]
    if looking.unreachable:
        found.append(Check(name="store", status="failed", detail=f"no answer about {', '.join(looking.unreachable)}"))
    return found


async def _agents(store: WorkflowStore) -> Sequence[str]:
    """Agents that were made known, and those of every version of every definition: a group may have been lost."""
    known = set(await store.agents())
    for hashes in (await store.definitions()).values():
        for content_hash in hashes:
            known.update((await store.pipeline(content_hash)).agents)
    return sorted(known)


async def _partitions(store: WorkflowStore, looking: Round, timer_look_seconds: float) -> AsyncIterator[Check]:
    facts = [await looking.orchestration(partition) for partition in range(store.partitions)]
    due = {fact.partition for fact in facts if fact is not None and fact.overdue_timers}
    if due:
        await asyncio.sleep(timer_look_seconds)
        again = Round(store, await store.now(), Motion())
        due = {
            number for number in due if (now := await again.orchestration(number)) is not None and now.overdue_timers
        }
    for fact in facts:
        if fact is not None:
            for check in check_rules.partition(fact, looking.now, timers_stand=fact.partition in due):
                yield check
