"""A user without a browser: reads the page, and calls the API with good and with bad requests."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Awaitable, Callable

from tailrace.agents.builtin.e2e.scenario import Scenario, Step, Sum
from tailrace.agents.builtin.web import Answer, request

Try = Callable[[], Awaitable[str]]
"""Does something, and gives what was wrong: nothing if all was well."""


async def play(scenario: Scenario) -> list[Step]:
    """Try everything, also after a failure: the report shows all that is broken."""
    return [await _step(name, attempt) for name, attempt in _tries(scenario)]


def _tries(scenario: Scenario) -> list[tuple[str, Try]]:
    url = scenario.url
    tries: list[tuple[str, Try]] = [
        ("page", lambda: _page(scenario)),
        ("health", lambda: _health(url)),
        ("unknown address is a 404", lambda: _refusal(f"{url}/nowhere", 404)),
    ]
    if scenario.kind == "calculator":
        tries += [(f"calculate: {one.operation}", _calculation(url, one)) for one in scenario.sums]
        tries.append(("unknown operation is a 400", lambda: _refusal(f"{url}/api/calculate", 400, {"operation": "?"})))
        tries.append(("broken JSON is a 400", lambda: _refusal(f"{url}/api/calculate", 400, raw=b"{")))
    else:
        tries.append(("info", lambda: _info(url)))
    if scenario.zero:
        tries.append(("division by zero is a clear 400", lambda: _division_by_zero(url)))
    return tries


async def _step(name: str, attempt: Try) -> Step:
    started = time.perf_counter()
    try:
        problem = await attempt()
    except OSError as error:
        problem = f"no answer: {error!r}"
    took = round((time.perf_counter() - started) * 1000, 1)
    return Step(name=name, driver="http", passed=not problem, milliseconds=took, detail=problem[:300])


async def _page(scenario: Scenario) -> str:
    answer = await request(f"{scenario.url}/")
    if answer.status != 200 or not answer.content_type.startswith("text/html"):
        return _seen(answer, "an HTML page")
    return "" if f"<h1>{scenario.title}</h1>" in html.unescape(answer.text()) else "the page does not show the title"


async def _health(url: str) -> str:
    answer = await request(f"{url}/health")
    health = answer.json()
    fine = answer.status == 200 and isinstance(health, dict) and health.get("status") == "ok"
    return "" if fine else _seen(answer, "status ok")


async def _info(url: str) -> str:
    answer = await request(f"{url}/api/info")
    return "" if answer.status == 200 and isinstance(answer.json(), dict) else _seen(answer, "facts about the app")


def _calculation(url: str, one: Sum) -> Try:
    async def calculate() -> str:
        body = {"operation": one.operation, "operands": list(one.operands)}
        answer = await request(f"{url}/api/calculate", method="POST", body=body)
        reply = answer.json()
        result = reply.get("result") if isinstance(reply, dict) else None
        fine = answer.status == 200 and isinstance(result, int | float) and math.isclose(result, one.result)
        return "" if fine else _seen(answer, f"the result {one.shown}")

    return calculate


async def _division_by_zero(url: str) -> str:
    body = {"operation": "divide", "operands": [1, 0]}
    answer = await request(f"{url}/api/calculate", method="POST", body=body)
    reply = answer.json()
    error = reply.get("error") if isinstance(reply, dict) else None
    fine = answer.status == 400 and isinstance(error, dict) and error.get("code") == "division-by-zero"
    return "" if fine else _seen(answer, "400 division-by-zero")


async def _refusal(url: str, status: int, body: object = None, *, raw: bytes | None = None) -> str:
    method = "GET" if body is None and raw is None else "POST"
    answer = await request(url, method=method, body=body, raw=raw)
    return "" if answer.status == status else _seen(answer, f"status {status}")


def _seen(answer: Answer, wanted: str) -> str:
    return f"wanted {wanted}, got {answer.status}: {answer.text()[:150]}"
