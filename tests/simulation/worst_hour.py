"""An hour of two venues at their worst, in front of a real broker and a hundred subscribers.

``python -m tests.simulation.worst_hour [MINUTES]`` prints what they saw.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
import trio

from broker.app import Broker
from broker.config.tree import Config, History, Limits, Server, SlowConsumer
from broker.core.ticks import Book, Status, Tick
from feeds.coinbase import Coinbase
from feeds.kraken import Kraken
from feeds.venue import VenueFeed
from tests.simulation import world as world_module
from tests.simulation.conversation import REST_S
from tests.simulation.exchange import CoinbaseDialect, Connection, Exchange, KrakenDialect, Levels
from tests.simulation.judge import Judge
from tests.simulation.network import Kernel, SimListener
from tests.simulation.watcher import Known, Tape, Watcher
from tests.simulation.world import Clock, World, scheduled_by

#: Subscribers of each mode.
SUBSCRIBERS = 50
MODES: dict[str, list[dict[str, Any]]] = {
    "latest": [{"mode": "latest"}],
    "every": [
        {"mode": "every", "queue": 1000, "overflow": overflow} for overflow in ("gap", "degrade", "evict")
    ],
}
BEAT_S, TROUBLE_S = 3.0, 40.0
STALE_AFTER_S = 30.0
#: How often in a run memory is weighed. It is less while a feed is down, so the most of several counts.
WEIGHINGS = 24


@dataclass
class Report:
    """What came of a run.

    Attributes:
        faults: what must not be.
        seen: by mode, what subscribers counted.
        seconds: how long each feed was in each state.
        blocks: memory blocks of the interpreter, `WEIGHINGS` times; only where there are all subscribers.
        lines: of the log, by event.
    """

    seed: int
    faults: list[str]
    troubles: dict[str, Counter[str]] = field(default_factory=dict)
    seen: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    states: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: dict[str, Counter[str]] = field(default_factory=dict)
    connects: dict[str, Counter[str]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    blocks: list[int] = field(default_factory=list)
    lines: Counter[str] = field(default_factory=Counter)
    books_compared: int = 0
    ticks: int = 0


class SimUpstream:
    """Towards the scripted venues (`broker.runtime.feed_runner.Upstream`)."""

    def __init__(self, exchanges: dict[str, Exchange]) -> None:
        self._exchanges = exchanges

    def connect_ws(self, url: str, *, max_message_bytes: int) -> Connection:
        return self._exchanges[url].connect()

    async def get_body(self, url: str) -> bytes:
        raise AssertionError(f"these venues have no REST: {url}")


def run(seed: int, minutes: float, *, subscribers: int = SUBSCRIBERS) -> Report:
    """Run so many minutes of simulated time; ``subscribers`` of each mode."""
    clock = Clock()
    world = World(seed, clock, grid_s=0.01)
    judge = Judge(lambda: clock.now)
    report = Report(seed, judge.faults)
    config = structlog.get_config()
    most_events, world_module.MOST_EVENTS = world_module.MOST_EVENTS, 100_000_000

    def log(logger: object, level: str, event: dict[str, Any]) -> str:
        if level not in ("debug", "info"):
            report.lines[event["event"]] += 1
        return judge.log(logger, level, event)

    structlog.configure(processors=[log], logger_factory=structlog.ReturnLoggerFactory())
    try:
        with scheduled_by(seed):
            trio.run(_Hour(world, judge, report, minutes * 60, subscribers).main, clock=clock)
    finally:
        structlog.configure(**config)
        world_module.MOST_EVENTS = most_events
    return report


class _Hour:
    def __init__(self, world: World, judge: Judge, report: Report, lasts_s: float, subscribers: int) -> None:
        self._world = world
        self._judge = judge
        self._report = report
        self._lasts_s = lasts_s
        self._subscribers = subscribers
        make = partial(Exchange, world=world, beat_s=BEAT_S, trouble_s=TROUBLE_S)
        self._exchanges = {"ws://coinbase": make(CoinbaseDialect()), "ws://kraken": make(KrakenDialect())}
        self._truth = {
            sym: versions for each in self._exchanges.values() for sym, versions in each.truth.items()
        }

    async def main(self) -> None:
        world, judge = self._world, self._judge
        tasks = trio.lowlevel.current_statistics().tasks_living
        kernel = Kernel(world, send_cost_s=0.0)
        listener = SimListener(kernel, world.child())
        broker = Broker(_config(), time_ns=world.time_ns, rng=world.child())
        broker.ingest._upstream = SimUpstream(self._exchanges)
        for feed in _feeds():
            broker.ingest.add(feed.venue.lower(), feed.venue.lower(), feed, world.child())
        tape = Tape(world, broker)
        self._hold_books_against_the_venue(broker)
        known = Known(world, tape, self._truth, judge.fail)
        watchers = [
            Watcher(number, mode, contracts[number % len(contracts)], known, listener)
            for mode, contracts in MODES.items()
            for number in range(self._subscribers)
        ]
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.run)

            async def serve() -> None:
                await broker.run(broker.door([listener], None, waiting=kernel), stop)
                nursery.cancel_scope.cancel()

            nursery.start_soon(serve)
            await self._let_it_happen(watchers)
            self._conclude(broker, watchers)
            stop.set()
        judge.look_at_the_end(broker, kernel, tasks)

    async def _let_it_happen(self, watchers: list[Watcher]) -> None:
        for number in range(WEIGHINGS):
            await trio.sleep(self._lasts_s / WEIGHINGS)
            if self._subscribers == SUBSCRIBERS:
                gc.collect()
                self._report.blocks.append(sys.getallocatedblocks())
            if number == WEIGHINGS // 2:
                for exchange in self._exchanges.values():
                    exchange.end_day()
        for exchange in self._exchanges.values():
            exchange.close()
        for watcher in watchers:
            watcher.rest()
        await trio.sleep(2 * REST_S)
        for watcher in watchers:
            watcher.last_list()
        await trio.sleep(1.0)

    def _conclude(self, broker: Broker, watchers: list[Watcher]) -> None:
        report = self._report
        for exchange in self._exchanges.values():
            report.faults += exchange.faults
            report.troubles[exchange.dialect.venue] = exchange.troubles
            report.connects[exchange.dialect.venue] = exchange.connects
        now = trio.current_time()
        for runner in broker.ingest.feeds:
            report.states[runner.feed.venue] = {**runner.seconds_in(now)}
            report.failures[runner.feed.venue] = Counter({**runner.failures})
            report.refused[runner.feed.venue] = runner.refusals
            report.gaps[runner.feed.venue] = runner.gaps
        for watcher in watchers:
            watcher.conclude()
            report.seen[watcher.mode].update(watcher.seen)
            report.books_compared += watcher.contents.compared
        report.ticks = broker.tape.offset

    def _hold_books_against_the_venue(self, broker: Broker) -> None:
        """After every tick of a book the tape's must be the venue's.

        Behind a gap nothing but a snapshot comes, and no other but the first comes without a gap. Where a feed is not
        live, none of its books stands.
        """
        publish, gap, fail = broker.fanout.publish, broker.fanout.gap, self._judge.fail
        served: set[str] = set()
        gapped: set[str] = set()

        def published(ticks: Any) -> None:
            batch: list[Tick] = list(ticks)
            for tick in batch:
                if isinstance(tick, Book):
                    stands = tick.sym in served and tick.sym not in gapped
                    if stands is (tick.kind == "snapshot"):
                        fail(
                            f"a {tick.kind} of {tick.sym}, whose book {'stands' if stands else 'was given up'}"
                        )
                    served.add(tick.sym)
                    gapped.discard(tick.sym)
                elif isinstance(tick, Status) and tick.state != "live" and tick.sym in served - gapped:
                    fail(f"{tick.sym} is {tick.state}, and its book stands")
            publish(batch)
            for sym, tick in {tick.sym: tick for tick in batch if isinstance(tick, Book)}.items():
                state = broker.topics.get("book", sym).book
                assert state is not None
                bids, asks = state.levels()
                ours: Levels = frozenset(map(tuple, bids)), frozenset(map(tuple, asks))  # type: ignore[arg-type]
                if self._truth[sym].get(tick.ts) != ours:
                    fail(f"the tape's book of {sym} is not the venue's at {tick.ts}")

        def missed(ch: Any, sym: str, *reason: Any) -> None:
            if ch == "book":
                gapped.add(sym)
            gap(ch, sym, *reason)

        broker.fanout.publish = published  # type: ignore[method-assign]
        broker.fanout.gap = missed  # type: ignore[method-assign]


def _feeds() -> list[VenueFeed]:
    coinbase = Coinbase.Options(
        symbols=("BTC-USD", "ETH-USD"), url="ws://coinbase", stale_after_s=STALE_AFTER_S
    )
    kraken = Kraken.Options(
        symbols=("BTC-USD", "ETH-USD"), url="ws://kraken", depth=10, stale_after_s=STALE_AFTER_S
    )
    return [Coinbase(coinbase), Kraken(kraken)]


def _config() -> Config:
    return Config(
        server=Server(drain_s=1.0),
        history=History(ticks=500),
        limits=Limits(),
        slow_consumer=SlowConsumer(),
        feeds=(),
    )


def main() -> int:
    """Run it, and print what came of it; the exit code says whether it held."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    began = time.process_time()
    report = run(1, minutes)
    print(
        f"{minutes:g} minutes in {time.process_time() - began:.0f} s of CPU, {report.ticks:,} ticks on the tape"
    )
    for venue, troubles in report.troubles.items():
        print(f"{venue}: troubles {dict(troubles)}")
        print(f"  connections {dict(report.connects[venue])}, failures {dict(report.failures[venue])}")
        print(f"  frames refused {report.refused[venue]}, gaps told {report.gaps[venue]}")
        print(
            f"  seconds in each state { {name: round(each) for name, each in report.states[venue].items()} }"
        )
    for mode, seen in report.seen.items():
        print(f"{mode}: {dict(seen)}")
    print(f"books compared {report.books_compared:,}; blocks {report.blocks}; lines {dict(report.lines)}")
    print("\n".join(report.faults[:20]) or "everything holds")
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
