"""Joining Binance's REST snapshot of a book with its stream of changes. Pure.

The venue's procedure (https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams, "How to
manage a local order book correctly", and the page of that name for USD-M futures; from search excerpts, 2026-11-21):
keep the events, fetch a snapshot, drop the events that it contains already, see that the first one left joins
without a hole, and from then on that each one continues the one before:

            drop              the first one left                    each further one
    spot    u <= last         U <= last + 1 <= u                    U == previous u + 1
    futures u <  last         U <= last     <= u                    pu == previous u

``last`` is the snapshot's ``lastUpdateId``. Futures events are told by their ``pu``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from broker.core.ticks import Book

#: Events kept while there is no snapshot: more than a minute of them at ten a second. The oldest go first,
#: and then only a newer snapshot joins.
_MAX_WAITING = 1000


@dataclass(slots=True, frozen=True)
class DepthEvent:
    """One ``depthUpdate``: the ids of its first and last change, and for futures the last one before it."""

    first: int
    last: int
    previous: int | None
    delta: Book

    def is_in(self, snapshot_id: int) -> bool:
        """Tell whether a snapshot contains this event already."""
        return self.last <= snapshot_id if self.previous is None else self.last < snapshot_id

    def joins(self, snapshot_id: int) -> bool:
        """Tell whether this event, the first one not contained, leaves no hole behind the snapshot."""
        return self.first <= (snapshot_id + 1 if self.previous is None else snapshot_id)

    def continues(self, last: int) -> bool:
        """Tell whether this event is the next one after the event that ended with ``last``."""
        return self.first == last + 1 if self.previous is None else self.previous == last


class DepthChain:
    """The book of one symbol: out of sync until a snapshot joins the events, and again when the chain breaks.

    Attributes:
        is_broken: set when the chain broke or a snapshot was too old, once until a snapshot has joined; cleared by
            whoever tells of it.
    """

    __slots__ = ("_is_first", "_is_known", "_last", "_snapshot", "_waiting", "is_broken")

    def __init__(self) -> None:
        #: The id up to which the served book is known; ``None``: out of sync, nothing is served.
        self._last: int | None = None
        #: The next event is the first one after the snapshot.
        self._is_first = False
        self._waiting: deque[DepthEvent] = deque(maxlen=_MAX_WAITING)
        #: A snapshot that came before any event.
        self._snapshot: tuple[int, Book] | None = None
        #: That the book is missing has been told.
        self._is_known = False
        self.is_broken = False

    @property
    def is_live(self) -> bool:
        """A snapshot has joined, and the chain holds since."""
        return self._last is not None

    @property
    def wants_snapshot(self) -> bool:
        """Events wait for a snapshot."""
        return self._last is None and bool(self._waiting)

    def event(self, event: DepthEvent) -> list[Book]:
        """Take one event of the stream; return what can be served by now, in order."""
        if self._last is None:
            self._wait(event)
            return self._join()
        if event.is_in(self._last) if self._is_first else event.last <= self._last:
            return []
        if not (event.joins(self._last) if self._is_first else event.continues(self._last)):
            self._miss()
            self.reset()
            self._wait(event)
            return []
        self._last = event.last
        self._is_first = False
        return [event.delta]

    def snapshot(self, snapshot_id: int, book: Book) -> list[Book]:
        """Take a REST snapshot; return what can be served by now. One that isn't needed is ignored."""
        if self._last is not None:
            return []
        self._snapshot = (snapshot_id, book)
        return self._join()

    def reset(self) -> None:
        """Stop serving until a snapshot joins events that are yet to come; whoever does so tells of it."""
        self._is_known = self._is_known or self.is_live
        self._last = None
        self._is_first = False
        self._waiting.clear()
        self._snapshot = None

    def _miss(self) -> None:
        # A gap lasts until the next snapshot: telling it with each that is too old would count one loss many times.
        self.is_broken = self.is_broken or not self._is_known
        self._is_known = True

    def _wait(self, event: DepthEvent) -> None:
        # A hole between two waiting events: a snapshot has to be newer than the first of them anyway.
        if self._waiting and not event.continues(self._waiting[-1].last):
            self._waiting.clear()
        self._waiting.append(event)

    def _join(self) -> list[Book]:
        """Join the held snapshot and the waiting events, if both are there and meet."""
        if self._snapshot is None or not self._waiting:
            return []
        (snapshot_id, book), self._snapshot = self._snapshot, None
        following = [event for event in self._waiting if not event.is_in(snapshot_id)]
        if following and not following[0].joins(snapshot_id):
            self._miss()
            return []
        self._is_known = False
        self._last = following[-1].last if following else snapshot_id
        self._is_first = not following
        self._waiting.clear()
        return [book, *(event.delta for event in following)]
