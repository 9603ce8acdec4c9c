"""A release: a wheel, installed into a folder of its own below `deployment/releases` of the run's workspace.

A release is never changed once it is installed; a new deployment makes a new one, so the app that still runs from the
old one is not touched. `deployment/current.json` names the release that counts, and whose it is (`token`).
"""

from __future__ import annotations

import hashlib
import secrets
import sys
from pathlib import Path

import msgspec

from tailrace.agents.builtin.outputs import Scaffolded
from tailrace.agents.builtin.tools import require, run_tool
from tailrace.agents.sdk import ArtifactRef, TaskContext, TaskError
from tailrace.agents.workspace import Workspace

FOLDER = "deployment"
CURRENT = f"{FOLDER}/current.json"
RELEASES = f"{FOLDER}/releases"
SECONDS = 120.0


class Installable(msgspec.Struct, frozen=True, kw_only=True):
    """What a wheel holds: the name to install it by, the package to run, the version."""

    distribution: str
    package: str
    version: str


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What is installed, and where: `folder` is relative to the workspace. `token` differs for each deployment."""

    token: str
    folder: str
    distribution: str
    package: str
    version: str
    wheel_sha256: str


async def build_wheel(context: TaskContext, folder: str, project: Scaffolded) -> ArtifactRef:
    """The wheel of the project in `folder`; raises `TaskError` `build-failed`."""
    workspace: Workspace = context.workspace
    target = f"{FOLDER}/wheels"
    workspace.remove(target)
    arguments = ("build", "-t", "wheel", "-d", str(workspace.path(target)))
    result = await run_tool(workspace, "hatchling", *arguments, cwd=folder, timeout_seconds=SECONDS)
    wheels = [name for name in workspace.files(target) if name.endswith(".whl")] if workspace.exists(target) else []
    if not result.ok or len(wheels) != 1:
        raise TaskError("build-failed", f"no wheel was built: {result.tail(300)}", details={"output": result.tail()})
    data = workspace.read_bytes(f"{target}/{wheels[0]}")
    context.log.info("built %s for %s", wheels[0], project.distribution)
    return await context.put_artifact(data, name=wheels[0], media_type="application/zip")


async def install(context: TaskContext, wheel: ArtifactRef, project: Installable) -> Release:
    """Install the wheel into a new folder; raises `TaskError` `install-failed`."""
    require("installer")
    workspace: Workspace = context.workspace
    data = await context.get_artifact(wheel)
    folder = _new_folder(workspace)
    # The file's name is part of the format, and comes from outside: only its last part is used.
    file = workspace.write_bytes(f"{folder}/{Path(wheel.name).name}", data)
    script = str(Path(__file__).with_name("install_wheel.py"))
    argv = [sys.executable, "-I", script, str(file), str(workspace.path(folder))]
    result = await workspace.run(argv, timeout_seconds=SECONDS)
    if not result.ok:
        workspace.remove(folder)
        raise TaskError(
            "install-failed", f"{wheel.name} can't be installed: {result.tail(300)}", details={"output": result.tail()}
        )
    return Release(
        token=secrets.token_hex(8),
        folder=folder,
        distribution=project.distribution,
        package=project.package,
        version=project.version,
        wheel_sha256=hashlib.sha256(data).hexdigest(),
    )


def current(workspace: Workspace) -> Release | None:
    """The release that counts; None if there is none, or its files are gone."""
    if not workspace.exists(CURRENT):
        return None
    try:
        release = msgspec.json.decode(workspace.read_bytes(CURRENT), type=Release)
    except (msgspec.MsgspecError, TaskError):
        return None
    return release if workspace.exists(f"{release.folder}/lib") else None


def make_current(workspace: Workspace, release: Release) -> None:
    """From now on this release counts: whoever runs another one stops it."""
    workspace.write_bytes(CURRENT, msgspec.json.encode(release))


def remove_others(workspace: Workspace, keep: Release) -> None:
    """Remove the folders of releases that no longer count."""
    for path in workspace.path(RELEASES).iterdir():
        folder = f"{RELEASES}/{path.name}"
        if folder != keep.folder:
            workspace.remove(folder)


def _new_folder(workspace: Workspace) -> str:
    folder = f"{RELEASES}/{secrets.token_hex(4)}"
    workspace.path(folder).mkdir(parents=True)
    return folder
