"""One order book of Kraken, kept to the depth subscribed to and checked by the venue's CRC32. Pure.

Source: https://docs.kraken.com/api/docs/guides/spot-ws-book-v1 and .../guides/spot-ws-book-v2 ("Maintaining the
book", "Checksum calculation"), as search excerpts of them said on 2026-11-21:

* An update can push levels out of the depth. The venue does not say so: whoever keeps the book drops the worst
  ones. Here they come out as removals, so that a client who knows no depth has the venue's book too.
* The checksum is over the ten best asks and then the ten best bids, best first: of each level the digits of price
  and size, without the point and without leading zeros. It says nothing of deeper levels: a change lost there shows
  only once it comes up among the ten.
* The digits are those on the wire, zeros at the end included.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import chain
from zlib import crc32

from broker.core.decimals import is_zero
from broker.core.ticks import Level

#: The depths that can be subscribed to.
DEPTHS = (10, 25, 100, 500, 1000)
_CHECKED = 10


def depth_of_snapshot(bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """Guess the depth that a snapshot was subscribed with: the longer side is full, or all there is is in it."""
    longer = max(len(bids), len(asks))
    return longer if longer in DEPTHS else max(longer, DEPTHS[-1])


class KrakenBook:
    """The levels of both sides, at most ``depth`` each.

    Prices and sizes must be unsigned decimal numbers (`feeds.frames.check_decimals`).
    """

    __slots__ = ("_asks", "_bids", "_places", "depth")

    def __init__(self, depth: int, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        self.depth = depth
        self._bids = _Side(bids, depth, is_bids=True)
        self._asks = _Side(asks, depth, is_bids=False)
        #: The most decimals seen of prices and of sizes; looked at only where the digits as sent do not match.
        self._places = (0, 0)

    @property
    def levels(self) -> tuple[list[Level], list[Level]]:
        """Bids and asks, best first."""
        return self._bids.levels, self._asks.levels

    def update(self, bids: Sequence[Level], asks: Sequence[Level]) -> tuple[list[Level], list[Level]]:
        """Take in one message's changes, in the order in which they were sent.

        Returns:
            What changed of bids and asks, best first: the levels sent and, as removals, those pushed out.
        """
        return (
            self._bids.update(bids, self.depth) if bids else [],
            self._asks.update(asks, self.depth) if asks else [],
        )

    def matches(self, checksum: int) -> bool:
        """Tell whether the venue's checksum is that of this book.

        Where the digits as sent do not match, they are filled up with zeros to the most decimals that the book has
        shown: recorders that decode and encode frames lose those zeros.
        """
        digits = chain(self._asks.digits[:_CHECKED], self._bids.digits[:_CHECKED])
        return crc32("".join(digits).encode()) == checksum or self._padded_checksum() == checksum

    def _padded_checksum(self) -> int:
        every = [*self._asks.levels, *self._bids.levels]
        price_places = max(self._places[0], *(_places(price) for price, _ in every), 0)
        size_places = max(self._places[1], *(_places(size) for _, size in every), 0)
        self._places = price_places, size_places
        best = chain(self._asks.levels[:_CHECKED], self._bids.levels[:_CHECKED])
        digits = (_padded(price, price_places) + _padded(size, size_places) for price, size in best)
        return crc32("".join(digits).encode())


class _Side:
    """One side, best first, as three lists in step.

    Attributes:
        levels: as sent.
        digits: what each level adds to the checksum.
    """

    __slots__ = ("_is_bids", "_keys", "digits", "levels")

    def __init__(self, levels: Iterable[Level], depth: int, *, is_bids: bool) -> None:
        self._is_bids = is_bids
        whole = {self._key(price): (price, size) for price, size in levels}
        self._keys = sorted(key for key, (_, size) in whole.items() if not is_zero(size))[:depth]
        self.levels: list[Level] = [whole[key] for key in self._keys]
        self.digits = [_digits(level) for level in self.levels]

    def update(self, changes: Sequence[Level], depth: int) -> list[Level]:
        """See `KrakenBook.update`."""
        changed: dict[Decimal, Level] = {}
        #: Prices at which the book had nothing before.
        new: set[Decimal] = set()
        for level in changes:
            key = self._key(level[0])
            is_removal = is_zero(level[1])
            was_there = self._remove(key) if is_removal else self._set(key, level)
            if not was_there and key not in changed:
                new.add(key)
            changed[key] = (level[0], "0") if is_removal else level
        for key, price in self._drop_beyond(depth):
            if key in new:
                del changed[key]
            else:
                changed[key] = (price, "0")
        if len(changed) < 2:
            return list(changed.values())
        return [changed[key] for key in sorted(changed)]

    def _key(self, price: str) -> Decimal:
        """Return what sorts a price, best first; no digit is lost."""
        value = Decimal(price)
        return value.copy_negate() if self._is_bids else value

    def _set(self, key: Decimal, level: Level) -> bool:
        """Set one level; tell whether its price was there before."""
        at = bisect_left(self._keys, key)
        if at < len(self._keys) and self._keys[at] == key:
            self.levels[at] = level
            self.digits[at] = _digits(level)
            return True
        self._keys.insert(at, key)
        self.levels.insert(at, level)
        self.digits.insert(at, _digits(level))
        return False

    def _remove(self, key: Decimal) -> bool:
        """Remove one level; tell whether it was there."""
        at = bisect_left(self._keys, key)
        if at == len(self._keys) or self._keys[at] != key:
            return False
        del self._keys[at], self.levels[at], self.digits[at]
        return True

    def _drop_beyond(self, depth: int) -> list[tuple[Decimal, str]]:
        """Drop the worst levels; return their keys and prices."""
        if len(self._keys) <= depth:
            return []
        dropped = [
            (key, price) for key, (price, _) in zip(self._keys[depth:], self.levels[depth:], strict=True)
        ]
        del self._keys[depth:], self.levels[depth:], self.digits[depth:]
        return dropped


def _digits(level: Level) -> str:
    price, size = level
    return _plain(price).replace(".", "").lstrip("0") + _plain(size).replace(".", "").lstrip("0")


def _plain(number: str) -> str:
    return format(Decimal(number), "f") if "e" in number or "E" in number else number


def _places(number: str) -> int:
    return len(_plain(number).partition(".")[2])


def _padded(number: str, places: int) -> str:
    whole, _, fraction = _plain(number).partition(".")
    return (whole + fraction.ljust(places, "0")).lstrip("0")
