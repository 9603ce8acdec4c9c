"""Starting and looking at runs over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tailrace.core.codec import INLINE_LIMIT_BYTES
from tailrace.core.events import Failure
from tailrace.core.ids import idempotent_workflow_id
from tests.integration.gateway_harness import Gateway

FIELDS = [
    "workflow_id", "type", "name", "status", "current_stage", "progress_percentage", "priority", "version", "trace_id",
    "stage_outputs", "error", "stall", "created_at", "updated_at", "completed_at",
]  # fmt: skip


async def test_a_run_is_started_and_its_document_is_that_of_the_interface(served: Gateway) -> None:
    """201, a Location that leads to the run, and exactly the fields that are promised."""
    served.worker.hold("plan")
    body = {"type": "app", "name": "calculator-app", "requirements": "add", "labels": {"team": "a"}, "input": {"n": 1}}
    async with served.client.post(f"{served.url}/api/v1/workflows", json=body) as response:
        assert response.status == 201
        created = await response.json()
        location = response.headers["Location"]
    assert list(created) == FIELDS
    assert (created["status"], created["current_stage"], created["progress_percentage"]) == ("initiated", "plan", 0)
    async with served.client.get(served.url + location) as response:
        assert (await response.json())["workflow_id"] == created["workflow_id"]


async def test_a_client_reads_its_own_writes(served: Gateway) -> None:
    """A live run is read from the store, also while Postgres is down."""
    served.worker.hold("plan")
    created = await served.submit()
    await served.wait_status(created["workflow_id"], "running")
    paused = await served.call("POST", f"/workflows/{created['workflow_id']}/pause", status=200)
    read = await served.call("GET", f"/workflows/{created['workflow_id']}", status=200)
    # (What the worker says of its start may come in between.)
    assert (read["status"], read["version"] >= paused["version"]) == (paused["status"], True)
    assert read["status"] != created["status"]


async def test_waiting_gives_the_run_that_has_ended(served: Gateway) -> None:
    """`wait` answers 201 with the outputs of all stages once the run has ended."""
    document = await served.finished()
    assert document["status"] == "completed"
    assert document["progress_percentage"] == 100
    assert document["stage_outputs"] == {name: {"stage": name} for name in ("plan", "build", "ship")}
    assert document["completed_at"] is not None


async def test_waiting_gives_up_with_202(served: Gateway) -> None:
    """A run that does not end in time is shown as it is."""
    served.worker.hold("build")
    document = await served.call("POST", "/workflows?wait=0.2", json={"type": "app", "name": "slow"}, status=202)
    assert document["status"] in {"initiated", "running"}


@pytest.mark.failure(22)
async def test_a_failed_run_tells_why(served: Gateway) -> None:
    """The error of the stage is the error of the run."""
    served.worker.answers["build"] = Failure(reason="lint", message="bad style", details={"files": 2})
    document = await served.finished()
    assert document["status"] == "failed"
    assert document["error"] == {"reason": "lint", "message": "bad style", "retryable": False, "details": {"files": 2}}


@pytest.mark.hole("H12")
async def test_the_same_request_again_is_the_same_run(served: Gateway) -> None:
    """With a key, a repeated request gives the run as it is now and says so; its body may be spelled differently."""
    headers = {"Idempotency-Key": "abc"}
    first = await served.call(
        "POST", "/workflows?wait=10", json={"type": "app", "name": "one"}, headers=headers, status=201
    )
    assert first["workflow_id"] == idempotent_workflow_id("", "abc")
    spelled = b'{ "name": "one",\n "type": "app", "priority": "medium" }'
    async with served.client.post(
        f"{served.url}/api/v1/workflows", data=spelled, headers={**headers, "Content-Type": "application/json"}
    ) as response:
        assert response.status == 201
        assert response.headers["Idempotent-Replayed"] == "true"
        assert await response.json() == first


async def test_a_key_of_another_request_is_refused(served: Gateway) -> None:
    """The same key with another body is 422."""
    headers = {"Idempotency-Key": "abc"}
    await served.call("POST", "/workflows", json={"type": "app", "name": "one"}, headers=headers, status=201)
    problem = await served.call("POST", "/workflows", json={"type": "app", "name": "two"}, headers=headers, status=422)
    assert problem["code"] == "already-exists"


async def test_many_requests_with_one_key_make_one_run(served: Gateway) -> None:
    """Of requests that race, one starts the run and all others are told of it."""

    async def post() -> tuple[str, str | None]:
        async with served.client.post(
            f"{served.url}/api/v1/workflows", json={"type": "app", "name": "one"}, headers={"Idempotency-Key": "k"}
        ) as response:
            assert response.status == 201
            return (await response.json())["workflow_id"], response.headers.get("Idempotent-Replayed")

    answers = await asyncio.gather(*(post() for _ in range(20)))
    assert len({workflow_id for workflow_id, _ in answers}) == 1
    assert sorted(str(replayed) for _, replayed in answers) == ["None", *["true"] * 19]


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "ä"])
async def test_a_key_that_is_no_key_is_refused(served: Gateway, key: str) -> None:
    """A key is visible ASCII of bounded length."""
    await served.call(
        "POST", "/workflows", json={"type": "app", "name": "one"}, headers={"Idempotency-Key": key}, status=422
    )


async def test_a_large_input_becomes_an_artifact(served: Gateway) -> None:
    """What does not fit into an event is stored, and the event holds the reference."""
    served.worker.hold("plan")
    large = {"text": "x" * INLINE_LIMIT_BYTES}
    created = await served.submit(input=large)
    snapshot = await served.store.load(created["workflow_id"])
    assert snapshot is not None
    reference = snapshot.created.input["$artifact"]
    async with served.client.get(f"{served.url}/api/v1/artifacts/{reference['sha256']}") as response:
        assert msgspec.json.decode(await response.read()) == large


@pytest.mark.failure(15)
async def test_an_unknown_type_lists_what_is_known(served: Gateway) -> None:
    """422 that points at the type and names the definitions."""
    problem = await served.call("POST", "/workflows", json={"type": "nope", "name": "x"}, status=422)
    assert problem["errors"][0]["pointer"] == "/type"
    assert "app" in problem["errors"][0]["detail"]


async def test_the_trace_is_the_callers(served: Gateway) -> None:
    """`traceparent` is honoured: the run belongs to the caller's trace, and the answer says so."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with served.client.post(
        f"{served.url}/api/v1/workflows", json={"type": "app", "name": "x"}, headers={"traceparent": parent}
    ) as response:
        document = await response.json()
        assert document["trace_id"] == response.headers["X-Trace-Id"] == parent[3:35]
        assert response.headers["traceparent"] == parent


