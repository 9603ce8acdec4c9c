"""`tailrace projections`: how far the read models are, whether they are right, and building them anew."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from tailrace.core.errors import TailraceError
from tailrace.core.redis_backend.connection import RedisSettings
from tailrace.core.redis_backend.store import RedisStore
from tailrace.infra.build import build_id
from tailrace.infra.commands.options import NAME, data_dir_option, json_option, print_json, table_console
from tailrace.infra.commands.progress import shown_progress
from tailrace.infra.config import Settings, load_settings
from tailrace.infra.processes.running import CALM_IN_BULK, calm_collector, open_store, run_loop
from tailrace.projections.lag import Lag, measure_lag
from tailrace.projections.queries import Queries
from tailrace.projections.rebuild import Rebuilt, Traces, find_traces, rebuild, roll_back
from tailrace.projections.rebuild import discard as discard_traces
from tailrace.projections.redrive import redrive
from tailrace.projections.repair import repair
from tailrace.projections.rows import CheckpointRow
from tailrace.projections.verify import Verdict, verify

_STORE_SECONDS: Final = 5.0
#: From how many seconds on a lag is shown as one that a person should look at.
_LATE_SECONDS: Final = 5.0


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A projection in a partition. The last three of the log are null when the store could not be asked."""

    projection: str
    partition: int
    position: str
    seq: int
    head: int | None
    lag_events: int | None
    lag_seconds: float | None
    owner: str | None
    problem: str | None
    parked_runs: int
    updated_at: str


@click.group("projections")
def projections_command() -> None:
    """Look after the read models in Postgres: all of them can be built again from the archive.

    \b
    Example:
      tailrace projections status
    """


@projections_command.command("status")
@data_dir_option
@json_option
def status(data_dir: Path | None, as_json: bool) -> int:
    """How far each projection is in each partition, and why one stands still; exit 1 where one does.

    \b
    Example:
      tailrace projections status
    """
    settings = load_settings(data_dir=data_dir)
    standings, problem = run_loop(_standings(settings))
    traces: Traces = run_loop(find_traces(settings.require_postgres()))
    if as_json:
        document = {"projections": standings, "store": problem or "ok", "rebuild": traces}
        print_json(msgspec.to_builtins(document))
    else:
        _print_standings(standings)
        _print_traces(traces)
        if problem:
            click.secho(f"the lag is not known: {problem}", fg="yellow")
    return 1 if any(standing.problem for standing in standings) else 0


@projections_command.command("rebuild")
@click.argument("name", metavar="[NAME]", required=False, type=NAME)
@click.option("--all", "every", is_flag=True, help="Every projection; so it is without a name.")
@click.option(
    "--rollback", is_flag=True, help="Put back what the last rebuild has replaced; projectors bring it up to date."
)
@click.option(
    "--discard", is_flag=True, help="Drop what rebuilds have replaced or not finished, to free its disk space."
)
@data_dir_option
@json_option
def rebuild_projections(
    name: str | None, every: bool, rollback: bool, discard: bool, data_dir: Path | None, as_json: bool
) -> None:
    """Build a projection anew from the archive, beside the one that is read, and put it in its place.

    Readers and projectors go on meanwhile. One that was interrupted goes on when it is called again. What is replaced is
    kept until the next rebuild.

    \b
    Example:
      tailrace projections rebuild workflows
      tailrace projections rebuild workflows --rollback
    """
    if name and every:
        raise click.UsageError("name a projection, or say --all")
    if discard and (name or rollback):
        raise click.UsageError("--discard drops all that is left, and does nothing else")
    url = load_settings(data_dir=data_dir).require_postgres()
    if discard:
        _discard(url, as_json)
    elif rollback:
        _roll_back(url, name, as_json)
    else:
        _rebuild(url, name, as_json)


