"""H2: Redis does not roll a failed script back, so a script with a wrong key or argument writes nothing at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tailrace.core.commands import ApplyReport, CancelWorkflow
from tailrace.core.redis_backend import scripts
from tailrace.core.redis_backend.connection import Call
from tailrace.core.redis_backend.exchange import Argument
from tailrace.core.redis_backend.keys import RELEASED
from tailrace.core.store.port import Append, Delivery, Limits
from tailrace.core.testing.builders import completed, create_workflow, diamond, workflow_id_in
from tailrace.core.testing.runner import Runner
from tailrace.infra.embedded import EmbeddedRedis
from tests.support.append_call import append_call
from tests.support.bench import Bench
from tests.support.dump import dump

#: What an argument that is a number must not be taken for.
NO_NUMBERS = ("x", "nan", "-1", "1e999", " 7x")


class Scene:
    """A run of a diamond whose first task was taken and reported, and whose second and third task are open."""

    def __init__(self, bench: Bench, runner: Runner, run: str, held: Delivery) -> None:
        self.bench = bench
        self.runner = runner
        self.run = run
        self.held = held
        self.part = bench.part(run)
        self.lanes = [self.part.tasks("agent", urgent=True), self.part.tasks("agent")]

    @classmethod
    async def set(cls, bench: Bench) -> Scene:
        """Everything a script may find: a log, open tasks, a held one, one to be cancelled, timers, reports."""
        runner = await bench.prepare(diamond())
        run, other = (workflow_id_in(0, bench.store.partitions, number=number) for number in (1, 2))
        await bench.submit(runner.pipeline, run)
        queue = bench.queue()
        (start,) = await queue.take(1, block_seconds=1)
        await queue.report([(start, completed(start.message.task_id, {"n": 1}), "")])
        await runner.apply_reports(run)
        (held,) = await queue.take(1, block_seconds=1)
        await queue.report([(held, completed(held.message.task_id), "")])
        (held,) = await queue.take(1, block_seconds=1)
        await bench.submit(runner.pipeline, other)
        return cls(bench, runner, run, held)

    def append(self, *appends: Append) -> Call:
        """The call that carries appends out."""
        return append_call(self.bench.store, *appends)

    async def neighbour(self) -> Append:
        """An append to another run of the partition."""
        run = workflow_id_in(0, self.bench.store.partitions, number=2)
        return await self.runner.decide(run, CancelWorkflow())

    async def decided(self) -> Append:
        """An append with one of everything: report, ownership, events, output, dispatch, closing, timers."""
        (entry,) = await self.runner.reports(self.run)
        owned = await self.bench.store.acquire(0, "o1", None)
        append = await self.runner.decide_report(entry, ownership=owned)
        cancelling = await self.runner.decide(self.run, CancelWorkflow())
        return replace(
            append,
            outputs={**append.outputs, "extra:1": b"\xc0"},
            closings=[*append.closings, *cancelling.closings],
            timers_set={"a-timer": 4_000_000_000_000_000},
            timers_cleared=[*append.timers_cleared, "another-timer"],
            dispatches=[*append.dispatches, *(await self.created()).dispatches],
        )

    async def created(self) -> Append:
        """An append that starts a run."""
        run = workflow_id_in(0, self.bench.store.partitions, number=3)
        return await self.runner.decide(run, create_workflow(self.runner.pipeline, run))

    async def bare(self) -> Append:
        """An append without events, which only removes its report."""
        (entry,) = await self.runner.reports(self.run)
        assert entry.report is not None
        unknown = replace(entry.report, kind="started", task_id=f"{self.run}:start:1")
        return await self.runner.decide(self.run, ApplyReport(report=unknown), reports=[entry.entry_id])

    def queued(self, script: scripts.Script, keys: list[str], *args: Argument) -> Call:
        """A call of one of a worker's scripts."""
        return Call(script, keys, ["agent", "w1", *args])


Make = Callable[[Scene], Awaitable[Call]]


async def _append(scene: Scene) -> Call:
    return scene.append(await scene.decided())


async def _append_two(scene: Scene) -> Call:
    first = await scene.decided()
    return scene.append(first, replace(await scene.neighbour(), ownership=first.ownership))


async def _create(scene: Scene) -> Call:
    return scene.append(await scene.created())


