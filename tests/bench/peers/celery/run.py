"""Celery: a chain of seven tasks; broker and results in the Redis that it is given, which syncs each write.

Durable: tasks are acknowledged late, also those of a worker that is lost. Fast as its guide to optimising has it: results that
nobody reads are not stored (each goes to the next task in its message), the prefetch is large because the tasks are short,
and what workers tell each other is off. Two workers, one per core, of the pool `solo`: a task that does nothing gains nothing
from being handed to a child process, and `prefork` was slower, with one worker and with two.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery, __version__, chain
from celery.signals import worker_ready

from tests.bench.peers.contract import STEPS, check, give, measure, read_task

URL_VARIABLE = "BENCH_REDIS_URL"
READY_VARIABLE = "BENCH_READY_FD"
MODULE = "tests.bench.peers.celery.run"
WORKERS = 2
#: Nothing completed in all that time: the bench is stuck.
PATIENCE_SECONDS = 60.0


def celery_url(url: str) -> str:
    """Celery has a spelling of its own for unix sockets."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://:{parts.password}@{parts.path}?virtual_host={database}"


app = Celery("bench")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=64,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


def connect(url: str) -> None:
    """Name the server, in the client and in each worker."""
    app.conf.update(broker_url=celery_url(url), result_backend=celery_url(url))


if URL_VARIABLE in os.environ:
    connect(os.environ[URL_VARIABLE])


@worker_ready.connect
def say_ready(**_: Any) -> None:
    """A worker takes tasks from here on."""
    os.write(int(os.environ[READY_VARIABLE]), b".")


@app.task(name="step", ignore_result=True)
def step(number: int) -> int:
    """Do nothing but count."""
    return number + 1


def seven_tasks() -> Any:
    """The tasks, one after the other. The last one's result is kept: it says that the chain is complete."""
    return chain(step.s(0), *(step.s() for _ in range(STEPS - 2)), step.s().set(ignore_result=False))


def drive(runs: int, open_runs: int) -> None:
    """Keep `open_runs` open until `runs` are complete. Results are pushed to the client, not polled."""
    submitted = 0
    is_open: dict[str, Any] = {}

    def completed(result: Any) -> None:
        del is_open[result.id]
        check(holds=result.result == STEPS, otherwise=f"a chain gave {result.result!r}")

    last = time.monotonic()
    while submitted < runs or is_open:
        while submitted < runs and len(is_open) < open_runs:
            result = seven_tasks().apply_async()
            is_open[result.id] = result
            result.then(completed, on_error=completed)
            submitted += 1
        before = len(is_open)
        app.backend.result_consumer.drain_events(timeout=1.0)
        if len(is_open) < before:
            last = time.monotonic()
        check(holds=time.monotonic() - last < PATIENCE_SECONDS, otherwise=f"{len(is_open)} chains do not complete")


@contextmanager
def workers(url: str) -> Iterator[None]:
    """Workers in processes of their own, all of them ready."""
    reading, writing = os.pipe()
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR")
    command = [sys.executable, "-m", "celery", "-A", MODULE, "worker", "--pool", "solo", *quiet]
    environment = {**os.environ, URL_VARIABLE: url, READY_VARIABLE: str(writing)}
    started = [
        subprocess.Popen(
            [*command, "-n", f"worker-{number}@bench"], env=environment, stdout=sys.stderr, pass_fds=(writing,)
        )
        for number in range(WORKERS)
    ]
    os.close(writing)  # so that workers that end end the wait
    try:
        for _ in started:
            check(holds=os.read(reading, 1) == b".", otherwise="a worker does not start")
        yield
    finally:
        os.close(reading)
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(30)


def main() -> None:
    """Measure, and give the answer."""
    task = read_task(__doc__)
    connect(task.redis_url)
    with workers(task.redis_url):
        answer = measure("celery", __version__, task, drive)
    give(answer)


if __name__ == "__main__":
    main()
