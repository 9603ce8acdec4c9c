"""The worker: one process in its agent's group. Takes tasks, runs handlers, proves its leases, reports, drains.

It never holds more tasks than it has slots; a task ends here only by its final report, by the store saying that it is lost,
or by being handed back. Anything that was delivered and did not arrive is taken again (`reconcile`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tailrace.agents.breaker import Breaker
from tailrace.agents.context import Means, RunningTask
from tailrace.agents.execution import execute
from tailrace.agents.inputs import Inputs, at_hand
from tailrace.agents.leases import RENEW_SECONDS, LeaseRounds, Leases, LeaseThread
from tailrace.agents.reporter import Reporter
from tailrace.agents.sdk import Agent
from tailrace.agents.workspace import turn
from tailrace.core.artifacts import ArtifactStore
from tailrace.core.commands import Report
from tailrace.core.errors import StoreCorrupt, StoreUnavailable, TailraceError
from tailrace.core.events import Failure
from tailrace.core.store.port import Delivery, LeaseKeeper, Renewal, TaskQueue, WorkerBeat

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("tailrace.agents")
_propagator = TraceContextTextMapPropagator()

TAKE_BLOCK_SECONDS: Final = 5.0
CLAIM_POLL_SECONDS: Final = 0.5
RETRY_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker runs. `drain_seconds`: how long handlers may go on after a stop was asked for."""

    name: str
    workspaces: Path
    concurrency: int = 4
    drain_seconds: float = 10.0
    claim_poll_seconds: float = CLAIM_POLL_SECONDS
    renew_seconds: float = RENEW_SECONDS
    build: str = ""
    store_id: str = ""


