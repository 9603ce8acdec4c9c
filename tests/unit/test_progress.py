"""Progress where there is no terminal: lines now and then, with the time that is left."""

from __future__ import annotations

import pytest

from tailrace.infra.commands.progress import LINE_SECONDS, shown_progress
from tailrace.projections.beside import Progress


def test_lines_come_now_and_then_and_tell_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at the beginning, one for each step, one every two seconds; on standard error."""
    now = 100.0
    monkeypatch.setattr("tailrace.infra.commands.progress.time.monotonic", lambda: now)
    with shown_progress("rebuild", quiet=False) as tell:
        tell(Progress(done=1000, total=5000))
        now += LINE_SECONDS
        tell(Progress(done=2000, total=5000))
        now += LINE_SECONDS / 2
        tell(Progress(done=2500, total=5000))
        tell(Progress(done=5000, total=5000, step="indexes"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "rebuild: 1,000 of 5,000 events",
        "rebuild: 2,000 of 5,000 events, 6 s left",
        "rebuild: indexes: 5,000 of 5,000 events",
    ]


def test_nothing_is_shown_to_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    """It asked for JSON, and gets that alone."""
    with shown_progress("rebuild", quiet=True) as tell:
        tell(Progress(done=1, total=2))
    assert capsys.readouterr() == ("", "")
