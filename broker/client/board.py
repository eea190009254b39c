"""What `tapecast watch` knows of each symbol: last tick, rate, age, losses. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from broker.client.events import AnyEvent, Gap, Notice, Snapshot
from broker.core.books import BookState
from broker.core.delivery import Mode
from broker.core.ticks import Bar, Book, Level, Quote, Status, Tick, Trade

#: Time constants of the rates, in seconds: what is shown, and what decides on which rows are shown.
SHOWN_S, RANKED_S = 2.0, 15.0

RowKey = tuple[str, str, str]


@dataclass(slots=True)
class Row:
    """One symbol on one channel (and of one interval, for bars).

    Attributes:
        at: when the last tick came, in seconds of the clock.
        conflated: jumps in ``seq``, where the contract is ``latest``.
        is_broken: deltas of the book are missing, and no snapshot has come since.
        rate: ticks a second, smoothed.
    """

    ch: str
    sym: str
    tick: Tick
    at: float = 0.0
    ticks: int = 0
    conflated: int = 0
    gaps: int = 0
    rate: float = 0.0
    rank: float = 0.0
    book: BookState | None = None
    is_broken: bool = False
    _sampled: int = field(default=0, repr=False)

    def sample(self, elapsed_s: float) -> None:
        """Bring the rates up to date; ``elapsed_s`` since the last call."""
        now = (self.ticks - self._sampled) / elapsed_s
        self._sampled = self.ticks
        self.rate += (now - self.rate) * (1 - math.exp(-elapsed_s / SHOWN_S))
        self.rank += (now - self.rank) * (1 - math.exp(-elapsed_s / RANKED_S))

    def price(self) -> str:
        """Return what it costs: ``bid / ask``, the last price, or a state."""
        match self.tick:
            case Quote(bid=bid, ask=ask):
                return f"{_price(bid)} / {_price(ask)}"
            case Trade(price=price):
                return _price(price)
            case Book():
                bids, asks = self._levels()
                return f"{_price(bids[0][0] if bids else None)} / {_price(asks[0][0] if asks else None)}"
            case Bar(close=close):
                return _price(close)
            case Status(state=state, text=text):
                return f"{state} {printable(text)}".rstrip()

    def size(self) -> str:
        """Return how much of it: at the bid and the ask, of the last trade, of the bar; levels of a book."""
        match self.tick:
            case Quote(bid_size=bid, ask_size=ask):
                return f"{_size(bid)} / {_size(ask)}"
            case Trade(size=size, side=side):
                return f"{_size(size)} {side}" if side else _size(size)
            case Book():
                bids, asks = self._levels()
                return f"{len(bids)} × {len(asks)}"
            case Bar(volume=volume):
                return _size(volume)
            case Status():
                return ""

    def _levels(self) -> tuple[list[Level], list[Level]]:
        return self.book.levels() if self.book is not None and not self.is_broken else ([], [])


class Board:
    """All rows, and their sums.

    Attributes:
        notes: what the user should know of: refused channels, rejected symbols.
        pressure: what the broker last said of how we keep up; empty if it said nothing.
    """

    def __init__(self, now: float) -> None:
        self.rows: dict[RowKey, Row] = {}
        self.notes: list[str] = []
        self.pressure = ""
        self.ticks = self.conflated = self.gaps = self.missing = 0
        self.rate = 0.0
        self._last: dict[tuple[str, str], int | None] = {}
        self._sampled_at = now
        self._sampled_ticks = 0

    def take(self, event: AnyEvent, mode: Mode | None, now: float) -> None:
        """Take in one event; ``mode`` is that of its subscription."""
        if isinstance(event, Gap):
            self._take_gap(event)
            return
        if isinstance(event, Notice):
            self.pressure = event.state
            return
        for tick in event.ticks:
            row = self._row(tick)
            row.tick = tick
            row.at = now
            if row.book is not None and type(tick) is Book:
                row.book.apply(tick)
                row.is_broken = row.is_broken and tick.kind != "snapshot"
            last = self._last.get((tick.ch, tick.sym))
            self._last[tick.ch, tick.sym] = tick.seq if last is None else max(last, tick.seq)
            if isinstance(event, Snapshot):
                continue
            row.ticks += 1
            self.ticks += 1
            if mode == "latest" and last is not None and tick.seq > last + 1:
                row.conflated += tick.seq - last - 1
                self.conflated += tick.seq - last - 1

    def _take_gap(self, gap: Gap) -> None:
        self.gaps += 1
        self.missing += gap.missing or 0
        last = self._last.get((gap.ch, gap.sym))
        self._last[gap.ch, gap.sym] = None if gap.last is None or last is None else max(last, gap.last)
        intervals = [key[2] for key in self.rows if key[:2] == (gap.ch, gap.sym)] if gap.ch == "bar" else [""]
        for interval in intervals:
            row = self.rows.get((gap.ch, gap.sym, interval))
            if row is not None:
                row.gaps += 1
                row.is_broken = row.book is not None

    def _row(self, tick: Tick) -> Row:
        key = (tick.ch, tick.sym, tick.interval if type(tick) is Bar else "")
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = Row(
                tick.ch, tick.sym, tick, book=BookState() if tick.ch == "book" else None
            )
        return row

    def sample(self, now: float) -> None:
        """Bring all rates up to date."""
        elapsed_s = now - self._sampled_at
        if elapsed_s <= 0:
            return
        self._sampled_at = now
        rate = (self.ticks - self._sampled_ticks) / elapsed_s
        self._sampled_ticks = self.ticks
        self.rate += (rate - self.rate) * (1 - math.exp(-elapsed_s / SHOWN_S))
        for row in self.rows.values():
            row.sample(elapsed_s)

    def busiest(self, most: int) -> list[Row]:
        """Return at most so many rows: the busiest, in the order of their names."""
        keys = list(self.rows)
        if len(keys) > most:
            # By name where equally busy, so that rows don't change places for nothing.
            keys = sorted(keys, key=lambda key: (-self.rows[key].rank, key[1], key))[: max(0, most)]
        return [self.rows[key] for key in sorted(keys, key=lambda key: (key[1], key[0], key[2]))]


def printable(text: str) -> str:
    """Return ``text`` without what could steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def short(number: float) -> str:
    """Return a number in at most five characters."""
    if number < 9.95:
        return f"{number:.1f}".removesuffix(".0")
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f}T"


def age(seconds: float) -> str:
    """Return an age in at most four characters."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    if seconds < 600:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 36_000 else f"{seconds / 3600:.0f}h"


def _price(text: str | None) -> str:
    """Return a price as the venue wrote it, but for a long tail of zeros: two decimals stay."""
    if text is None:
        return "-"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}" if decimals.endswith("000") else text


def _size(text: str | None) -> str:
    if text is None:
        return "-"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text.lower() else text
