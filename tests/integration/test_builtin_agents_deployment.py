"""The deployment agent: an app that is not healthy does not stay, one that is stays as long as its worker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.agents.builtin import source
from tailrace.agents.builtin.deployment.registry import Deployments
from tailrace.agents.builtin.deployment.release import current
from tailrace.agents.builtin.deployment.supervisor import MAX_RESTARTS, Supervisor, launch, read_state
from tailrace.agents.builtin.deployment.watch import percentile
from tailrace.agents.builtin.web import request
from tailrace.agents.testing import LocalContext
from tailrace.agents.workspace import Workspace
from tests.integration.builtin_run import Run, wait_until

WORKER = """
import asyncio, json, sys
from pathlib import Path
from tests.integration.builtin_run import Run

async def main():
    run = Run(Path(sys.argv[1]))
    deployed = await run.play("initialization", "scaffolding", "deployment")
    print(json.dumps(run.stages), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """A run with a project; nothing of it is left running."""
    run = Run(tmp_path)
    await run.play("initialization", "scaffolding")
    yield run
    await run.close()
    assert run.processes() == []


async def use_project(run: Run, file: str, old: str, new: str) -> None:
    """Make the project another one, as if it had been scaffolded so."""
    run.replace(f"project/{file}", old, new)
    files = source.read_folder(run.context.workspace, "project")
    ref = await run.context.put_artifact(source.pack(files), name="source.zip")
    run.stages["scaffolding"]["source"] = {"sha256": ref.sha256, "size": ref.size, "name": ref.name}


def app_pids(run: Run) -> list[int]:
    """The app's own processes, without their guards."""
    return [pid for pid, command in run.commands().items() if "guard.py" not in command]


async def healthy(url: str) -> bool:
    """True if something healthy answers there."""
    try:
        return (await request(f"{url}/health")).status == 200
    except OSError:
        return False


async def wait_healthy(url: str) -> None:
    """Wait for a restart."""
    async with asyncio.timeout(15):
        while not await healthy(url):  # noqa: ASYNC110 - the state of another process makes no event
            await asyncio.sleep(0.02)


async def test_a_deployment_is_an_installed_wheel_that_runs(run: Run) -> None:
    """The output says what was built, where it lies and which process it is; it runs after the task."""
    deployed = await run.play("deployment")
    assert deployed["wheel"]["name"] == "calculator_app-0.1.0-py3-none-any.whl"
    assert deployed["wheel"]["sha256"] == deployed["wheel_sha256"]
    installed = Path(deployed["install_dir"])
    assert (installed / "lib/calculator_app/server.py").exists()
    assert (installed / "bin/calculator-app").exists()
    assert deployed["pid"] in run.processes()
    assert await healthy(deployed["url"])
    await run.close()
    assert not await healthy(deployed["url"])


async def test_the_wheel_is_the_same_each_time(run: Run) -> None:
    """The same source, the same bytes; the old process makes way for the new one."""
    first = await run.play("deployment")
    second = await run.play("deployment")
    assert (first["replaced"], second["replaced"]) == (False, True)
    assert second["wheel_sha256"] == first["wheel_sha256"]
    assert await healthy(second["url"])
    assert not await healthy(first["url"])
    assert len(app_pids(run)) == 1
    assert [path.name for path in (run.workspace / "deployment/releases").iterdir()] == [
        Path(second["install_dir"]).name
    ]


async def test_an_app_that_never_gets_healthy_is_stopped(run: Run) -> None:
    """The failure says what the app said last; no process and no folder of it is left."""
    await use_project(run, "src/calculator_app/server.py", '"status": "ok"', '"status": "warming up"')
    error = await run.fails("deployment", start_seconds=1.5)
    assert (error.reason, error.may_retry) == ("app-not-started", True)
    assert "Listening on http://127.0.0.1:" in error.details["output"]
    assert run.processes() == []
    assert list((run.workspace / "deployment/releases").iterdir()) == []


async def test_a_failed_deployment_leaves_the_old_one_running(run: Run) -> None:
    """Replaced is only what there is something better for."""
    old = await run.play("deployment")
    await use_project(run, "src/calculator_app/cli.py", "def parse(", "raise RuntimeError('broken')\n\n\ndef parse(")
    error = await run.fails("deployment")
    assert error.reason == "app-not-started"
    assert "RuntimeError: broken" in error.details["output"]
    assert await healthy(old["url"])


async def test_a_project_that_can_not_be_built(run: Run) -> None:
    """The builder's words are in the failure."""
    await use_project(run, "pyproject.toml", "[build-system]", "[build-system")
    assert (await run.fails("deployment")).reason == "build-failed"


async def test_a_crashed_app_is_started_again_at_the_same_address(run: Run) -> None:
    """The page that a person has open goes on working."""
    deployed = await run.play("deployment")
    (pid,) = app_pids(run)
    os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: app_pids(run) not in ([], [pid]))
    await wait_healthy(deployed["url"])
    monitored = await run.play("monitoring", watch_seconds=0.2, interval_seconds=0.05)
    assert (monitored["url"], monitored["started_again"]) == (deployed["url"], False)


