"""Scripts that do several things in one call, each with an answer of its own.

Such a call gives an answer for each thing, or an error and nothing was written. After an error each is tried alone, so that
only the one that is at fault has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

from redis.exceptions import RedisError

from tailrace.core.redis_backend.connection import Call, Client

#: Things in one call: it blocks the server for a millisecond at most.
MOST: Final = 32

Places = list[int]

T = TypeVar("T")


def deal(kinds: Iterable[tuple[Hashable, Hashable]]) -> list[Places]:
    """Places in calls that can be made together, for things with these (kind, subject).

    One kind to a call, each subject once in it; what concerns the same subject stays in its order.
    """
    dealt: list[Places] = []
    filling: dict[Hashable, tuple[Places, set[Hashable]]] = {}
    for place, (kind, subject) in enumerate(kinds):
        filled = filling.get(kind)
        if filled is None or len(filled[0]) == MOST or subject in filled[1]:
            filled = filling[kind] = ([], set())
            dealt.append(filled[0])
        filled[0].append(place)
        filled[1].add(subject)
    return dealt


async def carry_out(client: Client, dealt: Sequence[Places], call: Callable[[Places], Call]) -> dict[int, Any]:
    """The answer for each place, all in one round trip; an error is the answer for what was refused alone."""
    answers: dict[int, Any] = {}
    again: list[Places] = []
    replies = await client.calls([call(places) for places in dealt])
    for places, reply in zip(dealt, replies, strict=True):
        if not isinstance(reply, RedisError):
            answers.update(zip(places, reply, strict=True))
        elif len(places) == 1:
            answers[places[0]] = reply
        else:
            again += ([place] for place in places)
    if again:
        answers.update(await carry_out(client, again, call))
    return answers


class Joined(Generic[T]):
    """What callers ask for in the same turn of the event loop, asked for together: many requests, one exchange.

    `act` gives an answer for each item, in their order; what it raises is raised in each caller.
    """

    def __init__(self, act: Callable[[list[T]], Awaitable[Sequence[Any]]]) -> None:
        self._act = act
        self._waiting: list[tuple[Sequence[T], asyncio.Future[Sequence[Any]]]] = []
        self._acting: set[asyncio.Task[None]] = set()

    async def ask(self, items: Sequence[T]) -> Sequence[Any]:
        """The answers for these items."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Sequence[Any]] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._begin)
        self._waiting.append((items, answered))
        return await answered

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, []
        task = asyncio.create_task(self._answer(waiting))
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)

    async def _answer(self, waiting: Sequence[tuple[Sequence[T], asyncio.Future[Sequence[Any]]]]) -> None:
        try:
            answers = await self._act([item for items, _ in waiting for item in items])
        except Exception as error:  # noqa: BLE001  # it belongs to those who asked
            for _, answered in waiting:
                if not answered.done():
                    answered.set_exception(error)
            return
        begin = 0
        for items, answered in waiting:
            if not answered.done():
                answered.set_result(answers[begin : begin + len(items)])
            begin += len(items)
