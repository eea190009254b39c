"""What waits for slow subscribers, held against what a session and the whole broker may hold.

A subscriber that keeps up holds nothing between two rounds. So whoever falls behind is noted when it
happens (`Subscriber.note_behind`), and only those are counted, some twenty times a second. A queue's own bound is
kept by its mailbox at once; this is for the many queues that are each within theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import structlog
import trio

from broker.core import errors
from broker.core.errors import CloseReason
from broker.runtime.subscriber import Subscriber

log = structlog.get_logger()

#: Counting may take one part in so many of the time; with thousands behind it is done less often for that.
SHARE = 50
#: But no less often than this, in seconds.
MOST_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """What may wait, for one session and for all together: in queues, and in bytes that the kernel refused."""

    session_ticks: int = 100_000
    session_bytes: int = 16 << 20
    total_ticks: int = 2_000_000
    total_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Holding:
    """What waits for one subscriber."""

    subscriber: Subscriber
    ticks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Overdrawn:
    """A subscriber that has to go, with the numbers that led to it."""

    subscriber: Subscriber
    reason: CloseReason
    resource: str
    held: int
    limit: int


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """As of the last count.

    Attributes:
        sessions: those for which something waits.
    """

    sessions: int = 0
    ticks: int = 0
    bytes: int = 0


class Budget:
    """Finds those who have to go.

    Attributes:
        limits: what may wait.
    """

    def __init__(self, limits: BudgetLimits, behind: dict[Subscriber, None]) -> None:
        """``behind`` is shared: subscribers are noted there when they fall behind, and taken out here."""
        self.limits = limits
        self._behind = behind
        self._statistics = BudgetStatistics()
        self._next_count = 0.0

    def statistics(self) -> BudgetStatistics:
        """Return what waited when it was last counted."""
        return self._statistics

    def check(self) -> list[Overdrawn]:
        """Count again, unless it is too early; return who has to go, whoever holds most first."""
        now = trio.current_time()
        if now < self._next_count:
            return []
        holdings = self._count()
        overdrawn = [over for holding in holdings if (over := self._over_its_own(holding)) is not None]
        gone = {over.subscriber for over in overdrawn}
        overdrawn += self._over_all([holding for holding in holdings if holding.subscriber not in gone])
        self._next_count = now + min(MOST_INTERVAL_S, (trio.current_time() - now) * SHARE)
        return overdrawn

    def _count(self) -> list[Holding]:
        """Return what everybody holds who is behind; whoever has caught up is so no more."""
        holdings = []
        for subscriber in list(self._behind):
            try:
                ticks, size = subscriber.held()
            except Exception:
                # Ours, whatever it is; it must not reach the others.
                subscriber.fail("counting what waits failed")
            if subscriber.ended is not None or not (ticks or size):
                del self._behind[subscriber]
            else:
                holdings.append(Holding(subscriber, ticks, size))
        self._statistics = BudgetStatistics(
            len(holdings), sum(held.ticks for held in holdings), sum(held.bytes for held in holdings)
        )
        return holdings

    def _over_its_own(self, holding: Holding) -> Overdrawn | None:
        limits = self.limits
        for resource, held, limit in (
            ("ticks", holding.ticks, limits.session_ticks),
            ("bytes", holding.bytes, limits.session_bytes),
        ):
            if held > limit:
                return Overdrawn(holding.subscriber, errors.OVER_SESSION_BUDGET, resource, held, limit)
        return None

    def _over_all(self, holdings: list[Holding]) -> Iterable[Overdrawn]:
        """Yield those who hold most of what is short, until the others fit."""
        for resource, limit in (("bytes", self.limits.total_bytes), ("ticks", self.limits.total_ticks)):
            amount = attrgetter(resource)
            held = sum(map(amount, holdings))
            if held <= limit:
                continue
            rest = deque(sorted(holdings, key=amount, reverse=True))
            while held > limit:
                most = rest.popleft()
                yield Overdrawn(most.subscriber, errors.OVER_TOTAL_BUDGET, resource, held, limit)
                held -= amount(most)
            holdings = list(rest)