async def test_an_app_that_keeps_crashing_is_given_up(run: Run) -> None:
    """Restarts are bounded, and monitoring says what happened."""
    deployed = await run.play("deployment")
    installed = Path(deployed["install_dir"]) / "lib/calculator_app/cli.py"
    installed.write_text("raise SystemExit('out of luck')\n")
    os.kill(app_pids(run)[0], signal.SIGKILL)
    workspace: Workspace = run.context.workspace
    release = current(workspace)
    assert release is not None
    await wait_until(lambda: (state := read_state(workspace, release)) is not None and state.gave_up)
    error = await run.fails("monitoring", watch_seconds=0.2)
    assert error.reason == "unhealthy"
    assert f"ended {MAX_RESTARTS + 1} times" in error.message
    assert "out of luck" in error.message
    assert run.processes() == []


async def test_failing_health_is_not_healthy(run: Run) -> None:
    """The app starts well and fails later: the numbers are in the failure."""
    await use_project(
        run, "src/calculator_app/server.py", "self._send_json(200, self.server.health())", "self._send_health()"
    )
    await use_project(
        run,
        "src/calculator_app/server.py",
        "    def _unknown(",
        "    asked = 0\n\n    def _send_health(self) -> None:\n        Handler.asked += 1\n"
        "        self._send_json(200 if Handler.asked < 5 else 503, self.server.health())\n\n    def _unknown(",
    )
    await run.play("deployment")
    error = await run.fails("monitoring", watch_seconds=0.5, interval_seconds=0.05)
    assert (error.reason, error.may_retry) == ("unhealthy", True)
    assert error.details["samples"] > error.details["failures"] > 0
    assert "503" in error.details["failing"][0]["problem"]
    assert json.loads(await run.artifact(error.details["report"]))["samples"]


async def test_an_app_ends_with_its_worker_and_comes_back_with_the_next(tmp_path: Path) -> None:
    """kill -9 of the worker takes the app along; monitoring in another worker starts it again and says so."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, str(tmp_path), stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert worker.stdout is not None
    async with asyncio.timeout(60):
        stages: dict[str, Any] = json.loads(await worker.stdout.readline())
    run = Run(tmp_path)
    run.stages = stages
    assert await healthy(stages["deployment"]["url"])
    worker.kill()
    await worker.wait()
    await wait_until(lambda: run.processes() == [])
    monitored = await run.play("monitoring", watch_seconds=0.2, interval_seconds=0.05)
    assert monitored["started_again"] is True
    assert "started again from deployment/releases/" in monitored["note"]
    assert monitored["url"] == stages["deployment"]["url"]
    await run.close()
    assert run.processes() == []


async def test_without_the_installed_files_the_wheel_is_installed_again(run: Run, tmp_path: Path) -> None:
    """A worker that has never seen the run's folder deploys the very wheel of the output."""
    await run.play("deployment")
    await run.close()
    shutil.rmtree(tmp_path / "workspaces")
    run.context = LocalContext(tmp_path)
    monitored = await run.play("monitoring", watch_seconds=0.2, interval_seconds=0.05)
    assert "installed again" in monitored["note"]
    assert await healthy(monitored["url"])


async def test_another_workers_deployment_takes_over(run: Run) -> None:
    """Two workers share no memory: the older one sees that another release counts, and stops its app."""
    first = await run.play("deployment")
    second = Run(run.folder)
    second.stages = dict(run.stages)
    try:
        assert (await second.play("deployment"))["replaced"] is True
        await wait_until(lambda: len(app_pids(run)) == 1)
        assert not await healthy(first["url"])
        monitored = await run.play("monitoring", watch_seconds=0.2, interval_seconds=0.05)
        assert (monitored["url"], monitored["note"]) == (second.stages["deployment"]["url"], "")
    finally:
        await second.close()


async def test_a_removed_workspace_ends_the_app(run: Run, tmp_path: Path) -> None:
    """Whoever cleans up need not know about processes."""
    await run.play("deployment")
    shutil.rmtree(tmp_path / "workspaces")
    await wait_until(lambda: run.processes() == [])


async def test_a_worker_keeps_a_bounded_number_of_apps(run: Run, tmp_path: Path) -> None:
    """The oldest one is stopped; its run can start it again by monitoring."""
    deployed = await run.play("deployment")
    await run.close()
    workspace: Workspace = run.context.workspace
    release = current(workspace)
    assert release is not None
    deployments = Deployments(max_running=1)
    supervisors = []
    for name in ("one", "two"):
        shutil.copytree(workspace.root, tmp_path / "more" / name)
        other = Workspace(tmp_path / "more", name)
        app = await launch(other, release, timeout_seconds=15)
        supervisors.append(Supervisor(other, release, app))
        assert await deployments.put(supervisors[-1]) is False
    assert [supervisor.running for supervisor in supervisors] == [False, True]
    assert not await healthy(supervisors[0].state.ready.url)
    assert await healthy(supervisors[1].state.ready.url)
    assert deployed["url"] != supervisors[1].state.ready.url
    await deployments.close()


@pytest.mark.parametrize(("share", "value"), [(0.5, 5.0), (0.95, 10.0), (0.0, 1.0), (1.0, 10.0)])
def test_percentiles(share: float, value: float) -> None:
    """Nearest rank; nothing is made up in between."""
    assert percentile([float(number) for number in range(1, 11)], share) == value
    assert percentile([], share) == 0.0