async def _bare(scene: Scene) -> Call:
    return scene.append(await scene.bare())


async def _report(scene: Scene) -> Call:
    held, part = scene.held, scene.part
    one = (1, held.entry_id, held.delivery, "1", held.message.task_id, scene.run, "trace", b"\x80")
    return scene.queued(scripts.REPORT, [part.reports, part.cancels, held.stream], 1, *one)


async def _claim(scene: Scene, mode: str = "own") -> Call:
    keys = [scene.part.pulse, scene.part.reports, scene.part.cancels, *scene.lanes]
    return Call(scripts.CLAIM, keys, [mode, "agent", "w1", 0, 5, 9, 1_500_000])


async def _claim_expired(scene: Scene) -> Call:
    return await _claim(scene, "expired")


async def _claim_poison(scene: Scene) -> Call:
    call = await _claim(scene)
    return Call(call.script, call.keys, [*call.args[:5], 1, call.args[6]])


async def _renew(scene: Scene) -> Call:
    held = scene.held
    lane = scene.lanes.index(held.stream) + 1
    one = (lane, held.entry_id, held.delivery, held.message.task_id)
    return scene.queued(scripts.RENEW, [scene.part.cancels, scene.part.reports, *scene.lanes], *one)


async def _renew_gone(scene: Scene) -> Call:
    await scene.bench.store.client.command("XDEL", scene.held.stream, scene.held.entry_id)
    return await _renew(scene)


async def _renew_acknowledged(scene: Scene) -> Call:
    await scene.bench.store.client.command("XACK", scene.held.stream, "agent", scene.held.entry_id)
    return await _renew(scene)


async def _report_acknowledged(scene: Scene) -> Call:
    await scene.bench.store.client.command("XACK", scene.held.stream, "agent", scene.held.entry_id)
    return await _report(scene)


async def _release(scene: Scene) -> Call:
    return scene.queued(scripts.RELEASE, [scene.held.stream], scene.held.entry_id, scene.held.delivery, RELEASED)


async def _take(scene: Scene) -> Call:
    await scene.bench.submit(scene.runner.pipeline, workflow_id_in(0, 2, number=5), priority="high")
    return scene.queued(scripts.TAKE, scene.lanes, 5)


async def _park(scene: Scene) -> Call:
    (entry,) = await scene.runner.reports(scene.run)
    return Call(scripts.PARK, [scene.part.reports, scene.part.parked], [entry.entry_id, "a reason", 10])


async def _park_timer(scene: Scene) -> Call:
    await scene.bench.store.client.command("ZADD", scene.part.timers, 5, "a-timer")
    return Call(scripts.PARK_TIMER, [scene.part.timers, scene.part.parked], ["a-timer", 5, "a reason", 10])


async def _owner(scene: Scene) -> Call:
    owned = await scene.bench.store.acquire(0, "o1", None)
    assert owned is not None
    return Call(scripts.OWNER, [scene.part.owner], ["o1", owned.epoch, 3_000_000])


async def _timers(scene: Scene) -> Call:
    return Call(scripts.TIMERS, [scene.part.timers, scene.part.pulse], [10, 3_000_000, 1_500_000])


async def _overdue(scene: Scene) -> Call:
    return Call(scripts.OVERDUE, [scene.part.expect, scene.part.pulse], [10, 3_000_000, 1_500_000])


async def _postpone(scene: Scene) -> Call:
    version = (await scene.bench.state(scene.run)).version
    return Call(scripts.POSTPONE, [scene.part.workflow(scene.run), scene.part.expect], [scene.run, version, 7])


async def _beat(scene: Scene) -> Call:
    return Call(scripts.BEAT, [scene.bench.store.keys.worker("agent", "w1")], ["{}", 60_000])


async def _enlist(scene: Scene) -> Call:
    return Call(scripts.ENLIST, [scene.bench.store.keys.workers("agent")], ["w1", 1_000_000, 5])


async def _init(scene: Scene) -> Call:
    return Call(scripts.INIT, [f"{scene.bench.store.keys.meta}:new"], [2, 1, "an-id"])


async def _group(scene: Scene) -> Call:
    return Call(scripts.GROUP, [scene.part.tasks("fresh")], ["fresh"])


