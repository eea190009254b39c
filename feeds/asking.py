"""When a book that broke is asked for again: at once, and the more often it breaks the later. Pure.

Times are seconds of one clock, never earlier than in the call before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import inf

from broker.core.errors import FeedError

_FIRST_PAUSE_S = 1.0
_MOST_PAUSE_S = 60.0
#: What was not asked for so long, beyond its pause, is asked for at once again.
_CALM_S = 60.0
#: How long an answer may take.
_ANSWER_S = 30.0
#: How many answers may fail to come before a new connection is to bring them.
_MOST_SILENT = 2
_NEVER = (-inf, 0.0)


class Pauses:
    """How long to wait before asking for something again, by its name."""

    def __init__(self) -> None:
        #: When each was asked for, and how long it is to be left alone.
        self._asked: dict[str, tuple[float, float]] = {}

    def until(self, name: str, now: float) -> float:
        """Return when this may be asked for: now, or when its pause is over."""
        at, pause_s = self._asked.get(name, _NEVER)
        return now if self._is_calm(name, now) else max(now, at + pause_s)

    def note(self, name: str, now: float) -> None:
        """Note that it is asked for."""
        _, pause_s = self._asked.get(name, _NEVER)
        grown_s = _FIRST_PAUSE_S if self._is_calm(name, now) else min(2 * pause_s, _MOST_PAUSE_S)
        self._asked[name] = now, grown_s

    def _is_calm(self, name: str, now: float) -> bool:
        at, pause_s = self._asked.get(name, _NEVER)
        return now - at >= pause_s + _CALM_S


@dataclass(slots=True)
class _Request:
    """The last one for a book: when, whether its answer came, and how many before it were without one."""

    at: float
    is_answered: bool = False
    silent: int = 0


class Asking:
    """The books of a feed that come over its connection: which are asked for, and when again."""

    def __init__(self) -> None:
        self._pauses = Pauses()
        self._requests: dict[str, _Request] = {}
        #: Those that a new connection was made for, and which have not come since.
        self._given_up: set[str] = set()

    def begin(self) -> None:
        """Begin with a new connection, on which nothing has been asked for."""
        self._requests.clear()

    def asked(self, names: Iterable[str], now: float) -> None:
        """Note that books are subscribed to, which asks for them for the first time."""
        self._requests.update((name, _Request(now)) for name in names)

    def hurry(self) -> None:
        """Wait for no answer any more: the venue has refused a request that may have been for several books."""
        for request in self._requests.values():
            request.is_answered = True

    def due(self, missing: Collection[str], broken: Collection[str], now: float) -> list[str]:
        """Return the books to ask for now, which counts as asked.

        Args:
            missing: those that should be served and are not.
            broken: those of them of which something that can't be used has come since the last call.
            now: seconds.

        Raises:
            FeedError: answers fail to come, so a new connection may be what helps; for each book only once, until it
                has come.
        """
        are_missing = frozenset(missing)
        for name, request in self._requests.items():
            if name not in are_missing:
                request.is_answered, request.silent = True, 0
                self._given_up.discard(name)
            elif name in broken:
                request.is_answered = True
        due = [name for name in missing if self._is_due(name, now)]
        for name in due:
            self._ask(name, now)
        return due

    def _is_due(self, name: str, now: float) -> bool:
        request = self._requests.get(name)
        if request is not None and not request.is_answered and now < request.at + _ANSWER_S:
            return False
        return now >= self._pauses.until(name, now)

    def _ask(self, name: str, now: float) -> None:
        request = self._requests.get(name)
        silent = 0 if request is None or request.is_answered else request.silent + 1
        if silent >= _MOST_SILENT and name not in self._given_up:
            self._given_up.add(name)
            raise FeedError(f"the book of {name} has not come, however often it was asked for")
        self._pauses.note(name, now)
        self._requests[name] = _Request(now, silent=silent)
