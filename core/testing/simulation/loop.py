"""An event loop without a wall clock and without chance of its own: time jumps to what is next, order comes from a seed.

What runs on it belongs to processes. Within one process callbacks keep their order, as asyncio promises; between processes
any order may be, so the seed picks. A process that stands still or died has callbacks that wait or never run: that is what
SIGSTOP and SIGKILL look like from outside. No callback of a dead process runs again, not even a `finally`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Where time begins, in seconds: not at zero, which a forgotten start would be taken for.
_BEGIN: Final = 1000.0

#: How often what is left is cancelled at the end: a task may take a cancellation for something else, once.
_CANCELS: Final = 5


class ProcessDied(BaseException):
    """Ends what a process does at this moment; nobody in it can catch it, because nothing in it runs any more."""


class Process:
    """What stops, stands still and dies together. `kind` is what crash points name, `name` what a person reads."""

    __slots__ = ("alive", "context", "kind", "name", "ready", "stalls")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.alive = True
        self.stalls = 0
        self.ready: deque[asyncio.Handle] = deque()
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)

    @property
    def runs(self) -> bool:
        """True unless it died or stands still."""
        return self.alive and not self.stalls


_PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


def current_process() -> Process:
    """The process whose code runs."""
    return _PROCESS.get()


class _Task(asyncio.Task[Any]):
    """A task with a number for its hash: asyncio keeps tasks in sets, and walks them when a group ends."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        loop: asyncio.AbstractEventLoop,
        number: int,
        name: str,
        context: contextvars.Context | None,
    ) -> None:
        self._number = number
        super().__init__(coroutine, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs processes; `random` decides which of those that can run is next. `problems` are errors that nobody handled."""

    def __init__(self, random: Random) -> None:
        self._running = False  # asked for by what it is built on, right away
        super().__init__()
        self.world = Process("world", "world")
        self.problems: list[str] = []
        self.on_death: Callable[[Process, str], None] = lambda process, point: None
        self._random = random.random
        self._now = _BEGIN
        self._timers: list[tuple[float, int, Process, asyncio.TimerHandle]] = []
        self._numbers = count()
        self._runnable: list[Process] = []
        self._stopped: list[Process] = []
        self._tasks: list[_Task] = []

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        if context is None:
            context = contextvars.copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self._make_ready(context.get(_PROCESS, self.world), handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        if context is None:
            context = contextvars.copy_context()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._numbers), context.get(_PROCESS, self.world), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        number = len(self._tasks)
        task = _Task(coro, loop=self, number=number, name=str(name or f"task-{number}"), context=context)
        # Kept until the end: what a dead process left must not be taken apart by the garbage collector, at a time of its own.
        self._tasks.append(task)
        return task

    def run_in_executor(  # done at once, on this thread: there is no other
        self, executor: Any, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # it belongs to whoever awaits it
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, ProcessDied):
            self.problems.append(f"{context.get('message')}: {error!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def run_until_complete(self, future: Generator[Any, None, T] | Any) -> T:
        """Run until `future` (or a coroutine, in the world's process) is done."""
        given = isinstance(future, asyncio.Future)
        task: Any = future if given else self.create_task(future, context=self.world.context)
        asyncio._set_running_loop(self)
        self._running = True
        try:
            while not task.done():
                self._turn()
        finally:
            self._running = False
            asyncio._set_running_loop(None)
        result: T = task.result()
        return result

    # What a simulation asks of it.

    def spawn(self, process: Process, coroutine: Coroutine[Any, Any, T], *, name: str = "") -> asyncio.Task[T]:
        """Run a coroutine as part of a process."""
        return self.create_task(coroutine, name=name or process.name, context=process.context)

    def kill(self, process: Process, point: str) -> None:
        """Nothing of it runs again. `on_death` is told, with the point at which it died."""
        if not process.alive:
            return
        process.alive = False
        self._stop(process)
        self.on_death(process, point)

    def stall(self, process: Process, seconds: float) -> None:
        """Let it stand still for a while, with all its threads."""
        process.stalls += 1
        self._stop(process)
        self.call_later(seconds, self._go_on, process, context=self.world.context)

    def shut_down(self) -> None:
        """Cancel all that is left, also of dead processes, so that nothing is torn apart later."""
        for process in self._stopped:
            process.alive, process.stalls = True, 0
            self._let_run(process)
        for _ in range(_CANCELS):
            left = [task for task in self._tasks if not task.done()]
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.wait(left, timeout=10.0))
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()
        self.close()

    def _make_ready(self, process: Process, handle: asyncio.Handle) -> None:
        if not process.ready and process.alive and not process.stalls:
            self._runnable.append(process)
        process.ready.append(handle)

    def _let_run(self, process: Process) -> None:
        if process.ready and process.runs and process not in self._runnable:
            self._runnable.append(process)

    def _stop(self, process: Process) -> None:
        if process not in self._stopped:
            self._stopped.append(process)
        if process in self._runnable:
            self._runnable.remove(process)

    def _go_on(self, process: Process) -> None:
        process.stalls = max(0, process.stalls - 1)
        self._let_run(process)

    def _turn(self) -> None:
        """One callback of one process that can run; before that time jumps if none can."""
        runnable = self._runnable
        if not runnable:
            self._jump()
        index = int(self._random() * len(runnable)) if len(runnable) > 1 else 0
        process = runnable[index]
        handle = process.ready.popleft()
        if not process.ready:
            runnable[index] = runnable[-1]
            runnable.pop()
        if not handle.cancelled():
            handle._run()

    def _jump(self) -> None:
        """Move time to the next timer of a process that can run, and make ready all that is due then."""
        timers = self._timers
        while not self._runnable:
            if not timers:
                raise RuntimeError("nothing can ever happen again")
            when, _, process, handle = heappop(timers)
            if handle.cancelled() or not process.alive:
                continue
            self._now = max(self._now, when)
            self._make_ready(process, handle)
            while timers and timers[0][0] <= self._now:
                _, _, process, handle = heappop(timers)
                if not handle.cancelled():
                    self._make_ready(process, handle)
