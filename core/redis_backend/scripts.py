"""The Lua scripts, each a file beside this one; known to the server by the SHA-1 of its text."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final

import msgspec


class Script(msgspec.Struct, frozen=True):
    """One script: its name, its text, and the SHA-1 that `EVALSHA` takes."""

    name: str
    text: str
    sha: str


def _load(name: str, *parts: str) -> Script:
    """The script `name`, with `parts` that several share put in front of it."""
    folder = resources.files(__package__).joinpath("lua")
    text = "".join(folder.joinpath(f"{file}.lua").read_text("utf-8") for file in (*parts, name))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


APPEND: Final = _load("append")
REPORT: Final = _load("report", "delivered")
CLAIM: Final = _load("claim", "pulse")
RENEW: Final = _load("renew", "delivered")
RELEASE: Final = _load("release")
TAKE: Final = _load("take")
OWNER: Final = _load("owner")
GROUP: Final = _load("group")
QUEUE: Final = _load("queue", "delivered")
ENTRY: Final = _load("entry", "delivered")
HEAD: Final = _load("head")
TIMERS: Final = _load("timers", "pulse")
OVERDUE: Final = _load("overdue", "pulse")
POSTPONE: Final = _load("postpone")
PARK: Final = _load("park")
PARK_TIMER: Final = _load("park_timer")
BEAT: Final = _load("beat")
ENLIST: Final = _load("enlist")
INIT: Final = _load("init")
REMOVE_CONSUMER: Final = _load("remove_consumer")
TRIM: Final = _load("trim")
EXPIRE: Final = _load("expire")
NOTICES_WRITE: Final = _load("notices_write")
NOTICES_CLAIM: Final = _load("notices_claim")
NOTICES_SETTLE: Final = _load("notices_settle")