async def _remove_consumer(scene: Scene) -> Call:
    await scene.bench.store.client.command("XGROUP", "CREATECONSUMER", scene.lanes[0], "agent", "w1")
    return Call(scripts.REMOVE_CONSUMER, [scene.lanes[0]], ["agent", "w1"])


async def _trim(scene: Scene) -> Call:
    for number in range(3, 60):
        await scene.bench.submit(scene.runner.pipeline, workflow_id_in(0, scene.bench.store.partitions, number=number))
    last = (await scene.bench.store.read_log(0, "0-0", count=1000))[-1]
    epoch = scene.bench.store._epochs[0]
    return Call(scripts.TRIM, [scene.part.head, scene.part.log], [epoch, last.entry_id, last.seq, 1000])


async def _expire(scene: Scene) -> Call:
    numbers = (3, 4)
    args: list[Argument] = [scene.bench.store._epochs[0]]
    keys = [scene.part.head, scene.part.expect]
    for number in numbers:
        run = await scene.bench.submit(
            scene.runner.pipeline, workflow_id_in(0, scene.bench.store.partitions, number=number)
        )
        snapshot = await scene.bench.handler.execute(run, CancelWorkflow(), actor="test")
        args += (run, snapshot.state.version)
        keys.append(scene.part.workflow(run))
    return Call(scripts.EXPIRE, keys, args)


def _notice_keys(scene: Scene, *targets: str) -> list[str]:
    keys = scene.bench.store.keys
    return [key for target in targets for key in (keys.notices_due(target), keys.notices_out(target))]


def _notices_write_call(scene: Scene, version: int) -> Call:
    keys = scene.bench.store.keys
    listed = ("position:0", b"\x80", "incident:gone", "", scene.run, "an incident", "a-notice", b"\x80")
    return Call(
        scripts.NOTICES_WRITE,
        [keys.notices, keys.notices_standing, *_notice_keys(scene, "one", "other")],
        [version, 2, 2, 1, 1, 100, 60_000, *listed],
    )


async def _notices_write(scene: Scene) -> Call:
    return _notices_write_call(scene, 0)


async def _notices_claim(scene: Scene) -> Call:
    await scene.bench.store.client.calls([_notices_write_call(scene, 0)])
    return Call(scripts.NOTICES_CLAIM, _notice_keys(scene, "one"), [5_000_000])


async def _notices_settle(scene: Scene, due_at: int = 0) -> Call:
    (claimed,) = await scene.bench.store.client.calls([await _notices_claim(scene)])
    return Call(scripts.NOTICES_SETTLE, _notice_keys(scene, "one"), ["a-notice", int(claimed[2]), due_at, b"\x81"])


async def _notices_again(scene: Scene) -> Call:
    return await _notices_settle(scene, due_at=4_000_000_000_000_000)


CALLS: dict[str, Make] = {
    make.__name__.lstrip("_"): make
    for make in (
        *(
            _append,
            _append_two,
            _create,
            _bare,
            _report,
            _claim,
            _claim_expired,
            _claim_poison,
            _renew,
            _renew_gone,
            _renew_acknowledged,
            _report_acknowledged,
            _release,
        ),
        *(
            _take,
            _park,
            _park_timer,
            _owner,
            _timers,
            _overdue,
            _postpone,
            _beat,
            _enlist,
            _init,
            _group,
            _remove_consumer,
            _trim,
            _expire,
        ),
        *(
            _notices_write,
            _notices_claim,
            _notices_settle,
            _notices_again,
        ),
    )
}


def broken(call: Call, wrong: str) -> Iterator[tuple[str, Call]]:
    """The call with one thing wrong: a key of another type or none, an argument missing, too many, or no number."""
    keys, args = list(call.keys), list(call.args)
    for at in range(len(keys)):
        yield f"key {at} of a wrong type", Call(call.script, [*keys[:at], wrong, *keys[at + 1 :]], args)
        yield f"without key {at}", Call(call.script, keys[:at] + keys[at + 1 :], args)
    for at, value in enumerate(args):
        yield f"without argument {at}", Call(call.script, keys, args[:at] + args[at + 1 :])
        yield f"with arguments to {at}", Call(call.script, keys, args[:at])
        if isinstance(value, int) or value in {"0", "1"}:
            for no_number in NO_NUMBERS:
                yield (
                    f"{no_number!r} as argument {at}",
                    Call(call.script, keys, [*args[:at], no_number, *args[at + 1 :]]),
                )
    if call.script is not scripts.CLAIM:  # it takes any number of entries that are held
        yield "one argument too many", Call(call.script, keys, [*args, "more"])


