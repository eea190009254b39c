"""Many ticks in one, where the newest alone does not say everything: trades are merged, books composed.

A merged trade has the last price, the summed size and the number of trades it stands for, so no volume is
lost. A composed book delta names each level once, as it is at the end; so whoever applies it has the book that
all its parts would have left. Neither changes what it was given: ticks are shared by all queues.

The classes are for queues that put thousands of ticks into one: what an `add` costs depends on the new tick
only, not on what has been gathered: 0.5 µs for a trade, 0.2 µs and 0.2 to 0.35 µs a level for a book. `tick`
costs 0.5 µs a level.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from broker.core.books import best_first
from broker.core.decimals import add, is_zero, number_key, plain_text
from broker.core.ticks import Book, Level, Side, Trade

#: MessagePack of a tick without its texts, at the most.
_TRADE_BYTES, _BOOK_BYTES = 96, 80
#: What a level costs beside its two texts.
_LEVEL_BYTES = 3
#: By how much a sum may be longer than the longest number in it, mostly.
_SUM_BYTES = 8


def merge_trades(older: Trade, newer: Trade) -> Trade:
    """Return one trade for two: last price, summed size, ``count`` of both; all else is the newer one's.

    ``side`` is ``None`` unless both have the same. The sum has as many decimals as the longer of the two.

    Raises:
        decimal.InvalidOperation: a size is not a number.
    """
    merger = TradeMerger()
    merger.add(older)
    merger.add(newer)
    return merger.tick()


def compose_books(older: Book, newer: Book) -> Book:
    """Return one book tick that leaves the same book as the two of them, one after the other.

    Two deltas make a delta, which keeps removals: the level may be in the book before them. A snapshot and
    a delta make a snapshot. A newer snapshot is returned as it is.
    """
    composer = BookComposer()
    composer.add(older)
    composer.add(newer)
    return composer.tick()


class TradeMerger:
    """Trades of one topic, merged into one."""

    __slots__ = ("_count", "_last", "_longest", "_merged", "_side", "_sum")

    def __init__(self) -> None:
        self._last: Trade | None = None
        self._merged: Trade | None = None
        self._sum = Decimal(0)
        self._count = 0
        self._side: Side | None = None
        self._longest = 0

    def add(self, trade: Trade) -> None:
        """Merge one more, newer than all before.

        Raises:
            decimal.InvalidOperation: its size is not a number; nothing has changed.
        """
        size = Decimal(trade.size)
        if self._last is None:
            self._sum, self._side = size, trade.side
            self._merged = trade
        else:
            self._sum = add(self._sum, size)
            if trade.side != self._side:
                self._side = None
            self._merged = None
        self._count += trade.count if isinstance(trade.count, int) else 1
        self._longest = max(self._longest, len(trade.size))
        self._last = trade

    @property
    def size(self) -> int:
        """About how many bytes the merged trade has as MessagePack. O(1); 0 before the first."""
        last = self._last
        if last is None:
            return 0
        return _TRADE_BYTES + len(last.sym) + len(last.price) + len(last.id) + self._longest + _SUM_BYTES

    def tick(self) -> Trade:
        """Return the one for all: a single trade as it is. There must have been one."""
        if self._merged is None:
            last = self._last
            assert last is not None, "nothing to merge"
            self._merged = Trade(
                sym=last.sym,
                seq=last.seq,
                ts=last.ts,
                rts=last.rts,
                price=last.price,
                size=plain_text(self._sum),
                side=self._side,
                id=last.id,
                count=self._count,
            )
        return self._merged


class BookComposer:
    """Snapshots and deltas of one topic, composed into one tick."""

    __slots__ = ("_asks", "_bids", "_composed", "_is_whole", "_last", "_text")

    def __init__(self) -> None:
        self._last: Book | None = None
        self._composed: Book | None = None
        self._is_whole = False
        self._bids: dict[str, Level] = {}
        self._asks: dict[str, Level] = {}
        #: Characters in the levels that are held.
        self._text = 0

    def add(self, tick: Book) -> None:
        """Compose one more, newer than all before. O(levels of ``tick``)."""
        is_first = self._last is None or tick.kind == "snapshot"
        if is_first:
            self._is_whole = tick.kind == "snapshot"
            self._bids.clear()
            self._asks.clear()
            self._text = 0
        # The first is mostly the only one: then it is passed on as it came.
        self._composed = tick if is_first else None
        self._text += _take_in(self._bids, tick.bids, self._is_whole)
        self._text += _take_in(self._asks, tick.asks, self._is_whole)
        self._last = tick

    @property
    def size(self) -> int:
        """About how many bytes the composed tick has as MessagePack. O(1); 0 before the first."""
        if self._last is None:
            return 0
        levels = len(self._bids) + len(self._asks)
        return _BOOK_BYTES + len(self._last.sym) + self._text + _LEVEL_BYTES * levels

    def tick(self) -> Book:
        """Return the one for all, best levels first: a single one as it is. There must have been one.

        O(n log n) in its levels after an `add`, then O(1).
        """
        if self._composed is None:
            last = self._last
            assert last is not None, "nothing to compose"
            self._composed = Book(
                sym=last.sym,
                seq=last.seq,
                ts=last.ts,
                rts=last.rts,
                kind="snapshot" if self._is_whole else "delta",
                bids=best_first(self._bids, bids=True),
                asks=best_first(self._asks, bids=False),
            )
        return self._composed


def _take_in(side: dict[str, Level], levels: Iterable[Level], is_whole: bool) -> int:
    """Put the levels of a tick over those that are held; return how many characters came or went."""
    change = 0
    for level in levels:
        price, size = level
        key = number_key(price)
        was = side.get(key)
        if was is not None:
            change -= len(was[0]) + len(was[1])
        # The first comparison spares most sizes the call: a zero begins with "0" or "-".
        if size < "1" and is_zero(size):
            if is_whole:
                side.pop(key, None)
                continue
            level = price, "0"
            size = "0"
        side[key] = level
        change += len(price) + len(size)
    return change
