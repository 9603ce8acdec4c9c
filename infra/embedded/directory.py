"""The data directory of one server: its lock, its record of who made the data, its password, its log.

Two locks. `lock` is held by the process that looks after the server and names it. `server.lock` is inherited by the
server and every process it starts, so the kernel lets go of it exactly when the last of them is gone. Invariant: a
server is only started while nothing of an earlier one is left, and only processes seen to hold `server.lock` are
ever signalled.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import tempfile
import time
from pathlib import Path

import msgspec

from tailrace.infra.embedded import processtable
from tailrace.infra.embedded.engine import Engine
from tailrace.infra.embedded.errors import (
    DataDirectoryLockedError,
    DataDirectoryMismatchError,
    DataDirectoryUnusableError,
)

_ENDS_BY_ITSELF_SECONDS = 0.2
"""A server whose parent was killed has its signal already."""

_LOG_KEPT_BYTES = 4 * 1024 * 1024
_SOCKETS_PREFIX = "tailrace-"
_SOCKETS_NAME = re.compile(r"tailrace-[a-z0-9_]{8}")  # as mkdtemp makes them
_SOCKETS_LOCK = "owner.lock"
"""In a sockets folder: locked by the process that looks after the server, as long as it has the data directory."""

_SOCKETS_FILES = frozenset({_SOCKETS_LOCK, "redis.sock", ".s.PGSQL.5432", ".s.PGSQL.5432.lock"})
_SOCKETS_YOUNG_SECONDS = 60.0
_SOCKETS_LONGEST = 80
"""Leaves room for `/.s.PGSQL.5432` within the 107 bytes (103 on macOS) of a socket's path."""


class DataDirectory:
    """One server's directory; usable after `open`, until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.log = self.path / "server.log"
        self.sockets: Path | None = None
        self._lock_fd: int | None = None
        self._sockets_fd: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process holds the directory."""
        return self._lock_fd is not None

    def open(self) -> None:
        """Take the directory for this process and make a private place for sockets.

        Raises DataDirectoryLockedError when another process has it, DataDirectoryUnusableError when it is not ours.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirectoryUnusableError(
                f"The data directory {self.path} cannot be used: {error.strerror}. Make it writable for this user "
                f"(uid {os.geteuid()}), or choose another one.",
                path=self.path,
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise DataDirectoryLockedError(
                f"The data directory {self.path} is in use by process {holder or 'unknown'}. Stop that process, or "
                "choose another data directory.",
                path=self.path,
                holder_pid=int(holder) if holder.isdigit() else None,
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd
        try:
            self.sockets = self._make_sockets()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the sockets and let the directory go."""
        if self._lock_fd is None:
            return
        self._remove_sockets()
        self.sockets = None
        os.ftruncate(self._lock_fd, 0)
        os.close(self._lock_fd)
        self._lock_fd = None

    async def take_server_lock(self, *, stop_signal: signal.Signals, timeout_seconds: float) -> int:
        """A descriptor for the server to inherit; what an earlier start left running is stopped first.

        It gets a moment to end by itself, half of the time to end when asked, the rest after SIGKILL. Raises
        DataDirectoryLockedError when something is left even then.
        """
        path = self.path / "server.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if await _locked_within(fd, _ENDS_BY_ITSELF_SECONDS):
                return fd
            _send_all(processtable.holders(path), stop_signal, signal.SIGCONT)  # a stopped one would not see it
            if await _locked_within(fd, timeout_seconds / 2):
                return fd
            _send_all(processtable.holders(path), signal.SIGKILL)
            if await _locked_within(fd, timeout_seconds / 2):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        left = processtable.holders(path)
        raise DataDirectoryLockedError(
            f"A server started earlier on {self.path} does not end (processes "
            f"{', '.join(map(str, left)) or 'unknown'}). End it by hand, then start again.",
            path=self.path,
            holder_pid=left[0] if left else None,
        )

    def record(self) -> Engine | None:
        """The newest engine that ever had its hands on the data; None in a new directory."""
        path = self.path / "engine.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Engine)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise DataDirectoryMismatchError(
                f"{path} does not say which server made the data ({error}). Restore it from a backup, or write it "
                'again, for example: {"engine": "valkey", "version": "9.1.2"}.',
                path=self.path,
                made_with="unknown",
                chosen="unknown",
            ) from error

    def write_record(self, engine: Engine) -> None:
        """Record the engine; done before it first touches the data."""
        if self.record() != engine:
            replace_file(self.path / "engine.json", msgspec.json.encode(engine) + b"\n")

    def password(self) -> str | None:
        """The password of this directory's server; None when there is none yet, or it was lost."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / "password").read_text().strip() or None
        return None

    def write_password(self, password: str) -> None:
        """Keep a password for later starts."""
        replace_file(self.path / "password", password.encode() + b"\n")

    def start_log(self) -> int:
        """Where the next start begins in the log; a log grown large is set aside first (one is kept)."""
        if self.log.exists() and self.log.stat().st_size > _LOG_KEPT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        return self.log.stat().st_size if self.log.exists() else 0

    def last_log_lines(self, since: int, count: int = 15) -> tuple[str, ...]:
        """The last lines written after the position `since`."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(since, self.log.stat().st_size - 16_384))
            return tuple(log.read().decode(errors="replace").splitlines()[-count:])
        return ()

    def _make_sockets(self) -> Path:
        note = self.path / "sockets"
        with contextlib.suppress(OSError):  # left by a parent that was killed
            _remove_ours(Path(note.read_text().strip()))
        _sweep_sockets(Path(tempfile.gettempdir()))
        made = _make_private_folder()
        self._sockets_fd = os.open(made / _SOCKETS_LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._sockets_fd, fcntl.LOCK_EX)
        note.write_text(f"{made}\n")
        return made

    def _remove_sockets(self) -> None:
        if self.sockets is not None:
            _remove_ours(self.sockets)
        if self._sockets_fd is not None:
            os.close(self._sockets_fd)
            self._sockets_fd = None
        (self.path / "sockets").unlink(missing_ok=True)


