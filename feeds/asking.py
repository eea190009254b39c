"""How often a broken book may be asked for again, and how long its answer may take. Pure."""

from __future__ import annotations

from collections import defaultdict, deque

from broker.core.errors import FeedError

#: A book that breaks more often than this within the time is asked for no more on this connection.
_MOST = 3
_WITHIN_S = 60.0
_ANSWER_S = 30.0


class Asking:
    """The broken books of one connection: when each was asked for, and which have not come yet."""

    def __init__(self) -> None:
        self._asked: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_MOST + 1))
        self._awaited: dict[str, float] = {}

    def ask(self, name: str, now: float) -> None:
        """Note that a book is asked for again.

        Args:
            name: whose book, in the venue's spelling.
            now: seconds, never earlier than in the last call.

        Raises:
            FeedError: it has broken more than three times within a minute.
        """
        asked = self._asked[name]
        asked.append(now)
        if len(asked) > _MOST and now - asked[0] < _WITHIN_S:
            raise FeedError(f"the book of {name} can't be read, however often it is asked for")
        self._awaited[name] = now + _ANSWER_S

    def check(self, broken: set[str], now: float) -> None:
        """Raise `FeedError` if one of the books that are still ``broken`` was asked for 30 s ago."""
        if not self._awaited:
            return
        for name, deadline in list(self._awaited.items()):
            if name not in broken:
                del self._awaited[name]
            elif now >= deadline:
                raise FeedError(
                    f"the book of {name} was asked for again, and has not come within {_ANSWER_S:g} s"
                )
