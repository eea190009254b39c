"""Time, chance and what happens next: the part of the world that is not the broker."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import count
from math import ceil, floor, inf

import trio

#: When every run begins, in nanoseconds of Unix time.
BEGIN_NS = 1_700_000_000_000_000_000
#: Times that differ by less are the same: sums of floats are not exact.
EPSILON = 1e-6
#: A run with more events goes in circles.
MOST_EVENTS = 2_000_000


class Clock(trio.abc.Clock):
    """Jumps to the next deadline whenever every task is blocked, and goes on when a call is said to take time.

    Trio's `MockClock` jumps as well, at twice the price: it looks at the network a second time before.
    Here there is none to look at.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def start_clock(self) -> None:
        return

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        # Trio asks only when nothing can run.
        if deadline == inf:
            return inf
        self.now = max(self.now, deadline)
        return 0.0

    def spend(self, seconds: float) -> None:
        """Let time go on while the broker works."""
        self.now += seconds


@contextmanager
def scheduled_by(seed: int) -> Iterator[None]:
    """Let ``seed`` decide in which order Trio runs the tasks that can run.

    The switch is Trio's own for Hypothesis, and private: there is no public one.
    """
    from trio._core import _run

    before, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        _run._r.setstate(state)


class World:
    """What happens outside of the broker, in the order of time, all of it in one task.

    Attributes:
        clock: of the whole run.
        rng: the source of all chance but that of parts with a generator of their own.
    """

    def __init__(self, seed: int, clock: Clock, *, grid_s: float) -> None:
        """``grid_s``: events happen at multiples of it, so that many share one wake-up."""
        self.clock = clock
        self.rng = random.Random(seed)
        self._grid_s = grid_s
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._scope = trio.CancelScope()
        self._trace = blake2b(digest_size=16)

    @property
    def now(self) -> float:
        """Seconds of the simulated clock."""
        return self.clock.now

    def time_ns(self) -> int:
        """Return wall time in nanoseconds of Unix time."""
        return BEGIN_NS + round(self.clock.now * 1e9)

    def child(self) -> random.Random:
        """Return a generator for one part, whose draws don't change those of the others."""
        return random.Random(self.rng.getrandbits(64))

    def after(self, delay_s: float, action: Callable[[], None]) -> float:
        """Let something happen, on the grid and never at this very moment; return when."""
        steps = ceil((self.clock.now + delay_s) / self._grid_s - EPSILON)
        when = max(steps, floor(self.clock.now / self._grid_s + EPSILON) + 1) * self._grid_s
        heapq.heappush(self._events, (when, next(self._order), action))
        if when < self._scope.deadline:
            self._scope.deadline = when
        return when

    def note(self, who: str, data: bytes) -> None:
        """Put something that went over the network into the trace."""
        self._trace.update(b"%b %a %d " % (who.encode(), self.clock.now, len(data)))
        self._trace.update(data)

    def trace(self) -> str:
        """Return the hash of everything that was noted so far."""
        return self._trace.hexdigest()

    async def run(self) -> None:
        """Let things happen, for ever."""
        while next(self._order) < MOST_EVENTS:
            with trio.CancelScope(deadline=self._events[0][0] if self._events else inf) as self._scope:
                await trio.sleep_forever()
            while self._events and self._events[0][0] <= self.clock.now:
                heapq.heappop(self._events)[2]()
        raise RuntimeError("the world goes in circles")
