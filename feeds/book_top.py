"""Quotes of venues that send none: the top of the book, as its changes rebuild it. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from decimal import Decimal

from broker.core.decimals import number_key
from broker.core.ticks import Book, Level, Quote

#: So long a book may be crossed: some venues tell what one order does in several frames.
_CROSSED_NS = 1_000_000_000
#: Prices that are gone stay in a heap until they come to its top; with more of them than this it is built anew.
_MOST_GONE = 1000


class BookTop:
    """The best level of both sides of one book.

    Attributes:
        is_torn: whether a change has crossed the book, and it still is a second later by its own time: the venue
            would have matched these orders, so something has been missed. What its snapshot says is not doubted.
    """

    __slots__ = ("_asks", "_bids", "_crossed_at", "_is_crossed", "_told", "is_torn")

    def __init__(self) -> None:
        self._bids = _Side(is_bids=True)
        self._asks = _Side(is_bids=False)
        self._told: tuple[Level | None, Level | None] | None = None
        self._is_crossed = False
        #: Time of the change that crossed it.
        self._crossed_at: int | None = None
        self.is_torn = False

    def apply(self, book: Book) -> Quote | None:
        """Take in a snapshot or a delta; return the new quote, if the top is another one. O(log n) for a level.

        While a change has the book crossed there is none.
        """
        if book.kind == "snapshot":
            self._bids.load(book.bids)
            self._asks.load(book.asks)
            self._told = None
        else:
            self._bids.change(book.bids)
            self._asks.change(book.asks)
        top = self._bids.best(), self._asks.best()
        if top != self._told or self._crossed_at is not None:
            self._look_whether_crossed(top, book)
        if self._crossed_at is not None:
            self.is_torn = book.ts - self._crossed_at > _CROSSED_NS
            return None
        if top == self._told:
            return None
        self._told = top
        bid, ask = top
        return Quote(
            sym=book.sym,
            ts=book.ts,
            rts=book.rts,
            bid=bid and bid[0],
            bid_size=bid and bid[1],
            ask=ask and ask[0],
            ask_size=ask and ask[1],
        )

    def _look_whether_crossed(self, top: tuple[Level | None, Level | None], book: Book) -> None:
        bid, ask = top
        was_crossed = self._is_crossed
        self._is_crossed = bid is not None and ask is not None and Decimal(bid[0]) >= Decimal(ask[0])
        if not self._is_crossed or book.kind == "snapshot":
            self._crossed_at = None
        elif not was_crossed:
            self._crossed_at = book.ts


class _Side:
    """The levels of one side, and a heap of their prices."""

    __slots__ = ("_heap", "_is_bids", "_levels")

    def __init__(self, *, is_bids: bool) -> None:
        self._is_bids = is_bids
        self._levels: dict[str, Level] = {}
        self._heap: list[tuple[Decimal, str]] = []

    def load(self, levels: Iterable[Level]) -> None:
        self._levels = {number_key(price): (price, size) for price, size in levels}
        self._rebuild()

    def change(self, levels: Iterable[Level]) -> None:
        for price, size in levels:
            key = number_key(price)
            if size == "0":
                self._levels.pop(key, None)
                continue
            if key not in self._levels:
                heapq.heappush(self._heap, (self._rank(price), key))
            self._levels[key] = (price, size)
        if len(self._heap) > 2 * len(self._levels) + _MOST_GONE:
            self._rebuild()

    def best(self) -> Level | None:
        heap, levels = self._heap, self._levels
        while heap and heap[0][1] not in levels:
            heapq.heappop(heap)
        return levels[heap[0][1]] if heap else None

    def _rebuild(self) -> None:
        self._heap = [(self._rank(price), key) for key, (price, _) in self._levels.items()]
        heapq.heapify(self._heap)

    def _rank(self, price: str) -> Decimal:
        # Not negated by a minus, which would round to the digits of the thread's context.
        value = Decimal(price)
        return value.copy_negate() if self._is_bids else value