def _rebuild(url: str, name: str | None, as_json: bool) -> None:
    calm_collector(after=CALM_IN_BULK)
    with shown_progress("rebuild", quiet=as_json) as on_progress:
        rebuilt: Rebuilt = run_loop(rebuild(url, name, build=build_id(), on_progress=on_progress))
    if as_json:
        print_json(msgspec.to_builtins(rebuilt))
        return
    if rebuilt.resumed:
        click.echo("went on with a rebuild that was interrupted")
    for projection, rows in rebuilt.rows.items():
        differed = rebuilt.differed[projection]
        click.echo(f"{projection:<12} {rows:,} rows, {f'{differed:,} differed before' if differed else 'as before'}")


def _roll_back(url: str, name: str | None, as_json: bool) -> None:
    places: dict[str, dict[int, int]] = run_loop(roll_back(url, name))
    if as_json:
        print_json({"rolled_back": [{"projection": item, "seq": found} for item, found in places.items()]})
        return
    for projection, found in places.items():
        where = ", ".join(f"{seq:,} in partition {partition}" for partition, seq in sorted(found.items()))
        click.echo(f"{projection:<12} is back, and goes on from {where}")


def _discard(url: str, as_json: bool) -> None:
    traces: Traces = run_loop(discard_traces(url))
    if as_json:
        print_json({"discarded": msgspec.to_builtins(traces)})
        return
    if traces.kept:
        click.echo(f"dropped what was replaced: {', '.join(traces.kept)}")
    if traces.names:
        click.echo(f"dropped what was not finished: {', '.join(traces.names)}")
    if not traces.kept and not traces.names:
        click.echo("nothing was left by a rebuild")


@projections_command.command("verify")
@click.argument("name", metavar="[NAME]", required=False, type=NAME)
@data_dir_option
@json_option
def verify_projections(name: str | None, data_dir: Path | None, as_json: bool) -> int:
    """Fold the archive anew and compare every row; exit 1 when one differs.

    \b
    Example:
      tailrace projections verify
    """
    url = load_settings(data_dir=data_dir).require_postgres()
    calm_collector(after=CALM_IN_BULK)
    with shown_progress("verify", quiet=as_json) as on_progress:
        verdicts: list[Verdict] = run_loop(verify(url, name, on_progress=on_progress))
    if as_json:
        print_json({"verdicts": msgspec.to_builtins(verdicts)})
    else:
        _print_verdicts(verdicts)
    return 1 if any(verdict.differ for verdict in verdicts) else 0


@projections_command.command("repair")
@click.option("--partition", type=click.IntRange(0), help="Only this partition.")
@data_dir_option
@json_option
def repair_projections(partition: int | None, data_dir: Path | None, as_json: bool) -> None:
    """Bring partitions that are `log-diverged` back in line with the log; what the log lost is set aside.

    \b
    Example:
      tailrace projections repair
    """
    repaired = run_loop(_repair(load_settings(data_dir=data_dir), partition))
    if as_json:
        print_json({"repaired": msgspec.to_builtins(repaired)})
        return
    if not repaired:
        click.echo("nothing to repair: every log continues where it was read")
    for item in repaired:
        click.echo(
            f"partition {item.partition}: read up to {item.seq}, {item.abandoned} events set aside,"
            f" {item.missing} missing, {len(item.runs)} runs folded again"
        )


@projections_command.command("redrive")
@click.argument("workflow_id", metavar="[ID]", required=False, type=NAME)
@data_dir_option
@json_option
def redrive_runs(workflow_id: str | None, data_dir: Path | None, as_json: bool) -> int:
    """Try parked runs again, with the code of this command; exit 1 when one stays parked.

    \b
    Example:
      tailrace projections redrive
    """
    redriven = run_loop(redrive(load_settings(data_dir=data_dir).require_postgres(), workflow_id))
    if as_json:
        print_json({"redriven": msgspec.to_builtins(redriven)})
    elif not redriven:
        click.echo("nothing is parked" if workflow_id is None else f"{workflow_id} is not parked")
    else:
        for item in redriven:
            for run in item.runs:
                click.secho(f"{run} is projected again", fg="green")
            for run in item.parked:
                click.secho(f"{run} stays parked", fg="red")
    return 1 if any(item.parked for item in redriven) else 0


