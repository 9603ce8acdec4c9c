"""A side whose steps run inside its client, in several processes: one Python process has one core's worth of work in it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from tests.bench.peers.contract import Drive, Task, check

#: What a process does: it says that it is there, takes (runs, open runs), says when they are done, until it takes None.
Serve = Callable[[Connection, Task, int], None]

READY = "ready"
DONE = "done"


@contextmanager
def spread(serve: Serve, task: Task, processes: int) -> Iterator[Drive]:
    """Start `processes` of `serve`, numbered from 0, one after the other: the first one makes the tables.

    A drive is divided among them; of a single run one process is told.
    """
    context = multiprocessing.get_context("spawn")
    connections: list[Connection] = []
    children = []
    for number in range(processes):
        ours, theirs = context.Pipe()
        child = context.Process(target=serve, args=(theirs, task, number), daemon=True)
        child.start()
        theirs.close()  # so that a child that dies ends its connection
        _expect(ours, READY)
        connections.append(ours)
        children.append(child)

    def drive(runs: int, open_runs: int) -> None:
        used = connections[: min(processes, open_runs)]
        for connection, *share in zip(used, _shares(runs, used), _shares(open_runs, used), strict=True):
            connection.send(share)
        for connection in used:
            _expect(connection, DONE)

    yield drive
    for connection in connections:
        connection.send(None)
    for child in children:
        child.join(30)
        check(holds=child.exitcode == 0, otherwise=f"a process of it ended with {child.exitcode}")


def _expect(connection: Connection, word: str) -> None:
    try:
        said = connection.recv()
    except EOFError:
        said = "nothing, and ended"
    check(holds=said == word, otherwise=f"a process of it said {said}")


def _shares(whole: int, used: list[Connection]) -> list[int]:
    """`whole` in parts as equal as can be."""
    return [whole // len(used) + (number < whole % len(used)) for number in range(len(used))]
