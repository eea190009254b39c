"""Frames of Kraken for tests, with the checksum computed the plain way; and a book that is obviously right."""

from __future__ import annotations

import json
from decimal import Decimal
from zlib import crc32

from broker.core.ticks import Level

RTS = 1_582_905_500_000_000_000


def checksum(bids: list[Level], asks: list[Level]) -> int:
    """Return the CRC32 of the ten best levels of each side; both best first."""
    digits = (text.replace(".", "").lstrip("0") for level in [*asks[:10], *bids[:10]] for text in level)
    return crc32("".join(digits).encode())


class PlainBook:
    """A book as the venue has it: sorted anew and cut to its depth after every message."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.bids: list[Level] = []
        self.asks: list[Level] = []

    def change(self, bids: list[Level], asks: list[Level]) -> None:
        self.bids = self._changed(self.bids, bids, -1)
        self.asks = self._changed(self.asks, asks, 1)

    def checksum(self) -> int:
        return checksum(self.bids, self.asks)

    def _changed(self, side: list[Level], changes: list[Level], sign: int) -> list[Level]:
        levels = {Decimal(price): (price, size) for price, size in side}
        for price, size in changes:
            levels[Decimal(price)] = (price, size)
        whole = [level for level in levels.values() if Decimal(level[1])]
        return sorted(whole, key=lambda level: sign * Decimal(level[0]))[: self.depth]


def v1_snapshot(bids: list[Level], asks: list[Level], *, depth: int = 10, pair: str = "XBT/USD") -> str:
    at = "1582905487.5"
    sides = {"as": [[*level, at] for level in asks], "bs": [[*level, at] for level in bids]}
    return json.dumps([1, sides, f"book-{depth}", pair])


def v1_update(
    bids: list[Level], asks: list[Level], check: int | None, *, depth: int = 10, pair: str = "XBT/USD"
) -> str:
    """One object for each side that changes, the checksum in the last; one empty object if none does."""
    at = "1582905488.25"
    parts: list[dict[str, object]] = []
    if asks:
        parts.append({"a": [[*level, at] for level in asks]})
    if bids or not asks:
        parts.append({"b": [[*level, at] for level in bids]})
    if check is not None:
        parts[-1]["c"] = str(check)
    return json.dumps([1, *parts, f"book-{depth}", pair])


def v2_book(kind: str, bids: list[Level], asks: list[Level], check: int, *, symbol: str = "BTC/USD") -> str:
    """Numbers with their digits, which no JSON library writes."""
    sides = (
        "[" + ",".join(f'{{"price":{price},"qty":{size}}}' for price, size in side) + "]"
        for side in (bids, asks)
    )
    bids_text, asks_text = sides
    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{symbol}","bids":{bids_text},'
        f'"asks":{asks_text},"checksum":{check},"timestamp":"2023-10-06T17:35:55.440295Z"}}]}}'
    )
