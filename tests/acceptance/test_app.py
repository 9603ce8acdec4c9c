"""The whole way: from requirements to an app that runs, with the built-in agents, and Ctrl-C at the end."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from tailrace.infra.client import StreamEvent
from tests.acceptance.figures import measured
from tests.acceptance.installation import Installation
from tests.acceptance.proc import all_gone, descendants, gone, traces_of
from tests.acceptance.waiting import until

STAGES = ["initialization", "scaffolding", "validation", "e2e_testing", "integration", "deployment", "monitoring"]
REQUIREMENTS = "A calculator that can add, subtract, multiply and divide. Division by zero is refused."
APP_SECONDS = 240.0

#: The same agents in a shorter pipeline: what is planned is deployed as it is.
SKETCH = """
name = "sketch"
[[stages]]
name = "initialization"
agent = "scaffold"
[[stages]]
name = "scaffolding"
agent = "scaffold"
needs = ["initialization"]
[[stages]]
name = "deployment"
agent = "deployment"
needs = ["scaffolding"]
"""

Answer = tuple[int, bytes]


class Followed:
    """A run of `app` with somebody who listens to its events from the start."""

    def __init__(self, installation: Installation) -> None:
        self.id = installation.submit("app", name="calculator-app", requirements=REQUIREMENTS)
        self._pool = ThreadPoolExecutor(1)
        self._events: Future[list[StreamEvent]] = self._pool.submit(
            lambda: list(installation.gateway.stream(f"/workflows/{self.id}/events"))
        )

    def events(self) -> list[StreamEvent]:
        """Everything the stream gave until it ended."""
        return self._events.result(APP_SECONDS)


@pytest.fixture(scope="module")
def followed(installation: Installation) -> Followed:
    """One run for all tests here; they look at it from every side."""
    return Followed(installation)


def fetch(url: str, body: dict[str, Any] | None = None) -> Answer:
    """Status and body of what an app answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def operations(app_url: str) -> set[str]:
    """What a deployed calculator says it can do."""
    status, body = fetch(f"{app_url}/api/operations")
    assert status == 200
    return {known["name"] for known in json.loads(body)["operations"]}


def test_empty_requirements_fail_with_a_reason(installation: Installation, followed: Followed) -> None:
    """What can't become better is not tried again: the run fails at once, and says why."""
    run = installation.submit("app", requirements=" ")
    failed = installation.wait(run)
    assert (failed["status"], failed["error"]["reason"]) == ("failed", "requirements-empty")
    assert failed["error"]["retryable"] is False
    events = installation.events(run)
    assert [event["type"] for event in events].count("TaskFailed") == 1
    assert {event["attempt"] for event in events if event["type"] == "TaskDispatched"} == {1}
    statuses = {
        stage["stage"]: stage["status"] for stage in installation.gateway.get(f"/workflows/{run}/stages")["items"]
    }
    assert statuses == dict.fromkeys(STAGES, "skipped") | {"initialization": "failed"}
    why = installation.ok("why", run).out
    assert "requirements" in why


def test_runs_at_once_keep_apart(installation: Installation, followed: Followed) -> None:
    """Three runs through the same workers, beside a fourth: each app can do what its own requirements name, and no more."""
    installation.apply(SKETCH)
    wanted = {
        "It can add numbers, nothing else.": {"add"},
        "It can multiply and divide.": {"multiply", "divide"},
        "It can subtract.": {"subtract"},
    }
    runs = {
        installation.submit("sketch", name=f"calculator-{number}", requirements=text): text
        for number, text in enumerate(wanted)
    }
    ended = {run: installation.wait(run, seconds=APP_SECONDS) for run in runs}
    for run, text in runs.items():
        assert ended[run]["status"] == "completed", ended[run]
        outputs = ended[run]["stage_outputs"]
        assert set(outputs["initialization"]["operations"]) == wanted[text]
        assert outputs["initialization"]["distribution"] == ended[run]["name"]
        assert operations(outputs["deployment"]["url"]) == wanted[text]
        assert run in outputs["deployment"]["install_dir"]
    for field in ("url", "pid", "wheel_sha256"):
        assert len({ended[run]["stage_outputs"]["deployment"][field] for run in runs}) == len(runs), field