def new_password() -> str:
    """A random password of letters and digits, safe in any URL and configuration file."""
    return secrets.token_hex(24)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 whole or not at all, also over a power cut."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    # Never through a link: root writes into a directory that belongs to the server's user.
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def walkable(path: Path, uid: int | None = None) -> bool:
    """Whether a user without special rights (None: any user) may execute a program or enter a directory.

    Root in a user namespace is such a user: it passes its own 0700 directories, and nobody else's.
    """
    real = path.resolve()
    for place in (real, *real.parents):
        found = place.stat()
        if not found.st_mode & (stat.S_IXUSR if found.st_uid == uid else stat.S_IXOTH):
            return False
    return True


def _make_private_folder() -> Path:
    """A directory of mode 0700 with a short path; root's is where any user can walk to, for it may be handed over."""
    for place in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - mkdtemp's names cannot be guessed
        short = len(os.fsencode(place)) + len(_SOCKETS_PREFIX) + 9 <= _SOCKETS_LONGEST
        if short and (os.geteuid() != 0 or walkable(place)):
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=_SOCKETS_PREFIX, dir=place))
    raise DataDirectoryUnusableError(
        "There is no place for unix sockets: neither the temporary directory nor /tmp is writable and short enough. "
        "Set TMPDIR to a writable directory with a short path.",
        path=Path(tempfile.gettempdir()),
    )


def _remove_ours(path: Path) -> None:
    """Remove a sockets directory that really is one: a note in a copied data directory may name anything."""
    if path.name.startswith(_SOCKETS_PREFIX) and not path.is_symlink() and path.is_dir():
        inside = [entry for entry in path.iterdir() if not (entry.is_socket() or entry.name.endswith(".lock"))]
        if not inside:
            shutil.rmtree(path, ignore_errors=True)


def _sweep_sockets(place: Path) -> None:
    """Remove sockets folders of processes that were killed, whose data directories nobody opens again.

    Only a folder of this user whose owner's lock is free, which has nothing in it but what we put there, and whose
    sockets nobody answers. One without that lock is left: its server may be down only for a moment.
    """
    with contextlib.suppress(OSError):
        for path in place.iterdir():
            if _SOCKETS_NAME.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    _sweep_folder(path)


def _sweep_folder(path: Path) -> None:
    found = path.lstat()
    young = abs(time.time() - found.st_mtime) < _SOCKETS_YOUNG_SECONDS
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or young:
        return
    lock = os.open(path / _SOCKETS_LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        inside = list(path.iterdir())
        if any(entry.name not in _SOCKETS_FILES or (entry.is_dir() and not entry.is_symlink()) for entry in inside):
            return
        if any(entry.is_socket() and not _refuses(entry) for entry in inside):
            return
        for entry in inside:
            entry.unlink()
        path.rmdir()
    finally:
        os.close(lock)


def _refuses(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as trial:
        trial.settimeout(0.2)
        try:
            trial.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


async def _locked_within(fd: int, timeout_seconds: float) -> bool:
    """Try to lock until the time is over; asking again is the only way to wait that can be given up."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)


def _send_all(pids: list[int], *numbers: signal.Signals) -> None:
    for number in numbers:
        for pid in pids:
            processtable.send(pid, number)
