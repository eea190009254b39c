"""Ticks: one market event of one instrument on one channel (protocol, section 1).

Prices and sizes are decimal strings with the digits the venue sent; nothing here or behind it
turns one into a float. A feed fills in everything but ``seq``, which the tape assigns.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

Channel = Literal["quote", "trade", "book", "bar", "status"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)

#: Nanoseconds since the Unix epoch, UTC: an integer in memory and in MessagePack, a string in JSON.
Nanos = Annotated[int, Meta(description="nanoseconds since the Unix epoch, UTC")]
#: A decimal number as text, with the venue's digits, e.g. ``"61837.63000000"``.
Decimals = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$", max_length=64)]
Symbol = Annotated[
    str, Meta(pattern=r"^[A-Z0-9][A-Z0-9_]*:[A-Z0-9][A-Z0-9._/+-]*$", max_length=64, examples=["SIM:ACME"])
]
Level = tuple[Decimals, Decimals]
Side = Literal["buy", "sell"]
FeedState = Literal["live", "stale", "down", "halted"]


class Quote(Struct, tag_field="ch", tag="quote", kw_only=True, gc=False):
    """Best bid and offer; a missing side is ``None``.

    Attributes:
        seq: +1 for each tick of this channel and symbol; the first of an epoch is 1.
        ts: when it happened, at the venue.
        rts: when the broker received it.
        bid: best price bid.
        bid_size: size at the best bid.
        ask: best price asked.
        ask_size: size at the best ask.
    """

    ch: ClassVar[Channel] = "quote"
    sym: Symbol
    seq: int = 0
    ts: Nanos
    rts: Nanos
    bid: Decimals | None
    bid_size: Decimals | None
    ask: Decimals | None
    ask_size: Decimals | None


class Trade(Struct, tag_field="ch", tag="trade", kw_only=True, gc=False):
    """One public execution; ``side`` is the aggressor's, ``None`` where the venue does not say.

    Attributes:
        seq: +1 for each tick of this channel and symbol; the first of an epoch is 1.
        ts: when it happened, at the venue.
        rts: when the broker received it.
        price: of the last execution.
        size: of all executions that it stands for.
        side: the aggressor's.
        id: the venue's.
    """

    ch: ClassVar[Channel] = "trade"
    sym: Symbol
    seq: int = 0
    ts: Nanos
    rts: Nanos
    price: Decimals
    size: Decimals
    side: Side | None
    id: Annotated[str, Meta(max_length=64)]
    #: How many executions a conflated trade stands for; absent for a single one.
    count: int | UnsetType = UNSET


class Book(Struct, tag_field="ch", tag="book", kw_only=True, gc=False):
    """A whole book (``snapshot``) or the levels that changed (``delta``).

    ``bids`` and ``asks`` are ``(price, size)``, best first; size ``"0"`` removes the level.

    Attributes:
        seq: +1 for each tick of this channel and symbol; the first of an epoch is 1.
        ts: when it happened, at the venue.
        rts: when the broker received it.
        kind: whether it replaces the book or changes it.
        bids: highest first.
        asks: lowest first.
    """

    ch: ClassVar[Channel] = "book"
    sym: Symbol
    seq: int = 0
    ts: Nanos
    rts: Nanos
    kind: Literal["snapshot", "delta"]
    bids: list[Level]
    asks: list[Level]


class Bar(Struct, tag_field="ch", tag="bar", kw_only=True, gc=False):
    """Open, high, low, close and volume of the trades of one interval; ``count`` is their number.

    Attributes:
        seq: +1 for each tick of this channel and symbol; the first of an epoch is 1.
        ts: when it happened, at the venue.
        rts: when the broker received it.
        interval: its length, e.g. `1s` or `1m`.
        start: when it begins.
        open: price of the first trade.
        high: highest price.
        low: lowest price.
        close: price of the last trade so far.
        volume: summed size.
        count: how many trades.
        final: whether it will not change any more.
    """

    ch: ClassVar[Channel] = "bar"
    sym: Symbol
    seq: int = 0
    ts: Nanos
    rts: Nanos
    interval: Annotated[str, Meta(pattern=r"^[1-9][0-9]*[smhd]$")]
    start: Nanos
    open: Decimals
    high: Decimals
    low: Decimals
    close: Decimals
    volume: Decimals
    count: int
    final: bool


class Status(Struct, tag_field="ch", tag="status", kw_only=True, gc=False):
    """What the instrument's feed is doing.

    Attributes:
        seq: +1 for each tick of this channel and symbol; the first of an epoch is 1.
        ts: when it happened, at the venue.
        rts: when the broker received it.
        state: `live`, or mute (`stale`), disconnected (`down`), halted by the venue (`halted`).
        text: for people; may be empty.
    """

    ch: ClassVar[Channel] = "status"
    sym: Symbol
    seq: int = 0
    ts: Nanos
    rts: Nanos
    state: FeedState
    text: Annotated[str, Meta(max_length=256)] = ""


Tick: TypeAlias = Quote | Trade | Book | Bar | Status
TICK_TYPES: tuple[type[Tick], ...] = (Quote, Trade, Book, Bar, Status)

_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9_]*:[A-Z0-9][A-Z0-9._/+-]*")
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_NS = 1_000_000_000


def is_symbol(text: str) -> bool:
    """Tell whether ``text`` is a whole symbol: ``VENUE:SYMBOL``, upper case, at most 64 characters."""
    return len(text) <= 64 and _SYMBOL.fullmatch(text) is not None


def venue_of(symbol: str) -> str:
    """Return the part before the colon."""
    return symbol.partition(":")[0]


def iso_to_ns(text: str) -> int:
    """Turn an RFC 3339 time with up to nine decimals into nanoseconds of Unix time, exactly.

    Raises:
        ValueError: ``text`` is not such a time, or names no time zone.
    """
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    whole, fraction, zone = match.groups()
    try:
        at = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(f"not within the years 1 to 9999: {text!r}") from exc
    return int(at.timestamp()) * _NS + int((fraction or "").ljust(9, "0"))
