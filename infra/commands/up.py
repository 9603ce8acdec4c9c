"""`tailrace up`: all of it on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import click

from tailrace.infra.commands.options import PORT, data_dir_option, json_option, print_json_line
from tailrace.infra.config import load_settings
from tailrace.infra.logs import configure_logs
from tailrace.infra.parent import die_with_parent
from tailrace.infra.supervise import BUILTIN_AGENTS, Up, UpOptions


@click.command("up")
@data_dir_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the gateway.")
@click.option("--port", default=8080, type=PORT, show_default=True, help="Port of the gateway; 0 takes a free one.")
@click.option("--ready-file", type=click.Path(dir_okay=False, path_type=Path), help="Written when all is ready.")
@click.option("--agents", default=",".join(BUILTIN_AGENTS), show_default=True, help="Which agents get a worker.")
@click.option("--app", metavar="MODULE:NAME", help="Agents of your own, in one more worker.")
@click.option(
    "--concurrency", default=4, show_default=True, type=click.IntRange(1, 1024), help="Tasks at once, per worker."
)
@json_option
def up_command(*, data_dir: Path | None, agents: str, as_json: bool, **chosen: Any) -> None:
    """Start everything on this machine, and keep it running until Ctrl-C.

    Redis and Postgres of its own, unless TAILRACE_REDIS_URL and TAILRACE_POSTGRES_URL name others; data is kept.

    \b
    Example:
      tailrace up
      tailrace up --port 0 --ready-file ready.json --data-dir /tmp/trial
    """
    die_with_parent()
    settings = load_settings(data_dir=data_dir, follow_up=False)
    configure_logs(settings.log_level, as_json=as_json)
    options = UpOptions(agents=tuple(name for name in agents.split(",") if name), **chosen)

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            # While it starts, a signal ends the start; later it ends the wait.
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            async with Up(settings, options) as up:
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.add_signal_handler(number, stop.set)
                if as_json:
                    print_json_line({"url": up.url, "data_dir": str(settings.data_dir), "pids": up.pids()})
                else:
                    _greet(up)
                await stop.wait()
                if not as_json:
                    click.echo("stopping …", err=True)

    asyncio.run(main())


def _greet(up: Up) -> None:
    click.secho(f"Tailrace is ready at {up.url}", fg="green", bold=True)
    click.echo(f"  data      {up.settings.data_dir.resolve()} (logs in logs/)")
    click.echo(f"  processes {', '.join(up.pids())}")
    click.echo('  try       tailrace submit app --name calculator-app --requirements "add, divide" --wait')
    click.echo("Ctrl-C stops everything.")
