"""Trades of venues that number them without a hole: which of them are news, and where some are missing. Pure."""

from __future__ import annotations

from typing import Literal

#: A number that is lower by more than this is no repetition: the venue has begun to count anew.
_MOST_BACK = 100_000


class TradeIds:
    """The newest number of each symbol, on one connection."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def take(self, name: str, number: int) -> Literal["next", "hole", "old"]:
        """Take the number of a trade.

        Returns:
            ``next``: it is the first, or follows the one before. ``hole``: it does not, so some are missing before it.
            ``old``: it has come before, or is one of those that have been taken for missing.
        """
        last = self._last.get(name)
        if last is not None and last - _MOST_BACK < number <= last:
            return "old"
        self._last[name] = number
        return "next" if last is None or number == last + 1 else "hole"

    def forget(self, name: str) -> None:
        """Take any number of a symbol as the first: it is not subscribed to any more."""
        self._last.pop(name, None)

    def clear(self) -> None:
        """Take any number as the first, as a new connection begins."""
        self._last.clear()
