"""One feed's supervisor: keeps it running, and is the context that the feed works with.

It starts the feed again with jittered backoff, notices one that has gone mute, and says what state it is in.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

import msgspec
import structlog
import trio

from broker.core.bars import BarBuilder
from broker.core.demand import Demand
from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.feed_queue import Missed, Rewound
from broker.core.ticks import CHANNELS, Channel, FeedState, Status, Tick
from broker.runtime.gate import Batch, Gate
from broker.runtime.wanted import Wanted

FIRST_BACKOFF_S, MOST_BACKOFF_S = 0.5, 30.0
#: A connection that lived so long was a good one: the next backoff starts small again.
STABLE_S = 60.0

State = Literal["starting", "live", "stale", "down", "ended"]
#: Prices are never floats: what has a point or an exponent stays text, with its digits.
_JSON = msgspec.json.Decoder(float_hook=str)
_SUBSCRIBER_STATE: dict[State, FeedState] = {"starting": "down", "ended": "down"}


class Feed(Protocol):
    """What the supervisor needs of a feed (`feeds.base.Feed`, which this layer does not know)."""

    venue: str
    symbols: Sequence[str] | None
    is_checked: bool
    can_pause: bool
    stale_after_s: float | None
    linger_s: float

    async def run(self, ctx: Any) -> None: ...


class Upstream(Protocol):
    """How feeds reach venues; given from above, so that no network library is known here."""

    def connect_ws(self, url: str, *, max_message_bytes: int) -> AbstractAsyncContextManager[Any]: ...

    async def get_body(self, url: str) -> bytes: ...


class _MuteError(FeedError):
    """The feed has said nothing for too long."""


class FeedRunner:
    """Supervises one feed; it is also the `FeedContext` that the feed works with.

    Attributes:
        state: as `/v1/feeds` shows it.
        gate: where what it published waits for the broker.
        publish, flush: as `feeds.base.FeedContext` has them; the gate's own, which saves a call for each tick.
        ticks, refusals, restarts: since the start.
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
        demand: Callable[[], Demand],
    ) -> None:
        """``demand`` returns what is wanted of the feed's venue; not called for a feed that does not ask."""
        self.name = name
        self.kind = kind
        self.feed = feed
        self.log = structlog.get_logger().bind(feed=name)
        self.state: State = "starting"
        self.since = trio.current_time()
        self.ticks = self.refusals = self.restarts = 0
        self.refused_by: Counter[str] = Counter()
        self.last_error = ""
        self.last_tick_at: float | None = None
        self.bars = BarBuilder()
        self.watermark = 0
        self.symbols: dict[str, None] = {}
        self.time_ns = time_ns
        self.gate = Gate(self, channel, can_pause=feed.can_pause)
        self.publish: Callable[[Tick], None] = self.gate.publish
        self.flush = self.gate.flush
        self._upstream = upstream
        self._rng = rng
        self._on_state = on_state
        self._demand = demand
        self._wanted: Wanted | None = None
        #: Between two lives, and after the last.
        self._is_over = False
        self._life = trio.CancelScope()

    # ── what the feed sees (feeds.base.FeedContext) ──────────────────────────────────────────────

    def gap(self, ch: Channel, sym: str) -> None:
        if ch not in CHANNELS or not isinstance(sym, str):
            raise ValueError(f"gap({ch!r:.40}, {sym!r:.80}): must be a channel and a symbol")
        self.gate.publish(Missed(ch, sym))

    def rewind(self) -> None:
        self.gate.publish(Rewound())

    def refused(self, error: FrameError) -> None:
        self.refusals += 1
        kind = error.kind or str(error)
        # One line a kind: a venue that changes its format must not fill the disk.
        if len(self.refused_by) < 1000 and not self.refused_by[kind]:
            self.log.warning("frame refused", error=str(error), frame=error.frame[:200])
        self.refused_by[kind if kind in self.refused_by or len(self.refused_by) < 1000 else "other"] += 1

    def connect_ws(self, url: str, *, max_message_bytes: int = 16 << 20) -> AbstractAsyncContextManager[Any]:
        return self._upstream.connect_ws(url, max_message_bytes=max_message_bytes)

    async def get_body(self, url: str) -> bytes:
        return await self._upstream.get_body(url)

    async def get_json(self, url: str) -> Any:
        body = await self._upstream.get_body(url)
        try:
            return _JSON.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise FeedError(f"GET {url}: not JSON: {error}: {body[:80]!r}") from None

    @property
    def wanted(self) -> Wanted:
        if self._wanted is None:
            self._wanted = Wanted(self._demand(), self.feed.symbols, self.feed.linger_s)
        return self._wanted

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
        self._is_over = False
        if self._wanted is not None:
            self._wanted.begin_anew()
        try:
            with trio.CancelScope() as self._life:
                self.stay_alive()
                await self._run_feed()
                await self.flush()
            if self._life.cancelled_caught:
                raise _MuteError(f"mute for {self.feed.stale_after_s:g} s; connecting again")
            # Only then it has ended: until then subscribers get ticks of it.
            await self.gate.wait_until_taken()
        finally:
            self._is_over = True
            # What it published and did not flush before it failed.
            self.gate.leave()

    async def _run_feed(self) -> None:
        """Run the adapter; a `sys.exit` in it ends the adapter, not the broker."""
        try:
            await self.feed.run(self)
        except SystemExit as exc:
            raise FeedError(f"the adapter called sys.exit({exc.code!r:.80})") from exc
        except BaseExceptionGroup as group:
            exits, others = group.split(SystemExit)
            if exits is None or not (others is None or isinstance(others, ExceptionGroup)):
                raise
            raise FeedError("the adapter called sys.exit in a task of its own") from group

    def stay_alive(self) -> None:
        """Note that the feed is not mute."""
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

    @property
    def conflated(self) -> int:
        """Ticks that went into a later one before the broker took them, since the start."""
        return self.gate.queue.conflated

    @property
    def dropped(self) -> int:
        """Ticks that were dropped before the broker took them, since the start; a `gap` told it."""
        return self.gate.queue.dropped

    @property
    def waiting(self) -> int:
        """Ticks that were published and the broker has not taken yet."""
        return self.gate.waiting

    def heard(self, now: float, ticks: int) -> None:
        """Note that ticks arrived: the feed is live, unless they are what it left behind."""
        self.ticks += ticks
        self.last_tick_at = now
        if not self._is_over:
            self.stay_alive()
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
