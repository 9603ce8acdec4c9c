"""The ports: `WorkflowStore` (append, load, reports, timers, log), `TaskQueue` (take, report, renew, claim) and `NoticeBook`
(what people outside were told, and what waits to be).

Two back ends implement them: `core.store.memory` as the reference, and `core.redis_backend`. The suites in
`core.testing.conformance` hold both to the same promises. Times are microseconds since the epoch by the store's clock.

A store raises `StoreUnavailable` when it can't tell whether a call had its effect; whoever called asks again by command id.
It raises `LogDiverged` when it is not the store any more that was joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from tailrace.core.codec import CommandRecord
from tailrace.core.commands import Report
from tailrace.core.errors import TailraceError
from tailrace.core.events import Event
from tailrace.core.notices import Incident, Notice
from tailrace.core.workflow.definition import Definition, Pipeline
from tailrace.core.workflow.history import Snapshot
from tailrace.core.workflow.state import WorkflowState

Priority = Literal["low", "medium", "high", "critical"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Times by which a store judges who is gone, in seconds, and how often a task is delivered at most.

    A poll that comes `pulse_seconds` after the one before shows that the store was away; then every lease and timer has a
    grace of one lease.
    """

    lease_seconds: float = 3.0
    pulse_seconds: float = 1.5
    owner_seconds: float = 3.0
    delivery_limit: int = 5


