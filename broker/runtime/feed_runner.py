"""One feed's supervisor: keeps it running, and is the context that the feed works with.

It starts the feed again with jittered backoff, notices one that has gone mute, and says what state it is in.
The states, `idle` only for a feed that waits until somebody wants something of it:

    starting ─▶ live ⇄ idle         the first tick of a life makes it live
       ╰──┬──────┴──────╯
          ├─▶ stale ─▶ live         connected and mute: it is connected again
          ├─▶ down  ─▶ live         it failed: it is started again, unless that is of no use
          ╰─▶ ended                 it has no more to give
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Any, Literal, Protocol

import msgspec
import structlog
import trio

from broker.core.bars import BarBuilder
from broker.core.demand import Demand
from broker.core.errors import FeedError, FeedFailure, FeedPermanentError, FrameError
from broker.core.feed_queue import Missed, Rewound
from broker.core.staleness import Staleness
from broker.core.ticks import CHANNELS, Channel, FeedState, Status, Tick
from broker.runtime.backoff import STABLE_S, Backoff
from broker.runtime.gate import Batch, Gate
from broker.runtime.wanted import Wanted

#: A feed that failed waits so long at most until the broker has taken what it left behind.
LEFT_BEHIND_S = 0.5

State = Literal["starting", "idle", "live", "stale", "down", "ended"]
_NUMBERS = re.compile(r"[0-9]+")
#: Prices are never floats: what has a point or an exponent stays text, with its digits.
_JSON = msgspec.json.Decoder(float_hook=str)
_SUBSCRIBER_STATE: dict[State, FeedState] = {"starting": "down", "idle": "down", "ended": "down"}


class Feed(Protocol):
    """What the supervisor needs of a feed (`feeds.base.Feed`, which this layer does not know)."""

    venue: str
    symbols: Sequence[str] | None
    is_checked: bool
    can_pause: bool
    stale_after_s: float | None
    linger_s: float
    resumes: bool

    async def run(self, ctx: Any) -> None: ...


class Upstream(Protocol):
    """How feeds reach venues; given from above, so that no network library is known here."""

    def connect_ws(self, url: str, *, max_message_bytes: int) -> AbstractAsyncContextManager[Any]: ...

    async def get_body(self, url: str) -> bytes: ...


class _MuteError(FeedError):
    """The feed has said nothing for too long."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"mute for {after_s:.3g} s; connecting again", reason="mute")


