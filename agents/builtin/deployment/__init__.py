"""The deployment agent: builds the app's wheel, installs and starts it (`deployment`), and watches it (`monitoring`).

The app outlives the task and the run, but never the worker process. A new deployment of a run is started beside the old
one, and replaces it once it is healthy; a failed one leaves the old one as it was.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from tailrace.agents.builtin.deployment.registry import Deployments
from tailrace.agents.builtin.deployment.release import (
    FOLDER,
    Installable,
    Release,
    build_wheel,
    current,
    install,
    make_current,
    remove_others,
)
from tailrace.agents.builtin.deployment.supervisor import RunState, Supervisor, launch, read_state
from tailrace.agents.builtin.deployment.watch import MonitoringParams, Watched, problems, watch
from tailrace.agents.builtin.inputs import has_stage, params, stage_output
from tailrace.agents.builtin.outputs import Deployed, Integrated, Monitored, Scaffolded
from tailrace.agents.builtin.running import App, is_healthy
from tailrace.agents.builtin.source import materialize
from tailrace.agents.sdk import Agent, ArtifactRef, TaskContext, TaskError, TaskInput
from tailrace.agents.workspace import Workspace

START_SECONDS = 15.0
SHOWN_SAMPLES = 5


class DeploymentParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the stage: how long the app may take until it is healthy."""

    start_seconds: Annotated[float, msgspec.Meta(gt=0, le=300)] = START_SECONDS


def agent() -> Agent:
    """The agent `deployment`, with the apps it keeps running."""
    deployment = Agent("deployment")
    deployments = Deployments()
    deployment.closers.append(deployments.close)

    @deployment.action("deployment")
    async def deploy(context: TaskContext, task: TaskInput) -> Deployed:
        limits = params(task, DeploymentParams)
        project = stage_output(task, "scaffolding", Scaffolded)
        folder = await materialize(context, _source(task, project), f"{FOLDER}/source")
        await context.progress(0.1, "building the wheel")
        wheel = await build_wheel(context, folder, project)
        await context.progress(0.5, f"installing {wheel.name}")
        installable = Installable(distribution=project.distribution, package=project.package, version=project.version)
        release = await install(context, wheel, installable)
        await context.progress(0.7, "starting the app")
        supervisor, replaced = await _replace(context.workspace, deployments, release, limits.start_seconds)
        await context.progress(1.0, f"{project.title} runs at {supervisor.state.ready.url}")
        return _deployed(context.workspace, release, wheel, supervisor.state, replaced)

    @deployment.action("monitoring")
    async def monitor(context: TaskContext, task: TaskInput) -> Monitored:
        limits = params(task, MonitoringParams)
        deployed = stage_output(task, "deployment", Deployed)
        state, note = await _ensure_running(context, deployments, deployed)
        if note:
            context.log.warning("%s", note)
        watched = await watch(context, f"{state.ready.url}/health", deployed.distribution, limits)
        return await _conclude(context, limits, watched, state, note)

    return deployment


def _source(task: TaskInput, project: Scaffolded) -> ArtifactRef:
    """What to deploy: what is on `main`, or the project itself in a pipeline without integration."""
    return stage_output(task, "integration", Integrated).source if has_stage(task, "integration") else project.source


async def _replace(
    workspace: Workspace, deployments: Deployments, release: Release, start_seconds: float
) -> tuple[Supervisor, bool]:
    before = current(workspace)
    try:
        app = await launch(workspace, release, timeout_seconds=start_seconds)
    except BaseException:
        workspace.remove(release.folder)
        raise
    # No await from here until the app is in good hands: a cancelled task must not leave one that nobody stops.
    make_current(workspace, release)
    supervisor = Supervisor(workspace, release, app)
    replaced = await deployments.put(supervisor)
    remove_others(workspace, release)
    return supervisor, replaced or before is not None


def _deployed(workspace: Workspace, release: Release, wheel: ArtifactRef, state: RunState, replaced: bool) -> Deployed:
    return Deployed(
        url=state.ready.url,
        health_url=f"{state.ready.url}/health",
        distribution=release.distribution,
        package=release.package,
        version=release.version,
        wheel=wheel,
        wheel_sha256=release.wheel_sha256,
        pid=state.pid,
        install_dir=str(workspace.path(release.folder)),
        replaced=replaced,
    )


async def _ensure_running(context: TaskContext, deployments: Deployments, deployed: Deployed) -> tuple[RunState, str]:
    """The app's state, and a note if it had to be started again; raises `TaskError` `unhealthy` if it was given up."""
    workspace: Workspace = context.workspace
    release = current(workspace)
    supervisor = deployments.find(workspace)
    if supervisor is not None and supervisor.running and not supervisor.state.gave_up and supervisor.release == release:
        return supervisor.state, ""
    state = None if release is None else read_state(workspace, release)
    if state is not None and state.gave_up:
        raise _unhealthy([state.gave_up], {"url": state.ready.url, "restarts": state.restarts})
    if state is not None and await is_healthy(state.ready):
        return state, ""
    await context.progress(0.0, "the app is gone: starting it again")
    if release is None:
        release = await install(context, deployed.wheel, _project(deployed))
        said = f"the installed app was gone: it was installed again from {deployed.wheel.name}"
    else:
        said = f"the app's process was gone: it was started again from {release.folder}"
    app = await _launch_where_it_was(workspace, release, 0 if state is None else state.ready.port)
    make_current(workspace, release)
    supervisor = Supervisor(workspace, release, app)
    await deployments.put(supervisor)
    moved = "" if app.ready.url == deployed.url else f", at {app.ready.url} instead of {deployed.url}"
    return supervisor.state, said + moved


async def _launch_where_it_was(workspace: Workspace, release: Release, port: int) -> App:
    if port:
        try:
            return await launch(workspace, release, port=port, timeout_seconds=START_SECONDS)
        except TaskError:
            # Somebody else has the port by now: the app itself is tried once more before it is blamed.
            pass
    return await launch(workspace, release, timeout_seconds=START_SECONDS)


def _project(deployed: Deployed) -> Installable:
    return Installable(distribution=deployed.distribution, package=deployed.package, version=deployed.version)


async def _conclude(
    context: TaskContext, limits: MonitoringParams, watched: Watched, state: RunState, note: str
) -> Monitored:
    data = msgspec.json.format(msgspec.json.encode(watched))
    report = await context.put_artifact(data, name="monitoring-report.json", media_type="application/json")
    said = problems(watched, limits)
    if said:
        failing = [sample for sample in watched.samples if sample.problem]
        raise _unhealthy(
            said,
            {
                "url": state.ready.url,
                "samples": len(watched.samples),
                "failures": watched.failures,
                "availability": watched.availability,
                "p95_ms": watched.p95_ms,
                "failing": msgspec.to_builtins(failing[-SHOWN_SAMPLES:]),
                "report": msgspec.to_builtins(report),
            },
        )
    return Monitored(
        verdict="healthy",
        url=state.ready.url,
        samples=len(watched.samples),
        failures=watched.failures,
        availability=watched.availability,
        p50_ms=watched.p50_ms,
        p95_ms=watched.p95_ms,
        watched_seconds=watched.seconds,
        started_again=bool(note),
        note=note,
        report=report,
    )


def _unhealthy(said: list[str], details: dict[str, Any]) -> TaskError:
    return TaskError("unhealthy", f"the app is not healthy: {'; '.join(said)}", retryable=True, details=details)
