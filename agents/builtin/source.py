"""A project as one artifact, and an artifact as a folder again.

Invariant: the artifact is the truth. A folder in the workspace is used as it is while it stems from that very
artifact (a file beside it says so), and is written anew otherwise: on another machine, or after another attempt.
Archives are zip files with fixed times and a fixed order, so the same files give the same bytes.
"""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Mapping
from pathlib import PurePosixPath

from tailrace.agents.sdk import ArtifactRef, TaskContext, TaskError
from tailrace.agents.workspace import Workspace

MAX_BYTES = 32 * 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(files: Mapping[str, bytes]) -> bytes:
    """The archive of `files`, by path."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[path])
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of an archive; raises `TaskError` `source-invalid` for one that is damaged, or too large unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise TaskError("source-invalid", f"the project takes more than {MAX_BYTES} bytes")
            for entry in entries:
                path = PurePosixPath(entry.filename)
                if path.is_absolute() or ".." in path.parts:
                    raise TaskError("source-invalid", f"{entry.filename!r} leads out of the project")
                if ".git" in (part.lower() for part in path.parts):
                    raise TaskError("source-invalid", f"{entry.filename!r} would be read by git as its own")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise TaskError("source-invalid", f"the project's archive can't be read: {error}") from error


def read_folder(workspace: Workspace, folder: str) -> dict[str, bytes]:
    """The files below a folder of the workspace, by their path in it."""
    return {path: workspace.read_bytes(f"{folder}/{path}") for path in workspace.files(folder)}


def write_folder(workspace: Workspace, folder: str, files: Mapping[str, bytes]) -> None:
    """Make the folder hold exactly `files`. A reader sees the old folder, none, or the new one, and never a part."""
    fresh = f"{folder}.new"
    workspace.remove(fresh)
    for path, data in files.items():
        workspace.write_bytes(f"{fresh}/{path}", data)
    workspace.path(fresh).mkdir(parents=True, exist_ok=True)
    workspace.remove(_note(folder))
    workspace.remove(folder)
    workspace.path(fresh).rename(workspace.path(folder))


def remember(workspace: Workspace, folder: str, ref: ArtifactRef) -> None:
    """Note that the folder stems from this artifact."""
    workspace.write_text(_note(folder), ref.sha256)


async def materialize(context: TaskContext, ref: ArtifactRef, folder: str) -> str:
    """Have the artifact's files in `folder`, and give the folder."""
    workspace: Workspace = context.workspace
    if not _stems_from(workspace, folder, ref):
        files = await asyncio.to_thread(unpack, await context.get_artifact(ref))
        await asyncio.to_thread(write_folder, workspace, folder, files)
        remember(workspace, folder, ref)
    return folder


def _stems_from(workspace: Workspace, folder: str, ref: ArtifactRef) -> bool:
    note = _note(folder)
    return workspace.exists(folder) and workspace.exists(note) and workspace.read_text(note) == ref.sha256


def _note(folder: str) -> str:
    return f"{folder}.artifact"
