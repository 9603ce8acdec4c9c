"""`tailrace demo`: everything on free ports, one run of `app` before your eyes, and the deployed app at its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from tailrace.infra.client import Gateway
from tailrace.infra.commands.options import clock_time, data_dir_option, json_option, print_json
from tailrace.infra.config import load_settings
from tailrace.infra.logs import configure_logs
from tailrace.infra.supervise import Up, UpOptions

NAME: Final = "calculator-app"
REQUIREMENTS: Final = "A calculator that can add, subtract, multiply and divide two numbers in the browser."
LOOK_SECONDS: Final = 20.0


@click.command("demo")
@data_dir_option
@click.option("--keep", is_flag=True, help="Keep everything running until Ctrl-C.")
@json_option
def demo_command(data_dir: Path | None, keep: bool, as_json: bool) -> int:
    """Watch a calculator app being planned, written, checked, tried out, merged, deployed and watched.

    \b
    Example:
      tailrace demo --keep
    """
    settings = load_settings(data_dir=data_dir or Path(".tailrace") / "demo", follow_up=False)
    configure_logs("WARNING")

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        if not as_json:
            click.echo("starting Redis, Postgres, gateway, orchestrator, projector, watchdog and five agents …")
        begun = time.monotonic()
        async with Up(settings, UpOptions(port=0)) as up:
            if not as_json:
                click.secho(f"ready at {up.url} after {time.monotonic() - begun:.1f} s", fg="green")
            client = Gateway(up.url, settings.token)
            code = await asyncio.to_thread(_run, client, as_json)
            if keep or (sys.stdin.isatty() and sys.stdout.isatty() and not as_json):
                await _let_look(keep)
            return code

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        return 130


def _run(client: Gateway, as_json: bool) -> int:
    from tailrace.infra.commands.watch import follow  # noqa: PLC0415  # rich is slow to import

    workflow = client.post("/workflows", {"type": "app", "name": NAME, "requirements": REQUIREMENTS})
    workflow = follow(client, workflow["workflow_id"], quiet=as_json)
    app = _visit(workflow)
    if as_json:
        print_json({"workflow": workflow, "app": app})
    else:
        _timeline(client, workflow)
        _result(workflow, app)
    return 0 if workflow["status"] == "completed" and app is not None else 1


def _visit(workflow: dict[str, Any]) -> dict[str, Any] | None:
    """Ask the deployed app for its page and its health, as a person would."""
    url = (workflow["stage_outputs"].get("deployment") or {}).get("url")
    if not url:
        return None
    with urllib.request.urlopen(url, timeout=5) as page:  # noqa: S310  # our own app, on loopback
        status, size = page.status, len(page.read())
    with urllib.request.urlopen(url.rstrip("/") + "/health", timeout=5) as answer:  # noqa: S310
        health = json.loads(answer.read())
    return {"url": url, "page_status": status, "page_bytes": size, "health": health}


def _timeline(client: Gateway, workflow: dict[str, Any]) -> None:
    click.secho("\ntimeline", bold=True)
    cursor: str | None = None
    while True:
        page = client.get(f"/workflows/{workflow['workflow_id']}/events", after=cursor)
        for event in page["items"]:
            kind = event["type"].rpartition(".")[2]
            data = event["data"]
            about = " ".join(str(data[key]) for key in ("stage", "worker") if data.get(key))
            click.echo(f"  {clock_time(event['time'])}  {kind:<18} {about}")
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _result(workflow: dict[str, Any], app: dict[str, Any] | None) -> None:
    completed = workflow["status"] == "completed"
    click.secho(f"\n{NAME}: {workflow['status']}", fg="green" if completed else "red", bold=True)
    if workflow["error"]:
        click.echo(f"  {workflow['error']['reason']}: {workflow['error']['message']}")
    if app is not None:
        click.echo(f"  the app   {app['url']} ({app['page_bytes']} bytes, health {app['health'].get('status')})")
    click.echo(f"  the trace {workflow['trace_id']}, {_trace_target()}")


def _trace_target() -> str:
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return f"sent to {endpoint}" if endpoint else "not sent: set OTEL_EXPORTER_OTLP_ENDPOINT to see it in Jaeger"


async def _let_look(keep: bool) -> None:
    """Leave time to open the page."""
    if keep:
        click.echo("Ctrl-C stops everything.")
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return
    click.echo(f"Open it now; Enter stops everything, as do {LOOK_SECONDS:.0f} s of waiting.")
    pressed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, pressed.set)
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            await pressed.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(sys.stdin)
