"""The command line as a whole: what every command has, and what it says about values that can't be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest

from tailrace.infra.cli import cli, main


def commands(group: click.Group, name: str = "tailrace") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups included."""
    context = click.Context(group, info_name=name)
    for inner in group.list_commands(context):
        command = group.get_command(context, inner)
        assert command is not None
        yield f"{name} {inner}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {inner}")


ALL = dict(commands(cli))


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_json_and_an_example(name: str) -> None:
    """Its help shows how it is typed; what can be run has `--json`."""
    command = ALL[name]
    text = command.get_help(click.Context(command, info_name=name))
    assert name in text.partition("Example:\n")[2].partition("\n\n")[0]
    if not isinstance(command, click.Group):
        assert "--json" in text


class Said:
    """How a command ended, and what it printed."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    """Run one command to its end."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return Said(ended.value.code, out, err)


@pytest.mark.parametrize("command", ["up", "gateway"])
@pytest.mark.parametrize("port", ["99999999", "65536", "-1"])
def test_port_that_cannot_be_is_wrong_usage(capsys: pytest.CaptureFixture[str], command: str, port: str) -> None:
    """Exit code 2 and the range, as JSON where that was wanted."""
    said = run(capsys, command, "--port", port)
    assert said.code == 2
    assert "0<=x<=65535" in said.err
    said = run(capsys, command, "--port", port, "--json")
    assert said.code == 2
    assert json.loads(said.err)["code"] == "usage"


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """A server that keeps the paths it is asked for, and knows nothing."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Quietly."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", paths
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("show", "../stalls"), "/workflows/..%2Fstalls"),
        (("cancel", "?x="), "/workflows/%3Fx%3D/cancel"),
        (("retry", "a#b"), "/workflows/a%23b/retry"),
        (("events", "a b"), "/workflows/a%20b/events"),
        (("events", "a/b", "--follow"), "/workflows/a%2Fb/events"),
        (("watch", "é"), "/workflows/%C3%A9"),
        (("why", "%2e%2e"), "/workflows/%252e%252e/why"),
        (("show", "\udcff"), "/workflows/%FF"),
        (("definitions", "show", "../agents"), "/definitions/..%2Fagents"),
    ],
)
def test_id_is_one_segment_of_the_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], path: str
) -> None:
    """Whatever it holds: no other route is asked."""
    with listening() as (url, paths):
        monkeypatch.setenv("TAILRACE_URL", url)
        assert run(capsys, *arguments).code == 1
    assert paths == [f"/api/v1{path}"]


@pytest.mark.parametrize("wrong", ["", ".", ".."])
@pytest.mark.parametrize(
    "command",
    ["show", "events", "watch", "cancel", "pause", "resume", "retry", "why", "replay show", "definitions show"],
)
def test_no_id_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, wrong: str
) -> None:
    """Nothing, and what a path reads as a direction, names nothing; nobody is asked."""
    monkeypatch.chdir(tmp_path)
    with listening() as (url, paths):
        monkeypatch.setenv("TAILRACE_URL", url)
        said = run(capsys, *command.split(), wrong)
    assert (said.code, paths) == (2, [])
    assert "Traceback" not in said.err


def test_valid_definition_is_told_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`definitions validate --json` gives the name, the hash and how many stages there are."""
    file = tmp_path / "release.toml"
    file.write_text('name = "release"\n[[stages]]\nname = "build"\nagent = "builder"\n')
    said = run(capsys, "definitions", "validate", str(file), "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert (document["valid"], document["name"], document["stages"]) == (True, "release", 1)
    assert len(document["hash"]) == 64
