"""Symbols that a venue does not have, or has no more, and what it said of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from broker.core.ticks import Status

#: A symbol that was refused is asked for again with the first connection after so long: venues list names anew, too.
AGAIN_S = 3600.0
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9/._:-]*")


class Refusals:
    """What a venue refused, over all connections of a feed; symbols are canonical."""

    def __init__(self) -> None:
        #: Its words, and until when the symbol is not asked for.
        self._said: dict[str, tuple[str, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._said)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._said

    def note(self, symbol: str, words: str, now: float) -> bool:
        """Note that a symbol is refused; return whether that is news since it was last served."""
        is_news = symbol not in self._said
        self._said[symbol] = words, now + AGAIN_S
        return is_news

    def holds(self, symbol: str, now: float) -> bool:
        """Tell whether a symbol is not to be asked for now."""
        return symbol in self._said and now < self._said[symbol][1]

    def forgive(self) -> None:
        """Let everything be asked for again. What is refused then is no news."""
        self._said = {symbol: (words, 0.0) for symbol, (words, _) in self._said.items()}

    def served(self, symbol: str) -> None:
        """Note that the venue has a symbol after all."""
        self._said.pop(symbol, None)

    def statuses(self, symbols: Iterable[str], now_ns: int) -> list[Status]:
        """Return what subscribers are told of these symbols; ``now_ns`` is Unix time."""
        return [
            Status(sym=each, ts=now_ns, rts=now_ns, state="halted", text=self._said[each][0][:256])
            for each in symbols
            if each in self._said
        ]


def named(words: str, spellings: Mapping[str, str]) -> frozenset[str]:
    """Return the symbols that a venue's words name, whether in upper or lower case.

    Args:
        words: ``FOO-USD is not a valid product``.
        spellings: from the venue's spelling, in upper case, to the symbol.
    """
    found = (match.rstrip("._:-/").upper() for match in _WORD.findall(words))
    return frozenset(spellings[word] for word in found if word in spellings)
