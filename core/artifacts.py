"""Artifacts: what is too large for an event. Stored by content, named by hash, so a reference can't go stale.

The port is two calls; the adapter here keeps files below one folder (`<root>/<first two hex>/<sha256>`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final, Protocol

import msgspec

from tailrace.core.errors import NotFound


class ArtifactRef(msgspec.Struct, frozen=True, kw_only=True):
    """A reference to stored bytes: `sha256` in hex, `size` in bytes, a file `name` and a `media_type` for people."""

    sha256: str
    size: int
    name: str
    media_type: str = "application/octet-stream"


#: The one key of a value that stands for a stored one: `{"$artifact": {…the fields of ArtifactRef…}}`.
REFERENCE: Final = "$artifact"


class ArtifactStore(Protocol):
    """Where artifacts live. Both calls may block on a disk or a network: call them off the event loop."""

    def put(self, data: bytes, *, name: str, media_type: str = "application/octet-stream") -> ArtifactRef:
        """Store `data`; storing the same bytes twice is one artifact."""

    def get(self, sha256: str) -> bytes:
        """Return the bytes; raises `NotFound`."""


class FileArtifacts:
    """Artifacts in a folder of a file system that all processes share."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable: set[Path] = set()

    def put(self, data: bytes, *, name: str, media_type: str = "application/octet-stream") -> ArtifactRef:
        """Write to a temporary file and rename, so that a reader never sees half of it.

        When it returns, file and name are on the disk: the event that names it must not outlive it.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        # Also when it was there: the process that stores it just now may not have come so far.
        _sync_folder(path.parent)
        if path.parent not in self._durable:
            for folder in missing or [path.parent]:
                _sync_folder(folder.parent)
            self._durable.add(path.parent)
        return ArtifactRef(sha256=digest, size=len(data), name=name, media_type=media_type)

    def get(self, sha256: str) -> bytes:
        """Read it whole."""
        path = self._path(sha256)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound("artifact", sha256) from None

    def _path(self, sha256: str) -> Path:
        # A reference comes from outside: only a hash may become part of a path.
        if len(sha256) != 64 or any(character not in "0123456789abcdef" for character in sha256):
            raise NotFound("artifact", sha256)
        return self._root / sha256[:2] / sha256


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
