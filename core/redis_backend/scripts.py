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


def _load(name: str) -> Script:
    text = resources.files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


APPEND: Final = _load("append")
REPORT: Final = _load("report")
CLAIM: Final = _load("claim")
RENEW: Final = _load("renew")
RELEASE: Final = _load("release")
TAKE: Final = _load("take")
OWNER: Final = _load("owner")
GROUP: Final = _load("group")
QUEUE: Final = _load("queue")
TIMERS: Final = _load("timers")
OVERDUE: Final = _load("overdue")
POSTPONE: Final = _load("postpone")
PARK: Final = _load("park")
BEAT: Final = _load("beat")
ENLIST: Final = _load("enlist")
INIT: Final = _load("init")
REMOVE_CONSUMER: Final = _load("remove_consumer")
