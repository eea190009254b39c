"""The state of one order book, as the deltas leave it."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from broker.core.ticks import Book, Level


class BookState:
    """Levels by price, from a snapshot and the deltas behind it.

    Two spellings of one price (``"1.5"`` and ``"1.50"``) are one level; what is kept is the last spelling.
    """

    __slots__ = ("_asks", "_bids", "_rendered", "rts", "ts")

    def __init__(self) -> None:
        self._bids: dict[str, Level] = {}
        self._asks: dict[str, Level] = {}
        self._rendered: tuple[list[Level], list[Level]] | None = None
        #: When the last change happened at the venue and reached us; nanoseconds of Unix time.
        self.ts = self.rts = 0

    def apply(self, tick: Book) -> None:
        """Take in one tick: a snapshot replaces everything, a delta the levels that it names."""
        if tick.kind == "snapshot":
            self._bids.clear()
            self._asks.clear()
        _update(self._bids, tick.bids)
        _update(self._asks, tick.asks)
        self._rendered = None
        self.ts, self.rts = tick.ts, tick.rts

    def levels(self) -> tuple[list[Level], list[Level]]:
        """Return bids and asks, best first. O(n log n) after a change, then O(1)."""
        if self._rendered is None:
            bids = sorted(self._bids.values(), key=_price, reverse=True)
            self._rendered = bids, sorted(self._asks.values(), key=_price)
        return self._rendered


def _price(level: Level) -> Decimal:
    return Decimal(level[0])


def _key(price: str) -> str:
    return price.rstrip("0").rstrip(".") if "." in price else price


def _update(side: dict[str, Level], levels: Iterable[Level]) -> None:
    for level in levels:
        if level[1] == "0":
            side.pop(_key(level[0]), None)
        else:
            side[_key(level[0])] = level
