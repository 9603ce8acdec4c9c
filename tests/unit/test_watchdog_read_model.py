"""What `why` adds about the read model, on the store in memory."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tailrace.core.engine.command_handler import CommandHandler
from tailrace.core.errors import ReadModelUnavailable
from tailrace.core.store.memory import MemoryBackend
from tailrace.core.store.port import WorkerBeat
from tailrace.core.testing import builders
from tailrace.projections.watchdog import Diagnosis, diagnose
from tailrace.projections.watchdog.read_model import LAG

PIPELINE = builders.pipeline(builders.stage("build", agent="builder"))
RUN = "run-1"
BEAT = WorkerBeat(agent="builder", name="w1", at=0, build="b1", pid=7, host="here", slots=2, in_flight=1, store_id="")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint."""

    projection: str = "workflows"
    partition: int = 0
    seq: int
    problem: str | None = None


class ParkedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was parked."""

    workflow_id: str = RUN
    version: int
    reason: str


class Answers:
    """A read model as it is to be: what it says, or nothing when it can't be reached."""

    def __init__(self, *rows: Row, parked: Sequence[ParkedEvent] = (), down: bool = False) -> None:
        self._rows = rows
        self._parked = parked
        self._down = down

    async def checkpoints(self) -> Sequence[Row]:
        if self._down:
            raise ReadModelUnavailable("nobody listens")
        return self._rows

    async def parked(self, workflow_id: str | None = None, *, limit: int = 100) -> Sequence[ParkedEvent]:
        return self._parked if workflow_id == RUN else ()


async def why(read_model: Answers, *, ahead: int = 0) -> Diagnosis:
    """The diagnosis of a run that was just dispatched and is well, with a log that goes on for `ahead` events."""
    data = MemoryBackend(partitions=1)
    store = data.store()
    await store.put_definition(PIPELINE.definition)
    await CommandHandler(store).create(builders.create_workflow(PIPELINE, RUN), actor="test")
    queue = data.queue("builder", "w1")
    await queue.join()
    await queue.take(1, block_seconds=0)
    await queue.beat(BEAT)
    data.partitions[0].seq += ahead
    return await diagnose(store, RUN, read_model=read_model, second_look_seconds=0)


async def test_nothing_is_said_of_a_read_model_that_keeps_up() -> None:
    """A few events behind is no word."""
    assert (await why(Answers(Row(seq=2)))).cause is None


async def test_a_read_model_that_is_behind() -> None:
    """By events, or with a problem of its own."""
    found = await why(Answers(Row(seq=0)), ahead=LAG + 1)
    assert (found.cause, found.hop, found.suggestion) == ("projection-behind", "projection", "tailrace projector")
    found = await why(Answers(Row(seq=2, problem="internal: it broke")))
    assert found.cause == "projection-behind"
    assert "it broke" in found.summary
    assert (await why(Answers(Row(seq=0, partition=1)), ahead=LAG + 1)).cause is None


async def test_a_reader_that_lost_its_log() -> None:
    """Its log is not the one that it read: that is the cause, and waiting does not help."""
    found = await why(Answers(Row(seq=2, problem="log-diverged: partition 0: the log was trimmed under its reader")))
    assert (found.cause, found.hop, found.suggestion) == ("log-diverged", "store", "tailrace projections repair")


async def test_a_run_whose_events_are_parked() -> None:
    """The first of them says why."""
    parked = [ParkedEvent(version=5, reason="an earlier event is parked"), ParkedEvent(version=4, reason="no msgpack")]
    found = await why(Answers(Row(seq=2), parked=parked))
    assert (found.cause, found.hop, found.healthy) == ("projection-parked", "projection", True)
    assert found.evidence["first_version"] == 4
    assert "no msgpack" in found.summary


async def test_a_read_model_that_can_not_be_asked() -> None:
    """It is named, and nothing is concluded from it."""
    found = await why(Answers(down=True))
    assert (found.cause, found.unreachable) == (None, ("read model",))
