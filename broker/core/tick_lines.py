"""Ticks that other programs write: one JSON object a line, as protocol.md has them. Pure.

A line has every field of its channel but ``seq`` and ``rts``, which are the broker's to give: they may stand there
and are not looked at. ``ts`` may be missing or null: then it is when the line was received.

A book is served from a snapshot on. A line that is refused and may have been a part of it breaks it: what follows
is refused too, until the next snapshot, for a book with a hole is a wrong book.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterator
from decimal import Decimal
from functools import reduce
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET, structs

from broker.core.errors import FrameError
from broker.core.lines import MOST_LINE_BYTES
from broker.core.requests import nearest, show
from broker.core.ticks import (
    CHANNELS,
    TICK_TYPES,
    Bar,
    Book,
    Channel,
    Nanos,
    Quote,
    Tick,
    Trade,
    is_symbol,
    venue_of,
)

#: Symbols of one source; a program that makes up new ones without end must not fill the broker's memory.
MOST_SYMBOLS = 100_000
_LAST_NS = 2**63 - 1
#: Nanoseconds since 1970 reach this in March 1973. Today's time is less in seconds, milliseconds and microseconds.
FIRST_NS = 10**17

_DECIMAL = 'a decimal number as text, e.g. "101.50"'
_SIZE = 'a decimal number as text, not negative, e.g. "3.25"'
_TIME = 'nanoseconds since 1970 as text, e.g. "1700000000000000000", up to the year 2262'
_LEVELS = 'a list of [price, size], both as text, best first, e.g. [["101.50", "3"]]'
#: What would have been right, by field.
WANTED: dict[str, str] = {
    "ch": f"one of {', '.join(CHANNELS)}",
    "sym": "VENUE:SYMBOL, upper case, at most 64 characters",
    "ts": f"{_TIME}; or left out, if it is now",
    **dict.fromkeys(("bid", "ask"), f"{_DECIMAL}, or null if there is none"),
    **dict.fromkeys(("bid_size", "ask_size"), f"{_SIZE}, or null if there is none"),
    **dict.fromkeys(("price", "open", "high", "low", "close"), _DECIMAL),
    **dict.fromkeys(("size", "volume"), _SIZE),
    "side": '"buy" or "sell", whoever took, or null if it is not known',
    "id": 'text of at most 64 characters, "" if the venue gives none',
    "count": "a whole number, at least 1",
    "kind": '"snapshot" or "delta"',
    **dict.fromkeys(("bids", "asks"), _LEVELS),
    "interval": 'a number and s, m, h or d, e.g. "1m"',
    "start": _TIME,
    "final": "true or false",
    "state": "one of live, stale, down, halted",
    "text": "text of at most 256 characters",
}
#: What of the numbers is a price, and may be negative, and what a size.
_PRICES = {Quote: ("bid", "ask"), Trade: ("price",), Bar: ("open", "high", "low", "close")}
_SIZES = {Quote: ("bid_size", "ask_size"), Trade: ("size",), Bar: ("volume",)}
_UNSIGNED = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?"
_IS_PRICE, _IS_SIZE = re.compile(f"-?{_UNSIGNED}").fullmatch, re.compile(_UNSIGNED).fullmatch

_PATH = re.compile(r"[^.\[\]]+")
_CHANNEL_IN_TEXT = re.compile(rb'"ch"\s*:\s*"(\w+)"')
_SYMBOL_IN_TEXT = re.compile(rb'"sym"\s*:\s*"([^"\\]{1,64})"')


class LineError(FrameError):
    """A line is no tick; the text says which line and field, the value, and what would have been right.

    Attributes:
        line: its number.
        field: empty if it is the line as a whole.
    """

    def __init__(self, line: int, field: str, problem: str, frame: bytes, *, kind: str = "") -> None:
        super().__init__(
            f"line {line}: {field}{': ' if field else ''}{problem}",
            frame,
            # Neither number nor value: what is wrong in the same way counts together.
            kind=kind or re.sub(r"\[\d+\]", "[]", field) or "not a tick",
        )
        self.line = line
        self.field = field
        self.problem = problem


def _line_type(kind: type[Tick]) -> type[msgspec.Struct]:
    """Return the type of a channel's lines: the tick's, but for what the broker adds."""
    fields: list[Any] = []
    for field in structs.fields(kind):
        if field.name in ("seq", "rts"):
            fields.append((field.name, Any, None))
        elif field.name == "ts":
            fields.append(("ts", Nanos | None, None))
        elif field.default is msgspec.NODEFAULT:
            fields.append((field.name, field.type))
        else:
            fields.append((field.name, field.type, field.default))
    return msgspec.defstruct(
        f"{kind.__name__}Line", fields, tag_field="ch", tag=kind.ch, kw_only=True, forbid_unknown_fields=True
    )


class _Maker:
    """Makes a channel's tick of its line."""

    def __init__(self, kind: type[Tick]) -> None:
        self.kind = kind
        self.names = [field.name for field in structs.fields(kind) if field.name not in ("seq", "rts", "ts")]
        self._values = attrgetter(*self.names)

    def __call__(self, line: Any, rts: int) -> Tick:
        ts = rts if line.ts is None else line.ts
        fields = dict(zip(self.names, self._values(line), strict=True))
        return self.kind(ts=ts, rts=rts, **fields)


