"""One side of a simulated book, and how its numbers become text.

Prices are whole numbers of tick sizes and sizes are whole numbers of lots; text exists once per
price band, however many instruments share it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from broker.core.ticks import Level

DEPTH = 10
#: No level and no trade is larger than this, in lots.
MOST_LOTS = 250


class PriceText(dict[int, str]):
    """Text of a price by its number of tick sizes; made when first asked for, then kept.

    It can't grow without end: instruments stay between the floor and the ceiling of their band.
    """

    def __init__(self, step: int, decimals: int) -> None:
        """``step`` is the tick size in units of the last of ``decimals`` places."""
        super().__init__()
        self._step = step
        self._decimals = decimals

    def __missing__(self, ticks: int) -> str:
        whole, rest = divmod(ticks * self._step, 10**self._decimals)
        text = self[ticks] = f"{whole}.{rest:0{self._decimals}d}"
        return text


@dataclass(frozen=True, slots=True)
class Band:
    """A price level with what fits it: tick size and lot.

    Attributes:
        tick_size: as a float, only to place the first price.
        prices: text of a price, by its number of tick sizes.
        lots: text of a size, by its number of lots; ``lots[0]`` removes a level.
    """

    tick_size: float
    prices: PriceText
    lots: tuple[str, ...]


def _band(step: int, decimals: int, lot: int) -> Band:
    lots = tuple(str(lot * count) for count in range(MOST_LOTS + 1))
    return Band(step / 10**decimals, PriceText(step, decimals), lots)


_BOUNDS = (5, 20, 100, 500)


def make_bands() -> Callable[[float], Band]:
    """Return a function from a price of 1 to 2000 to its band: 1000 to 20,000 tick sizes make the price.

    The tick size grows with the price as in the bands of MiFID II (RTS 11), so that a tick is one to
    ten basis points everywhere.
    """
    bands = [_band(1, 3, 100), _band(5, 3, 100), _band(1, 2, 10), _band(5, 2, 10), _band(10, 2, 1)]
    return lambda price: bands[bisect_right(_BOUNDS, price)]


class Touch:
    """The best level of one side, where nobody gets the others; used like a `Ladder`.

    It holds half as much: a thousand names' levels fill the processor's cache, which the broker needs.

    Attributes:
        best: its price, in tick sizes.
        lots: its size, 1 or more.
        price, size: the same as text.
    """

    __slots__ = ("_band", "_outward", "best", "lots", "price", "size")

    def __init__(self, outward: int, best: int, band: Band, draw: Callable[[], int]) -> None:
        """See `Ladder`."""
        self._outward = outward
        self._band = band
        self.best, self.lots = best, 0
        self.move(best, draw)

    def resize(self, level: int, lots: int) -> list[Level]:
        """Give it another size, ``lots`` or one beside it; it always changes. There are no other levels."""
        assert not level
        self.lots = lots = lots if lots != self.lots else lots - 1 or 2
        self.size = self._band.lots[lots]
        return []

    def consume(self, lots: int, draw: Callable[[], int]) -> list[Level]:
        """Take size from it, at most all there is; then it moves out, to a new size."""
        left = self.lots - lots
        return self.resize(0, left) if left else self.move(self.best + self._outward, draw)

    def move(self, to: int, draw: Callable[[], int]) -> list[Level]:
        """Move it to another price, where another size is; where it is, it stays as it is."""
        if to == self.best and self.lots:
            return []
        self.best = to
        self.lots = lots = draw()
        self.price = self._band.prices[to]
        self.size = self._band.lots[lots]
        return []


class Ladder:
    """One side of a book: always `DEPTH` levels, one tick size apart, best first.

    Attributes:
        best: price of the touch, in tick sizes.
        sizes: lots of each level, from the touch outwards, each 1 or more.
        lots: those of the touch.
        price, size: the touch as text.
    """

    __slots__ = ("_band", "_outward", "best", "lots", "price", "size", "sizes")

    def __init__(self, outward: int, best: int, band: Band, draw: Callable[[], int]) -> None:
        """Fill the ladder.

        Args:
            outward: where the deeper levels lie: -1 for bids, +1 for asks.
            best: price of the touch, in tick sizes; more than `DEPTH` for bids.
            band: turns prices and sizes into text.
            draw: the size of a new level, in lots.
        """
        self._outward = outward
        self._band = band
        self.best = best
        self.sizes = [draw() for _ in range(DEPTH)]
        self._note_touch()

    def _note_touch(self) -> None:
        self.lots = self.sizes[0]
        self.price = self._band.prices[self.best]
        self.size = self._band.lots[self.lots]

    def levels(self) -> list[Level]:
        """Return the whole side, best first."""
        return self._text(self.best, 0, self.sizes)

    def resize(self, level: int, lots: int) -> list[Level]:
        """Give a level another size, ``lots`` or one beside it; it always changes. Return the change."""
        if lots == self.sizes[level]:
            lots = lots - 1 or 2
        self.sizes[level] = lots
        text = self._band.lots[lots]
        if not level:
            self.lots, self.size = lots, text
        return [(self._band.prices[self.best + self._outward * level], text)]

    def consume(self, lots: int, draw: Callable[[], int]) -> list[Level]:
        """Take size from the touch, which moves out once nothing is left; return the levels that changed.

        Args:
            lots: from 1 to the touch's size.
            draw: the size of the new level at the far end, if there is one.
        """
        left = self.sizes[0] - lots
        return self.resize(0, left) if left else self.move(self.best + self._outward, draw)

    def move(self, to: int, draw: Callable[[], int]) -> list[Level]:
        """Move the touch to another price, and return the levels that changed, best first.

        Levels that are nearer than the new touch, or deeper than `DEPTH`, go; what is missing is drawn.
        """
        was, self.best = self.best, to
        inward = (was - to) * self._outward
        count = min(abs(inward), DEPTH)
        drawn = [draw() for _ in range(count)]
        gone = [0] * count
        if inward > 0:
            self.sizes = drawn + self.sizes[: DEPTH - count]
        else:
            self.sizes = self.sizes[count:] + drawn
        self._note_touch()
        if inward > 0:
            return self._text(to, 0, drawn) + self._text(was, DEPTH - count, gone)
        return self._text(was, 0, gone) + self._text(to, DEPTH - count, drawn)

    def _text(self, touch: int, first: int, sizes: list[int]) -> list[Level]:
        prices, lots, outward = self._band.prices, self._band.lots, self._outward
        start = touch + outward * first
        return [(prices[start + outward * n], lots[size]) for n, size in enumerate(sizes)]
