"""From the feeds to the tape: takes batches out of the channel that all feeds share, derives bars, publishes.

How a feed is kept running is in `broker.runtime.feed_runner`, what becomes of its ticks when the broker is behind in
`broker.runtime.gate`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import cast

import structlog
import trio

from broker.core.bars import INTERVALS, SECOND, BarBuilder
from broker.core.books import with_plain_removals
from broker.core.errors import FrameError
from broker.core.feed_queue import Missed, Rewound
from broker.core.ticks import Book, Channel, Quote, Tick, Trade, is_symbol, venue_of
from broker.core.topics import Topics
from broker.runtime.fanout import Fanout
from broker.runtime.feed_runner import Feed, FeedRunner, Upstream
from broker.runtime.gate import CHANNEL_BATCHES, LOOK_S, Batch
from broker.runtime.shapes import fault_of

#: A feed that is silent for so long has its bars closed by the clock on the wall.
SILENCE_S = 2.0

#: A `ts` further in the future than this is a mistake of the adapter's, and must not close bars.
FUTURE_NS = 60 * SECOND
#: Of these a feed's batch is published as it is; of the others each is looked at.
_PLAIN = frozenset({Quote, Book})
_ts, _rts, _sym = attrgetter("ts"), attrgetter("rts"), attrgetter("sym")
#: Later than the end of every bar that may be open.
CLOSE_ALL_NS = 2 * INTERVALS[-1][1]


class Ingest:
    """Takes batches out of the channel, derives bars, and publishes.

    Attributes:
        feeds: the runners, in the order of the configuration.
        broken: batches that could not be published because of a fault of ours.
    """

    def __init__(
        self, topics: Topics, fanout: Fanout, *, upstream: Upstream, time_ns: Callable[[], int]
    ) -> None:
        self.feeds: list[FeedRunner] = []
        self.broken = 0
        self._topics = topics
        self._fanout = fanout
        self._upstream = upstream
        self._time_ns = time_ns
        self._send, self._receive = trio.open_memory_channel[Batch](CHANNEL_BATCHES)
        self._log = structlog.get_logger()

    def add(self, name: str, kind: str, feed: Feed, rng: random.Random) -> FeedRunner:
        """Make a feed known; `run` starts it."""
        runner = FeedRunner(
            name,
            kind,
            feed,
            self._send,
            upstream=self._upstream,
            time_ns=self._time_ns,
            rng=rng,
            on_state=self._tell_state,
            demand=lambda: self._topics.demand(feed.venue),
        )
        self.feeds.append(runner)
        self._topics.declare(feed.venue, feed.symbols)
        return runner

    async def run(self) -> None:
        """Run all feeds for ever."""
        async with trio.open_nursery() as nursery:
            for runner in self.feeds:
                nursery.start_soon(self._guard(runner.supervise), name=f"feed {runner.name}")
                nursery.start_soon(runner.gate.run, name=f"gate of {runner.name}")
            nursery.start_soon(self._close_silent_bars)
            nursery.start_soon(self._look_for_unflushed)
            async for batch in self._receive:
                try:
                    self._take(batch)
                except Exception:
                    # Ours, whatever it is; the next batch may be fine.
                    self.broken += 1
                    self._log.exception("a batch could not be published", feed=batch.feed.name)
                batch.feed.gate.taken(batch)

    def _guard(self, supervise: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            try:
                await supervise()
            except Exception:
                self._log.exception("a feed's supervisor failed")

        return run

    def _take(self, batch: Batch) -> None:
        """Publish a batch, and behind it the bars that it closes."""
        runner = batch.feed
        ticks: list[Tick] = []
        watermark, is_checked = runner.watermark, runner.feed.is_checked
        items = batch.items
        if is_checked and items and _PLAIN.issuperset(map(type, items)):
            newest = max(map(_ts, items))
            if newest <= min(map(_rts, items)) + FUTURE_NS and runner.symbols.keys() >= set(map(_sym, items)):
                # Nothing is to be done with any of them: so it mostly is with the fastest feeds.
                watermark = max(watermark, newest)
                ticks, items = cast(list[Tick], items), []
        for item in items:
            if isinstance(item, Missed):
                self._publish(runner, ticks)
                self._miss(runner, item)
                ticks = []
                continue
            if isinstance(item, Rewound):
                self._publish(runner, ticks)
                ticks = []
                self._close_bars(runner, watermark)
                watermark = 0
                continue
            if not is_checked:
                if fault := fault_of(item):
                    self._publish(runner, ticks)
                    ticks = []
                    self._refuse(runner, item, fault)
                    continue
                if type(item) is Book:
                    if not _continues(runner, item):
                        continue
                    item = with_plain_removals(item)
            if item.sym not in runner.symbols and not self._learn(runner, item.sym):
                continue
            ticks.append(item)
            if watermark < item.ts <= item.rts + FUTURE_NS:
                watermark = item.ts
            if type(item) is Trade:
                runner.served.add(("trade", item.sym))
                try:
                    runner.bars.add(item)
                except (ArithmeticError, ValueError) as exc:
                    runner.refused(FrameError(f"trade with no number in it: {exc!r}", repr(item)))
        runner.watermark = watermark
        bars: list[Tick] = list(runner.bars.advance(watermark, ticks[-1].rts)) if ticks else []
        self._publish(runner, ticks)
        if bars:
            self._fanout.publish(bars)

    def _publish(self, runner: FeedRunner, ticks: list[Tick]) -> None:
        """Put a feed's own ticks on the tape, and count them."""
        if not ticks:
            # That something was missed is no sign of life.
            return
        runner.heard(trio.current_time(), len(ticks))
        tape = self._fanout.router.tape
        malformed = tape.malformed
        self._fanout.publish(ticks)
        for _ in range(tape.malformed - malformed):
            runner.ticks -= 1
            runner.refused(FrameError("a tick that can't be put on the tape"))

    def _close_bars(self, runner: FeedRunner, watermark: int) -> None:
        """Close every open bar of a feed, and begin anew."""
        bars: list[Tick] = list(runner.bars.advance(watermark + CLOSE_ALL_NS, runner.time_ns()))
        self._fanout.publish(bars)
        runner.bars = BarBuilder()
        runner.watermark = 0

    def _refuse(self, runner: FeedRunner, item: object, fault: str) -> None:
        """Refuse what is no tick; what was served of its topic so far has a hole then."""
        runner.refused(FrameError(fault, repr(item)))
        if isinstance(item, Book | Trade) and isinstance(item.sym, str):
            missed = Missed(item.ch, item.sym)
            if (missed.ch, missed.sym) in runner.served:
                self._miss(runner, missed)

    def _miss(self, runner: FeedRunner, missed: Missed) -> None:
        """Tell that a feed has missed something, unless that is of another feed's symbol."""
        runner.served.discard((missed.ch, missed.sym))
        if owner := self._other_owner(runner, missed.sym):
            runner.refused(_foreign(missed.sym, owner))
        else:
            self._fanout.gap(missed.ch, missed.sym, missed.reason)

    def _other_owner(self, runner: FeedRunner, sym: str) -> str:
        """Return which other feed a symbol's venue is of, empty if it may be this one's."""
        venue = venue_of(sym)
        if venue == runner.feed.venue:
            return ""
        return next((other.name for other in self.feeds if other.feed.venue == venue), "")

    def _learn(self, runner: FeedRunner, sym: str) -> bool:
        """Meet a symbol of a feed for the first time; refuse one that nobody could subscribe to, or another feed's."""
        if not is_symbol(sym):
            runner.refused(FrameError(f"sym: {sym!r:.80} is not VENUE:SYMBOL, upper case"))
            return False
        if owner := self._other_owner(runner, sym):
            runner.refused(_foreign(sym, owner))
            return False
        runner.symbols[sym] = None
        if runner.state == "live" and sym not in runner.declared:
            self._fanout.publish([runner.status(sym)])
        return True

    def _tell_state(self, runner: FeedRunner) -> None:
        """Tell of all that the feed has, also of what it has brought nothing of yet, as it may never connect."""
        symbols = {**runner.declared, **runner.symbols}
        if symbols:
            self._fanout.publish([runner.status(sym) for sym in symbols])

    async def _look_for_unflushed(self) -> None:
        """Take what adapters publish and forget to flush."""
        while True:
            await trio.sleep(LOOK_S)
            for runner in self.feeds:
                runner.gate.look()

    async def _close_silent_bars(self) -> None:
        """Let time go on for the bars of feeds that say nothing."""
        step = 0.5
        while True:
            await trio.sleep(step)
            now = trio.current_time()
            for runner in self.feeds:
                if runner.last_tick_at is not None and now - runner.last_tick_at > SILENCE_S:
                    runner.watermark += round(step * 1e9)
                    bars = list(runner.bars.advance(runner.watermark, runner.time_ns()))
                    if bars:
                        self._fanout.publish(bars)


def _continues(runner: FeedRunner, book: Book) -> bool:
    """Tell whether a book can be served; note the snapshots. A delta of a book that nobody has is refused."""
    topic: tuple[Channel, str] = ("book", book.sym)
    if book.kind == "snapshot":
        runner.served.add(topic)
    elif topic not in runner.served:
        text = f"a delta of {book.sym} without a snapshot before it, or behind a gap"
        runner.refused(FrameError(text, kind="a delta without a snapshot"))
        return False
    return True


def _foreign(sym: str, owner: str) -> FrameError:
    return FrameError(
        f"sym: {sym!r:.80} is of the venue of another feed, {owner!r:.80}", kind="sym of another feed"
    )
