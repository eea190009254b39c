"""Whether what an adapter published is a tick at all.

An adapter is somebody else's code, and nothing checks a `Tick` when it is made: a float, or a text that is no number,
would go to every subscriber as a price. Looking at the types of all fields takes 0.3 µs; at all numbers of a tick at
once, by one regular expression, 0.7 µs, and a quarter of one for each level of a book.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from operator import attrgetter
from types import NoneType
from typing import Any

from msgspec import UnsetType

from broker.core.tick_lines import FIRST_NS
from broker.core.ticks import Bar, Book, Quote, Status, Trade

_Types = tuple[type, ...]
_HEAD: dict[str, _Types] = {"sym": (str,), "ts": (int,), "rts": (int,)}
_OPTIONAL: _Types = (str, NoneType)
_FIELDS: dict[type, dict[str, _Types]] = {
    Quote: dict.fromkeys(("bid", "bid_size", "ask", "ask_size"), _OPTIONAL),
    Trade: {"price": (str,), "size": (str,), "side": _OPTIONAL, "id": (str,), "count": (UnsetType, int)},
    Book: {"kind": (str,), "bids": (list, tuple), "asks": (list, tuple)},
    Bar: {
        "interval": (str,),
        "start": (int,),
        **dict.fromkeys(("open", "high", "low", "close", "volume"), (str,)),
        "count": (int,),
        "final": (bool,),
    },
    Status: {"state": (str,), "text": (str,)},
}
_SHAPES: dict[type, tuple[Callable[[Any], tuple[Any, ...]], frozenset[_Types]]] = {
    kind: (attrgetter(*_HEAD, *fields), frozenset(product(*_HEAD.values(), *fields.values())))
    for kind, fields in _FIELDS.items()
}
#: An exponent of more digits would make sums and bars of any length.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_UNSIGNED = r"[0-9]{1,30}(?:\.[0-9]{1,28})?(?:[eE][+-]?[0-9]{1,3})?;"
#: Prices, each with a size, which has no sign.
_LEVELS = re.compile(f"(?:-?{_UNSIGNED}{_UNSIGNED})*+")
_MOST_DIGITS = 64
_LEVEL = (str, str)
_SIDES: tuple[object, ...] = ("buy", "sell", None)
_KINDS = ("snapshot", "delta")


def fault_of(item: object) -> str:
    """Return what keeps ``item`` from being a tick, for the log; empty if nothing does."""
    kind = type(item)
    shape = _SHAPES.get(kind)
    if shape is None:
        return f"a {kind.__name__} is not a tick"
    values, right = shape
    if tuple(map(type, values(item))) not in right:
        return _odd_field(item)
    # Not of a book, which would be wrong without its change.
    if kind is not Book and item.ts < FIRST_NS <= item.rts:  # type: ignore[attr-defined]  # all ticks have both
        return f"{kind.__name__}.ts = {item.ts} is not in nanoseconds since 1970"  # type: ignore[attr-defined]
    if kind is Quote:
        return _odd_quote(item)  # type: ignore[arg-type]
    if kind is Trade:
        return _odd_trade(item)  # type: ignore[arg-type]
    return _odd_book(item) if kind is Book else ""  # type: ignore[arg-type]


def _odd_quote(quote: Quote) -> str:
    bid, bid_size, ask, ask_size = quote.bid, quote.bid_size, quote.ask, quote.ask_size
    if None in (bid, bid_size, ask, ask_size):
        bid, bid_size, ask, ask_size = (
            "0" if each is None else each for each in (bid, bid_size, ask, ask_size)
        )
    if _are_levels(f"{bid};{bid_size};{ask};{ask_size};", 2):
        return ""
    for name in ("bid", "bid_size", "ask", "ask_size"):
        value = getattr(quote, name)
        if value is not None and not (_is_number(value) and (name[-1] != "e" or value[0] != "-")):
            return f"Quote.{name} = {value!r:.80} is not {_what(name)}"
    return "Quote: its prices and sizes are not decimal numbers"


def _odd_trade(trade: Trade) -> str:
    if not (_is_number(trade.price) and _is_number(trade.size)) or trade.size[0] == "-":
        return f"Trade: price {trade.price!r:.40} or size {trade.size!r:.40} is not a decimal number as text"
    return "" if trade.side in _SIDES else f"Trade.side = {trade.side!r:.40} is not 'buy', 'sell' or None"


def _odd_book(book: Book) -> str:
    if book.kind not in _KINDS:
        return f"Book.kind = {book.kind!r:.40} is not 'snapshot' or 'delta'"
    levels = [*book.bids, *book.asks]
    for level in levels:
        if type(level) not in (tuple, list) or tuple(map(type, level)) != _LEVEL:
            return f"Book: {level!r:.80} is not a price and a size, as texts"
    if _are_levels("".join([f"{price};{size};" for price, size in levels]), len(levels)):
        return ""
    odd = next(level for level in levels if not _are_levels(f"{level[0]};{level[1]};", 1))
    return f"Book: {odd!r:.80} is not a price and a size, as decimal numbers"


def _are_levels(text: str, count: int) -> bool:
    """Tell whether a text is so many prices, each with a size, and ``;`` behind each number."""
    return _LEVELS.fullmatch(text) is not None and text.count(";") == 2 * count


def _what(name: str) -> str:
    return "a decimal number as text, not negative" if name.endswith("size") else "a decimal number as text"


def _is_number(text: str) -> bool:
    return len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text) is not None


def _odd_field(item: object) -> str:
    kind = type(item)
    for name, right in {**_HEAD, **_FIELDS[kind]}.items():
        if type(getattr(item, name)) not in right:
            return f"{kind.__name__}.{name} is a {type(getattr(item, name)).__name__}"
    return f"{kind.__name__}: its fields do not go together"
