"""What an adapter did, in order, and the rules that hold for every such story."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import msgspec
import trio
from msgspec import Struct

from broker.core.decimals import is_zero
from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.tick_lines import odd_values
from broker.core.ticks import TICK_TYPES, Book, Channel, Tick, is_symbol, venue_of
from feeds.mistakes import wrong_tick, wrong_value
from feeds.testing.verdicts import one_line


class Began(Struct, frozen=True):
    """A life of the feed began."""


class Ended(Struct, frozen=True):
    """A life ended: with what it raised, or by returning."""

    error: BaseException | None


class Published(Struct, frozen=True):
    """A tick; ``frame`` is how many frames the venue had delivered by then, ``at`` seconds of Trio's clock."""

    tick: Tick
    frame: int
    at: float


class Gapped(Struct, frozen=True):
    """A `FeedContext.gap`."""

    ch: Channel
    sym: str


class Refused(Struct, frozen=True):
    """A frame that was refused."""

    error: FrameError


Event: TypeAlias = Began | Ended | Published | Gapped | Refused


class Story:
    """The events of one run, of one or more lives."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.lives = 0

    def add(self, event: Event) -> None:
        """Note an event."""
        self.lives += isinstance(event, Began)
        self.events.append(event)

    @property
    def published(self) -> list[Published]:
        """The ticks, in order, without what is none."""
        published = (each for each in self.events if isinstance(each, Published))
        return [each for each in published if isinstance(each.tick, TICK_TYPES)]

    @property
    def ticks(self) -> list[Tick]:
        """The ticks, in order."""
        return [each.tick for each in self.published]

    @property
    def refused(self) -> list[FrameError]:
        """What was refused, in order."""
        return [each.error for each in self.events if isinstance(each, Refused)]

    @property
    def failure(self) -> BaseException | None:
        """What the last life that ended raised."""
        return next((each.error for each in reversed(self.events) if isinstance(each, Ended)), None)

    @property
    def is_over(self) -> bool:
        """Whether the feed gave up for good, or says that it has no more to give."""
        last = self.events[-1] if self.events else None
        is_permanent = isinstance(innermost(self.failure), FeedPermanentError)
        return isinstance(last, Ended) and (last.error is None or is_permanent)

    def lives_apart(self) -> list[list[Event]]:
        """Return the events of each life."""
        lives: list[list[Event]] = []
        for event in self.events:
            if isinstance(event, Began):
                lives.append([])
            lives[-1].append(event)
        return lives


def innermost(error: Any) -> Any:
    """Return the one exception in the groups that nurseries put around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


#: Which rule was broken: the shape of a tick, the order of a book, or how a life may end.
Rule: TypeAlias = Literal["tick", "book", "end"]


def faults_in(story: Story, venue: str) -> Iterator[tuple[Rule, str]]:
    """Yield what no adapter may do, whatever a venue sends."""
    live: set[str] = set()
    for event in story.events:
        if isinstance(event, Published):
            fault = _fault_of_tick(event.tick, venue)
            if fault:
                yield "tick", fault
            elif isinstance(event.tick, Book):
                yield from (("book", each) for each in _faults_of_book(event.tick, live))
        elif isinstance(event, Gapped) and event.ch == "book":
            live.discard(event.sym)
        elif isinstance(event, Began):
            # Whatever the last connection served: this one begins with a snapshot.
            live.clear()
        elif isinstance(event, Ended):
            yield from (("end", each) for each in _faults_of_end(event.error))


def _fault_of_tick(tick: Tick, venue: str) -> str:
    try:
        checked: Tick = msgspec.convert(msgspec.to_builtins(tick), Tick)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
        return f"published what is {one_line(wrong_tick(tick, error, venue))}"
    for name, value in odd_values(checked):
        return f"published what is {one_line(wrong_value(checked, name, value))}"
    if not is_symbol(checked.sym) or venue_of(checked.sym) != venue:
        return f"published the symbol {checked.sym!r:.80}, which is not {venue}:SYMBOL in upper case"
    return ""


def _faults_of_book(tick: Book, live: set[str]) -> Iterator[str]:
    if tick.kind == "snapshot":
        live.add(tick.sym)
    elif tick.sym not in live:
        yield f"published a delta of {tick.sym} without a snapshot before it"
    for side, levels, is_bid in (("bids", tick.bids, True), ("asks", tick.asks, False)):
        fault = _fault_of_levels(levels, tick.kind, is_bid)
        if fault:
            yield f"published a {tick.kind} of {tick.sym} whose {side} {fault}"


def _fault_of_levels(levels: Sequence[tuple[str, str]], kind: str, is_bid: bool) -> str:
    prices = [Decimal(price) for price, _ in levels]
    if prices != sorted(prices, reverse=is_bid) or len(set(prices)) < len(prices):
        return "are not best first, each price once"
    if kind == "snapshot" and any(is_zero(size) for _, size in levels):
        return "have an empty level"
    return ""


def _faults_of_end(error: BaseException | None) -> Iterator[str]:
    found = innermost(error)
    if isinstance(found, Exception) and not isinstance(found, FeedError):
        yield f"run() raised {type(found).__name__}: {one_line(found)}; only FeedError is declared"
    elif isinstance(found, SystemExit):
        yield "run() called sys.exit()"
    elif not isinstance(found, Exception | BaseExceptionGroup | trio.Cancelled | None):
        yield f"run() raised {type(found).__name__}, which is no Exception; only FeedError is declared"
