"""From the feeds to the tape: one supervisor per feed, one bounded channel for all.

The supervisor keeps a feed running: it starts it again with jittered backoff, notices a feed that has
gone mute, and tells every subscriber of `status` what state the feed is in. A feed waits in `flush` when
the broker is behind: a replay is paused by that, a venue's socket is read later.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import InvalidOperation
from typing import Any, Literal, Protocol

import structlog
import trio
from msgspec import Struct

from broker.core.bars import INTERVALS, SECOND, BarBuilder
from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.ticks import Channel, FeedState, Status, Tick, Trade, is_symbol
from broker.core.topics import Topics
from broker.runtime.fanout import Fanout
from broker.runtime.shapes import fault_of

#: Ticks in one batch: what a feed sends at once, and what is put on the tape in one step.
BATCH_TICKS = 256
#: Batches that may wait for the broker, of all feeds together.
CHANNEL_BATCHES = 32
#: Ticks that a feed may publish without a flush; above, the oldest are dropped and counted.
BUFFER_TICKS = 65_536

FIRST_BACKOFF_S, MOST_BACKOFF_S = 0.5, 30.0
#: A connection that lived so long was a good one: the next backoff starts small again.
STABLE_S = 60.0
#: A feed that is silent for so long has its bars closed by the clock on the wall.
SILENCE_S = 2.0

#: A `ts` further in the future than this is a mistake of the adapter's, and must not close bars.
FUTURE_NS = 60 * SECOND
#: Later than the end of every bar that may be open.
CLOSE_ALL_NS = 2 * INTERVALS[-1][1]

State = Literal["starting", "live", "stale", "down", "ended"]
_SUBSCRIBER_STATE: dict[State, FeedState] = {"starting": "down", "ended": "down"}


class Feed(Protocol):
    """What the supervisor needs of a feed (`feeds.base.Feed`, which this layer does not know)."""

    venue: str
    symbols: Sequence[str] | None
    is_checked: bool
    stale_after_s: float | None

    async def run(self, ctx: Any) -> None: ...


class Upstream(Protocol):
    """How feeds reach venues; given from above, so that no network library is known here."""

    def connect_ws(self, url: str, *, max_message_bytes: int) -> AbstractAsyncContextManager[Any]: ...

    async def get_body(self, url: str) -> bytes: ...


class _MuteError(FeedError):
    """The feed has said nothing for too long."""


class Missed(Struct, frozen=True):
    """Stands between ticks: here the venue's ticks of a topic were missed."""

    ch: Channel
    sym: str


class Rewound(Struct, frozen=True):
    """Stands between ticks: here event time begins anew."""


class Batch(Struct):
    """What goes through the channel: in order, at most `BATCH_TICKS` items."""

    feed: FeedRunner
    items: list[Tick | Missed | Rewound]