_LINES = {kind: _line_type(kind) for kind in TICK_TYPES}
_MAKERS = {line: _Maker(kind) for kind, line in _LINES.items()}
_FIELDS: dict[str, list[str]] = {kind.ch: ["ch", "ts", *_MAKERS[line].names] for kind, line in _LINES.items()}
#: Not strict: times are texts in JSON, but numbers will do.
_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    reduce(operator.or_, list[Any](_LINES.values())), strict=False
)


class TickLines:
    """The lines of one source, in order; remembers which of its books are whole.

    Args:
        venue: the part before the colon of every symbol that it may send; ``None``: any.
        symbols: whole ones, if only these may come.
    """

    def __init__(self, venue: str | None, symbols: Collection[str] | None = None) -> None:
        self._venue = venue
        self._symbols = None if symbols is None else frozenset(symbols)
        self._known: set[str] = set()
        self._books: set[str] = set()
        self._gaps: list[tuple[Channel, str]] = []

    def parse(self, line: bytes, rts: int, number: int) -> Tick:
        """Return the tick of one line.

        Args:
            rts: when it was received, in nanoseconds of Unix time.
            number: of the line, for the error.

        Raises:
            LineError: it is none.
        """
        try:
            return self._parse(line, rts, number)
        except LineError:
            self._distrust(line)
            raise

    def overlong(self, start: bytes, number: int) -> LineError:
        """Return the error of a line that is too long to be read; ``start`` is how it begins."""
        self._distrust(start, is_whole=False)
        text = f"it is too long: a line has at most {MOST_LINE_BYTES} bytes"
        return LineError(number, "", text, start, kind="too long")

    def reset(self) -> None:
        """Trust no book any more, as the source begins anew: each becomes a gap."""
        self.lose(self._books)

    def lose(self, symbols: Collection[str]) -> None:
        """Trust these books no more: each that was whole becomes a gap."""
        broken = self._books.intersection(symbols)
        self._books -= broken
        self._gaps += [("book", sym) for sym in sorted(broken)]

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """Return the topics that broke since the last call, and forget them."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def _parse(self, line: bytes, rts: int, number: int) -> Tick:
        try:
            read = _DECODER.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            raise _explain(number, line, str(exc)) from None
        if read.sym not in self._known:
            self._meet(read.sym, line, number)
        tick = _MAKERS[type(read)](read, rts)
        for field, value in odd_values(tick):
            raise LineError(number, field, _not_right(value, _wanted(field)), line)
        if type(tick) is Book:
            return self._book(tick, line, number)
        return tick

    def _meet(self, sym: str, line: bytes, number: int) -> None:
        """Look at a symbol for the first time."""
        if not is_symbol(sym):
            raise LineError(number, "sym", _not_right(sym, WANTED["sym"]), line)
        if self._venue is not None and venue_of(sym) != self._venue:
            raise LineError(number, "sym", _not_right(sym, f"of this feed's venue, {self._venue}:"), line)
        if self._symbols is not None and sym not in self._symbols:
            hint = nearest(sym, self._symbols)
            text = f"{show(sym)} is none of the {len(self._symbols)} symbols that this feed is to bring{hint}"
            raise LineError(number, "sym", text, line)
        if len(self._known) >= MOST_SYMBOLS:
            raise LineError(number, "sym", f"{show(sym)} is one more than {MOST_SYMBOLS} symbols", line)
        self._known.add(sym)

    def _book(self, tick: Book, line: bytes, number: int) -> Book:
        tick.bids.sort(key=_price, reverse=True)
        tick.asks.sort(key=_price)
        if tick.kind == "snapshot":
            self._books.add(tick.sym)
        elif tick.sym not in self._books:
            text = f'"delta" needs a "snapshot" of {tick.sym} before it: none has come, or a line since was refused'
            raise LineError(number, "kind", text, line, kind="a delta without a snapshot")
        return tick

    def _distrust(self, line: bytes, *, is_whole: bool = True) -> None:
        """Give up the books that a refused line may have been a part of."""
        channel = _CHANNEL_IN_TEXT.search(line)
        if channel is not None and channel[1] in _OTHER_CHANNELS:
            return
        if channel is None and is_whole and b"book" not in line:
            return
        symbol = _SYMBOL_IN_TEXT.search(line)
        named = "" if symbol is None else symbol[1].decode("utf-8", "replace")
        self.lose({named} if named in self._known else self._books)


_OTHER_CHANNELS = frozenset(ch.encode() for ch in CHANNELS if ch != "book")


def _price(level: tuple[str, str]) -> Decimal:
    return Decimal(level[0])


def odd_values(tick: Tick) -> Iterator[tuple[str, Any]]:
    """Yield the fields that have the right type, and no right value; the types are not looked at."""
    if not 0 <= tick.ts <= _LAST_NS or tick.ts < FIRST_NS <= tick.rts:
        yield "ts", tick.ts
    if type(tick) is Book:
        yield from _odd_levels("bids", tick.bids)
        yield from _odd_levels("asks", tick.asks)
        return
    for names, is_right in ((_PRICES.get(type(tick), ()), _IS_PRICE), (_SIZES.get(type(tick), ()), _IS_SIZE)):
        for name in names:
            value = getattr(tick, name)
            if value is not None and is_right(value) is None:
                yield name, value
    if type(tick) is Bar and not 0 <= tick.start <= _LAST_NS:
        yield "start", tick.start
    if isinstance(tick, Bar | Trade) and tick.count is not UNSET and not 1 <= tick.count <= _LAST_NS:
        yield "count", tick.count


def _odd_levels(side: str, levels: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for index, (price, size) in enumerate(levels):
        if _IS_PRICE(price) is None:
            yield f"{side}[{index}][0]", price
        if _IS_SIZE(size) is None:
            yield f"{side}[{index}][1]", size


def _wanted(field: str) -> str:
    if field.endswith("][0]"):
        return f"a price: {_DECIMAL}"
    if field.endswith("][1]"):
        return f"a size: {_SIZE}"
    return WANTED[field]


def _not_right(value: object, wanted: str) -> str:
    return f"{show(value)} is not right: it must be {wanted}"


def _explain(number: int, line: bytes, text: str) -> LineError:
    """Turn what msgspec says into which field it is, its value, and what would have been right."""
    try:
        fields = msgspec.json.decode(line, strict=False)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        shown = show(line[:60].decode("utf-8", "replace"))
        return LineError(number, "", f"{shown} is not JSON: {text}", line, kind="not JSON")
    if not isinstance(fields, dict):
        return LineError(number, "", f"{show(fields)} is not a tick: that is an object with ch and sym", line)
    channel = fields.get("ch")
    if not isinstance(channel, str) or channel not in _FIELDS:
        hint = nearest(channel, _FIELDS)
        if "ch" in fields:
            return LineError(number, "ch", _not_right(channel, WANTED["ch"]) + hint, line)
        within = "; this is a message of a stream, its ticks stand in its data" if "type" in fields else ""
        return LineError(number, "ch", f"is missing; it must be {WANTED['ch']}{within}", line)
    known = _FIELDS[channel]
    for name in fields:
        if name not in known and name not in ("seq", "rts"):
            there = f"there are {', '.join(known)}{nearest(name, known)}"
            text = f"{show(fields[name])} is for a field that a {channel} does not have; {there}"
            return LineError(
                number, name if name.isprintable() else show(name), text, line, kind="unknown field"
            )
    if "missing required field" in text:
        name = text.split("`")[1]
        return LineError(number, name, f"is missing; it must be {WANTED[name]}", line)
    return _explain_value(number, line, text, fields)


def _explain_value(number: int, line: bytes, text: str, fields: dict[str, Any]) -> LineError:
    # From the end: a value that somebody made up may look like a path.
    names = _PATH.findall(text.rpartition(" - at `$")[2].rstrip("`").lstrip("."))
    value: Any = fields
    for name in names:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
    if not names or names[0] not in WANTED:
        return LineError(
            number, "", f"{show(line[:60].decode('utf-8', 'replace'))} is not a tick: {text}", line
        )
    where = names[0] + "".join(f"[{index}]" for index in names[1:])
    wanted = _wanted(where) if len(names) != 2 else "a [price, size], both as text"
    return LineError(number, where, _not_right(value, wanted), line)