async def test_a_run_without_a_caller_has_a_trace_of_its_own(served: Gateway) -> None:
    """An unreadable `traceparent` is none."""
    async with served.client.post(
        f"{served.url}/api/v1/workflows", json={"type": "app", "name": "x"}, headers={"traceparent": "nonsense"}
    ) as response:
        document = await response.json()
        assert document["trace_id"] == response.headers["X-Trace-Id"]
        assert len(document["trace_id"]) == 32


async def test_the_stages_of_a_live_run(served: Gateway) -> None:
    """Stages come in the order of the definition, with what the open task is doing."""
    served.worker.hold("build")
    created = await served.submit()
    workflow_id = created["workflow_id"]
    async with served.stream(f"/workflows/{workflow_id}/events") as events:
        await events.until(lambda event: event.name == "TaskStarted" and event.data["data"]["stage"] == "build")
    stages = (await served.call("GET", f"/workflows/{workflow_id}/stages", status=200))["items"]
    assert [(stage["stage"], stage["status"]) for stage in stages] == [
        ("plan", "completed"),
        ("build", "running"),
        ("ship", "pending"),
    ]
    assert stages[0]["output"] == {"stage": "plan"}
    assert [stage["worker"] for stage in stages] == ["w1", "w1", None]


async def test_artifacts_are_found_in_outputs_and_served_as_downloads(served: Gateway) -> None:
    """References anywhere in outputs are listed, and what they name can't be run by a browser."""
    ref = served.services.artifacts.put(b"<script>", name="page.html", media_type="text/html")
    served.worker.answers["build"] = {"files": [{"report": msgspec.to_builtins(ref)}], "sha256": "no reference"}
    document = await served.finished()
    listed = (await served.call("GET", f"/workflows/{document['workflow_id']}/artifacts", status=200))["items"]
    assert listed == [{**msgspec.to_builtins(ref), "stage": "build"}]
    async with served.client.get(f"{served.url}/api/v1/artifacts/{ref.sha256}") as response:
        assert await response.read() == b"<script>"
        assert response.content_type == "application/octet-stream"
        assert response.headers["Content-Disposition"].startswith("attachment")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        etag = response.headers["ETag"]
    async with served.client.get(
        f"{served.url}/api/v1/artifacts/{ref.sha256}", headers={"If-None-Match": etag}
    ) as response:
        assert response.status == 304


@pytest.mark.parametrize("sha256", ["0" * 64, "..%2f..%2fetc%2fpasswd", "x"])
async def test_an_artifact_that_is_not_there(served: Gateway, sha256: str) -> None:
    """404, and no way to a file that is no artifact."""
    await served.call("GET", f"/artifacts/{sha256}", status=404)


