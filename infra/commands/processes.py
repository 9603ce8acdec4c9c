"""`gateway`, `orchestrator`, `projector`, `watchdog`, `worker`: one process of a kind. Many of each may run."""

from __future__ import annotations

import click

from tailrace.infra.commands.options import PORT, json_option
from tailrace.infra.config import load_settings


@click.command("gateway")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, type=PORT, show_default=True, help="Port to listen on; 0 takes a free one.")
@json_option
def gateway_command(host: str, port: int, as_json: bool) -> None:
    """Serve the HTTP API.

    \b
    Example:
      TAILRACE_REDIS_URL=redis://localhost TAILRACE_POSTGRES_URL=postgresql://localhost/tailrace tailrace gateway
    """
    from tailrace.gateway.settings import GatewaySettings  # noqa: PLC0415  # only this process needs it
    from tailrace.infra.processes.gateway import run_gateway  # noqa: PLC0415

    settings = load_settings()
    settings.require_token(host)
    run_gateway(settings, GatewaySettings(host=host, port=port, token=settings.token), as_json=as_json)


@click.command("orchestrator")
@json_option
def orchestrator_command(as_json: bool) -> None:
    """Decide: apply reports and timers of the partitions it owns.

    \b
    Example:
      TAILRACE_REDIS_URL=redis://localhost tailrace orchestrator
    """
    from tailrace.infra.processes.orchestrator import run_orchestrator  # noqa: PLC0415

    run_orchestrator(load_settings(), as_json=as_json)


@click.command("projector")
@json_option
def projector_command(as_json: bool) -> None:
    """Read the log into Postgres, and let Redis forget what is archived.

    \b
    Example:
      TAILRACE_REDIS_URL=… TAILRACE_POSTGRES_URL=… tailrace projector
    """
    from tailrace.infra.processes.projector import run_projector  # noqa: PLC0415

    run_projector(load_settings(), as_json=as_json)


@click.command("watchdog")
@json_option
def watchdog_command(as_json: bool) -> None:
    """Flag runs that stand still, and name the cause; tell people outside, where webhooks or a command are set.

    \b
    Example:
      TAILRACE_REDIS_URL=redis://localhost tailrace watchdog
    """
    from tailrace.infra.processes.watchdog import run_watchdog  # noqa: PLC0415

    run_watchdog(load_settings(), as_json=as_json)


@click.command("worker")
@click.argument("agent", nargs=-1)
@click.option("--app", metavar="MODULE:NAME", help="Load agents of your own.")
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 1024), help="Tasks at once.")
@click.option("--drain-seconds", default=10.0, show_default=True, help="How long tasks may go on after a stop.")
@json_option
def worker_command(
    agent: tuple[str, ...], app: str | None, concurrency: int, drain_seconds: float, as_json: bool
) -> None:
    """Run agents: take their tasks, work, report.

    \b
    Example:
      tailrace worker scaffold validation --concurrency 2
      tailrace worker --app mycompany.agents:agent
    """
    from tailrace.infra.processes.worker import run_worker  # noqa: PLC0415

    run_worker(load_settings(), agent, app=app, concurrency=concurrency, drain_seconds=drain_seconds, as_json=as_json)
