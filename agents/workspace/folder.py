"""A confined folder per run: paths never leave it, reads and writes have a size limit, programs run inside it.

Nothing here is a sandbox against hostile code: programs run as the worker's user. It keeps a mistake in an agent, or a
name in its input, from reaching files of another run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from tailrace.agents.workspace.environment import reduced
from tailrace.agents.workspace.process import Process, RunResult
from tailrace.core.errors import TaskError

FILE_LIMIT_BYTES = 8 * 1024 * 1024
OUTPUT_LIMIT_BYTES = 256 * 1024


def check_workflow_id(workflow_id: str) -> None:
    """Raise `TaskError` (`path-refused`) for one that could lead elsewhere as the name of a file or folder."""
    if not workflow_id or workflow_id in {".", ".."} or any(sign in workflow_id for sign in "/\\\0"):
        raise TaskError("path-refused", f"{workflow_id!r} can't name a workspace")


class Workspace:
    """The folder `<base>/<workflow id>/`; made when first used."""

    def __init__(self, base: Path, workflow_id: str) -> None:
        check_workflow_id(workflow_id)
        self.root = base.resolve() / workflow_id
        for folder in ("home", "tmp", "cache"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def path(self, relative: str) -> Path:
        """The absolute path of `relative`; raises `TaskError` (`path-refused`) if it leads out, also by a link."""
        if "\0" in relative or PurePosixPath(relative).is_absolute():
            raise TaskError("path-refused", f"{relative!r} is not a path inside the workspace")
        resolved = (self.root / relative).resolve()
        if not resolved.is_relative_to(self.root.resolve()):
            raise TaskError("path-refused", f"{relative!r} leads out of the workspace", details={"path": relative})
        return resolved

    def exists(self, relative: str) -> bool:
        """True if there is a file or folder."""
        return self.path(relative).exists()

    def read_bytes(self, relative: str, *, limit_bytes: int = FILE_LIMIT_BYTES) -> bytes:
        """The file's content; raises `TaskError` `file-missing` or `file-too-large`."""
        try:
            # The path holds no link now; one that appears in its last part meanwhile is refused by the kernel.
            handle = os.open(self.path(relative), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise TaskError("file-missing", f"{relative}: {error.strerror}", details={"path": relative}) from error
        with os.fdopen(handle, "rb") as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise _too_large(relative, limit_bytes)
        return data

    def read_text(self, relative: str, *, limit_bytes: int = FILE_LIMIT_BYTES) -> str:
        """The file's content as UTF-8; what is not UTF-8 is replaced."""
        return self.read_bytes(relative, limit_bytes=limit_bytes).decode("utf-8", errors="replace")

    def write_bytes(self, relative: str, data: bytes, *, limit_bytes: int = FILE_LIMIT_BYTES) -> Path:
        """Replace the file as a whole, making its folders; a reader never sees half of it."""
        if len(data) > limit_bytes:
            raise _too_large(relative, limit_bytes)
        target = self.path(relative)
        if target == self.root:
            raise TaskError("path-refused", f"{relative!r} is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return target

    def write_text(self, relative: str, text: str, *, limit_bytes: int = FILE_LIMIT_BYTES) -> Path:
        """Replace the file by UTF-8 text."""
        return self.write_bytes(relative, text.encode(), limit_bytes=limit_bytes)

    def files(self, relative: str = ".") -> Iterator[str]:
        """All files below `relative`, sorted, as paths relative to it. Links are not followed and not listed."""
        top = self.path(relative)
        for folder, names, files in os.walk(top):
            names.sort()
            for name in sorted(files):
                path = Path(folder, name)
                if not path.is_symlink():
                    yield path.relative_to(top).as_posix()

    def remove(self, relative: str) -> None:
        """Remove a file or a whole folder below the root, if it is there. A link is removed, not what it points to."""
        target = self._removable(relative)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def _removable(self, relative: str) -> Path:
        # Stricter than `path`, and checked twice: removing the wrong folder can't be undone.
        plain = PurePosixPath(relative)
        if not plain.parts or plain.is_absolute() or ".." in plain.parts or "\0" in relative:
            raise TaskError("path-refused", f"{relative!r} can't be removed", details={"path": relative})
        target = self.path(str(plain.parent)) / plain.name
        if self.root.resolve() not in target.parents:
            raise TaskError("path-refused", f"{relative!r} can't be removed", details={"path": relative})
        return target

    async def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> Process:
        """Start a program that goes on until it ends or is stopped; for servers. The caller must `stop` it."""
        return await Process.start(
            argv, cwd=self.path(cwd), env=reduced(self.root, env), output_limit_bytes=output_limit_bytes
        )

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_seconds: float,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> RunResult:
        """Run a program to its end. `output_limit_bytes` counts for each of the two streams.

        Raises `TaskError` with reason `subprocess-timeout` (retryable) or `program-missing`. When this returns or
        raises, also by cancellation, the program and everything it started are gone.
        """
        process = await self.start(argv, cwd=cwd, env=env, output_limit_bytes=output_limit_bytes)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await process.wait()
        except TimeoutError:
            result = await process.stop()
            raise TaskError(
                "subprocess-timeout",
                f"{Path(argv[0]).name} did not end within {timeout_seconds:g} s",
                retryable=True,
                details={"argv": list(argv), "timeout_seconds": timeout_seconds, "output": result.tail()},
            ) from None
        finally:
            await process.stop()


def _too_large(relative: str, limit_bytes: int) -> TaskError:
    return TaskError(
        "file-too-large",
        f"{relative} is larger than {limit_bytes} bytes",
        details={"path": relative, "limit_bytes": limit_bytes},
    )
