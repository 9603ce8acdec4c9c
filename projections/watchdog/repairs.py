"""What the watchdog mends by itself, where the facts leave no doubt and the engine can do again what is lost.

Each repair is a command at the version that was observed, so that it is dropped when anything else moved the run; its events
carry the command, its actor and the reason. What does not hold after a few times is flagged as a stall, for a person.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final, Literal, TypeAlias

from tailrace.core.commands import FireTimer, RedispatchTask
from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import CommandRefused, ConfigurationError, NotFound, StoreFull, VersionConflict
from tailrace.core.workflow.state import WorkflowState
from tailrace.projections.watchdog.findings import Verdict

log = logging.getLogger(__name__)

Repair: TypeAlias = Literal["redispatch", "timers"]

#: `redispatch`: a task whose entry is gone or nobody's, and on which no report waits, is put into its stream again.
#: `timers`: what a timer would have done that is overdue is done.
REPAIRS: Final[frozenset[Repair]] = frozenset(("redispatch", "timers"))

#: What turns all of them off, where they are named.
NONE: Final = "none"

#: How often one thing is mended: what is broken again and again is broken by somebody.
OFTEN: Final = 3
_REMEMBERED: Final = 10_000


def parse_repairs(text: str) -> frozenset[Repair]:
    """The repairs that a setting names, with commas between them; all of them when it is empty. Raises `ConfigurationError`."""
    if not text:
        return REPAIRS
    wanted = set() if text == NONE else {name.strip() for name in text.split(",")}
    if unknown := wanted - REPAIRS:
        known = ", ".join(sorted(REPAIRS))
        raise ConfigurationError(f"TAILRACE_REPAIRS names {', '.join(sorted(unknown))}; there are {known}, or {NONE}")
    return frozenset(name for name in REPAIRS if name in wanted)


class Repairs:
    """Carries out those that are `allowed`, each a few times."""

    def __init__(self, handler: CommandHandler, allowed: frozenset[Repair]) -> None:
        self._handler = handler
        self._allowed = allowed
        self._done: Counter[str] = Counter()

    async def mend(self, state: WorkflowState, verdict: Verdict) -> bool:
        """True when the run was mended, or has moved meanwhile; False when there is nothing that may be done about it."""
        match verdict.repair:
            case RedispatchTask(task_id=task_id) if "redispatch" in self._allowed:
                what = f"task {task_id}"
            case FireTimer(kind=kind, stage=stage, attempt=attempt) if "timers" in self._allowed:
                what = f"timer {kind} {stage} {attempt} of {state.workflow_id}"
            case _:
                return False
        if self._done[what] >= OFTEN:
            return False
        if len(self._done) >= _REMEMBERED:
            self._done.clear()
        self._done[what] += 1
        try:
            await self._handler.execute(state.workflow_id, verdict.repair, actor="watchdog", version=state.version)
        except VersionConflict:
            return True
        except (NotFound, CommandRefused, StoreFull):
            return False
        log.warning("mended %s: %s", what, verdict.diagnosis.summary)
        return True