def test_app_is_built_and_runs(installation: Installation, followed: Followed) -> None:
    """Seven stages, one after the other; what comes out of them is an app that answers."""
    run = installation.wait(followed.id, seconds=APP_SECONDS)
    assert (run["status"], run["error"]) == ("completed", None)
    assert run["progress_percentage"] == 100
    assert list(run["stage_outputs"]) == STAGES
    took = datetime.fromisoformat(run["completed_at"]) - datetime.fromisoformat(run["created_at"])
    measured(f"`calculator-app` took {took.total_seconds():.1f} s, beside four other runs")
    deployed = run["stage_outputs"]["deployment"]
    status, page = fetch(deployed["url"] + "/")
    assert status == 200
    assert b"<html" in page
    assert b"Calculator" in page
    status, health = fetch(deployed["health_url"])
    assert (status, json.loads(health)["status"]) == (200, "ok")
    assert operations(deployed["url"]) == {"add", "subtract", "multiply", "divide"}
    calculate = deployed["url"] + "/api/calculate"
    status, answer = fetch(calculate, {"operation": "divide", "operands": [84, 2]})
    assert (status, json.loads(answer)["result"]) == (200, 42)
    status, answer = fetch(calculate, {"operation": "divide", "operands": [1, 0]})
    assert 400 <= status < 500
    assert b"zero" in answer


def test_read_model_has_the_same_outputs(installation: Installation, followed: Followed) -> None:
    """The rows of `tailrace.stages`, and that of `tailrace.workflows`, are what the API says."""
    run = installation.wait(followed.id, seconds=APP_SECONDS)

    def rows() -> list[dict[str, Any]] | None:
        found = installation.rows(
            "SELECT stage, status, output FROM tailrace.stages WHERE workflow_id = $1 ORDER BY ordinal", followed.id
        )
        return found if [row["status"] for row in found] == ["completed"] * len(STAGES) else None

    assert {row["stage"]: row["output"] for row in until(rows, "seven completed rows")} == run["stage_outputs"]
    (row,) = installation.rows(
        "SELECT status, progress_percentage, stage_outputs FROM tailrace.workflows WHERE workflow_id = $1", followed.id
    )
    assert (row["status"], row["progress_percentage"]) == ("completed", 100)
    assert row["stage_outputs"] == run["stage_outputs"]


def test_stream_has_every_event_once(installation: Installation, followed: Followed) -> None:
    """From the start and from the middle: every version once, in order, up to the end of the run."""
    events = followed.events()
    version = installation.run(followed.id)["version"]
    assert [event.data["data"]["version"] for event in events] == list(range(1, version + 1))
    assert events[0].event == "WorkflowCreated"
    assert events[-1].event == "WorkflowCompleted"
    assert all(event.data["subject"] == followed.id for event in events)
    assert len({event.cursor for event in events}) == len(events)
    middle = len(events) // 2
    resumed = list(installation.gateway.stream(f"/workflows/{followed.id}/events", events[middle - 1].cursor))
    assert resumed == events[middle:]
    assert not list(installation.gateway.stream(f"/workflows/{followed.id}/events", events[-1].cursor))


def test_commands_show_it(installation: Installation, followed: Followed) -> None:
    """Each of them works for people and for programs."""
    run = installation.wait(followed.id, seconds=APP_SECONDS)
    wanted: dict[tuple[str, ...], str] = {
        ("show", followed.id): "calculator-app",
        ("why", followed.id): "completed",
        ("events", followed.id): "StageCompleted",
        ("replay", "show", followed.id): "WorkflowCompleted",
        ("list",): "calculator-app",
        ("agents",): "validation",
        ("stalls",): "",
        ("doctor",): "durability",
    }
    with ThreadPoolExecutor(2) as pool:
        plain = {words: pool.submit(installation.ok, *words) for words in wanted}
        for_programs = {words: pool.submit(installation.ok, *words, "--json") for words in wanted}
    for words, expected in wanted.items():
        assert expected in plain[words].result().out, words
    documents = {words[0]: for_programs[words].result() for words in wanted}
    assert documents["show"].json["stage_outputs"] == run["stage_outputs"]
    assert documents["why"].json["healthy"] is True
    for name in ("events", "replay"):
        assert [json.loads(line)["type"].rpartition(".")[2] for line in documents[name].out.splitlines()] == [
            event.event for event in followed.events()
        ]
    assert followed.id in {item["workflow_id"] for item in documents["list"].json["items"]}
    assert {item["agent"] for item in documents["agents"].json["items"]} >= {"scaffold", "validation", "deployment"}
    assert documents["stalls"].json["items"] == []
    assert documents["doctor"].json["status"] == "ok"


def test_ctrl_c_leaves_nothing(installation: Installation, followed: Followed) -> None:
    """Exit code 0, in the middle of a run: no process of ours, none of theirs, and no deployed app goes on."""
    app = installation.wait(followed.id, seconds=APP_SECONDS)["stage_outputs"]["deployment"]["pid"]
    assert not gone(app)
    open_run = installation.submit("app", requirements=REQUIREMENTS)
    installation.wait_started(open_run, "validation")
    everything = descendants(installation.pids().values())
    assert app in everything
    code, took = installation.end(signal.SIGINT)
    measured(f"Ctrl-C with a run in the middle: exit {code} after {took:.1f} s")
    assert code == 0, installation.log_tail()
    assert "does not stop" not in installation.log_tail()
    all_gone(everything, 1.0)
    assert not traces_of(installation.folder)
