"""Artifacts in files: what an event names is on the disk before the event is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace.core.artifacts import FileArtifacts


@pytest.mark.hole("H36")
def test_an_artifact_is_on_the_disk_when_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes before they have their name, the name before anybody is told, and the folders above it."""
    synced: list[tuple[Path, bool]] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((path, any(tmp_path.rglob("?" * 64))))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    root = tmp_path / "new" / "artifacts"
    ref = FileArtifacts(root).put(b"bytes", name="a.txt")
    folder = root / ref.sha256[:2]
    (file, file_had_its_name), *folders = synced
    assert (file.parent, file_had_its_name) == (folder, False)
    assert folders[0] == (folder, True)
    assert {path for path, _ in folders} == {folder, root, root.parent, tmp_path}
    # The one who stored it first may not have come so far yet.
    synced.clear()
    assert FileArtifacts(root).put(b"bytes", name="b.txt").sha256 == ref.sha256
    assert {path for path, _ in synced} >= {folder}
