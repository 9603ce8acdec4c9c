"""What all processes share: an event loop that is quick, signals that mean stop, and a store that may not be there yet."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from tailrace.core.errors import StoreUnavailable
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.config import Settings
from tailrace.infra.logs import configure_logs
from tailrace.infra.parent import die_with_parent, say_ready
from tailrace.infra.telemetry.sdk import Telemetry, configure
from tailrace.infra.telemetry.settings import telemetry_settings

log = logging.getLogger(__name__)

#: After how many new objects the collector looks in a process that serves, and in one that folds all of an archive: that
#: has some hundred thousand of them at a time, and looking at them each time took an eighth of it.
CALM: Final = 50_000
CALM_IN_BULK: Final = 1_000_000


class Life:
    """One process from its start to its end, as its main task sees it.

    `stop` is set by the first SIGTERM or SIGINT. Until `ready` was called that signal also cancels the main task: whatever
    it waits for then, it has nothing to hand back.
    """

    def __init__(self, name: str, *, as_json: bool = False) -> None:
        self.stop = asyncio.Event()
        self._name = name
        self._as_json = as_json
        self._ready = False
        task = asyncio.current_task()
        assert task is not None
        self._task = task

    def ready(self, url: str = "") -> None:
        """Say, once, that this process does its work: to the parent, to the log and, as JSON, on standard output."""
        self._ready = True
        calm_collector()
        log.info("%s is ready%s", self._name, f" at {url}" if url else "")
        if self._as_json:
            document = {"ready": True, "process": self._name, "pid": os.getpid(), **({"url": url} if url else {})}
            print(json.dumps(document), flush=True)  # noqa: T201  # asked for by a program
        say_ready(url)

    def signalled(self) -> None:
        """SIGTERM or SIGINT came; a second one does not wait for anything."""
        if self.stop.is_set() or not self._ready:
            self._task.cancel()
        self.stop.set()


def calm_collector(*, after: int = CALM) -> None:
    """Let the cyclic collector look seldom, and never again at what was made up to now.

    Almost nothing here is part of a cycle, while thousands of objects live for the length of a batch: with the default
    threshold it goes through them some hundred times a second. It looks when there are `after` more than at the last look.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(after, 20, 20)


def run_process(
    name: str, main: Callable[[Life], Coroutine[Any, Any, None]], settings: Settings, *, as_json: bool = False
) -> None:
    """Run `main` until it returns, or is ended by signals as its `Life` says."""
    die_with_parent()
    configure_logs(settings.log_level, as_json=as_json)
    run_loop(_until_signal(name, main, as_json))


def run_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """`asyncio.run`, on uvloop where it runs."""
    if sys.platform == "win32":
        return asyncio.run(coroutine)
    import uvloop  # noqa: PLC0415  # not there on every platform

    return uvloop.run(coroutine)


async def _until_signal(name: str, main: Callable[[Life], Coroutine[Any, Any, None]], as_json: bool) -> None:
    life = Life(name, as_json=as_json)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.signalled)
    try:
        await main(life)
    except asyncio.CancelledError:
        if not life.stop.is_set():
            raise


async def until_stopped(stop: asyncio.Event, *services: Coroutine[Any, Any, Any]) -> None:
    """Run services until `stop` is set or one of them ends, which is an error; then cancel and await all."""
    tasks = [asyncio.create_task(service) for service in services]
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (waiting, *tasks):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


@contextmanager
def tracing(service_name: str) -> Iterator[Telemetry]:
    """Tracing of this process, where the environment names a collector; what is left is sent at the end."""
    telemetry = configure(service_name, telemetry_settings())
    try:
        yield telemetry
    finally:
        telemetry.shutdown()


@asynccontextmanager
async def open_store(
    settings: Settings, *, max_connections: int = 16, create: bool = True
) -> AsyncIterator[RedisStore]:
    """The store, waited for: Redis may start later than we do. Without `create` a namespace that is missing is an error."""
    redis = RedisSettings(url=settings.require_redis(), max_connections=max_connections)
    wait = 0.1
    while True:
        try:
            store = await RedisStore.open(
                redis, namespace=settings.namespace, default_partitions=settings.partitions or 8, create=create
            )
            break
        except StoreUnavailable as error:
            log.warning("%s; trying again", error)
            await asyncio.sleep(wait)
            wait = min(2.0, wait * 2)
    try:
        yield store
    finally:
        await store.aclose()
