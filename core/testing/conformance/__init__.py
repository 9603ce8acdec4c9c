"""The promises of the ports, as test classes. A back end subclasses them and gives a fixture `backend` (see `Harness`).

class TestMyStore(StoreSuite): ...
class TestMyTaskQueue(TaskQueueSuite): ...
class TestMyNoticeBook(NoticeSuite): ...
"""

from tailrace.core.testing.conformance.append_suite import AppendSuite
from tailrace.core.testing.conformance.harness import Harness, everything, pass_time
from tailrace.core.testing.conformance.lease_suite import LeaseSuite
from tailrace.core.testing.conformance.notice_suite import NoticeSuite
from tailrace.core.testing.conformance.queue_suite import QueueSuite
from tailrace.core.testing.conformance.reading_suite import ReadingSuite
from tailrace.core.testing.conformance.retention_suite import RetentionSuite
from tailrace.core.testing.conformance.timing_suite import TimingSuite

__all__ = ["Harness", "NoticeSuite", "StoreSuite", "TaskQueueSuite", "everything", "pass_time"]


class StoreSuite(AppendSuite, TimingSuite, ReadingSuite, RetentionSuite):
    """All promises of a `WorkflowStore`, and of the `Retention` that is part of it."""


class TaskQueueSuite(QueueSuite, LeaseSuite):
    """All promises of a `TaskQueue` and a `LeaseKeeper`."""