async def _standings(settings: Settings) -> tuple[list[Standing], str]:
    """Where all projections are, and why the log could not be asked."""
    async with Queries(settings.require_postgres()) as queries:
        rows, parked = await queries.checkpoints(), await queries.parked_runs()
    lags: Sequence[Lag | None] = [None] * len(rows)
    problem = ""
    try:
        lags = await _lags(settings, rows)
    except TimeoutError:
        problem = f"the store did not answer within {_STORE_SECONDS:.0f} s"
    except TailraceError as error:
        problem = f"{error.code}: {error}"
    return [_standing(row, lag, parked.get(row.partition, 0)) for row, lag in zip(rows, lags, strict=True)], problem


async def _lags(settings: Settings, rows: Sequence[CheckpointRow]) -> list[Lag]:
    async with asyncio.timeout(_STORE_SECONDS):
        redis = RedisSettings(url=settings.require_redis())
        store = await RedisStore.open(redis, namespace=settings.namespace, create=False)
        try:
            return await measure_lag(store, rows)
        finally:
            await store.aclose()


def _standing(row: CheckpointRow, lag: Lag | None, parked: int) -> Standing:
    return Standing(
        projection=row.projection,
        partition=row.partition,
        position=row.position,
        seq=row.seq,
        head=None if lag is None else lag.head,
        lag_events=None if lag is None else lag.events,
        lag_seconds=None if lag is None else round(lag.seconds, 3),
        owner=row.owner,
        problem=row.problem,
        parked_runs=parked,
        updated_at=row.updated_at,
    )


def _print_standings(standings: Sequence[Standing]) -> None:
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Column, Table  # noqa: PLC0415

    if not standings:
        click.echo("no projector has run yet")
        return
    table = Table(
        "projection",
        "partition",
        "position",
        Column("seq", justify="right"),
        Column("lag", justify="right"),
        Column("parked runs", justify="right"),
        "owner",
        "problem",
    )
    for item in standings:
        table.add_row(
            item.projection,
            str(item.partition),
            item.position,
            f"{item.seq:,}",
            _shown_lag(item),
            f"[yellow]{item.parked_runs}[/yellow]" if item.parked_runs else "0",
            escape(item.owner) if item.owner else "[red]nobody[/red]",
            f"[red]{escape(item.problem)}[/red]" if item.problem else "",
        )
    table_console().print(table)


def _print_traces(traces: Traces) -> None:
    if traces.state != "none":
        share = 100 * traces.done // traces.total if traces.total else 100
        what = f"a rebuild of {', '.join(traces.names)} is {traces.state}, {share} % of the archive is folded"
        click.secho(what, fg="cyan" if traces.state == "running" else "yellow")
    if traces.kept:
        click.echo(f"can be put back with `rebuild --rollback`: {', '.join(traces.kept)}")


def _shown_lag(item: Standing) -> str:
    if item.lag_events is None or item.lag_seconds is None:
        return "?"
    if not item.lag_events:
        return "[green]0[/green]"
    style = "red" if item.lag_seconds > _LATE_SECONDS else "yellow"
    return f"[{style}]{item.lag_events:,} ({item.lag_seconds:.1f} s)[/{style}]"


def _print_verdicts(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        wrong = f"{verdict.differ:,} of them differ" if verdict.differ else "all as the archive says"
        click.secho(f"{verdict.projection:<12} {verdict.rows:,} rows, {wrong}", fg="red" if verdict.differ else "green")
        for item in verdict.differences:
            click.echo(f"  {item.kind:<11} {item.workflow_id} {item.key}".rstrip())
        if verdict.differ > len(verdict.differences):
            click.echo(f"  and {verdict.differ - len(verdict.differences):,} more")


async def _repair(settings: Settings, partition: int | None) -> Any:
    url = settings.require_postgres()
    async with open_store(settings, create=False) as store:
        if partition is not None and partition >= store.partitions:
            raise click.UsageError(f"there are partitions 0 to {store.partitions - 1}")
        return await repair(url, store, partition)
