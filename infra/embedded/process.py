"""One child process: started through launch.py, waited for, signalled, and gone when its parent is.

Nothing here belongs to an event loop: a server started in one loop (a session fixture) can be stopped in another.
Invariant: a signal only goes to a process that is not reaped yet, so never to a reused process id.
"""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tailrace.infra.embedded import processtable

_FOLDER = Path(__file__).parent
_POLL_SECONDS = 0.02
SELF_WORDS = ("self", "0", "0")
"""Identity arguments of launch.py that change nothing."""


def _filled_pipe(content: bytes) -> int:
    """The reading end of a pipe that holds `content`. Feeding it meanwhile fails in uvloop for a program that ends."""
    assert len(content) <= select.PIPE_BUF
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return reading


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a short-lived program ended; `output` is stdout and stderr together."""

    exit_code: int
    output: str


def launch_argv(identity: tuple[str, str, str], argv: Sequence[str], death_signal: int = 0) -> list[str]:
    """The command line that runs `argv` under an identity, dying with this process when a signal is given."""
    script = [sys.executable, "-I", "-S", str(_FOLDER / "launch.py")]
    return [*script, str(death_signal), str(os.getpid()), *identity, *argv]


def kernel_signals_orphans() -> bool:
    """Whether the kernel will tell a child started here that its parent is gone.

    Linux sends the death signal when the *thread* that started the child ends, so it serves the main thread only.
    """
    return sys.platform == "linux" and threading.current_thread() is threading.main_thread()


def server_environment() -> dict[str, str]:
    """The caller's environment without what would redirect a server or make its output depend on the place."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "TAILRACE_"))}
    return kept | {"LC_ALL": "C", "LANG": "C", "TZ": "UTC"}


async def run_program(
    argv: Sequence[str], *, timeout_seconds: float, text_input: str = "", pass_fds: Sequence[int] = ()
) -> Finished:
    """Run a program to its end. One that cannot be executed has exit code 127; one that hangs is killed and has -9.

    `text_input` (at most 4 KiB) is all it finds on stdin.
    """
    stdin = _filled_pipe(text_input.encode())
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=server_environment(),
            cwd="/",
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
    except OSError as error:
        return Finished(exit_code=127, output=str(error))
    finally:
        os.close(stdin)
    try:
        async with asyncio.timeout(timeout_seconds):
            output, _ = await process.communicate()
    except TimeoutError:
        output = f"no answer within {timeout_seconds:g} s".encode()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    code = process.returncode
    return Finished(exit_code=code if code is not None else -signal.SIGKILL, output=output.decode(errors="replace"))


def _private(path: str, flags: int) -> int:
    """Open as the owner's alone."""
    return os.open(path, flags, 0o600)


async def _until_readable(fd: int) -> None:
    """Wait for a descriptor, and close it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


class ServerProcess:
    """A server that is (or was) running as our child."""

    def __init__(self, popen: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
        self._popen = popen
        self._stop_signal = stop_signal
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        identity: tuple[str, str, str],
        stop_signal: signal.Signals,
        log: Path,
        pass_fds: Sequence[int],
        extra_environment: Mapping[str, str] | None = None,
    ) -> "ServerProcess":
        """Start it in a session of its own, so that a Ctrl-C in the terminal reaches only us."""
        by_kernel = kernel_signals_orphans()
        with open(log, "ab", opener=_private) as output:
            popen = subprocess.Popen(
                launch_argv(identity, argv, stop_signal if by_kernel else 0),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=server_environment() | dict(extra_environment or {}),
                cwd="/",
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        process = cls(popen, stop_signal)
        if not by_kernel:
            process._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_FOLDER / "guard.py"), str(popen.pid), str(int(stop_signal))],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return process

    @property
    def pid(self) -> int:
        """The server's process id (launch.py becomes the server by exec)."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        code = self._popen.poll()
        if code is not None:
            self._end_guard()
        return code

    async def wait(self) -> int:
        """Wait for its end, however that comes; any number may wait, each in any loop."""
        fd = processtable.open_pidfd(self.pid) if self.exit_code() is None else None
        if fd is not None:
            await _until_readable(fd)
        while (code := self.exit_code()) is None:  # noqa: ASYNC110 - where there is no pidfd, nothing sets an event
            await asyncio.sleep(_POLL_SECONDS)
        return code

    async def stop(self, timeout_seconds: float) -> int:
        """Ask it to end, and kill it when it has not after the time given."""
        if self.exit_code() is None:
            self._signal(self._stop_signal)
            self.resume()  # a stopped process would not see the request
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self.wait()
        except TimeoutError:
            return await self.kill()
        finally:
            if self.exit_code() is None:  # cancelled while waiting: leave nothing behind
                self._kill_tree()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._popen.wait(timeout=1)

    async def kill(self) -> int:
        """End it and its children at once, as a power cut would."""
        self._kill_tree()
        return await self.wait()

    def pause(self) -> None:
        """Stop it and its children in their tracks (SIGSTOP)."""
        if self._signal(signal.SIGSTOP):
            for child in processtable.children(self.pid):
                processtable.send(child, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server and its children go on (SIGCONT)."""
        if self.exit_code() is None:
            for child in processtable.children(self.pid):
                processtable.send(child, signal.SIGCONT)
            self._signal(signal.SIGCONT)

    def _kill_tree(self) -> None:
        if self._signal(signal.SIGSTOP):  # so that it starts no further child while they are counted
            family = processtable.children(self.pid)
            self._signal(signal.SIGKILL)
            for child in family:
                processtable.send(child, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> bool:
        if self.exit_code() is not None:
            return False
        self._popen.send_signal(number)
        return True

    def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.kill()
            guard.stdin.close()
            guard.wait()
