"""What all processes share: an event loop that is quick, signals that mean stop, and a store that may not be there yet."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tailrace.core.errors import StoreUnavailable
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.config import Settings
from tailrace.infra.logs import configure_logs
from tailrace.infra.parent import die_with_parent
from tailrace.infra.telemetry.sdk import Telemetry, configure
from tailrace.infra.telemetry.settings import telemetry_settings

log = logging.getLogger(__name__)


def run_process(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]], settings: Settings) -> None:
    """Run `main` until it returns; SIGTERM and SIGINT set the event it is given, a second one ends it at once."""
    die_with_parent()
    configure_logs(settings.log_level)
    run_loop(_until_signal(main))


def run_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """`asyncio.run`, on uvloop where it runs."""
    if sys.platform == "win32":
        return asyncio.run(coroutine)
    import uvloop  # noqa: PLC0415  # not there on every platform

    return uvloop.run(coroutine)


async def _until_signal(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def stopping() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping)
    try:
        await main(stop)
    except asyncio.CancelledError:
        if not stop.is_set():
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