@pytest.mark.failure(9)
@pytest.mark.hole("H2")
@pytest.mark.parametrize("name", CALLS)
async def test_h02_a_script_with_something_wrong_writes_nothing(
    name: str, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Not with any key of another type, nor with any argument missing or wrong; and as it was meant, it writes."""
    async with Bench.on(redis_server.url, tmp_path, limits=Limits(owner_seconds=60.0)) as bench:
        scene = await Scene.set(bench)
        call = await CALLS[name](scene)
        wrong = f"{scene.part.log}:wrong"
        client = bench.store.client
        await client.command("SET", wrong, "text")
        before = await dump(bench.store)
        for what, one in broken(call, wrong):
            (reply,) = await client.calls([one])
            assert await dump(bench.store) == before, f"{name} {what} wrote, and said {reply!r}"
        (reply,) = await client.calls([call])
        assert not isinstance(reply, Exception), reply
        assert await dump(bench.store) != before, f"{name} wrote nothing when all was right, and said {reply!r}"


@pytest.mark.failure(19)
@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"append", "append_two", "create", "bare", "trim", "expire"}))
async def test_f19_only_an_append_moves_a_run(name: str, redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    """Every other script does what it is for, and leaves the log, its head and the runs as they were."""
    async with Bench.on(redis_server.url, tmp_path, limits=Limits(owner_seconds=60.0)) as bench:
        scene = await Scene.set(bench)
        call = await CALLS[name](scene)
        before = await dump(bench.store)
        (reply,) = await bench.store.client.calls([call])
        assert not isinstance(reply, Exception), reply
        after = await dump(bench.store)
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert changed, f"{name} wrote nothing"
        history = {scene.part.log.encode(), scene.part.head.encode()}
        assert not {key for key in changed if key in history or b":wf:" in key}


@pytest.mark.hole("H2")
async def test_h02_one_broken_run_keeps_none_of_its_neighbours(bench: Bench) -> None:
    """In one call nothing is written for any of them; then each is tried alone."""
    scene = await Scene.set(bench)
    own, other = await scene.bare(), await scene.neighbour()
    await bench.store.client.command("RENAME", scene.part.workflow(scene.run), "put-aside")
    await bench.store.client.command("SET", scene.part.workflow(scene.run), "text")
    before = await dump(bench.store)
    (reply,) = await bench.store.client.calls([scene.append(other, own)])
    assert "is a string" in str(reply)
    assert await dump(bench.store) == before
    assert [done.outcome for done in await bench.store.append([other, own])] == ["ok", "broken"]


@pytest.mark.hole("H2")
async def test_h02_a_run_comes_once_in_a_call(bench: Bench) -> None:
    """What was checked is what is true when it is written; so two appends to one run are two calls."""
    scene = await Scene.set(bench)
    other = await scene.neighbour()
    before = await dump(bench.store)
    (reply,) = await bench.store.client.calls([scene.append(other, other)])
    assert "comes twice" in str(reply)
    assert await dump(bench.store) == before
    assert [done.outcome for done in await bench.store.append([other, other])] == ["ok", "conflict"]


@pytest.mark.hole("H2")
async def test_h02_renewing_several_checks_all_of_them_first(bench: Bench) -> None:
    """The second of two names no stream: the first one is not renewed either."""
    scene = await Scene.set(bench)
    call = await _renew(scene)
    before = await dump(bench.store)
    (reply,) = await bench.store.client.calls([Call(call.script, call.keys, [*call.args, 9, *call.args[3:]])])
    assert "names no stream" in str(reply)
    assert await dump(bench.store) == before


@pytest.mark.hole("H2")
async def test_h02_what_was_taken_is_given_though_the_next_stream_has_no_group(bench: Bench) -> None:
    """An error behind the first stream would lose what came out of it until its lease runs out."""
    scene = await Scene.set(bench)
    call = await _take(scene)
    await bench.store.client.command("XGROUP", "DESTROY", scene.lanes[1], "agent")
    (reply,) = await bench.store.client.calls([call])
    assert [index for index, *_ in reply] == [1]
    (reply,) = await bench.store.client.calls([call])
    assert "NOGROUP" in str(reply)
