"""Which server the tests talk to: the one they are told to use, else that of the wheel, whatever else is installed."""

from __future__ import annotations

import os
import shutil

from tailrace.infra.embedded.choose import REDIS, wheel_program


def redis_program() -> str:
    """The Redis-compatible server of this run of the suite."""
    program = os.environ.get(REDIS.setting) or wheel_program(REDIS)
    assert program is not None, f"the wheel {REDIS.wheel} is not installed; set {REDIS.setting}"
    return str(program)


def system_redis() -> str | None:
    """The Redis of this machine's packages, if there is one: the oldest that is supported comes from there."""
    return shutil.which("redis-server")
