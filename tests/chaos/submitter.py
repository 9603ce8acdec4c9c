"""The people of a trial: they start runs, ask things of them, and remember what they were told.

A creation is sent with an `Idempotency-Key` until it is acknowledged; so is a command until somebody has answered it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from tests.chaos.pipelines import Asked, Command, RunPlan

REQUEST_SECONDS: Final = 12.0
PAUSE_SECONDS: Final = 0.2
#: How long somebody goes on asking for a retry of a run that has not failed yet.
PATIENCE_SECONDS: Final = 60.0

_DONE: Final = HTTPStatus.OK
_CREATED: Final = HTTPStatus.CREATED
_REFUSED: Final = HTTPStatus.CONFLICT
_OUR_FAULT: Final = range(400, 500)


class Submitter:
    """`acknowledged` maps the plan's key to the run's id; `commands` counts what was sent and what was acknowledged."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self.plans: dict[str, RunPlan] = {}
        self.acknowledged: dict[str, str] = {}
        self.sent: Counter[tuple[str, Asked]] = Counter()
        self.commands: Counter[tuple[str, Asked]] = Counter()
        self.tries = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Submitter]:
        """With a session of its own."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS)) as session:
            yield cls(url, session)

    async def define(self, definition: dict[str, Any]) -> None:
        """Make a definition known."""
        status, body = await self._send("PUT", f"/definitions/{definition['name']}", definition)
        assert status in {_DONE, _CREATED}, body

    async def run(self, plans: Sequence[RunPlan], seconds: float) -> None:
        """Start runs evenly over the time, and ask of each what its plan says; returns when all was answered."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, plan in enumerate(plans):
                await asyncio.sleep(max(0.0, began + number * seconds / len(plans) - time.monotonic()))
                group.create_task(self.play(plan))

    async def play(self, plan: RunPlan) -> str:
        """Start one run and ask of it what its plan says; gives its id."""
        self.plans[plan.key] = plan
        answers = await asyncio.gather(*(self._create(plan) for _ in range(2 if plan.twice else 1)))
        assert len(set(answers)) == 1, f"{plan.key} was acknowledged as {answers}"
        self.acknowledged[plan.key] = answers[0]
        for command in plan.commands:
            await self._ask(answers[0], command)
        return answers[0]

    async def ask(self, workflow_id: str, asked: Asked) -> int:
        """One command, once; gives the status of the answer, 0 for none."""
        self.sent[workflow_id, asked] += 1
        status, body = await self._send("POST", f"/workflows/{workflow_id}/{asked}", {})
        if status == _DONE:
            self.commands[workflow_id, asked] += 1
        assert status not in _OUR_FAULT or status == _REFUSED, body
        return status

    async def _create(self, plan: RunPlan) -> str:
        while True:
            self.tries += 1
            status, body = await self._send("POST", "/workflows", plan.body, {"Idempotency-Key": plan.key})
            if status == _CREATED:
                workflow_id: str = body["workflow_id"]
                return workflow_id
            assert status not in _OUR_FAULT, body
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, workflow_id: str, command: Command) -> None:
        await asyncio.sleep(command.after)
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            status = await self.ask(workflow_id, command.asked)
            # Refused: it has ended meanwhile, or an answer was lost. Only a retry waits for the run to end.
            if status == _DONE or (status == _REFUSED and command.asked != "retry"):
                return
            if status == _REFUSED and (await self.status(workflow_id)) == "completed":
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def status(self, workflow_id: str) -> str:
        """What the API says of a run; empty when it says nothing now."""
        status, body = await self._send("GET", f"/workflows/{workflow_id}", None)
        return str(body["status"]) if status == _DONE else ""

    async def _send(
        self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        try:
            async with self._session.request(method, self._url + path, json=body, headers=headers) as response:
                return response.status, await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0, None
