"""The run's own folder, and programs that are started in it.

Three invariants: no path leaves the folder, no process that was started in it outlives its handler or this process, and an
attempt does not begin while an earlier one is still at work there.
"""

from tailrace.agents.workspace.folder import Workspace
from tailrace.agents.workspace.process import Process, RunResult
from tailrace.agents.workspace.turn import turn

__all__ = ["Process", "RunResult", "Workspace", "turn"]
