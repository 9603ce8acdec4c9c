"""What the benches work out themselves: shares, percentiles, and what a stretch of the log says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import RawEntry
from tailrace.infra.embedded import EmbeddedRedis
from tests.bench.deployment import cpu_seconds
from tests.bench.growth import MATRIX_OPEN, MATRIX_PARTITIONS, Size, sizes
from tests.bench.limit import KEY, benchmark_program, own_rate, rate_said
from tests.bench.list_pages import is_flat
from tests.bench.logged import entry_bytes, summary
from tests.bench.percentile import percentile
from tests.bench.read_lag import lags_ms
from tests.bench.throughput import per_task_us


def _entry(workflow_id: str, at_ms: int, type: str) -> RawEntry:
    return RawEntry(
        partition=0,
        entry_id=f"{at_ms}-0",
        seq=1,
        workflow_id=workflow_id,
        version=1,
        type=type,
        traceparent="",
        data=b"12345",
    )


@pytest.mark.parametrize(("share", "value"), [(0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0), (0.001, 1.0)])
def test_a_percentile_is_a_value_that_was_measured(share: float, value: float) -> None:
    """The smallest that so large a share does not exceed, in whatever order they came."""
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value
    assert percentile([7.0], share) == 7.0


def test_runs_of_a_stretch_count_when_all_of_them_is_in_it() -> None:
    """One that began before, or has not ended, has no latency; its events count."""
    entries = [
        _entry("before", 5, "WorkflowCompleted"),
        _entry("whole", 10, "WorkflowCreated"),
        _entry("open", 11, "WorkflowCreated"),
        _entry("whole", 25, "WorkflowCompleted"),
    ]
    found = summary(entries)
    assert found.latencies_ms == [15.0]
    assert found.events == 4
    assert found.bytes == sum(map(entry_bytes, entries))


def test_the_bytes_of_an_event_are_its_names_and_values() -> None:
    """All fields of the entry, as they stand in the log."""
    names = "type workflow version seq traceparent data"
    assert entry_bytes(_entry("w", 1, "TaskStarted")) == len(names.replace(" ", "")) + len("TaskStartedw1112345")


def test_what_a_task_costs_is_by_process() -> None:
    """A process that was not there before, or is gone, has no figure."""
    assert per_task_us({"redis": 1.0, "gone": 1.0}, {"redis": 1.5, "new": 9.0}, tasks=1000) == {"redis": 500.0}


def test_the_limit_is_read_from_what_the_program_says() -> None:
    """Its CSV has a row for the command, whose name has the arguments in it."""
    said = '"test","rps","avg_latency_ms"\n"XADD bench:limit * type ""a,b""","131578.95","0.1"\n'
    assert rate_said(said) == 131578.95
    assert rate_said("Could not connect to server\n") is None


async def test_the_own_client_adds_what_it_counts(redis_store: RedisStore, redis_server: EmbeddedRedis) -> None:
    """As many entries as it was asked for."""
    rate = await own_rate(redis_server.url, ["XADD", KEY, "*", "data", "x" * 300], 2000)
    try:
        assert rate > 0
        assert await redis_store.client.command("XLEN", KEY) == 2000
    finally:
        await redis_store.client.command("DEL", KEY)


def test_the_program_beside_the_server_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the one on PATH, else none."""
    beside, on_path = tmp_path / "server" / "redis-benchmark", tmp_path / "path" / "redis-benchmark"
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert benchmark_program(beside.with_name("redis-server")) is None
    for program in (on_path, beside):
        program.parent.mkdir()
        program.touch(mode=0o755)
        assert benchmark_program(beside.with_name("redis-server")) == str(program)


def test_a_process_stands_for_its_children_without_those_named() -> None:
    """What a child has used counts where it belongs, also when it has ended."""
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print('done', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = cpu_seconds({"me": os.getpid()})["me"]
        found = cpu_seconds({"me": os.getpid(), "child": process.pid})
        process.communicate(b"\n")
    assert found["child"] >= 0.3
    assert found["me"] <= before - 0.2


def test_not_all_of_the_matrix_is_a_row_and_a_column() -> None:
    """Every number of waiting runs, and every number of partitions, once each; `full` is all of it."""
    some = sizes(full=False)
    assert len(some) == len(MATRIX_OPEN) + len(MATRIX_PARTITIONS) - 1
    assert Size(waiting=100_000, partitions=2) in some
    assert len(sizes(full=True)) == len(MATRIX_OPEN) * len(MATRIX_PARTITIONS)


def test_the_lag_of_an_event_ends_with_the_first_look_that_shows_it() -> None:
    """In order, each look at most once for each event; an event that no look shows has none."""
    entries = [(7, 100.0), (8, 101.0), (9, 150.0), (10, 160.0)]
    looks = [(105.0, 6), (110.0, 8), (155.0, 8), (170.0, 9), (180.0, 9)]
    assert list(lags_ms(entries, looks)) == [10.0, 9.0, 20.0]
    assert list(lags_ms(entries, [])) == []


def test_a_list_is_flat_when_nobody_would_notice_more_rows() -> None:
    """A few milliseconds are few, whatever the ratio; from there on it may double."""
    assert is_flat(9.9, 1.0)
    assert not is_flat(20.0, 9.0)
    assert is_flat(20.0, 10.0)
