"""What the venues' parsers share: decoding, decimal strings, levels, times, symbols. Pure.

The checks are stricter than `broker.core.ticks` asks for, as what leaves a parser is trusted from there on:
ASCII digits only, nothing behind them, no sign. They run over all numbers of a frame at once, because one
regular expression over the joined text costs a fifth of one call for each number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from typing import TypeVar

import msgspec

from broker.core.decimals import is_zero
from broker.core.errors import FrameError
from broker.core.ticks import Level, is_symbol, iso_to_ns

T = TypeVar("T")

#: At most 64 characters each, as `broker.core.ticks.Decimals` has it.
_NUMBERS = re.compile(r"(?:[0-9]{1,30}(?:\.[0-9]{1,28})?(?:[eE][+-]?[0-9]{1,3})?,)*+")
#: MessagePack and most databases end here, in the year 2262.
_LAST_NS = 2**63 - 1
#: Milliseconds reach this in the year 5138; what is larger is microseconds.
_FIRST_US = 100_000_000_000_000


def decode(decoder: msgspec.json.Decoder[T], frame: str | bytes) -> T:
    """Decode and validate one frame.

    Raises:
        FrameError: not JSON, or not of the shape that the decoder wants; the text says where.
    """
    try:
        return decoder.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(str(error), frame) from None


def is_json(frame: str | bytes) -> bool:
    """Tell whether a frame is JSON at all: what isn't is damaged, and so may be what it still shows."""
    try:
        msgspec.json.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def is_part_of_object(text: str) -> bool:
    """Tell whether a text that is no JSON may once have been an object: it begins, or ends, like one."""
    stripped = text.strip()
    return stripped.startswith("{") or stripped.endswith("}")


def check_decimals(*texts: str) -> None:
    """Raise `FrameError` unless each text is an unsigned decimal number."""
    if not texts:
        return
    joined = ",".join(texts) + ","
    if _NUMBERS.fullmatch(joined) is None or joined.count(",") != len(texts):
        wrong = next((text for text in texts if "," in text or not _NUMBERS.fullmatch(text + ",")), "")
        raise FrameError(f"not a decimal number: {wrong[:80]!r}")


def one_side(price: str | None, size: str | None) -> tuple[str | None, str | None]:
    """Return price and size of one side of a quote, as sent; a side without a price is missing as a whole.

    Venues write a missing side as nothing, as an empty text or as a price of zero.
    """
    if not price:
        return None, None
    check_decimals(price, *((size,) if size else ()))
    return (None, None) if is_zero(price) else (price, size or None)


def snapshot_levels(levels: Sequence[Level], *, bids: bool) -> list[Level]:
    """Check the levels of a whole side and return them best first, without the empty ones."""
    check_decimals(*chain.from_iterable(levels))
    return _best_first(((price, size) for price, size in levels if not is_zero(size)), bids)


def delta_levels(levels: Sequence[Level], *, bids: bool) -> list[Level]:
    """Check the changed levels of one side and return them best first; a removal has the size ``"0"``."""
    check_decimals(*chain.from_iterable(levels))
    return _best_first(((price, "0" if is_zero(size) else size) for price, size in levels), bids)


def _best_first(levels: Iterable[Level], bids: bool) -> list[Level]:
    # A price that comes twice in one frame: the later one holds.
    latest = list(dict(levels).items())
    if len(latest) > 1:
        latest.sort(key=_price, reverse=bids)
    return latest


def _price(level: Level) -> Decimal:
    return Decimal(level[0])


def epoch_to_ns(at: int) -> int:
    """Turn Unix time in milliseconds or, where it is too large for that, microseconds into nanoseconds."""
    return checked_ns(at * 1000 if at >= _FIRST_US else at * 1_000_000)


def text_to_ns(text: str) -> int:
    """Turn an RFC 3339 time into nanoseconds.

    Raises:
        FrameError: it isn't one, or lies outside 1970 to 2262.
    """
    try:
        return checked_ns(iso_to_ns(text))
    except (ValueError, OverflowError):
        raise FrameError(f"not an RFC 3339 time: {text[:80]!r}") from None


def checked_ns(at: int) -> int:
    """Return ``at`` if it fits into what the wire carries, else raise `FrameError`."""
    if not 0 <= at <= _LAST_NS:
        raise FrameError(f"a time outside 1970 to 2262: {str(at)[:40]} ns")
    return at


@lru_cache(maxsize=16_384)
def canonical(venue: str, name: str) -> str:
    """Return ``VENUE:NAME``, or raise `FrameError` if that is no well-formed symbol."""
    symbol = f"{venue}:{name}"
    if not is_symbol(symbol):
        raise FrameError(f"not a symbol: {name[:80]!r}")
    return symbol
