"""Whether what an adapter published is a tick at all.

An adapter is somebody else's code, and nothing checks a `Tick` when it is made: a float would go to every
subscriber as a price. Looking at the types of all fields takes 0.3 µs; checking every text for being a number
would take ten times that, so it is done where the broker calculates with it: for trades. The levels of a book have to
be pairs of texts (0.15 µs each).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain, product
from operator import attrgetter
from types import NoneType
from typing import Any

from msgspec import UnsetType

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
_MOST_DIGITS = 64
_LEVEL = (str, str)


def fault_of(item: object) -> str:
    """Return what keeps ``item`` from being a tick, for the log; empty if nothing does."""
    shape = _SHAPES.get(type(item))
    if shape is None:
        return f"a {type(item).__name__} is not a tick"
    values, right = shape
    if tuple(map(type, values(item))) not in right:
        return _odd_field(item)
    if type(item) is Trade and not (_is_number(item.price) and _is_number(item.size)):
        return f"Trade: price {item.price!r:.40} or size {item.size!r:.40} is not a number"
    if type(item) is Book:
        return _odd_level(item)
    return ""


def _is_number(text: str) -> bool:
    return len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text) is not None


def _odd_level(book: Book) -> str:
    for level in chain(book.bids, book.asks):
        if type(level) not in (tuple, list) or tuple(map(type, level)) != _LEVEL:
            return f"Book: {level!r:.80} is not a price and a size, as texts"
    return ""


def _odd_field(item: object) -> str:
    kind = type(item)
    for name, right in {**_HEAD, **_FIELDS[kind]}.items():
        if type(getattr(item, name)) not in right:
            return f"{kind.__name__}.{name} is a {type(getattr(item, name)).__name__}"
    return f"{kind.__name__}: its fields do not go together"