async def test_why_asks_the_diagnosis(served: Gateway) -> None:
    """The answer is that of the diagnosis."""
    created = await served.submit()
    found = await served.call("GET", f"/workflows/{created['workflow_id']}/why", status=200)
    assert found == {"workflow_id": created["workflow_id"], "cause": "no-worker"}


@pytest.mark.parametrize("query", ["wait=-1", "wait=61", "wait=soon", "wait=nan", "wait=inf"])
async def test_a_wait_that_can_not_be(served: Gateway, query: str) -> None:
    """`wait` is a bounded number of seconds."""
    await served.call("POST", f"/workflows?{query}", json={"type": "app", "name": "x"}, status=422)


async def test_runs_are_listed_newest_first(projected: Gateway) -> None:
    """Pages of runs out of the read model, each run once."""
    runs = [await projected.finished(name=f"run {number}") for number in range(3)]
    for run in runs:
        await projected.archived(run)
    first = await projected.call("GET", "/workflows?limit=2", status=200)
    second = await projected.call("GET", f"/workflows?limit=2&cursor={first['next_cursor']}", status=200)
    assert [item["name"] for item in [*first["items"], *second["items"]]] == ["run 2", "run 1", "run 0"]
    assert second["next_cursor"] is None
    assert list(first["items"][0]) == FIELDS


async def test_runs_are_filtered(projected: Gateway) -> None:
    """By status, type, label, input, text and stall."""
    projected.worker.answers["plan"] = Failure(reason="bad")
    failed = await projected.finished(name="one", labels={"team": "a", "x": "y"}, input={"order": {"id": 7, "of": "ä"}})
    del projected.worker.answers["plan"]
    completed = await projected.finished(name="two", labels={"team": "b"})
    for run in (failed, completed):
        await projected.archived(run)

    async def names(query: str) -> list[str]:
        page = await projected.call("GET", f"/workflows?{query}", status=200)
        return [item["name"] for item in page["items"]]

    assert await names("status=failed") == ["one"]
    assert await names("label=team%3Db") == ["two"]
    assert await names("label=team%3Da&label=x%3Dy") == ["one"]
    assert await names("input=%7B%22order%22%3A%7B%22id%22%3A7%7D%7D") == ["one"]
    assert await names("input=%7B%22order%22%3A%7B%22of%22%3A%22%C3%A4%22%7D%7D") == ["one"]
    assert await names("input=%7B%22order%22%3A8%7D") == []
    assert await names("q=TWO") == ["two"]
    assert await names("type=feature") == []
    assert await names("stalled=true") == []
    assert await names("stalled=false&status=completed") == ["two"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "status=odd", "stalled=perhaps", "label=x", "cursor=%21"]
    + [f"input={text}" for text in ("", "x", "7", "%5B%5D", "%7B%22a%22%3A%22%5Cu0000%22%7D", "%7B%22a%22%3ANaN%7D")],
)
async def test_a_list_that_can_not_be_asked(projected: Gateway, query: str) -> None:
    """A filter that means nothing is refused, not ignored."""
    await projected.call("GET", f"/workflows?{query}", status=422)


async def test_the_archive_shows_a_run_as_the_store_does(projected: Gateway) -> None:
    """A run that has left the store looks the same, and so do its stages, tasks and artifacts."""
    projected.worker.answers["build"] = Failure(reason="lint", message="bad style", details={"files": 2})
    live = await projected.finished()
    await projected.archived(live)
    workflow_id = live["workflow_id"]
    paths = [f"/workflows/{workflow_id}", f"/workflows/{workflow_id}/stages", f"/workflows/{workflow_id}/artifacts"]
    before = [await projected.call("GET", path, status=200) for path in paths]
    await forget(projected, workflow_id)
    assert [await projected.call("GET", path, status=200) for path in paths] == before
    assert before[0] == live
    tasks = (await projected.call("GET", f"/workflows/{workflow_id}/tasks", status=200))["items"]
    assert [(task["stage"], task["status"]) for task in tasks] == [("plan", "completed"), ("build", "failed")]


@pytest.mark.parametrize("path", ["", "/stages", "/tasks", "/artifacts", "/events"])
@pytest.mark.parametrize("workflow_id", ["00000000-0000-0000-0000-000000000000", "no%2Fid", "%00", "x" * 200])
async def test_a_run_that_is_not_there(projected: Gateway, workflow_id: str, path: str) -> None:
    """404 for every part of it."""
    problem: Any = await projected.call("GET", f"/workflows/{workflow_id}{path}", status=404)
    assert problem["code"] == "not-found"


async def forget(gateway: Gateway, workflow_id: str) -> None:
    """Let the run expire from the store, as it does a while after its end."""
    part = gateway.store.keys.partition
    for number in range(gateway.store.partitions):
        await gateway.store.client.command("DEL", part(number).workflow(workflow_id))