class FeedRunner:
    """Supervises one feed; it is also the `FeedContext` that the feed works with.

    Attributes:
        state: as `/v1/feeds` shows it.
        ticks, refusals, dropped, restarts: since the start.
        last_error: the text of the last failure; empty if there was none.
        since: when the state began, seconds of Trio's clock.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        feed: Feed,
        channel: trio.MemorySendChannel[Batch],
        *,
        upstream: Upstream,
        time_ns: Callable[[], int],
        rng: random.Random,
        on_state: Callable[[FeedRunner], None],
    ) -> None:
        self.name = name
        self.kind = kind
        self.feed = feed
        self.log = structlog.get_logger().bind(feed=name)
        self.state: State = "starting"
        self.since = trio.current_time()
        self.ticks = self.refusals = self.dropped = self.restarts = 0
        self.refused_by: Counter[str] = Counter()
        self.last_error = ""
        self.last_tick_at: float | None = None
        self.bars = BarBuilder()
        self.watermark = 0
        self.symbols: dict[str, None] = {}
        self.time_ns = time_ns
        self._channel = channel
        self._upstream = upstream
        self._rng = rng
        self._on_state = on_state
        self._buffer: list[Tick | Missed | Rewound] = []
        self._life = trio.CancelScope()

    # ── what the feed sees (feeds.base.FeedContext) ──────────────────────────────────────────────

    def publish(self, tick: Tick) -> None:
        self._buffer.append(tick)
        if len(self._buffer) > BUFFER_TICKS:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        if not self.dropped:
            self.log.warning("the feed publishes without ever flushing; the oldest ticks are dropped")
        del self._buffer[:BATCH_TICKS]
        self.dropped += BATCH_TICKS

    def gap(self, ch: Channel, sym: str) -> None:
        self._buffer.append(Missed(ch, sym))

    def rewind(self) -> None:
        self._buffer.append(Rewound())

    async def flush(self) -> None:
        if not self._buffer:
            await trio.lowlevel.checkpoint()
        while self._buffer:
            items = self._buffer[:BATCH_TICKS]
            await self._channel.send(Batch(self, items))
            del self._buffer[: len(items)]

    def refused(self, error: FrameError) -> None:
        self.refusals += 1
        kind = str(error)
        # One line a kind: a venue that changes its format must not fill the disk.
        if len(self.refused_by) < 1000 and not self.refused_by[kind]:
            self.log.warning("frame refused", error=kind, frame=error.frame[:200])
        self.refused_by[kind if kind in self.refused_by or len(self.refused_by) < 1000 else "other"] += 1

    def connect_ws(self, url: str, *, max_message_bytes: int = 16 << 20) -> AbstractAsyncContextManager[Any]:
        return self._upstream.connect_ws(url, max_message_bytes=max_message_bytes)

    async def get_body(self, url: str) -> bytes:
        return await self._upstream.get_body(url)

    # ── supervision ──────────────────────────────────────────────────────────────────────────────

    async def supervise(self) -> None:
        """Keep the feed running until it has no more to give, or says that trying again is of no use."""
        attempt = 0
        while True:
            began = trio.current_time()
            try:
                await self._run_once()
            except Exception as raised:
                exc = _innermost(raised)
                if isinstance(exc, FeedPermanentError):
                    self._fail(exc)
                    self.log.error("feed is down for good", error=str(exc))
                    return
                if trio.current_time() - began > STABLE_S:
                    attempt = 0
                # Full jitter: a venue that comes back is not met by everybody at once.
                pause = self._rng.uniform(0, min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt))
                attempt = min(attempt + 1, 10)
                self._report(exc, pause)
                await trio.sleep(pause)
                self.restarts += 1
            else:
                self._move_to("ended")
                self.log.info("feed has ended", ticks=self.ticks)
                return

    async def _run_once(self) -> None:
        """One life of the feed; raises what ends it. A mute feed ends with a `FeedError`."""
        with trio.CancelScope() as self._life:
            self._stay_alive()
            await self.feed.run(self)
            await self.flush()
        if self._life.cancelled_caught:
            raise _MuteError(f"mute for {self.feed.stale_after_s:g} s; connecting again")

    def _stay_alive(self) -> None:
        if self.feed.stale_after_s is not None:
            self._life.deadline = trio.current_time() + self.feed.stale_after_s

    def _report(self, exc: Exception, pause: float) -> None:
        first = self.state == "live" or str(exc) != self.last_error
        self._fail(exc)
        known = isinstance(exc, FeedError)
        text = str(exc) if known else f"{type(exc).__name__}: {exc}"
        if first:
            # What is not a FeedError is a mistake in the adapter, which only the traceback shows.
            self.log.warning(
                "feed failed", error=text, retry_s=round(pause, 2), exc_info=None if known else exc
            )
        else:
            self.log.debug("feed failed again", error=text, retry_s=round(pause, 2))

    def _fail(self, exc: Exception) -> None:
        self.last_error = str(exc) or type(exc).__name__
        self._move_to("stale" if isinstance(exc, _MuteError) else "down")

    def _move_to(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self.since = trio.current_time()
            self._on_state(self)

    # ── what the ingest sees ─────────────────────────────────────────────────────────────────────

    def heard(self, now: float, ticks: int) -> None:
        """Note that a batch arrived: the feed is live."""
        self.ticks += ticks
        self.last_tick_at = now
        self._stay_alive()
        self._move_to("live")

    def status(self, sym: str) -> Status:
        """Return the `status` tick of one of the feed's symbols, as of now."""
        now = self.time_ns()
        text = self.last_error if self.state in ("down", "stale") else ""
        state = _SUBSCRIBER_STATE.get(self.state, self.state)
        return Status(sym=sym, ts=now, rts=now, state=state, text=text[:256])  # type: ignore[arg-type]


