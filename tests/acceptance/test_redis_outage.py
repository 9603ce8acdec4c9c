"""Redis that stands still for twenty seconds, and Redis that dies: nothing is lost, and nobody's work is taken away."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from tailrace.infra.client import GatewayError
from tests.acceptance.figures import measured
from tests.acceptance.installation import Installation
from tests.acceptance.scripted import script, slow
from tests.acceptance.waiting import until

STOPPED_SECONDS = 20.0


def ready_status(installation: Installation) -> int:
    """The HTTP status of `/health/ready`."""
    try:
        with urllib.request.urlopen(installation.ready()["url"] + "/health/ready", timeout=30) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def check_undisturbed(installation: Installation, run: str, stages: int) -> dict[str, Any]:
    """The run completed with one delivery of one attempt for each stage, and its history has no hole."""
    ended = installation.wait(run)
    assert ended["status"] == "completed", ended
    events = installation.events(run)
    assert [event["version"] for event in events] == list(range(1, ended["version"] + 1))
    starts = [
        (event["stage"], event["attempt"], event["delivery"]) for event in events if event["type"] == "TaskStarted"
    ]
    assert starts == [(f"s{number}", 1, 1) for number in range(1, stages + 1)]
    return ended


def test_redis_that_stands_still(tormented: Installation) -> None:
    """Handlers go on, requests are refused in bounded time with the reason, and afterwards all goes on as if nothing was."""
    ends_meanwhile = tormented.submit("trial", input=script(s1=slow(6)))
    lasts_longer = tormented.submit("trial", input=script(s1=slow(STOPPED_SECONDS + 4)))
    for run in (ends_meanwhile, lasts_longer):
        tormented.wait_started(run, "s1")
    redis = tormented.pids()["redis"]
    os.kill(redis, signal.SIGSTOP)
    began = time.monotonic()
    try:
        with ThreadPoolExecutor() as pool:
            ready = pool.submit(ready_status, tormented)
            refused = pool.submit(_refusal, tormented)
            why = pool.submit(tormented.cli, "why", lasts_longer, "--json")
        assert ready.result() == 503
        problem = refused.result()
        measured(f"refused after {problem['seconds']:.1f} s: {problem['detail']}")
        assert (problem["status"], problem["code"]) == (503, "store-unreachable")
        assert why.result().code == 0, why.result()
        assert why.result().json["cause"] == "store-unreachable"
        until(lambda: time.monotonic() - began >= STOPPED_SECONDS, "the end of the outage")
    finally:
        os.kill(redis, signal.SIGCONT)
    continued = time.monotonic()
    until(lambda: ready_status(tormented) == 200, "readiness", 20)
    measured(f"ready again {time.monotonic() - continued:.1f} s after {STOPPED_SECONDS:.0f} s without Redis")
    for run in (ends_meanwhile, lasts_longer):
        assert check_undisturbed(tormented, run, 2)["stall"] is None
    assert tormented.pids()["redis"] == redis


def _refusal(installation: Installation) -> dict[str, Any]:
    began = time.monotonic()
    with pytest.raises(GatewayError) as caught:
        installation.submit("trial")
    return {**caught.value.problem, "seconds": time.monotonic() - began}


def test_redis_that_dies(tormented: Installation) -> None:
    """It is started again on its data and address; what was acknowledged is there, what ran goes on."""
    ended_before = tormented.submit("trial")
    history = tormented.wait(ended_before)["version"]
    run = tormented.submit("trial", input=script(s1=slow(5)))
    tormented.wait_started(run, "s1")
    before = tormented.pids()
    os.kill(before["redis"], signal.SIGKILL)
    began = time.monotonic()
    after = tormented.wait_replaced("redis", before["redis"])

    def submitted() -> str | None:
        with suppress(GatewayError, OSError):
            return tormented.submit("trial")
        return None

    fresh = until(submitted, "a run can be started again")
    measured(f"a killed Redis: runs can be started again after {time.monotonic() - began:.1f} s")
    check_undisturbed(tormented, run, 2)
    check_undisturbed(tormented, fresh, 2)
    assert tormented.run(ended_before)["version"] == history
    assert ready_status(tormented) == 200
    assert {name: pid for name, pid in after.items() if name != "redis"} == {
        name: pid for name, pid in tormented.pids().items() if name != "redis"
    }, "no other process died of it"
