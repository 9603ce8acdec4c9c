"""The watchdog and the diagnosis behind it: why a run does not move, from facts that the store alone gives.

Nothing here needs Postgres, so that it works exactly when something else does not.
"""

from tailrace.projections.watchdog.checks import Check, check_store
from tailrace.projections.watchdog.diagnosis import CAUSES, Diagnosis, Secondary
from tailrace.projections.watchdog.watchdog import Watchdog, WatchdogOptions
from tailrace.projections.watchdog.why import diagnose, diagnose_open

__all__ = [
    "CAUSES",
    "Check",
    "Diagnosis",
    "Secondary",
    "Watchdog",
    "WatchdogOptions",
    "check_store",
    "diagnose",
    "diagnose_open",
]