class Worker:
    """One worker of one agent. `leases` makes what drives its renewals and beats."""

    def __init__(
        self,
        agent: Agent,
        queue: TaskQueue,
        keeper: LeaseKeeper,
        artifacts: ArtifactStore,
        options: WorkerOptions,
        *,
        leases: Callable[[LeaseRounds], Leases] = LeaseThread,
    ) -> None:
        self._agent = agent
        self._queue = queue
        self._options = options
        self._reporter = Reporter(queue)
        self._breakers: dict[str, Breaker] = {}
        self._inputs = Inputs(queue)
        self._means = Means(
            worker=options.name,
            build=options.build,
            reporter=self._reporter,
            artifacts=artifacts,
            workspaces=options.workspaces if agent.files else None,
            breakers=self._breakers,
        )
        self._held: dict[str, tuple[RunningTask, asyncio.Task[None]]] = {}
        self._replaced: set[asyncio.Task[None]] = set()
        self._unfinished: list[Delivery] = []
        self._slot_free = asyncio.Event()
        self._unsure = False
        self._draining = False
        self._traced = _is_traced()
        self._loop = asyncio.get_running_loop()
        self._lease_failure: asyncio.Future[Exception] = self._loop.create_future()
        rounds = LeaseRounds(
            keeper,
            held=self._deliveries,
            beat=self._beat,
            on_renewals=self._hand_over,
            on_failure=self._hand_failure,
            renew_seconds=options.renew_seconds,
        )
        self._leases = leases(rounds)

    async def run(self, stop: asyncio.Event, *, joined: asyncio.Event | None = None) -> None:
        """Work until `stop` is set, then drain. `joined` is set once the worker is in its group and has beaten."""
        await self._join()
        self._leases.start()
        if joined is not None:
            joined.set()
        try:
            # Whatever of these ends by an error ends the worker: a half of one would hold tasks and do nothing with them.
            async with asyncio.TaskGroup() as group:
                services = (self._reporter.run(), self._inputs.run(), self._leases_fail())
                serving = [group.create_task(service) for service in services]
                loops = [group.create_task(self._take_forever()), group.create_task(self._claim_forever())]
                await stop.wait()
                self._draining = True
                for loop in loops:
                    loop.cancel()
                await self._drain()
                for service in serving:
                    service.cancel()
        finally:
            await self._stop_handlers()
            if self._draining:
                await self._hand_back()
            await asyncio.to_thread(self._leases.stop)
            for close in self._agent.closers:
                await close()

    @property
    def in_flight(self) -> int:
        """How many tasks this worker holds."""
        return len(self._held)

    async def _join(self) -> None:
        failures = 0
        while True:
            try:
                await self._queue.join()
                await self._accept(await self._queue.reconcile(self._deliveries()))
                return
            except TailraceError as error:
                failures = await _backoff("joining", error, failures)

    async def _leases_fail(self) -> None:
        """Returns never; raises what ended the lease thread."""
        raise await self._lease_failure

    async def _take_forever(self) -> None:
        failures = 0
        while True:
            free = self._free()
            if free <= 0:
                self._slot_free.clear()
                await self._slot_free.wait()
                continue
            try:
                if self._unsure:
                    # A read that failed may have been answered: what was delivered is pending under our name.
                    await self._accept(await self._queue.reconcile(self._deliveries()))
                    self._unsure = False
                    continue
                await self._accept(await self._queue.take(free, block_seconds=TAKE_BLOCK_SECONDS))
                failures = 0
            except TailraceError as error:
                self._unsure = True
                failures = await _backoff("taking tasks", error, failures)

    async def _claim_forever(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(self._options.claim_poll_seconds)
            # (An agent may set tracing up as late as it likes; asked for each batch, it would cost two percent of short tasks.)
            self._traced = _is_traced()
            try:
                await self._accept(await self._queue.claim(self._free()))
                failures = 0
            except TailraceError as error:
                self._unsure = True
                failures = await _backoff("claiming tasks", error, failures)

    def _free(self) -> int:
        return self._options.concurrency - len(self._held)

    async def _accept(self, deliveries: Sequence[Delivery]) -> None:
        """Start a handler for each. A newer delivery of a task that runs here replaces the older one's claim to it."""
        surplus: list[Delivery] = []
        handle = self._handle_traced if self._traced else self._handle
        for delivery in deliveries:
            task_id = delivery.message.task_id
            known = self._held.get(task_id)
            if known is not None:
                self._replace(*known)
            elif self._free() <= 0:
                # A read and a claim may both have counted the same free slot: what is over goes back at once.
                surplus.append(delivery)
                continue
            running = RunningTask(delivery, self._means)
            task = self._loop.create_task(handle(running), name=task_id)
            self._held[task_id] = (running, task)
            task.add_done_callback(partial(self._done, running))
        if surplus:
            await self._queue.release(surplus)

    def _replace(self, running: RunningTask, handler: asyncio.Task[None]) -> None:
        if not running.told:
            running.lost = True
            handler.cancel()
        self._replaced.add(handler)
        handler.add_done_callback(self._replaced.discard)

    def _done(self, running: RunningTask, done: asyncio.Task[None]) -> None:
        known = self._held.get(running.task_id)
        if known is not None and known[0] is running:
            del self._held[running.task_id]
        self._slot_free.set()
        if not done.cancelled() and (error := done.exception()) is not None:
            # Nothing was reported: the lease runs out and the task is delivered again.
            log.error("task %s ended without a report", running.task_id, exc_info=error)

    async def _handle(self, running: RunningTask, span: trace.Span = trace.INVALID_SPAN) -> None:
        """One task from its start to its final report."""
        self._reporter.start(running.delivery, running.report("started"), running.traceparent)
        report = await self._run(running)
        if report is None:
            span.set_status(trace.StatusCode.ERROR, "lost or handed back")
            return
        if report.error is not None:
            span.set_status(trace.StatusCode.ERROR, report.error.reason)
        running.finishing = True
        if not await self._reporter.send_nowait(running.delivery, report, running.traceparent):
            log.warning("the report %s of %s came too late", report.kind, running.task_id)

    async def _handle_traced(self, running: RunningTask) -> None:
        """As `_handle`, within the task's CONSUMER span."""
        with _tracer.start_as_current_span(
            f"process {self._agent.name}",
            context=_propagator.extract({"traceparent": running.delivery.traceparent}),
            kind=trace.SpanKind.CONSUMER,
            attributes=self._attributes(running),
        ) as span:
            carrier: dict[str, str] = {}
            _propagator.inject(carrier)
            running.traceparent = carrier.get("traceparent", running.delivery.traceparent)
            await self._handle(running, span)

    async def _run(self, running: RunningTask) -> Report | None:
        """The final report; None when the task is not ours any more."""
        try:
            raw = at_hand(running.delivery.message) or await self._input(running)
            if not self._agent.files:
                return await execute(self._agent, running, raw)
            async with turn(self._options.workspaces, running.delivery.message):
                return await execute(self._agent, running, raw)
        except StoreCorrupt as error:
            # Delivered again it would be no better: the run ends, and says why.
            return running.report("failed", error=Failure(reason=error.code, message=str(error)))
        except asyncio.CancelledError:
            if running.cancelled:
                return running.report("cancelled", message="cancelled on request")
            return None

    async def _input(self, running: RunningTask) -> dict[str, Any]:
        failures = 0
        while True:
            try:
                return await self._inputs.read(running.delivery.message)
            except StoreUnavailable as error:
                failures = await _backoff(f"reading the input of {running.task_id}", error, failures)

    def _hand_over(self, renewals: Sequence[Renewal]) -> None:
        self._loop.call_soon_threadsafe(self._renewed, renewals)

    def _hand_failure(self, error: Exception) -> None:
        self._loop.call_soon_threadsafe(self._lease_failure.set_result, error)

    def _renewed(self, renewals: Sequence[Renewal]) -> None:
        """On the event loop: what the store said of tasks that are not simply ours to go on with."""
        for renewal in renewals:
            known = self._held.get(renewal.task_id)
            if known is None:
                continue
            running, task = known
            proof = (running.delivery.entry_id, running.delivery.delivery)
            if (renewal.entry_id, renewal.delivery) != proof or running.finishing or running.told:
                # About an earlier delivery or entry; or its end is under way already, and is not to be interrupted again.
                continue
            if renewal.outcome == "cancel":
                running.cancelled = True
                task.cancel()
            elif renewal.outcome == "lost":
                # (While its final report is under way the entry may be gone already: then it is not lost but done.)
                log.warning("task %s was taken away; its handler is cancelled", renewal.task_id)
                running.lost = True
                task.cancel()

    async def _drain(self) -> None:
        """Let handlers finish for a while."""
        if handlers := self._handlers():
            log.info("draining: %d tasks may go on for %.0f s", len(handlers), self._options.drain_seconds)
            await asyncio.wait(handlers, timeout=self._options.drain_seconds)

    async def _stop_handlers(self) -> None:
        """Stop what still runs."""
        self._unfinished = self._deliveries()
        handlers = self._handlers()
        for handler in handlers:
            handler.cancel()
        if handlers:
            await asyncio.wait(handlers, timeout=2.0)

    async def _hand_back(self) -> None:
        """Release what has not ended, uncounted.

        Only by a worker that was told to stop. One that fails leaves its tasks to their leases: whichever of them it was,
        its deliveries have to count, or it would end one worker after the other for ever.
        """
        try:
            async with asyncio.timeout(2.0):
                # What the last read was given while it was cancelled goes back as well, and not after a lease.
                unknown = await self._queue.reconcile(self._unfinished)
                await self._queue.release([*self._unfinished, *unknown])
                await self._queue.leave()
        except (TimeoutError, TailraceError) as error:
            log.warning("leaving without a word: %s", str(error) or "the store did not answer")

    def _handlers(self) -> list[asyncio.Task[None]]:
        """All that run, also those whose task came again while they tidied up."""
        return [*(task for _, task in self._held.values()), *self._replaced]

    def _deliveries(self) -> list[Delivery]:
        # Called on the lease thread: `list` of a dict's values is one step under the GIL.
        return [running.delivery for running, _ in list(self._held.values())]

    def _beat(self) -> WorkerBeat:
        return WorkerBeat(
            agent=self._agent.name,
            name=self._options.name,
            at=0,
            build=self._options.build,
            pid=os.getpid(),
            host=socket.gethostname(),
            slots=0 if self._draining else self._options.concurrency,
            in_flight=len(self._held),
            store_id=self._options.store_id,
            breakers={
                name: str(breaker.state) for name, breaker in list(self._breakers.items()) if breaker.state != "closed"
            },
        )

    def _attributes(self, running: RunningTask) -> dict[str, str | int]:
        """OpenTelemetry's conventions for messaging."""
        delivery = running.delivery
        return {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": f"tasks:{self._agent.name}",
            "messaging.consumer.group.name": self._agent.name,
            "messaging.message.id": delivery.entry_id,
            "messaging.message.conversation_id": running.workflow_id,
            "tailrace.task_id": running.task_id,
            "tailrace.stage": delivery.message.stage,
            "tailrace.attempt": delivery.message.attempt,
            "tailrace.delivery": delivery.delivery,
        }


def _is_traced() -> bool:
    """Whether anybody has set tracing up: where nobody has no span is made, which would cost a tenth of a short task."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


async def _backoff(what: str, error: TailraceError, failures: int) -> int:
    if not failures:
        log.warning("%s: %s; trying again", what, error)
    await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
    return failures + 1
