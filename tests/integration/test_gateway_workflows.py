"""Starting and looking at runs over HTTP."""

from __future__ import annotations

from tests.integration.gateway_harness import Gateway


async def test_a_run_is_started_and_its_document_is_that_of_the_interface(served: Gateway) -> None:
    """201, a Location that leads to the run, and exactly the fields that are promised."""
    body = {"type": "app", "name": "calculator-app", "requirements": "add", "labels": {"team": "a"}, "input": {"n": 1}}
    async with served.client.post(f"{served.url}/api/v1/workflows", json=body) as response:
        assert response.status == 201
        created = await response.json()
        location = response.headers["Location"]
    assert list(created) == [
        "workflow_id", "type", "name", "status", "current_stage", "progress_percentage", "priority", "version", "trace_id",
        "stage_outputs", "error", "stall", "created_at", "updated_at", "completed_at",
    ]  # fmt: skip
    assert created["status"] == "initiated"
    assert created["current_stage"] == "plan"
    async with served.client.get(served.url + location) as response:
        assert (await response.json())["workflow_id"] == created["workflow_id"]
