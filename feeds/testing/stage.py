"""Where an adapter is run: under the broker's own supervisor, or all alone.

Under the supervisor everything is the broker's: the context, backoff, staleness, the tape. What the adapter does is
written down on its way in.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from typing import Any, cast

import msgspec
import trio

from broker.core.demand import Demand
from broker.core.errors import FeedError, FrameError
from broker.core.history import HistoryLimits
from broker.core.router import Router
from broker.core.tape import Tape
from broker.core.ticks import Channel, Tick
from broker.core.topics import Topics
from broker.runtime.fanout import Fanout
from broker.runtime.feed_runner import FeedRunner, Upstream
from broker.runtime.ingest import Ingest
from broker.runtime.wanted import Wanted
from feeds.base import Feed, FeedContext, Log
from feeds.testing.scripted_venue import ScriptedVenue
from feeds.testing.story import Began, Ended, Gapped, Published, Refused, Rule, Story, faults_in
from feeds.testing.subject import Subject
from feeds.testing.verdicts import Failed, one_line

_JSON = msgspec.json.Decoder(float_hook=str)
#: Wall time when Trio's clock shows 0; later than every recording: 2030-01-01.
BASE_NS = 1_893_456_000 * 10**9


def wall_ns() -> int:
    """Return simulated wall time, in nanoseconds."""
    return BASE_NS + round(trio.current_time() * 1e9)


class WatchedContext:
    """A `FeedContext` that writes down what it is given, and hands it on."""

    def __init__(self, ctx: FeedContext, story: Story, delivered: Callable[[], int]) -> None:
        self._ctx = ctx
        self._story = story
        self._delivered = delivered

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def publish(self, tick: Tick) -> None:
        """See `FeedContext.publish`."""
        # A copy, as the tape writes its number into the tick.
        self._story.add(Published(copy(tick), self._delivered(), trio.current_time()))
        self._ctx.publish(tick)

    def gap(self, ch: Channel, sym: str) -> None:
        """See `FeedContext.gap`."""
        self._story.add(Gapped(ch, sym))
        self._ctx.gap(ch, sym)

    def refused(self, error: FrameError) -> None:
        """See `FeedContext.refused`."""
        self._story.add(Refused(error))
        self._ctx.refused(error)


class Watched:
    """A feed whose lives are written down; everything else is the feed's own."""

    def __init__(self, feed: Feed, story: Story, delivered: Callable[[], int]) -> None:
        self._feed = feed
        self._story = story
        self._delivered = delivered

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed, name)

    async def run(self, ctx: FeedContext) -> None:
        """See `Feed.run`."""
        self._story.add(Began())
        try:
            await self._feed.run(cast(FeedContext, WatchedContext(ctx, self._story, self._delivered)))
        except BaseException as error:
            self._story.add(Ended(error))
            raise
        self._story.add(Ended(None))


class Stage:
    """A feed that runs under the supervisor.

    Attributes:
        runner: the supervisor.
        story: what the feed does.
    """

    def __init__(self, runner: FeedRunner, story: Story) -> None:
        self.runner = runner
        self.story = story

    async def until(self, is_so: Callable[[], bool], within_s: float, what: str) -> None:
        """Wait for something that the feed has to bring about.

        Raises:
            Failed: it doesn't within so many seconds of Trio's clock, or the feed gives up.
        """
        deadline = trio.current_time() + within_s
        while not is_so():
            if self.story.is_over:
                raise Failed(f"{what}: not so, as {_end_of(self.story)}")
            if trio.current_time() > deadline:
                last = f"; the last life ended with: {_text(self.story)}" if self.story.failure else ""
                raise Failed(f"{what}: not so within {within_s:g} s{last}")
            await trio.sleep(0.05)


@asynccontextmanager
async def open_stage(
    subject: Subject,
    venue: ScriptedVenue | None,
    *,
    upstream: Upstream | None = None,
    time_ns: Callable[[], int] = wall_ns,
    seed: int = 1,
    known: Collection[Rule] = (),
) -> AsyncGenerator[Stage, None]:
    """Run a feed as the broker does, until the end of the block.

    Args:
        subject: makes the feed.
        venue: what it is to talk to; ``upstream`` in its place, if that is given.
        upstream: see above.
        time_ns: wall time.
        seed: of the supervisor's backoff.
        known: rules that it is known to break.

    Raises:
        Failed: on leaving, if the feed did what no feed may do.
    """
    story = Story()
    feed = subject.make()
    topics = Topics()
    fanout = Fanout(Router(topics, Tape("check", topics, HistoryLimits())), max_gap_s=0.01)
    ingest = Ingest(topics, fanout, upstream=upstream or cast(Upstream, venue), time_ns=time_ns)
    delivered = (lambda: venue.delivered) if venue is not None else (lambda: 0)
    watched = cast(Feed, Watched(feed, story, delivered))
    runner = ingest.add(subject.kind, subject.kind, watched, random.Random(seed))
    for ch, sym in subject.wanted(feed):
        topics.demand(feed.venue).begin(ch, sym)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fanout.run)
        nursery.start_soon(ingest.run)
        yield Stage(runner, story)
        nursery.cancel_scope.cancel()
    hold_law(story, feed.venue, known)


def hold_law(story: Story, venue: str, known: Collection[Rule] = ()) -> None:
    """Raise `Failed` if the feed did what no feed may do, other than what is ``known`` of it."""
    for rule, fault in faults_in(story, venue):
        if rule not in known:
            raise Failed(fault)


class PlainContext:
    """A `FeedContext` for a feed that is run without a supervisor."""

    def __init__(self, venue: ScriptedVenue, feed: Feed, wanted: list[tuple[Channel, str]]) -> None:
        self.log: Log = _NoLog()
        self.ticks = 0
        self._venue = venue
        demand = Demand(feed.venue)
        self.wanted = Wanted(demand, feed.symbols, feed.linger_s)
        for ch, sym in wanted:
            demand.begin(ch, sym)

    def publish(self, tick: Tick) -> None:
        """See `FeedContext`."""
        self.ticks += 1

    async def flush(self) -> None:
        """See `FeedContext`."""
        await trio.lowlevel.checkpoint()

    def gap(self, ch: Channel, sym: str) -> None:
        """See `FeedContext`."""

    def rewind(self) -> None:
        """See `FeedContext`."""

    def refused(self, error: FrameError) -> None:
        """See `FeedContext`."""

    def connect_ws(self, url: str, *, max_message_bytes: int = 16 << 20) -> AbstractAsyncContextManager[Any]:
        """See `FeedContext`."""
        return self._venue.connect_ws(url, max_message_bytes=max_message_bytes)

    async def get_body(self, url: str) -> bytes:
        """See `FeedContext`."""
        return await self._venue.get_body(url)

    async def get_json(self, url: str) -> Any:
        """See `FeedContext`."""
        body = await self._venue.get_body(url)
        try:
            return _JSON.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise FeedError(f"GET {url}: not JSON: {error}") from None

    def time_ns(self) -> int:
        """See `FeedContext`."""
        return wall_ns()


class _NoLog:
    """Takes what feeds log."""

    def info(self, event: str, **fields: Any) -> None:
        """See `feeds.base.Log`."""

    def warning(self, event: str, **fields: Any) -> None:
        """See `feeds.base.Log`."""


def _end_of(story: Story) -> str:
    return "run() returned" if story.failure is None else f"it gave up for good: {_text(story)}"


def _text(story: Story) -> str:
    failure = story.failure
    return one_line(f"{type(failure).__name__}: {failure}")
