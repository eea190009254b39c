"""Decimal numbers as text: which are zero, which are the same, and what two of them add up to.

Nothing here goes through a float, and every digit is kept.
"""

from __future__ import annotations

import re
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from functools import lru_cache

#: No sum of numbers as venues write them has as many digits; so nothing is ever rounded.
_EXACT = Context(prec=4096, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation])
_ZERO = re.compile(r"-?0+(?:\.0*)?(?:[eE][+-]?[0-9]+)?").fullmatch
#: Numbers with more digits than this on either side of the point keep their exponent.
_MOST_PLACES = 64


def is_zero(number: str) -> bool:
    """Tell whether a number is zero, however it is spelt: ``"0"``, ``"0.00000000"``, ``"0E-8"``."""
    rest = number.lstrip("-0.")
    return (not rest or rest[0] in "eE") and _ZERO(number) is not None


@lru_cache(maxsize=32_768)
def number_key(number: str) -> str:
    """Return what all spellings of a number have in common: ``"1.5"``, ``"1.50"`` and ``"15e-1"``.

    What is not a number is its own key. Cached, as the prices near the touch come again and again, and each of
    them to everybody who composes deltas: 50 ns instead of 300.
    """
    if "e" in number or "E" in number or number[:1] == "-":
        return _odd_key(number)
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return number.lstrip("0")


def _odd_key(number: str) -> str:
    try:
        value = Decimal(number)
    except InvalidOperation:
        return number
    if not value.is_finite():
        return number
    text = plain_text(value.normalize(_EXACT)) if value else ""
    return text.lstrip("0")


def plain_text(value: Decimal) -> str:
    """Return a number with all its decimals, and without an exponent unless it is absurdly large or small."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= -_MOST_PLACES and value.adjusted() < _MOST_PLACES:
        return format(value, "f")
    return str(value)


def add(left: Decimal, right: Decimal) -> Decimal:
    """Return the exact sum: as many decimals as the number with more of them.

    Raises:
        decimal.InvalidOperation: one is not a number.
    """
    return _EXACT.add(left, right)
