"""A rebuild that ends as by `kill -9`: `rebuild_process.py URL STEP COUNT`, at the COUNTth progress of a step.

With the step `swapped`: as soon as the new tables are the ones that are read.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from tailrace.infra.build import build_id
from tailrace.projections import rebuild as rebuilding
from tailrace.projections import whole
from tailrace.projections.beside import Progress

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

    in_place = rebuilding._in_place

    async def swap(*arguments: Any) -> None:
        await in_place(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    if step == "swapped":
        rebuilding._in_place = swap  # type: ignore[assignment]  # a crash point
    asyncio.run(rebuilding.rebuild(url, build=BUILD, on_progress=die))


async def killed(url: str, step: str, count: int) -> None:
    """Rebuild in a process that is killed on its way."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, url, step, str(count))
    assert await process.wait() == -signal.SIGKILL


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
