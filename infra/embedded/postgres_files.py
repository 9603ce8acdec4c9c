"""The files of a Postgres cluster: how they are configured, owned, and reached by the user the server runs as.

Invariant: nothing outside the cluster's own directory and the sockets ever changes owner or mode, whoever the server
runs as; a directory that the server's user cannot walk to is handed over as an open descriptor instead.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tailrace.infra.embedded import processtable
from tailrace.infra.embedded.directory import replace_file, walkable
from tailrace.infra.embedded.errors import DataDirectoryUnusableError
from tailrace.infra.embedded.identity import Identity

SETTINGS_FILE = "tailrace.conf"

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
    ("autovacuum_max_workers", "2"),
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
    replace_file(cluster / SETTINGS_FILE, text.encode())
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
    where, name = processtable.working_directory(pid), processtable.name(pid)
    works_elsewhere = where is not None and where != cluster.resolve()
    if not processtable.exists(pid) or name not in {None, "postgres"} or works_elsewhere:
        path.unlink(missing_ok=True)


def data_argument(cluster: Path, identity: Identity) -> tuple[str, int | None]:
    """The value for `-D`, and a descriptor the server must inherit for it (None: it can walk there).

    The directory above is 0700 and stays ours, so another user gets there through the descriptor only; and so does
    root in a user namespace, where a directory above is private to someone else.
    """
    if identity.kind == "self" or sys.platform != "linux" or walkable(cluster, identity.owner[0]):
        return str(cluster), None
    fd = os.open(cluster, os.O_RDONLY | os.O_DIRECTORY)
    return f"/proc/self/fd/{fd}", fd


def give_to(folder: Path, identity: Identity) -> None:
    """Make the server's user the owner of everything in a folder; the folder last, so that a cut is repeated.

    Raises DataDirectoryUnusableError when it belongs to someone else and we may not change that.
    """
    uid, gid = identity.owner
    try:
        if folder.stat().st_uid == uid and all(path.lstat().st_uid == uid for path in folder.iterdir()):
            return  # the entries on top too: some are written anew at each start, by root
        for path in _inside(folder):
            os.chown(path, uid, gid, follow_symlinks=False)
        os.chown(folder, uid, gid)
    except OSError as error:
        raise DataDirectoryUnusableError(
            f"{folder} does not belong to uid {uid}, which the server runs as, and cannot be given to it "
            f"({error.strerror}). Start as the user who made it, or choose another data directory.",
            path=folder,
        ) from error


def _inside(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(root, name)
