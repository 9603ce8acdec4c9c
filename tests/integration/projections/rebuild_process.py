"""A rebuild that ends as by `kill -9`: `rebuild_process.py URL STEP COUNT`, at the COUNTth progress of a step."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tailrace.infra.build import build_id
from tailrace.projections import whole
from tailrace.projections.beside import Progress
from tailrace.projections.rebuild import rebuild

#: Small, so that there are many stretches.
STRETCH = 100
BUILD = build_id()


def main(url: str, step: str, count: int) -> None:
    """Rebuild until then."""
    whole.STRETCH = STRETCH  # type: ignore[misc]  # final for everybody but this process
    left = count

    def die(progress: Progress) -> None:
        nonlocal left
        left -= progress.step == step
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(rebuild(url, build=BUILD, on_progress=die))


async def killed(url: str, step: str, count: int) -> None:
    """Rebuild in a process that is killed on its way."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, url, step, str(count))
    assert await process.wait() == -signal.SIGKILL


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
