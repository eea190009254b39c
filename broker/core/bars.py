"""Bars from trades, by event time: open, high, low, close, volume of each second and minute.

A bar is closed by the feed's own clock, the newest ``ts`` that any of its ticks carried: so a replay
gives the same bars at any speed. A trade that comes later than `LATENESS_NS` behind its bar's end counts
in the bar that is open then: its volume is never lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from broker.core.ticks import Bar, Trade

SECOND = 1_000_000_000
#: The derived intervals, shortest first; each is a multiple of the one before.
INTERVALS: tuple[tuple[str, int], ...] = (("1s", SECOND), ("1m", 60 * SECOND))
#: Trades of different instruments reach us slightly out of order; wait this long for them.
LATENESS_NS = 250_000_000


class _Open:
    """A bar that is still gathering."""

    __slots__ = ("close", "count", "high", "low", "open", "start", "ts", "volume")

    def __init__(self, start: int) -> None:
        self.start = start
        self.count = 0
        self.volume = Decimal(0)
        self.open = self.high = self.low = self.close = ""
        self.ts = 0

    def add(self, open_: str, high: str, low: str, close: str, volume: Decimal, count: int, ts: int) -> None:
        if not self.count:
            self.open, self.high, self.low = open_, high, low
        else:
            if Decimal(high) > Decimal(self.high):
                self.high = high
            if Decimal(low) < Decimal(self.low):
                self.low = low
        self.close = close
        self.volume += volume
        self.count += count
        self.ts = max(self.ts, ts)

    def tick(self, sym: str, interval: str, rts: int, *, final: bool) -> Bar:
        return Bar(
            sym=sym,
            ts=self.ts,
            rts=rts,
            interval=interval,
            start=self.start,
            open=self.open,
            high=self.high,
            low=self.low,
            close=self.close,
            volume=format(self.volume, "f"),
            count=self.count,
            final=final,
        )


class BarBuilder:
    """The open bars of one feed's instruments. Pure: time comes with the ticks."""

    def __init__(self) -> None:
        self._open: tuple[dict[str, _Open], ...] = tuple({} for _ in INTERVALS)
        self._watermark = 0
        self._next_close = 0

    def add(self, trade: Trade) -> Iterator[Bar]:
        """Count one trade; yield the bars of its instrument that it closes by being newer."""
        sym, width = trade.sym, INTERVALS[0][1]
        bar = self._open[0].get(sym)
        if bar is not None and trade.ts >= bar.start + width:
            yield from self._close(0, sym, trade.rts, trade.ts)
            bar = None
        if bar is None:
            bar = self._open[0][sym] = _Open(trade.ts - trade.ts % width)
        price = trade.price
        count = trade.count if isinstance(trade.count, int) else 1
        bar.add(price, price, price, price, Decimal(trade.size), count, trade.ts)

    def advance(self, watermark: int, rts: int) -> Iterator[Bar]:
        """Close what ended before ``watermark``, the newest event time seen; ``rts`` stamps the bars.

        Cheap when called with every batch: the bars are looked through ten times a second of event time.
        """
        if watermark < self._next_close:
            return
        self._watermark = watermark
        self._next_close = watermark + SECOND // 10
        limit = watermark - LATENESS_NS
        for level, (_, width) in enumerate(INTERVALS):
            ended = [sym for sym, bar in self._open[level].items() if bar.start + width <= limit]
            for sym in ended:
                yield from self._close(level, sym, rts, limit)

    def _close(self, level: int, sym: str, rts: int, now: int) -> Iterator[Bar]:
        """Yield the final bar, and fold it into the next longer one, which it may close or change."""
        bar = self._open[level].pop(sym)
        yield bar.tick(sym, INTERVALS[level][0], rts, final=True)
        if level + 1 == len(INTERVALS):
            return
        name, width = INTERVALS[level + 1]
        longer = self._open[level + 1].get(sym)
        if longer is not None and bar.start >= longer.start + width:
            yield from self._close(level + 1, sym, rts, now)
            longer = None
        if longer is None:
            longer = self._open[level + 1][sym] = _Open(bar.start - bar.start % width)
        longer.add(bar.open, bar.high, bar.low, bar.close, bar.volume, bar.count, bar.ts)
        if now >= longer.start + width:
            yield from self._close(level + 1, sym, rts, now)
        else:
            yield longer.tick(sym, name, rts, final=False)
