"""As whom a server runs. Postgres refuses uid 0, so root needs somebody else to be.

First choice is a user namespace: an ordinary uid inside, root's own files outside, so nothing is chowned and 0700
directories stay as they are. Where that is forbidden (chroot, most containers) the server becomes `postgres` or
`nobody`, and its files are given to that user. Invariant: an ordinary caller always runs servers as itself.
"""

import os
import pwd
import sys
from typing import Literal

import msgspec

from tailrace.infra.embedded.errors import ServerUserError
from tailrace.infra.embedded.process import launch_argv, run_program


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A way to run a server, and the owner its files need as seen from outside."""

    kind: Literal["self", "namespace", "user"]
    uid: int
    gid: int

    @property
    def launch_words(self) -> tuple[str, str, str]:
        """The KIND UID GID arguments of launch.py."""
        return self.kind, str(self.uid), str(self.gid)

    @property
    def owner(self) -> tuple[int, int]:
        """The uid and gid that must own what the server writes."""
        return (self.uid, self.gid) if self.kind == "user" else (os.geteuid(), os.getegid())


def own_identity() -> Identity:
    """The caller, unchanged."""
    return Identity(kind="self", uid=os.geteuid(), gid=os.getegid())


def _account() -> pwd.struct_passwd:
    """An ordinary account that exists here (initdb looks its uid up).

    Raises ServerUserError when the machine knows no user but root.
    """
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        if account.pw_uid != 0:
            return account
    for account in pwd.getpwall():
        if account.pw_uid != 0:
            return account
    raise ServerUserError(
        "Postgres does not run as root and this machine has no other user. Start Tailrace as an ordinary user, "
        "or set TAILRACE_POSTGRES_URL to a Postgres that runs elsewhere."
    )


async def identity_not_root() -> Identity:
    """How to run a server that refuses uid 0; asks the kernel, because no file says whether namespaces are allowed.

    Raises ServerUserError when there is no way.
    """
    if os.geteuid() != 0:
        return own_identity()
    account = _account()
    ways: list[Identity] = [Identity(kind="user", uid=account.pw_uid, gid=account.pw_gid)]
    if sys.platform == "linux":
        ways.insert(0, Identity(kind="namespace", uid=account.pw_uid, gid=account.pw_gid))
    refusals: list[str] = []
    for way in ways:
        finished = await run_program(launch_argv(way.launch_words, ["/bin/sh", "-c", "exit 0"]), timeout_seconds=20)
        if finished.exit_code == 0:
            return way
        refusals.append(f"{way.kind}: {finished.output.strip() or finished.exit_code}")
    raise ServerUserError(
        f"Postgres does not run as root, and becoming {account.pw_name} is not allowed here ({'; '.join(refusals)}). "
        "Start Tailrace as an ordinary user, or set TAILRACE_POSTGRES_URL to a Postgres that runs elsewhere."
    )
