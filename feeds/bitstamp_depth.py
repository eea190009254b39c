"""Joining Bitstamp's REST snapshot of a book with its stream of changes. Pure.

The venue numbers nothing; both carry a ``microtimestamp``. Its procedure (https://www.bitstamp.net/websocket/v2/,
"Live full order book", from search excerpts, 2026-11-21): keep the changes, fetch a snapshot, drop the changes
that aren't newer, apply the rest. That leaves no hole only if the snapshot isn't older than the subscription,
and REST answers may come from a cache. So one joins only if it is as new as the first change that came, or a second
newer than any frame that came behind the confirmation of the subscription, which serves books that hardly change.

From then on times may not go backwards: if they do, the book is given up, and joined anew.
"""

from __future__ import annotations

from collections import deque

from broker.core.ticks import Book

#: Changes kept while there is no snapshot. The oldest go first, and then only a newer snapshot joins.
_MAX_WAITING = 1000
#: How much later a frame may arrive than the time in it says, compared to a confirmation, which has none.
_SLACK_NS = 1_000_000_000


class DiffChain:
    """The book of one pair: out of sync until a snapshot joins the changes, and again when times go backwards.

    Times are nanoseconds of the venue's clock, and those of the books.

    Attributes:
        is_confirmed: the venue has confirmed the subscription to the changes, or sent one.
        is_broken: set when times went backwards; cleared by whoever tells of it.
    """

    __slots__ = ("_floor", "_newest", "_since", "_snapshot", "_waiting", "is_broken", "is_confirmed")

    def __init__(self) -> None:
        #: Time of the snapshot that joined: it has all changes up to then. ``None``: out of sync, nothing is served.
        self._floor: int | None = None
        #: Time of the newest change that came.
        self._newest = 0
        #: No change since then can have been missed; ``None``: not known yet.
        self._since: int | None = None
        self._waiting: deque[Book] = deque()
        self._snapshot: Book | None = None
        self.is_confirmed = False
        self.is_broken = False

    @property
    def is_live(self) -> bool:
        """A snapshot has joined, and times went forward since."""
        return self._floor is not None

    @property
    def wants_snapshot(self) -> bool:
        """There are changes, or will be, and no snapshot for them."""
        return self._floor is None and self._snapshot is None and self.is_confirmed

    @property
    def wants_time(self) -> bool:
        """The next frame's time tells since when no change can have been missed."""
        return self.is_confirmed and self._since is None

    def hear(self, at: int) -> list[Book]:
        """Take the time of any frame that came behind the confirmation; return what can be served by now."""
        if not self.wants_time:
            return []
        self._since = max(at + _SLACK_NS, self._newest)
        return self._join()

    def change(self, delta: Book) -> list[Book]:
        """Take one change; return what can be served by now, in order."""
        self.is_confirmed = True
        if self._floor is None:
            self._wait(delta)
            return self._join()
        if delta.ts < self._newest:
            self.reset()
            self.is_broken = True
            return []
        self._newest = delta.ts
        return [delta] if delta.ts > self._floor else []

    def snapshot(self, book: Book) -> list[Book]:
        """Take a REST snapshot; return what can be served by now. One that isn't needed is ignored."""
        if self._floor is not None:
            return []
        self._snapshot = book
        return self._join()

    def reset(self) -> None:
        """Stop serving until a snapshot joins changes that are yet to come."""
        self._floor = self._since = self._snapshot = None
        self._waiting.clear()

    def _wait(self, delta: Book) -> None:
        if not self._waiting and delta.ts <= self._newest:
            # It says nothing of what has been missed, and any snapshot that joins has it.
            return
        if delta.ts < self._newest:
            self._since = None
            self._waiting.clear()
            return
        self._newest = delta.ts
        if not self._waiting:
            self._since = delta.ts if self._since is None else min(self._since, delta.ts)
        elif len(self._waiting) == _MAX_WAITING:
            self._waiting.popleft()
            self._since = self._waiting[0].ts
        self._waiting.append(delta)

    def _join(self) -> list[Book]:
        """Join the held snapshot and the waiting changes, if it is new enough; else another one is wanted."""
        if self._snapshot is None or self._since is None:
            return []
        book, self._snapshot = self._snapshot, None
        if book.ts < self._since:
            return []
        self._floor = book.ts
        following = [delta for delta in self._waiting if delta.ts > book.ts]
        self._waiting.clear()
        return [book, *following]
