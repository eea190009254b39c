"""How long a feed waits before it is started again, and whether its failure is worth a line in the log."""

from __future__ import annotations

import random
import re

from broker.core.errors import FeedError

FIRST_BACKOFF_S, MOST_BACKOFF_S = 0.5, 30.0
#: What a venue may ask for: one that says a day is not left alone for a day.
MOST_RETRY_AFTER_S = 900.0
#: A feed that was well for so long starts over: with a short backoff, and with lines in the log.
STABLE_S = 60.0
#: Kinds of failures in the log until then.
MOST_KINDS = 16
_MOST_DOUBLINGS = 10


class Backoff:
    """Full jitter, doubled with each failure up to a cap: a venue that comes back is not met by all at once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0
        self._kinds: set[str] = set()

    def is_news(self, exc: Exception) -> bool:
        """Tell whether a failure is the first of its kind since the feed was well; its numbers don't count."""
        kind = re.sub(r"[0-9]+", "#", f"{type(exc).__name__}: {exc}"[:500])
        if kind in self._kinds or len(self._kinds) >= MOST_KINDS:
            return False
        self._kinds.add(kind)
        return True

    def pause_s(self, exc: Exception) -> float:
        """Return how long to wait after a failure, and count it."""
        pause = self._rng.uniform(0, min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2**self._failures))
        self._failures = min(self._failures + 1, _MOST_DOUBLINGS)
        asked = exc.retry_after_s if isinstance(exc, FeedError) else None
        return pause if asked is None else min(asked, MOST_RETRY_AFTER_S) + pause

    def start_over(self) -> None:
        """Forget all failures, as the feed was well for `STABLE_S`."""
        self._failures = 0
        self._kinds.clear()
