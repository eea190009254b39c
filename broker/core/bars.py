"""Bars from trades, by event time: open, high, low, close, volume of each second and minute.

A bar is closed by the feed's own clock, the newest ``ts`` that any of its ticks carried: so a replay
gives the same bars at any speed, and trades may come in any order within `LATENESS_NS`. A trade that comes
later, when its bar has been closed, counts in the oldest one that may still be open: its volume is never lost,
and no bar is final twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal

from broker.core.ticks import Bar, Trade

SECOND = 1_000_000_000
#: The derived intervals, shortest first; each is a multiple of the one before.
INTERVALS: tuple[tuple[str, int], ...] = (("1s", SECOND), ("1m", 60 * SECOND))
#: Trades reach us slightly out of order; wait this long for them.
LATENESS_NS = 250_000_000

#: Sums keep every digit: the default context rounds to 28 of them.
_add = Context(prec=400).add


class _Open:
    """A bar that is still gathering. ``first`` and ``last``: when the open and the close were traded."""

    __slots__ = ("close", "count", "first", "high", "last", "low", "open", "start", "volume")

    def __init__(self, start: int) -> None:
        self.start = start
        self.count = 0
        self.volume = Decimal(0)
        self.open = self.close = Decimal(0), ""
        self.high = self.low = self.open
        self.first = self.last = 0

    def add(self, price: tuple[Decimal, str], size: Decimal, count: int, ts: int) -> None:
        """Count a trade; of two at the same time the one that came first opens, the other closes."""
        self._widen(price, price)
        if not self.count or ts < self.first:
            self.first, self.open = ts, price
        if not self.count or ts >= self.last:
            self.last, self.close = ts, price
        self.volume = _add(self.volume, size)
        self.count += count

    def fold(self, bar: _Open) -> None:
        """Count a closed shorter bar, later than all that were folded before."""
        self._widen(bar.high, bar.low)
        if not self.count:
            self.first, self.open = bar.first, bar.open
        self.last, self.close = bar.last, bar.close
        self.volume = _add(self.volume, bar.volume)
        self.count += bar.count

    def _widen(self, high: tuple[Decimal, str], low: tuple[Decimal, str]) -> None:
        if not self.count or high[0] > self.high[0]:
            self.high = high
        if not self.count or low[0] < self.low[0]:
            self.low = low

    def tick(self, sym: str, interval: str, rts: int, *, final: bool) -> Bar:
        return Bar(
            sym=sym,
            ts=self.last,
            rts=rts,
            interval=interval,
            start=self.start,
            open=self.open[1],
            high=self.high[1],
            low=self.low[1],
            close=self.close[1],
            volume=format(self.volume, "f"),
            count=self.count,
            final=final,
        )


class BarBuilder:
    """The open bars of one feed's instruments. Pure: time comes with the ticks."""

    def __init__(self) -> None:
        #: By symbol and start: for a moment two of a symbol are open, one of them for what comes late.
        self._open: dict[tuple[str, int], _Open] = {}
        #: The longer ones, for each interval but the shortest; only the newest of a symbol is open.
        self._longer: tuple[dict[str, _Open], ...] = tuple({} for _ in INTERVALS[1:])
        #: What ended until then is closed.
        self._closed = 0
        self._next_close = 0

    def add(self, trade: Trade) -> None:
        """Count one trade.

        Raises:
            ValueError, InvalidOperation: its price or size is no number; nothing is counted.
        """
        price, size = Decimal(trade.price), Decimal(trade.size)
        if not (price.is_finite() and size.is_finite()):
            raise ValueError(f"not a number: {trade.price} or {trade.size}")
        width = INTERVALS[0][1]
        at = max(trade.ts, self._closed)
        start = at - at % width
        bar = self._open.get((trade.sym, start))
        if bar is None:
            bar = self._open[trade.sym, start] = _Open(start)
        count = trade.count if isinstance(trade.count, int) else 1
        bar.add((price, trade.price), size, count, trade.ts)

    def advance(self, watermark: int, rts: int) -> Iterator[Bar]:
        """Close what ended before ``watermark``, the newest event time seen; ``rts`` stamps the bars.

        Cheap when called with every batch: the bars are looked through ten times a second of event time.
        """
        if watermark < self._next_close:
            return
        self._next_close = watermark + SECOND // 10
        limit = self._closed = max(self._closed, watermark - LATENESS_NS)
        width = INTERVALS[0][1]
        ended = [(bar.start, sym) for (sym, _), bar in self._open.items() if bar.start + width <= limit]
        # In the order of time, as longer bars are made of them.
        for start, sym in sorted(ended):
            bar = self._open.pop((sym, start))
            yield bar.tick(sym, INTERVALS[0][0], rts, final=True)
            yield from self._fold(0, sym, bar, rts, limit)
        for level, (_, width) in enumerate(INTERVALS[1:]):
            for sym in [sym for sym, bar in self._longer[level].items() if bar.start + width <= limit]:
                yield from self._close(level, sym, rts, limit)

    def _fold(self, level: int, sym: str, bar: _Open, rts: int, limit: int) -> Iterator[Bar]:
        """Put a closed bar into the next longer one, and yield that as it is then."""
        if level == len(self._longer):
            return
        name, width = INTERVALS[level + 1]
        longer = self._longer[level].get(sym)
        if longer is not None and bar.start >= longer.start + width:
            yield from self._close(level, sym, rts, limit)
            longer = None
        if longer is None:
            longer = self._longer[level][sym] = _Open(bar.start - bar.start % width)
        longer.fold(bar)
        if longer.start + width > limit:
            yield longer.tick(sym, name, rts, final=False)

    def _close(self, level: int, sym: str, rts: int, limit: int) -> Iterator[Bar]:
        bar = self._longer[level].pop(sym)
        yield bar.tick(sym, INTERVALS[level + 1][0], rts, final=True)
        yield from self._fold(level + 1, sym, bar, rts, limit)
