"""The command hook: a program gets each notice as JSON on standard input, and says by its exit code whether it was taken.

Invariants: no shell; the program gets an environment of a few variables, none of them a setting of Tailrace; it, and what it
started in its process group, is killed when its time is over or its sender is cancelled; its output is read and bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tailrace.agents.workspace.capture import Capture
from tailrace.agents.workspace.process import finish
from tailrace.core.notices import Notice
from tailrace.gateway.notices import notice_document

TIMEOUT_SECONDS: Final = 30.0
OUTPUT_LIMIT_BYTES: Final = 4_096
_SHOWN: Final = 200

#: What a program is given of our environment.
INHERITED: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")


class NoticeCommand:
    """Runs `argv` once for each notice, one at a time."""

    def __init__(
        self, argv: Sequence[str], *, source: str, namespace: str, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self.target = f"command-{hashlib.sha256(repr(tuple(argv)).encode()).hexdigest()[:12]}"
        # (Its arguments may hold what is not for a log.)
        self.title = f"the command {Path(argv[0]).name}"
        self.timeout_seconds = timeout_seconds
        self._argv = tuple(argv)
        self._source = source
        self._namespace = namespace

    async def send(self, notice: Notice) -> str | None:
        """Run it; None when it ends with 0."""
        document = notice_document(notice, self._source, self._namespace)
        spawn = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment(notice, os.environ),
                start_new_session=True,
            )
        )
        try:
            process = await finish(spawn)
        except OSError as error:
            return f"it can't be started: {error.strerror}"
        except asyncio.CancelledError:
            if not spawn.cancelled() and spawn.exception() is None:
                await _end(spawn.result())
            raise
        output = Capture(OUTPUT_LIMIT_BYTES)
        try:
            async with asyncio.timeout(self.timeout_seconds):
                code = await _run(process, document, output)
        except TimeoutError:
            return f"it did not end within {self.timeout_seconds:g} s and was killed{_said(output)}"
        finally:
            await _end(process)
        return None if code == 0 else f"it ended with {code}{_said(output)}"


def environment(notice: Notice, given: Mapping[str, str]) -> dict[str, str]:
    """The variables for the program: a few of ours, and what the notice is."""
    return {
        **{name: given[name] for name in INHERITED if name in given},
        "TAILRACE_NOTICE_ID": notice.id,
        "TAILRACE_NOTICE_KIND": notice.kind,
    }


async def _run(process: asyncio.subprocess.Process, document: bytes, output: Capture) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    reading = asyncio.ensure_future(output.drain(process.stdout))
    try:
        # One that does not read its input may still do what it is for.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(document)
            await process.stdin.drain()
        process.stdin.close()
        code = await process.wait()
        # What it started and left behind may hold its output open.
        await asyncio.wait([reading], timeout=0.5)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return code


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the program's group, and collect it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await finish(asyncio.ensure_future(process.wait()))


def _said(output: Capture) -> str:
    text = " ".join(output.text().split())
    return f": {text[-_SHOWN:]}" if text else ""
