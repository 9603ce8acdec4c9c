"""Sockets folders: those of the dead are swept, and nothing else."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from tailrace.infra.embedded.directory import DataDirectory, _sweep_sockets


def folder(at: Path, name: str, *, lock: bool = True) -> Path:
    """A folder as a killed process leaves it: a socket that nobody listens on, long ago."""
    made = at / name
    made.mkdir(mode=0o700)
    if lock:
        (made / "owner.lock").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        directory = os.open(made, os.O_RDONLY)
        dead.bind(f"/proc/self/fd/{directory}/redis.sock")
        os.close(directory)
    return made


def aged(path: Path) -> None:
    """As if made an hour ago."""
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)


def test_only_folders_of_the_dead_are_swept(tmp_path: Path) -> None:
    """Everything that is not certainly ours and unused stays."""
    dead = folder(tmp_path, "tailrace-00000001")
    kept = {
        "held": folder(tmp_path, "tailrace-00000002"),
        "without lock": folder(tmp_path, "tailrace-00000003", lock=False),
        "something else inside": folder(tmp_path, "tailrace-00000004"),
        "other name": folder(tmp_path, "tailrace-of-a-user"),
    }
    (kept["something else inside"] / "notes.txt").touch()
    young = folder(tmp_path, "tailrace-00000005")
    (tmp_path / "tailrace-00000006").symlink_to(kept["other name"])
    for path in (dead, *kept.values()):
        aged(path)
    with (kept["held"] / "owner.lock").open("r+") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        _sweep_sockets(tmp_path)
        assert not dead.exists()
        assert young.exists()
        assert [why for why, path in kept.items() if not (path / "redis.sock").exists()] == []


def test_folder_in_use_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may be down for a moment: its folder stays as long as the data directory is open."""
    place = tmp_path / "t"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.setattr("tailrace.infra.embedded.directory._SOCKETS_LONGEST", 1000)
    monkeypatch.setattr("tailrace.infra.embedded.directory.walkable", lambda *_: True)
    directory = DataDirectory(tmp_path / "data")
    directory.open()
    sockets = directory.sockets
    assert sockets is not None
    assert sockets.parent == place
    aged(sockets)
    _sweep_sockets(place)
    assert sockets.exists()
    directory.close()
    assert not sockets.exists()
