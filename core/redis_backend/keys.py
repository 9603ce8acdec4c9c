"""The one module that spells keys. All keys of a partition share a hash tag, so a script's keys are in one slot."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "tr"

#: Holder of entries that were handed back: never a worker, so anyone may claim them at once.
RELEASED: Final = "~released"


class Keys:
    """The keys of one namespace. `namespace` is a-z, 0-9, '-' and '_' (checked where settings are read)."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._root = f"{PREFIX}:{namespace}"
        self.meta = f"{self._root}:meta"
        self.definitions = f"{self._root}:defs"
        self.agents = f"{self._root}:agents"
        self.notices = f"{PREFIX}:{{{namespace}}}:notices"
        self.notices_owner = f"{self.notices}:owner"
        self.notices_standing = f"{self.notices}:standing"

    def definition(self, content_hash: str) -> str:
        """The body of a definition."""
        return f"{self._root}:def:{content_hash}"

    def workers(self, agent: str) -> str:
        """Sorted set: worker name to its last beat."""
        return f"{self._root}:workers:{agent}"

    def worker(self, agent: str, name: str) -> str:
        """What a worker said with its last beat; expires."""
        return f"{self._root}:worker:{agent}:{name}"

    def notices_due(self, target: str) -> str:
        """Sorted set: notices for a target by the time at which they may be sent. (All keys of notices share a slot.)"""
        return f"{self.notices}:due:{target}"

    def notices_out(self, target: str) -> str:
        """The notices that wait for a target, by id."""
        return f"{self.notices}:out:{target}"

    def partition(self, number: int) -> PartitionKeys:
        """The keys of one partition."""
        return PartitionKeys(f"{PREFIX}:{{{self.namespace}:{number}}}")


class PartitionKeys:
    """The keys of one partition."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.log = f"{root}:log"
        self.head = f"{root}:head"
        self.reports = f"{root}:reports"
        self.timers = f"{root}:timers"
        self.expect = f"{root}:expect"
        self.owner = f"{root}:owner"
        self.pulse = f"{root}:pulse"
        self.cancels = f"{root}:cancels"
        self.parked = f"{root}:parked"

    def workflow(self, workflow_id: str) -> str:
        """The snapshot of a run."""
        return f"{self._root}:wf:{workflow_id}"

    def tasks(self, agent: str, *, urgent: bool = False) -> str:
        """An agent's open tasks; the urgent ones have a stream that is read first."""
        return f"{self._root}:tasks:{agent}:high" if urgent else f"{self._root}:tasks:{agent}"
