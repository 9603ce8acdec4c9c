"""The few steps between fork and exec of a server: change user, tie its life to its parent, become the server.

Run as a plain script (`python -I -S launch.py SIGNAL PARENT KIND UID GID PROGRAM ARG…`) instead of a `preexec_fn`,
because Python code between fork and exec may deadlock in a process that has threads. Imports nothing of Tailrace.
Invariant: the server never runs without the death signal once its parent is gone, and never as a user not asked for.

KIND: `self` keeps the user; `namespace` makes a user namespace in which UID and GID stand for the caller's own;
`user` drops to UID and GID. SIGNAL 0 sets no death signal.
"""

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
EXIT_LAUNCH_FAILED = 96
"""Exit code for every failure before exec; what failed is on stderr."""


def enter_namespace(uid: int, gid: int) -> None:
    """Become UID/GID in a new user namespace; outside it the process stays who it is. Needs no rights over files."""
    outside_uid, outside_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)  # os.unshare only exists from Python 3.12 on
    if libc.unshare(CLONE_NEWUSER) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare(CLONE_NEWUSER): {os.strerror(code)}")
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{uid} {outside_uid} 1")
    (own / "gid_map").write_text(f"{gid} {outside_gid} 1")


def drop_to(uid: int, gid: int) -> None:
    """Become UID/GID for good."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(parent: int, signal_number: int) -> None:
    """Ask the kernel for a signal when the parent's thread ends; a parent that is gone already ends it here.

    Comes after every change of user, because that clears the setting.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if os.getppid() != parent:
        raise SystemExit(EXIT_LAUNCH_FAILED)


def main(argv: list[str]) -> None:
    """Do the steps in the order that keeps them in force, then exec."""
    death_signal, parent, kind, uid, gid = int(argv[1]), int(argv[2]), argv[3], int(argv[4]), int(argv[5])
    os.umask(0o077)
    try:
        if kind == "namespace":
            enter_namespace(uid, gid)
        elif kind == "user":
            drop_to(uid, gid)
        if death_signal:
            die_with(parent, death_signal)
        os.execv(argv[6], argv[6:])  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"launch: {error}\n")
        raise SystemExit(EXIT_LAUNCH_FAILED) from error


if __name__ == "__main__":
    main(sys.argv)