class FeedRunner:
    """Supervises one feed; it is also the `FeedContext` that the feed works with.

    Attributes:
        state: as `/v1/feeds` shows it.
        gate: where what it published waits for the broker.
        publish, flush: as `feeds.base.FeedContext` has them; the gate's own, which saves a call for each tick.
        ticks, refusals, restarts, gaps: since the start; gaps are those that the feed itself told of.
        failures: what its lives ended by, and how often.
        last_error: the text of the last failure; empty if there was none.
        last_refusal: why the last frame was refused; empty if none was.
        since: when the state began, seconds of Trio's clock.
        symbols: those that it has brought something of; in order.
        declared: those that it says it has.
        served: books that are whole, and what has had trades, since the last gap; kept by the ingest.
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
        self.ticks = self.refusals = self.restarts = self.gaps = 0
        self.failures: Counter[FeedFailure] = Counter()
        self.refused_by: Counter[str] = Counter()
        self.last_error = self.last_refusal = ""
        self.last_tick_at: float | None = None
        self.bars = BarBuilder()
        self.watermark = 0
        self.symbols: dict[str, None] = {}
        self.declared = dict.fromkeys(feed.symbols or ())
        self.served: set[tuple[Channel, str]] = set()
        self.time_ns = time_ns
        self.gate = Gate(self, channel, can_pause=feed.can_pause)
        self.publish: Callable[[Tick], None] = self.gate.publish
        self.flush = self.gate.flush
        self._upstream = upstream
        self._backoff = Backoff(rng)
        self._staleness = Staleness(feed.stale_after_s or inf)
        self._seconds: defaultdict[State, float] = defaultdict(float)
        #: A failure was logged, and not that the feed is live again.
        self._is_missed = False
        self._on_state = on_state
        self._demand = demand
        self._wanted: Wanted | None = None
        #: Between two lives, and after the last.
        self._is_over = False
        #: The feed waits until somebody wants something.
        self._is_idle = False
        self._life = trio.CancelScope()

    # ── what the feed sees (feeds.base.FeedContext) ──────────────────────────────────────────────

    def gap(self, ch: Channel, sym: str) -> None:
        if ch not in CHANNELS or not isinstance(sym, str):
            raise ValueError(f"gap({ch!r:.40}, {sym!r:.80}): must be a channel and a symbol")
        self.gaps += 1
        self.gate.publish(Missed(ch, sym))

    def rewind(self) -> None:
        self.gate.publish(Rewound())

    def refused(self, error: FrameError) -> None:
        self.refusals += 1
        self.last_refusal = str(error)
        # One line a kind: a venue that changes its format must not fill the disk, nor one that tears its frames, each
        # in another place.
        kind = error.kind or _NUMBERS.sub("#", str(error))
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
            self._wanted = Wanted(
                self._demand(), self.feed.symbols, self.feed.linger_s, on_idle=self._on_idle
            )
        return self._wanted

    # ── supervision ──────────────────────────────────────────────────────────────────────────────

    async def supervise(self) -> None:
        """Keep the feed running until it has no more to give, or says that trying again is of no use."""
        while True:
            try:
                await self._run_once()
            except Exception as raised:
                exc = _tellable(_innermost(raised))
                await self._settle()
                self.failures[exc.reason if isinstance(exc, FeedError) else "fault"] += 1
                if self._is_for_good(exc):
                    self._fail(exc)
                    self.log.error("feed is down for good", error=str(exc))
                    return
                if self._was_well(exc):
                    self._backoff.start_over()
                pause = self._backoff.pause_s(exc)
                self._report(exc, pause)
                await trio.sleep(pause)
                self.restarts += 1
            else:
                self._move_to("ended")
                self.log.info("feed has ended", ticks=self.ticks)
                return

    async def _settle(self) -> None:
        """Let what the feed left behind be taken, and its gaps behind that, before its state is told.

        A life that fails may have missed anything, so what it has not told of itself becomes gaps here.
        """
        with trio.move_on_after(LEFT_BEHIND_S):
            await self.gate.wait_until_taken()
        if not self.feed.resumes and self.served:
            for ch, sym in sorted(self.served):
                self.gate.publish(Missed(ch, sym))
            self.gate.leave()
            with trio.move_on_after(LEFT_BEHIND_S):
                await self.gate.wait_until_taken()

    def _is_for_good(self, exc: Exception) -> bool:
        return isinstance(exc, FeedPermanentError) and not (exc.unless_live and self.ticks)

    def _was_well(self, exc: Exception) -> bool:
        """Tell whether the life that ended was a good one for long enough; to be mute in the end is not."""
        if self.state not in ("live", "idle"):
            return False
        until = self.last_tick_at if isinstance(exc, _MuteError) else None
        return (trio.current_time() if until is None else until) - self.since > STABLE_S

    async def _run_once(self) -> None:
        """One life of the feed; raises what ends it. A mute feed ends with a `FeedError`."""
        self._is_over = self._is_idle = False
        self._staleness.begin()
        if self._wanted is not None:
            self._wanted.begin_anew()
        try:
            with trio.CancelScope() as self._life:
                self.stay_alive()
                await self._run_feed()
                await self.flush()
            if self._life.cancelled_caught:
                patience_s = self._patience_s()
                self._staleness.gave_up()
                raise _MuteError(patience_s)
            # Only then it has ended: until then subscribers get ticks of it.
            await self.gate.wait_until_taken()
        finally:
            self._is_over = True
            # What it published and did not flush before it failed.
            self.gate.leave()

    async def _run_feed(self) -> None:
        """Run the adapter; what it raises ends the adapter and not the broker, even if that is no ``Exception``.

        Such as ``sys.exit``, ``asyncio.CancelledError``, or the panic of a library in Rust.
        """
        try:
            await self.feed.run(self)
        except BaseException as raised:
            odd = _odd_end(raised)
            if odd is None:
                raise
            raise odd from raised

    def stay_alive(self) -> None:
        """Note that the feed is not mute."""
        if self.feed.stale_after_s is not None and not self._is_idle:
            self._life.deadline = trio.current_time() + self._patience_s()

    def _patience_s(self) -> float:
        """Return how long the feed may be mute now."""
        most_s = self.feed.stale_after_s
        if most_s is None:
            return inf
        if most_s != self._staleness.most_s:
            self._staleness = Staleness(most_s)
        return self._staleness.patience_s

    def _on_idle(self, is_idle: bool) -> None:
        """Take in that nobody wants anything of the feed, which may be mute then; or that somebody does again."""
        if is_idle == self._is_idle or self._is_over:
            return
        self._is_idle = is_idle
        if is_idle:
            self._life.deadline = inf
            self._move_to("idle")
        else:
            self.stay_alive()

    def _report(self, exc: Exception, pause: float) -> None:
        self._fail(exc)
        known = isinstance(exc, FeedError)
        text = str(exc) if known else f"{type(exc).__name__}: {exc}"
        if self._backoff.is_news(exc):
            self._is_missed = True
            # What is not a FeedError is a mistake in the adapter, which only the traceback shows.
            self.log.warning(
                "feed failed", error=text, retry_s=round(pause, 2), exc_info=None if known else exc
            )
        else:
            self.log.debug("feed failed again", error=text, retry_s=round(pause, 2))

    def _fail(self, exc: Exception) -> None:
        known = isinstance(exc, FeedError) and str(exc)
        # A KeyError's own text is no more than the key.
        self.last_error = known or f"{type(exc).__name__}: {exc}"
        self._move_to("stale" if isinstance(exc, _MuteError) else "down")

    def _move_to(self, state: State) -> None:
        if state == self.state:
            return
        now = trio.current_time()
        self._seconds[self.state] += now - self.since
        self.state, self.since = state, now
        if state == "live" and self._is_missed:
            self._is_missed = False
            self.log.info("feed is live again", restarts=self.restarts)
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

    def seconds_in(self, now: float) -> dict[State, float]:
        """Return how long it has been in each state since the start; ``now`` by Trio's clock."""
        seconds = defaultdict(float, self._seconds)
        seconds[self.state] += now - self.since
        return dict(seconds)

    def heard(self, now: float, ticks: int) -> None:
        """Note that ticks arrived: the feed is live, unless they are what it left behind."""
        self.ticks += ticks
        self.last_tick_at = now
        if not self._is_over:
            # The rhythm of what is wanted now says nothing of what will be wanted next.
            if self._wanted is None:
                self._staleness.heard(now)
            self.stay_alive()
            # What was under way as the last subscriber left.
            if not self._is_idle:
                self._move_to("live")

    def status(self, sym: str) -> Status:
        """Return the `status` tick of one of the feed's symbols, as of now."""
        now = self.time_ns()
        text = self.last_error if self.state in ("down", "stale") else ""
        if self.state == "idle":
            text = "nobody has wanted anything of this feed for a while; it begins when somebody does"
        state = _SUBSCRIBER_STATE.get(self.state, self.state)
        return Status(sym=sym, ts=now, rts=now, state=state, text=text[:256])  # type: ignore[arg-type]


