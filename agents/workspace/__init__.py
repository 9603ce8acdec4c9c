"""The run's own folder, and programs that are started in it.

Two invariants: no path leaves the folder, and no process that was started in it outlives its handler or this process.
"""

from tailrace.agents.workspace.folder import Workspace
from tailrace.agents.workspace.process import Process, RunResult

__all__ = ["Process", "RunResult", "Workspace"]
