"""Bytes that were written once are read for ever, and today's decider still leads to them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tailrace.core.codec import decode, decode_command, decode_report, encode
from tailrace.core.commands import COMMANDS, ApplyReport
from tailrace.core.events import EVENTS
from tailrace.core.testing.invariants import check_history
from tailrace.core.upcasting import schema_of
from tailrace.core.workflow.history import fold
from tailrace.core.workflow.state import WorkflowState
from tests.golden.recording import FOLDER, load, recorded
from tests.golden.scenarios import SCENARIOS

RECORDINGS = sorted(FOLDER.glob("*.json"))
REPORT_KINDS = {"started", "progressed", "completed", "failed", "cancelled", "poison", "lost", "stopped"}

recordings = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)


@recordings
def test_a_recorded_history_folds_to_its_state(path: Path) -> None:
    """Also after fields were added: they have their defaults in what is read."""
    recording = load(path)
    snapshot = fold(recording.records())
    assert snapshot is not None
    assert snapshot.state == decode(bytes.fromhex(recording.state), WorkflowState)
    assert msgspec.to_builtins(snapshot.stage_outputs()) == recording.outputs


@recordings
def test_the_decider_of_today_replays_it(path: Path) -> None:
    """Each recorded command, at its time and on its state, gives the recorded bytes; all that holds for runs holds."""
    recording = load(path)
    records = recording.records()
    snapshot = fold(records)
    assert snapshot is not None
    check_history(recording.pipeline, records, recording.data, snapshot.state)


def test_every_event_command_and_report_is_recorded() -> None:
    """In its present schema version: who adds one records a history with it."""
    events: set[tuple[str, int]] = set()
    commands: set[str] = set()
    reports: set[str] = set()
    for path in RECORDINGS:
        for event, record in zip(load(path).events, load(path).records(), strict=True):
            events.add((event.type, msgspec.msgpack.decode(bytes.fromhex(event.data)).get("schema", 1)))
            if record.command is not None:
                commands.add(record.command.type)
                command = decode_command(record.command)
                if isinstance(command, ApplyReport):
                    reports.add(command.report.kind)
                    assert decode_report(encode(command.report)) == command.report
    assert {(name, schema_of(name)) for name in EVENTS} <= events
    assert commands == set(COMMANDS)
    assert reports == REPORT_KINDS


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_course_gives_the_same_bytes(name: str) -> None:
    """A change of what is written shows here first; it needs a new schema version, or to be taken back."""
    assert recorded(SCENARIOS[name]()) == load(FOLDER / f"{name}.json")
