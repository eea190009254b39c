"""The state of one order book, as the deltas leave it; and what is common to all that work on levels."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

from msgspec import structs

from broker.core.decimals import is_zero, number_key
from broker.core.ticks import Book, Level


class BookState:
    """Levels by price, from a snapshot and the deltas behind it.

    Two spellings of one price (``"1.5"`` and ``"1.50"``) are one level; what is kept is the last spelling. A
    level of size zero is removed, however the zero is spelt.

    Attributes:
        is_known: whether the levels are the venue's. They are not from `lose` to the next snapshot, as the feed has
            missed something; deltas in between are about a book that nobody has.
    """

    __slots__ = ("_asks", "_bids", "_rendered", "is_known", "rts", "ts")

    def __init__(self) -> None:
        self._bids: dict[str, Level] = {}
        self._asks: dict[str, Level] = {}
        self._rendered: tuple[list[Level], list[Level]] | None = None
        #: When the last change happened at the venue and reached us; nanoseconds of Unix time.
        self.ts = self.rts = 0
        self.is_known = True

    def apply(self, tick: Book) -> None:
        """Take in one tick: a snapshot replaces everything, a delta the levels that it names, if the book is known.

        Raises:
            TypeError, ValueError, AttributeError: a level is not a pair of texts; nothing has changed.
        """
        bids, asks = _keyed(tick.bids), _keyed(tick.asks)
        if tick.kind == "snapshot":
            self._bids.clear()
            self._asks.clear()
            self.is_known = True
        elif not self.is_known:
            return
        _update(self._bids, bids)
        _update(self._asks, asks)
        self._rendered = None
        self.ts, self.rts = tick.ts, tick.rts

    def lose(self) -> None:
        """Forget the levels: what the venue has is not known any more."""
        self._bids.clear()
        self._asks.clear()
        self._rendered = None
        self.is_known = False

    def levels(self) -> tuple[list[Level], list[Level]]:
        """Return bids and asks, best first; none of a book that is not known. O(n log n) after a change, then O(1)."""
        if self._rendered is None:
            self._rendered = best_first(self._bids, bids=True), best_first(self._asks, bids=False)
        return self._rendered


def best_first(side: dict[str, Level], *, bids: bool) -> list[Level]:
    """Return the levels of one side, best first; those whose price is no number are removed from it."""
    try:
        return sorted(side.values(), key=_price, reverse=bids)
    except InvalidOperation:
        # A price that is no number has no place in a book. Rare, so it is not looked for with every tick.
        _remove_odd(side)
        return sorted(side.values(), key=_price, reverse=bids)


def with_plain_removals(tick: Book) -> Book:
    """Return a book tick as the protocol has it: a removal has the size ``"0"``, a snapshot has none.

    The tick itself, mostly: venues that write zero otherwise are rare, and their adapters mostly know it.
    """
    if not any(
        size < "1" and size != "0" and is_zero(size) for side in (tick.bids, tick.asks) for _, size in side
    ):
        return tick
    is_whole = tick.kind == "snapshot"
    bids, asks = (
        [(price, "0" if is_zero(size) else size) for price, size in side if not (is_whole and is_zero(size))]
        for side in (tick.bids, tick.asks)
    )
    return structs.replace(tick, bids=bids, asks=asks)


def _price(level: Level) -> Decimal:
    return Decimal(level[0])


def _keyed(levels: Iterable[Level]) -> list[tuple[str, Level | None]]:
    """Return what becomes of each level: ``None``, where it is removed."""
    # The first comparison spares most sizes the call: a zero begins with "0" or "-".
    return [
        (number_key(level[0]), None if size < "1" and is_zero(size) else level)
        for level in levels
        for _, size in (level,)
    ]


def _update(side: dict[str, Level], levels: Iterable[tuple[str, Level | None]]) -> None:
    for key, level in levels:
        if level is None:
            side.pop(key, None)
        else:
            side[key] = level


def _remove_odd(side: dict[str, Level]) -> None:
    for key, level in list(side.items()):
        try:
            is_number = _price(level).is_finite()
        except InvalidOperation:
            is_number = False
        if not is_number:
            del side[key]
