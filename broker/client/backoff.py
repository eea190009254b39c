"""How long to wait before the next attempt. Pure: randomness and time come from outside."""

from __future__ import annotations

from collections.abc import Callable

BASE_S = 0.2
CAP_S = 10.0
#: A connection that lived so long was good: the next failure starts again from the shortest wait.
STABLE_S = 30.0


class Backoff:
    """Exponential with full jitter: uniform between 0 and the doubling bound.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Attributes:
        attempts: failures in a row.
    """

    def __init__(
        self, uniform: Callable[[float, float], float], *, base_s: float = BASE_S, cap_s: float = CAP_S
    ) -> None:
        """``uniform(a, b)`` returns a random number between the two."""
        self.attempts = 0
        self._uniform = uniform
        self._base_s = base_s
        self._cap_s = cap_s

    def next_delay(self, retry_after_s: float = 0.0) -> float:
        """Count a failure, and return how many seconds to wait.

        Args:
            retry_after_s: the least that the other side asked for; the jitter comes on top, so that all who
                were told the same do not come back at the same moment.
        """
        # Bounded, so that a night without a broker is no overflow.
        bound = min(self._cap_s, self._base_s * 2.0 ** min(self.attempts, 60))
        self.attempts += 1
        return retry_after_s + self._uniform(0.0, bound)

    def lasted(self, seconds: float) -> None:
        """Take note of how long a connection has lived."""
        if seconds >= STABLE_S:
            self.attempts = 0