class Given(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The inputs of a task that go with it: those of the request, and `TaskMessage.inputs` in their order, as msgpack."""

    name: str = ""
    description: str = ""
    requirements: str = ""
    input: dict[str, Any] = {}
    outputs: list[bytes] = []


class TaskMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is in an agent's task stream. `inputs` names the outputs the task may read, as (stage, attempt).

    `given` are the inputs themselves where they are small; None says that they have to be read.

    `compensation`: the task undoes what its stage did, whose own output is then among the inputs.
    """

    task_id: str
    workflow_id: str
    stage: str
    attempt: int
    agent: str
    action: str
    name: str = ""
    type: str = ""
    timeout_seconds: float | None = None
    params: dict[str, Any] = {}
    inputs: tuple[tuple[str, int], ...] = ()
    round: int = 1
    compensation: bool = False
    given: Given | None = None


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """A task to be put into its agent's stream by an append; `urgent` ones are taken first."""

    message: TaskMessage
    urgent: bool
    traceparent: str


class NewRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event to be appended; it gets its `seq` and entry id by the append."""

    event: Event
    at: int
    command: CommandRecord | None
    traceparent: str


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """The lease on a partition that an orchestrator holds."""

    partition: int
    name: str
    epoch: int


class TimerRef(msgspec.Struct, frozen=True, kw_only=True):
    """A timer as it stands in the store: its name (see `policy.Timer`) and when it is due."""

    name: str
    due_at: int


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """An open task that ends with an append.

    Closed by its own report (`reported`) its entry is gone already. Otherwise a queued entry is removed, and a delivered one
    stays, marked, so that its worker is told to cancel. When one that is `awaited` is removed without a report of its worker,
    now or after its lease, the store itself reports `stopped`.
    """

    task_id: str
    agent: str
    urgent: bool
    reported: bool
    awaited: bool = False


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """All that one decision (or several on one run) writes, in one step or not at all.

    `expected_version` is the version that was decided on: 0 only to create. With no `records` the append compares the version
    and removes `reports` and `timer`, nothing else. `rehydrate` puts an archived run back, and succeeds only while it is
    missing. `expect_at` is None for a run that ended. `outputs` maps `<stage>:<attempt>` to msgpack.
    """

    workflow_id: str
    expected_version: int
    records: Sequence[NewRecord] = ()
    state: WorkflowState | None = None
    created: bytes | None = None
    outputs: dict[str, bytes] = {}
    dispatches: Sequence[Dispatch] = ()
    closings: Sequence[Closing] = ()
    timers_set: dict[str, int] = {}
    timers_cleared: Sequence[str] = ()
    expect_at: int | None = None
    reports: Sequence[str] = ()
    timer: TimerRef | None = None
    ownership: Ownership | None = None
    rehydrate: bool = False


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """How an append ended.

    `ok`: written. `conflict`: the run is at `version`. `missing`: the run is not there (and was to be). `exists`: it is there
    (and was to be created or rehydrated). `gone`: the report or timer was dealt with by somebody else. `wait`: a report older
    than the timer is unapplied, or the store has just come back. `not-owner`: the ownership was lost. `full`: the store is at
    its memory mark. `broken`: the store holds what it never should; see `detail`.
    In all cases but `ok` nothing was written.
    """

    outcome: Literal["ok", "conflict", "missing", "exists", "gone", "wait", "not-owner", "full", "broken"]
    version: int = 0
    seq: int = 0
    detail: str = ""


class ReportEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A report that waits to be applied. `report` is None when its bytes can't be decoded; `problem` says why.

    `read_at` is the store's time when it was read, in microseconds since the epoch.
    """

    entry_id: str
    workflow_id: str
    report: Report | None
    traceparent: str
    read_at: int
    problem: str = ""


class LogRead(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of one partition's log, raw: decoding is up to the reader, who parks what it can't read."""

    partition: int
    entries: Sequence[RawEntry]


class RawEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One log entry as stored. `data` is the msgpack of `codec.EventData`."""

    partition: int
    entry_id: str
    seq: int
    workflow_id: str
    version: int
    type: str
    traceparent: str
    data: bytes


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a partition's log: the last `seq` and entry id, and the log's `epoch`."""

    seq: int
    epoch: str
    last_entry_id: str


class OpenEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Where an open task is. `idle_us` since delivery or the last renewal.

    `acknowledged`: it was delivered and stands in its stream, but nobody holds it, so nobody will ever be given it.
    """

    task_id: str
    agent: str
    entry_id: str
    state: Literal["queued", "delivered", "acknowledged", "gone"]
    worker: str = ""
    idle_us: int = 0
    deliveries: int = 0
    ahead: int = 0


class WorkerBeat(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker said of itself with its last beat."""

    agent: str
    name: str
    at: int
    build: str
    pid: int
    host: str
    slots: int
    in_flight: int
    store_id: str
    breakers: dict[str, str] = {}


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's tasks in one partition. `backlog` is what was never delivered; ages in microseconds.

    Of runs it names those of tasks that somebody acknowledged without a report (`acknowledged`, see `OpenEntry`), of tasks that
    were delivered three times or more (`repeated`), and of the oldest few entries (`oldest`). `told` counts tasks that were
    closed, and whose workers, told to stop, have not let go yet.
    """

    agent: str
    partition: int
    has_group: bool
    backlog: int
    pending: int
    oldest_age_us: int
    pending_by_worker: dict[str, int] = {}
    acknowledged: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    oldest: tuple[str, ...] = ()
    told: int = 0


class ParkedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A report that could not be applied, since `at`, and why. `task_id` is empty where nobody knows it any more."""

    workflow_id: str
    task_id: str
    reason: str
    at: int


class PartitionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the store knows about a partition's orchestrator: reports that wait, and the lease."""

    partition: int
    reports: int
    oldest_report_age_us: int
    owner: str
    owner_until: int
    overdue_timers: int
    parked: int


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a worker's hands. `delivery` counts up with each claim; report and renewal prove it."""

    partition: int
    stream: str
    entry_id: str
    message: TaskMessage
    traceparent: str
    delivery: int


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one held delivery: `ok`, `lost` (somebody else has it) or `cancel` (stop, and say so).

    Entry and delivery say which one: a task that was dispatched again has another entry, and counts from 1.
    """

    task_id: str
    entry_id: str
    delivery: int
    outcome: Literal["ok", "lost", "cancel"]


#: How many notices may wait for one target.
NOTICES_LIMIT: Final = 10_000


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far the log of a partition has been read for notices: the last entry, its `seq`, and the log's `epoch`."""

    entry_id: str
    seq: int
    epoch: str


class NoticePage(msgspec.Struct, frozen=True, kw_only=True):
    """What the book says at `version`, which each write raises: positions by partition, and incidents by their keys.

    `targets` are all that ever were told something, with what people call them.
    """

    version: int
    positions: dict[int, Position] = {}
    incidents: dict[str, Incident] = {}
    targets: dict[str, str] = {}


class NoticeChange(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the book, from `version` on: all of it is written, or nothing.

    None takes an incident off, or a run (`standing`: the key of the incident it stands in). `notices` go to each of `targets`.
    """

    version: int
    positions: dict[int, Position] = {}
    incidents: dict[str, Incident | None] = {}
    standing: dict[str, str | None] = {}
    notices: Sequence[Notice] = ()
    targets: dict[str, str] = {}


class ClaimedNotice(msgspec.Struct, frozen=True, kw_only=True):
    """A notice to be sent to a target by whoever claimed it, until `until`.

    `attempts` were made before, `problem` ended the last of them.
    """

    target: str
    notice: Notice
    until: int
    attempts: int = 0
    problem: str = ""


class Undelivered(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for a target: how many notices, and the oldest of them with its attempts and the last problem."""

    target: str
    title: str
    count: int
    attempts: int = 0
    problem: str = ""


class WorkflowStore(Protocol):
    """Workflows: the log, the snapshots, reports and timers. One instance serves one process."""

    @property
    def partitions(self) -> int: ...

    @property
    def instance_id(self) -> str:
        """The identity of the namespace, made once; two processes with different ones are on different stores."""

    async def check_identity(self, partition: int) -> None:
        """Raise `LogDiverged` unless this is still the namespace that was joined, with that partition's log.

        A store that was emptied, or put back to another state, answers every other question as if nothing had ever been
        there. So whoever polls asks this, and "it is not there" is said only after it.
        """

    async def now(self) -> int:
        """The store's clock, in microseconds since the epoch."""

    async def put_definition(self, definition: Definition) -> Pipeline:
        """Keep a definition and make its agents' groups; idempotent."""

    async def pipeline(self, content_hash: str) -> Pipeline:
        """The definition with that hash; raises `NotFound`."""

    async def latest(self, name: str) -> Pipeline:
        """The newest definition called `name`; raises `NotFound`."""

    async def definitions(self) -> dict[str, list[str]]:
        """Every name with the hashes of its versions, oldest first."""

    async def load(self, workflow_id: str) -> Snapshot | None:
        """The run with its request and outputs; None when it is not there."""

    async def load_all(self, workflow_ids: Sequence[str]) -> list[Snapshot | None]:
        """As `load` for several runs, in one round trip."""

    async def load_states(self, workflow_ids: Sequence[str]) -> list[WorkflowState | None]:
        """Only the states of several runs, in one round trip."""

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Carry out each append on its own, in order; one round trip."""

    async def acquire(self, partition: int, name: str, epoch: int | None) -> Ownership | None:
        """Take or renew (with `epoch`) the ownership of a partition; None while somebody else holds it."""

    async def release_ownership(self, ownership: Ownership) -> None:
        """Give the partition up, so that a stand-by can take it at once."""

    async def read_reports(self, partition: int, *, count: int, block_seconds: float) -> list[ReportEntry]:
        """The oldest unapplied reports; waits up to `block_seconds` when there are none."""

    async def park_report(self, partition: int, entry_id: str, reason: str) -> bool:
        """Move a report that can't be applied to the parked ones, in one step; False when it was gone."""

    async def due_timers(self, partition: int, *, count: int) -> tuple[list[TimerRef], int | None]:
        """Timers past their time, oldest first, and when the next one is due; none during a grace. Updates the pulse."""

    async def park_timer(self, partition: int, timer: TimerRef, reason: str) -> bool:
        """Move a timer that can't be decided to what is parked, in one step; False when it was gone or set anew."""

    async def drop_timer(self, partition: int, timer: TimerRef) -> None:
        """Remove a timer whose run is not there."""

    async def read_log(self, partition: int, after: str, *, count: int, block_seconds: float = 0) -> list[RawEntry]:
        """Entries behind the position `after` (an entry id, `0-0` for the beginning); waits up to `block_seconds`."""

    async def has_entry(self, partition: int, entry_id: str) -> bool:
        """True when the log holds this very entry."""

    async def head(self, partition: int) -> Head: ...

    async def overdue(self, partition: int, *, count: int) -> list[str]:
        """Open runs whose expectation has passed, longest overdue first; none during a grace."""

    async def postpone(self, workflow_id: str, *, version: int, expect_at: int) -> bool:
        """Move a run's expectation, if it is still at `version`."""

    async def open_entries(self, workflow_id: str) -> list[OpenEntry]:
        """Where each open task of a run is."""

    async def parked(self, partition: int, *, count: int) -> list[ParkedEntry]:
        """Reports that could not be applied, latest first."""

    async def unexpected(self, partition: int, workflow_ids: Sequence[str]) -> list[str]:
        """Those of these runs of a partition that nothing is expected of: they have ended, or somebody removed it."""

    async def queues(self, agents: Sequence[str]) -> list[Queue]:
        """The task streams of these agents, in all partitions."""

    async def workers(self, agent: str) -> list[WorkerBeat]:
        """Workers of an agent with a beat, latest first; one that beat more than a minute ago is forgotten."""

    async def agents(self) -> list[str]:
        """Every agent that a definition names or a worker has joined."""

    async def partition_facts(self, partition: int) -> PartitionFacts: ...

    async def fullness(self) -> float:
        """Used memory as a share of the store's limit, 0.0 when it has none. It is 1.0 also where the disk takes nothing more."""

    async def settings(self) -> dict[str, str]:
        """What the server says of itself: `server`, `version`, `role`, `replicas`, `aof_last_write_status` (`ok`, or `err` while
        its disk takes nothing), and its settings for durability and memory.

        A setting that may not be read is left out.
        """

    async def open_workflows(self, partition: int, *, count: int) -> list[str]:
        """Ids of open runs, by expectation."""

    async def open_count(self) -> int:
        """How many runs are open, in all partitions; cheap enough to be asked often."""


class TaskQueue(Protocol):
    """Tasks, as one worker of one agent sees them."""

    async def join(self) -> None:
        """Make the agent's groups where they are missing; what is pending under this name is for `reconcile`."""

    async def take(self, free: int, *, block_seconds: float) -> list[Delivery]:
        """Up to `free` tasks, urgent ones first; waits up to `block_seconds` when there are none."""

    async def reconcile(self, held: Sequence[Delivery]) -> list[Delivery]:
        """Own pending entries that are not those of `held`, taken again; after a failed read, and at start."""

    async def claim(self, free: int) -> list[Delivery]:
        """Tasks whose lease ran out, taken over; those at the delivery limit become `poison` reports."""

    async def report(self, reports: Sequence[tuple[Delivery, Report, str]]) -> list[bool | TailraceError]:
        """Send reports (delivery, report, traceparent). A final one removes its task.

        Each has an outcome of its own: True, False where the task is not ours any more, or the error that kept it from being
        written: `InvalidInput` for one that can't be encoded, `StoreFull` or `StoreCorrupt`. Raises `StoreUnavailable`.
        """

    async def renew(self, held: Sequence[Delivery]) -> list[Renewal]:
        """Prove that this worker still works on these."""

    async def release(self, held: Sequence[Delivery]) -> None:
        """Hand tasks back, at once and uncounted."""

    async def inputs(self, messages: Sequence[TaskMessage]) -> list[dict[str, Any]]:
        """The request and the outputs that each task may read, as `TaskInput` takes them."""

    async def beat(self, beat: WorkerBeat) -> None:
        """Say that this worker lives."""

    async def leave(self) -> None:
        """Say that this worker is gone."""


class LeaseKeeper(Protocol):
    """Renewals and beats from a thread of their own: synchronous, on a connection of their own."""

    def renew(self, held: Sequence[Delivery]) -> list[Renewal]: ...

    def beat(self, beat: WorkerBeat) -> None: ...

    def close(self) -> None: ...


class NoticeBook(Protocol):
    """Incidents that stand, how far the log has been read for them, and notices on their way out. One per namespace."""

    async def lead(self, name: str, epoch: int | None, *, seconds: float) -> int | None:
        """Take or renew (with `epoch`) the lease on the reading; None while somebody else has it. 0 seconds give it up."""

    async def read(self) -> NoticePage:
        """The book as it is."""

    async def standing(self, workflow_ids: Sequence[str]) -> dict[str, str]:
        """The incident in which each of these runs stands, by key; runs that stand in none are left out."""

    async def write(self, change: NoticeChange) -> int | None:
        """Carry out one step; gives how many notices did not fit in, or None when the book is at another version."""

    async def claim(self, target: str, *, seconds: float) -> ClaimedNotice | None:
        """The notice that has been due longest for a target; for `seconds` nobody else gets it."""

    async def settle(self, claimed: ClaimedNotice, *, due_at: int | None) -> bool:
        """Take a claimed notice off, or (`due_at`) let it be tried again, with its `attempts` and `problem`.

        False, and nothing written, when the claim ran out and somebody else has it.
        """

    async def undelivered(self) -> list[Undelivered]:
        """What waits, by target; those for which nothing does are left out."""
