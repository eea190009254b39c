"""How long a connected feed may be mute before that is no quiet market any more. Pure.

A venue that brings ten ticks a second is dead after ten seconds of nothing, one that brings one a minute is not. So
the patience follows the longest silence that the feed has broken by itself within the last hours, times a factor. It
stays between a bound that the operator sets and a sixth of it.

A wrong guess costs a gap and a snapshot, so there are few: who gave up early waits the full bound the next time, and
for half an hour at least.
"""

from __future__ import annotations

from math import exp

#: Longer than the longest silence by so much is too long.
FACTOR = 10.0
#: The least patience, as a part of the most.
LEAST_PART = 1 / 6
#: Nothing is known of a feed that was heard for less.
LEARN_INTERVALS, LEARN_S = 100, 300.0
#: A silence counts for less and less: after so many seconds of listening for 1/e.
MEMORY_S = 3600.0


class Staleness:
    """The patience with one feed, over all of its lives.

    Attributes:
        patience_s: how long it may be mute now; between ``least_s`` and ``most_s``.
    """

    __slots__ = ("_intervals", "_last", "_listened_s", "_longest_s", "least_s", "most_s", "patience_s")

    def __init__(self, most_s: float) -> None:
        """``most_s``: what is too long in any case, and as long as too little is known; above 0."""
        self.most_s = most_s
        self.least_s = most_s * LEAST_PART
        self.patience_s = most_s
        self._last: float | None = None
        self._intervals = 0
        self._listened_s = 0.0
        self._longest_s = 0.0

    def begin(self) -> None:
        """Note that a new life begins: how long it took to connect says nothing of the market."""
        self._last = None

    def heard(self, now: float) -> None:
        """Note that ticks came; ``now`` in seconds, never earlier than in the last call of the same life."""
        last, self._last = self._last, now
        if last is None or now == last:
            return
        silence_s = now - last
        self._intervals += 1
        self._listened_s += silence_s
        self._remember(self._longest_s * exp(-silence_s / MEMORY_S), silence_s)

    def gave_up(self) -> None:
        """Note that the feed was mute for longer than `patience_s`, and is connected again."""
        self._remember(self._longest_s, self.patience_s)

    def _remember(self, known_s: float, silence_s: float) -> None:
        self._longest_s = max(known_s, silence_s)
        if self._intervals >= LEARN_INTERVALS and self._listened_s >= LEARN_S:
            self.patience_s = min(self.most_s, max(self.least_s, FACTOR * self._longest_s))
