"""Deterministic simulation: processes on an event loop whose time and order come from one seed, and what goes wrong there.

A `SimulatedLoop` runs `Process`es that interleave, stand still and die; the `Unreliable…` ports stand between each of them
and the store in memory, and fail as a `FaultPlan` says; a `Witness` looks at each append at the moment it happens.
"""

from tailrace.core.testing.simulation.clock import SimulatedClock
from tailrace.core.testing.simulation.faults import CRASH_POINTS, FaultPlan, Faults, draw_plan
from tailrace.core.testing.simulation.loop import Process, ProcessDied, SimulatedLoop, current_process
from tailrace.core.testing.simulation.ports import UnreliableKeeper, UnreliableQueue, UnreliableStore
from tailrace.core.testing.simulation.trace import Trace
from tailrace.core.testing.simulation.wire import Wire
from tailrace.core.testing.simulation.witness import Witness

__all__ = [
    "CRASH_POINTS",
    "FaultPlan",
    "Faults",
    "Process",
    "ProcessDied",
    "SimulatedClock",
    "SimulatedLoop",
    "Trace",
    "UnreliableKeeper",
    "UnreliableQueue",
    "UnreliableStore",
    "Wire",
    "Witness",
    "current_process",
    "draw_plan",
]
