"""`tailrace replay`: reading the stream of one run, straight from Redis; what was trimmed there comes from the archive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from tailrace.core.clock import to_rfc3339
from tailrace.core.errors import NotFound, Undecodable
from tailrace.core.partitioning import partition_of
from tailrace.core.redis_backend.store import RedisStore
from tailrace.core.store.port import RawEntry
from tailrace.core.workflow.history import Record, apply
from tailrace.core.workflow.state import WorkflowState
from tailrace.infra.commands.options import NAME, clock_time, data_dir_option, json_option
from tailrace.infra.config import Settings, load_settings
from tailrace.infra.processes.running import open_store, run_loop
from tailrace.projections.fold import to_record

_PAGE = 1000


@click.group("replay")
def replay_command() -> None:
    """Read the stream, for debugging.

    \b
    Example:
      tailrace replay show 0199a0e2-…
    """


@replay_command.command("show")
@click.argument("workflow_id", metavar="ID", type=NAME)
@click.option("--at", type=int, metavar="VERSION", help="Stop behind this version, and show the state there.")
@data_dir_option
@json_option
def show(workflow_id: str, at: int | None, data_dir: Any, as_json: bool) -> None:
    """Every entry of a run as it is in the log (and, where that was trimmed, in the archive), with the command behind it, and
    the state it folds to.

    \b
    Example:
      tailrace replay show 0199a0e2-… --at 7
    """
    run_loop(_show(load_settings(data_dir=data_dir), workflow_id, at, as_json))


async def _show(settings: Settings, workflow_id: str, at: int | None, as_json: bool) -> None:
    async with open_store(settings, create=False) as store:
        entries = await read_history(store, workflow_id)
        if settings.postgres_url and not (entries and entries[0].version == 1):
            entries = [*await _archived(settings.postgres_url, store, workflow_id, entries), *entries]
        head = await store.head(partition_of(workflow_id, store.partitions))
    if not entries:
        raise NotFound("workflow in the log", workflow_id)
    state: WorkflowState | None = None
    for entry in entries:
        if at is not None and entry.version > at:
            break
        try:
            record = to_record(entry)
            state = apply(state, record)
        except Undecodable as error:
            click.secho(f"{entry.entry_id} {entry.type} can't be read: {error}", fg="red")
            continue
        click.echo(_line(entry, record, as_json))
    if not as_json and state is not None:
        stages = ", ".join(f"{name} {stage.status}" for name, stage in state.stages.items())
        click.secho(f"folds to version {state.version}: {state.status}, {state.progress_percentage} %", bold=True)
        click.echo(f"  {stages}")
        click.echo(f"  partition {entries[0].partition}, epoch {head.epoch}, head of the log at seq {head.seq}")


async def read_history(store: RedisStore, workflow_id: str) -> list[RawEntry]:
    """All entries of a run that the log holds, oldest first."""
    partition = partition_of(workflow_id, store.partitions)
    snapshot = await store.load(workflow_id)
    # Entry ids are times of the same clock: nothing of a run is older than the run.
    position = "0-0" if snapshot is None else f"{max(0, snapshot.state.created_at // 1000 - 1)}-0"
    last = None if snapshot is None else snapshot.state.version
    found: list[RawEntry] = []
    while page := await store.read_log(partition, position, count=_PAGE):
        position = page[-1].entry_id
        found += [entry for entry in page if entry.workflow_id == workflow_id]
        if last is not None and found and found[-1].version >= last:
            break
    return found


async def _archived(url: str, store: RedisStore, workflow_id: str, entries: Sequence[RawEntry]) -> list[RawEntry]:
    """What the archive has of a run before these entries, oldest first; raises `ReadModelUnavailable`."""
    from tailrace.projections.queries import Queries  # noqa: PLC0415  # asyncpg is slow to import

    found: list[RawEntry] = []
    async with Queries(url, instance_id=store.instance_id) as queries:
        while page := await queries.events(workflow_id, after_version=found[-1].version if found else 0):
            found += page
    return [entry for entry in found if not entries or entry.version < entries[0].version]


def _line(entry: RawEntry, record: Record, as_json: bool) -> str:
    command = record.command
    facts = msgspec.to_builtins(record.event)
    if as_json:
        document = {
            "entry_id": entry.entry_id,
            "seq": entry.seq,
            "version": entry.version,
            "type": entry.type,
            "at": to_rfc3339(record.at),
            "traceparent": entry.traceparent,
            "event": facts,
            "command": command and {"id": command.id, "type": command.type, "actor": command.actor, "now": command.now},
        }
        return json.dumps(document, ensure_ascii=False)
    origin = f"  ← {command.type} by {command.actor}" if command else ""
    text = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in facts.items())
    when = clock_time(to_rfc3339(record.at))
    return f"{entry.entry_id:>17} {entry.seq:>6} v{entry.version:<3} {when} {entry.type}{origin}\n{'':>25}{text[:220]}"
