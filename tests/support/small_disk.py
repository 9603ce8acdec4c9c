"""A disk that is full, for a server that keeps its data there, whoever runs the tests and wherever.

Root mounts a small tmpfs; an ordinary user lets a process mount one in namespaces of its own, and reaches it through the root of
that process. Most containers forbid both: there the files of the server may not grow any more, by a limit on its processes. The
server is refused what it writes in either case, for the same reasons to its clients.
"""

from __future__ import annotations

import abc
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from tailrace.infra.embedded import EmbeddedServer, processtable

Kind = Literal["best", "limited"]
_CHUNK: Final = 1 << 16


class SmallDisk(abc.ABC):
    """`folder` is where the data goes. `kind` is for people."""

    kind: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abc.abstractmethod
    def fill(self, server: EmbeddedServer) -> None:
        """Leave no room to the server, which has its data here."""

    @abc.abstractmethod
    def free(self, server: EmbeddedServer) -> None:
        """Make room again. The server may have ended meanwhile."""


class _Mounted(SmallDisk):
    """A file system of its own, and a file that takes what is left of it."""

    kind = "tmpfs"

    def fill(self, server: EmbeddedServer) -> None:
        with (self.folder / "ballast").open("wb", buffering=0) as ballast:
            for size in (_CHUNK, 512, 1):
                try:
                    while True:
                        ballast.write(bytes(size))
                except OSError:
                    continue

    def free(self, server: EmbeddedServer) -> None:
        (self.folder / "ballast").unlink()


class _Limited(SmallDisk):
    """No process of the server may write to a file any more."""

    kind = "limited files"

    def fill(self, server: EmbeddedServer) -> None:
        for pid in _family(server.pid):
            self._limit(pid, "0")

    def free(self, server: EmbeddedServer) -> None:
        if server.running:
            for pid in _family(server.pid):
                self._limit(pid, "unlimited")

    @staticmethod
    def _limit(pid: int, size: str) -> None:
        """As the user that the process is: root in a container may not touch the limits of others."""
        try:
            owner = Path(f"/proc/{pid}").stat()
        except FileNotFoundError:
            return  # (It has ended.)
        other = owner.st_uid != os.geteuid()
        done = subprocess.run(
            ["prlimit", f"--pid={pid}", f"--fsize={size}:"],
            user=owner.st_uid if other else None,
            group=owner.st_gid if other else None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not Path(f"/proc/{pid}").exists(), done.stderr


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants: the parent first, because what it starts next inherits from it."""
    yield pid
    for child in processtable.children(pid):
        yield from _family(child)


@contextmanager
def small_disk(place: Path, mebibytes: int, kind: Kind = "best") -> Iterator[SmallDisk]:
    """A disk of that size at `place`, as far as this machine and this user allow; gone with the block."""
    place.mkdir()
    if kind == "best":
        for way in (_mounted, _mounted_apart):
            with way(place, mebibytes) as folder:
                if folder is not None:
                    yield _Mounted(folder)
                    return
    yield _Limited(place)


@contextmanager
def _mounted(place: Path, mebibytes: int) -> Iterator[Path | None]:
    """Mounted where all can see it; None where that is not allowed."""
    if os.geteuid() != 0 or not _done("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "tmpfs", place):
        yield None
        return
    try:
        yield place
    finally:
        _done("umount", "--lazy", place)


@contextmanager
def _mounted_apart(place: Path, mebibytes: int) -> Iterator[Path | None]:
    """Mounted by a process in namespaces of its own; None where that is not allowed. It ends with us, and its mount with it.

    Only who is the same user may go through its root. A server of root's is somebody else.
    """
    if os.geteuid() == 0:
        yield None
        return
    script = f'mount -t tmpfs -o size={mebibytes}m,mode=0700 tmpfs "$0" && echo mounted && exec cat'
    command = ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", script, str(place)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        yield None
        return
    with process:
        assert process.stdout is not None
        mounted = process.stdout.readline() == b"mounted\n"
        yield Path(f"/proc/{process.pid}/root{place}") if mounted else None


def _done(*command: str | Path) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
