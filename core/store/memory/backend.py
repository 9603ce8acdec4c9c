"""Hands out ports on one namespace in memory."""

from __future__ import annotations

from functools import cached_property

from tailrace.core.store.memory.data import MemoryData
from tailrace.core.store.memory.notices import Book, MemoryNotices
from tailrace.core.store.memory.queue import MemoryKeeper, MemoryQueue
from tailrace.core.store.memory.store import MemoryStore


class MemoryBackend(MemoryData):
    """A namespace in memory. Every store, queue and keeper made from it sees the same data."""

    def store(self) -> MemoryStore:
        """A store, as one process has it."""
        return MemoryStore(self)

    def queue(self, agent: str, worker: str) -> MemoryQueue:
        """The queue of one worker."""
        return MemoryQueue(self, agent, worker)

    def keeper(self, agent: str, worker: str) -> MemoryKeeper:
        """The lease keeper of one worker."""
        return MemoryKeeper(self.queue(agent, worker), self)

    def notices(self) -> MemoryNotices:
        """The book of notices."""
        return MemoryNotices(self, self._book)

    @cached_property
    def _book(self) -> Book:
        return Book()