def _innermost(exc: Exception) -> Exception:
    """Return what a feed raised, out of the groups that its nurseries put around a single exception."""
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


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
        )
        self.feeds.append(runner)
        self._topics.declare(feed.venue, feed.symbols)
        return runner

    async def run(self) -> None:
        """Run all feeds for ever."""
        async with trio.open_nursery() as nursery:
            for runner in self.feeds:
                nursery.start_soon(self._guard(runner.supervise), name=f"feed {runner.name}")
            nursery.start_soon(self._close_silent_bars)
            async for batch in self._receive:
                try:
                    self._take(batch)
                except Exception:
                    # Ours, whatever it is; the next batch may be fine.
                    self.broken += 1
                    self._log.exception("a batch could not be published", feed=batch.feed.name)

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
        bars: list[Tick] = []
        watermark, is_checked = runner.watermark, runner.feed.is_checked
        for item in batch.items:
            if isinstance(item, Missed):
                self._fanout.publish(ticks)
                self._fanout.gap(item.ch, item.sym)
                ticks = []
                continue
            if isinstance(item, Rewound):
                self._fanout.publish(ticks)
                ticks = []
                self._close_bars(runner, watermark)
                watermark = 0
                continue
            if not is_checked and (fault := fault_of(item)):
                runner.refused(FrameError(fault, repr(item)))
                continue
            if item.sym not in runner.symbols and not self._learn(runner, item.sym):
                continue
            ticks.append(item)
            if watermark < item.ts <= item.rts + FUTURE_NS:
                watermark = item.ts
            if type(item) is Trade:
                try:
                    runner.bars.add(item)
                except (InvalidOperation, ValueError) as exc:
                    runner.refused(FrameError(f"trade with no number in it: {exc!r}", repr(item)))
        runner.watermark = watermark
        if ticks:
            bars += runner.bars.advance(watermark, ticks[-1].rts)
        runner.heard(trio.current_time(), len(ticks))
        tape = self._fanout.router.tape
        malformed = tape.malformed
        self._fanout.publish(ticks)
        for _ in range(tape.malformed - malformed):
            runner.ticks -= 1
            runner.refused(FrameError("a tick that can't be put on the tape"))
        if bars:
            self._fanout.publish(bars)

    def _close_bars(self, runner: FeedRunner, watermark: int) -> None:
        """Close every open bar of a feed, and begin anew."""
        bars: list[Tick] = list(runner.bars.advance(watermark + CLOSE_ALL_NS, runner.time_ns()))
        self._fanout.publish(bars)
        runner.bars = BarBuilder()
        runner.watermark = 0

    def _learn(self, runner: FeedRunner, sym: str) -> bool:
        """Meet a symbol of a feed for the first time; refuse one that nobody could subscribe to."""
        if not is_symbol(sym):
            runner.refused(FrameError(f"sym: {sym!r:.80} is not VENUE:SYMBOL, upper case"))
            return False
        runner.symbols[sym] = None
        if runner.state == "live":
            self._fanout.publish([runner.status(sym)])
        return True

    def _tell_state(self, runner: FeedRunner) -> None:
        if runner.symbols:
            self._fanout.publish([runner.status(sym) for sym in runner.symbols])

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
