"""The ports in memory: the reference that every other back end is compared with. Nothing survives the process."""

from tailrace.core.store.memory.backend import MemoryBackend
from tailrace.core.store.memory.queue import MemoryKeeper, MemoryQueue
from tailrace.core.store.memory.store import MemoryStore

__all__ = ["MemoryBackend", "MemoryKeeper", "MemoryQueue", "MemoryStore"]