def _innermost(exc: Exception) -> Exception:
    """Return what a feed raised, out of the groups that its nurseries put around it.

    Of several failures it is one that is permanent, else the first. A group with a mistake of the adapter's among
    several stays as it is: its traceback shows all of them.
    """
    leaves = [leaf for leaf in _leaves(exc) if isinstance(leaf, Exception)]
    if len(leaves) > 1 and not all(isinstance(leaf, FeedError) for leaf in leaves):
        return exc
    return next((leaf for leaf in leaves if isinstance(leaf, FeedPermanentError)), leaves[0])


def _odd_end(raised: BaseException) -> FeedError | None:
    """Return what stands for an end that is no ``Exception``; ``None``: it is one, or being cancelled, or Ctrl-C."""
    leaves = list(_leaves(raised))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return None
    odd = next((leaf for leaf in leaves if not isinstance(leaf, Exception | trio.Cancelled)), None)
    if odd is None:
        return None
    if isinstance(odd, SystemExit):
        return FeedError(f"the adapter called sys.exit({odd.code!r:.80})")
    return FeedError(
        f"the adapter raised {type(odd).__name__}, which is no Exception: {odd!r:.200}", reason="fault"
    )


def _tellable(exc: Exception) -> Exception:
    """Return an exception whose text can be told: itself, unless its own ``__str__`` fails."""
    try:
        str(exc)
    except Exception as worse:
        text = f"{type(exc).__name__}, whose text can't be told: {type(worse).__name__}"
        return FeedError(text, reason="fault")
    return exc


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
