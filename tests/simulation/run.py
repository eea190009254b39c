"""One run: a broker, a hundred subscribers, feeds and weather, all of it decided by a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from broker.app import Broker
from broker.config.tree import Config, History, Limits, Server, SlowConsumer
from broker.core import outbox
from tests.simulation.conversation import REST_S
from tests.simulation.feeds import SimFeed
from tests.simulation.judge import Judge
from tests.simulation.network import Kernel, SimListener
from tests.simulation.oracle import Oracle
from tests.simulation.recording import RecordedFeed, symbols_of
from tests.simulation.subscriber import Client, Rules
from tests.simulation.world import Clock, World, scheduled_by

SUBSCRIBERS = 100
#: For how long things happen, in seconds.
ACTIVE_S = 3.0
#: What a write may hold, where it is to be little.
SMALL_WRITES = {"WRITE_BYTES": 700, "WRITE_TICKS": 5, "WRITE_BOOKS": 3, "WRITE_GAPS": 2}
#: The broker must have come to rest, or to its end, by then.
MOST_S = 120.0


@dataclass
class Result:
    """What came of a run.

    Attributes:
        trace: the hash of every byte that any client sent or got, and of when.
        figures: for the report.
    """

    seed: int
    faults: list[str]
    trace: str
    figures: Counter[str] = field(default_factory=Counter)


@contextmanager
def _writes_of(sizes: dict[str, int]) -> Iterator[None]:
    """Let the broker write less at a time, so that a short run has many writes that don't take everything."""
    before = {name: getattr(outbox, name) for name in sizes}
    try:
        for name, size in sizes.items():
            setattr(outbox, name, size)
        yield
    finally:
        for name, size in before.items():
            setattr(outbox, name, size)


def run(seed: int, recording: str = "") -> Result:
    """Run a seed to its end; never raises for what the broker does wrong.

    ``recording``: is played beside the other feeds, if there is one; as `tapecast replay` takes it.
    """
    recorded = symbols_of(recording) if recording else ()
    rng = random.Random(seed)
    clock = Clock()
    world = World(seed, clock, grid_s=rng.choice((0.001, 0.005, 0.01)))
    judge = Judge(lambda: clock.now)
    result = Result(seed, judge.faults, "")
    config = structlog.get_config()
    structlog.configure(processors=[judge.log], logger_factory=structlog.ReturnLoggerFactory())
    try:
        with scheduled_by(seed), _writes_of(rng.choice(({}, SMALL_WRITES))):
            trio.run(_Run(world, judge, result, recording, recorded).main, clock=clock)
    except BaseException as exc:
        if not isinstance(exc, Exception):
            raise
        judge.fail(f"the broker fell over: {exc!r}")
    finally:
        structlog.configure(**config)
    result.trace = world.trace()
    return result


class _Run:
    def __init__(
        self, world: World, judge: Judge, result: Result, recording: str, recorded: Sequence[str]
    ) -> None:
        self._world = world
        self._recording, self._recorded = recording, recorded
        self._judge = judge
        self._result = result

    async def main(self) -> None:
        world, judge = self._world, self._judge
        with trio.fail_after(MOST_S):
            tasks = trio.lowlevel.current_statistics().tasks_living
            kernel = Kernel(world, send_cost_s=world.rng.choice((0.0, 8e-6, 50e-6, 400e-6)))
            listener = SimListener(kernel, world.child())
            config = _config(world.rng)
            if self._recording:
                # A venue's book is larger than the smallest bounds, and goes whole.
                self._judge.most_pending_bytes = 1 << 20
                limits = config.limits.model_copy(update={"queue_bytes": 1 << 20})
                config = config.model_copy(update={"limits": limits})
            broker = Broker(config, time_ns=world.time_ns, rng=world.child())
            oracle = Oracle(world)
            symbols = _add_feeds(world, broker)
            if self._recording:
                feed = RecordedFeed(self._recording, trio.current_time() + ACTIVE_S)
                broker.ingest.add("recorded", "replay", feed, world.child())
                symbols[feed.venue] = list(self._recorded)
            judge.watch(broker)
            oracle.listen(broker)
            rules = Rules(world, oracle, listener, symbols, ACTIVE_S, judge.fail)
            clients = [Client(number, rules) for number in range(SUBSCRIBERS)]
            stop = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.run)

                async def serve() -> None:
                    await broker.run(broker.door([listener], None, waiting=kernel), stop)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(serve)
                await self._let_it_happen(rules, broker)
                stop.set()
        judge.look_at_the_end(broker, kernel, tasks)
        self._conclude(rules, broker, len(clients))

    async def _let_it_happen(self, rules: Rules, broker: Broker) -> None:
        world, oracle = self._world, rules.oracle
        await trio.sleep(ACTIVE_S)
        for life in rules.lives:
            life.rest()
        give_up = world.now + 4 * REST_S
        while world.now < min(give_up, oracle.last_at + REST_S):  # noqa: ASYNC110  # nothing tells of no ticks
            await trio.sleep(0.1)
        self._judge.look(broker)
        if world.now < give_up:
            for life in rules.lives:
                life.last_list()
            await trio.sleep(0.3)

    def _conclude(self, rules: Rules, broker: Broker, clients: int) -> None:
        judge, figures = self._judge, self._result.figures
        judge.faults += rules.oracle.faults
        for life in rules.lives:
            life.conclude()
        if broker.tape.offset != rules.oracle.offset:
            judge.fail(f"{broker.tape.offset} ticks on the tape, {rules.oracle.offset} published")
        figures.update(
            clients=clients,
            connections=len(rules.lives),
            ticks=rules.oracle.offset,
            deliveries=broker.router.delivered,
            queue_peak=self._judge.peak,
        )
        figures.update({f"closed {name}": count for name, count in broker.sessions.closed.items()})


def _config(rng: random.Random) -> Config:
    history = rng.choice(
        (History(), History(ticks=60), History(bytes=20_000), History(age_s=0.5), History(ticks=0))
    )
    return Config(
        server=Server(
            heartbeat_s=rng.choice((1.0, 1.7)),
            ping_interval_s=1.0,
            ping_timeout_s=1.0,
            handshake_timeout_s=0.5,
            drain_s=1.0,
            min_write_gap_ms=rng.choice((0.0, 20.0)),
        ),
        history=history,
        limits=Limits(
            queue_ticks=rng.choice((25, 10_000)),
            queue_bytes=rng.choice((4096, 1 << 20)),
            session_queue_ticks=rng.choice((40, 100_000)),
            total_queue_ticks=rng.choice((150, 2_000_000)),
        ),
        slow_consumer=SlowConsumer(write_deadline_s=rng.choice((0.4, 1.0, 5.0))),
        feeds=(),
    )


def _add_feeds(world: World, broker: Broker) -> dict[str, list[str]]:
    """Add two or three venues; return their symbols."""
    symbols: dict[str, list[str]] = {}
    for venue in ("SIM", "OTHER", "X_1")[: world.rng.randint(2, 3)]:
        names = [f"{venue}:{name}" for name in ("ACME", "B.A", "C-USD", "D")[: world.rng.randint(2, 4)]]
        symbols[venue] = names
        feed: Any = SimFeed(
            world, venue, names, declares=world.rng.random() < 0.7, until=ACTIVE_S, pace_s=0.05
        )
        broker.ingest.add(venue.lower(), "simulated", feed, world.child())
    return symbols
