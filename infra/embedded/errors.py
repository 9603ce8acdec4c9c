"""What can go wrong with an embedded server, each with a stable `code` and a message that says what to do next.

EmbeddedError
├── ServerMissingError           embedded-server-missing      no usable server program was found
├── ServerTooOldError            embedded-server-too-old      the program named is older than supported
├── DataDirectoryLockedError     data-dir-locked              another process uses the data directory
├── DataDirectoryMismatchError   data-dir-mismatch            another engine or version made the data
├── DataDirectoryUnusableError   data-dir-unusable            it cannot be read, written or owned
├── ServerUserError              embedded-no-server-user      root, and no way to run Postgres as someone else
└── ServerStartError             embedded-start-failed        the server ended, or never answered
"""

from pathlib import Path
from typing import ClassVar


class EmbeddedError(RuntimeError):
    """An embedded server cannot be used; `code` is stable, the message says what to do."""

    code: ClassVar[str] = "embedded-failed"


class ServerMissingError(EmbeddedError):
    """No server program was found, or the one named does not run."""

    code = "embedded-server-missing"


class ServerTooOldError(EmbeddedError):
    """The program named explicitly is older than the oldest supported version."""

    code = "embedded-server-too-old"

    def __init__(self, message: str, *, found: str, needed: str) -> None:
        super().__init__(message)
        self.found = found
        self.needed = needed


class DataDirectoryLockedError(EmbeddedError):
    """Another process holds the data directory; `holder_pid` is None when it could not be learnt."""

    code = "data-dir-locked"

    def __init__(self, message: str, *, path: Path, holder_pid: int | None) -> None:
        super().__init__(message)
        self.path = path
        self.holder_pid = holder_pid


class DataDirectoryMismatchError(EmbeddedError):
    """The data was written by an engine or a version whose files the chosen server cannot read."""

    code = "data-dir-mismatch"

    def __init__(self, message: str, *, path: Path, made_with: str, chosen: str) -> None:
        super().__init__(message)
        self.path = path
        self.made_with = made_with
        self.chosen = chosen


class DataDirectoryUnusableError(EmbeddedError):
    """The data directory cannot be created, read, written or given to the server's user."""

    code = "data-dir-unusable"

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(message)
        self.path = path


class ServerUserError(EmbeddedError):
    """Postgres refuses to run as root, and no other user can be had here."""

    code = "embedded-no-server-user"


class ServerStartError(EmbeddedError):
    """The server ended while starting, or did not answer in time; `log_lines` are its last words."""

    code = "embedded-start-failed"

    def __init__(self, message: str, *, exit_code: int | None, log_lines: tuple[str, ...]) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.log_lines = log_lines
