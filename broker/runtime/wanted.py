"""What a feed is asked for: demand as it is, and for a while as it was, by Trio's clock.

Subscribers come and go; asking a venue for a symbol again with each of them would cost its patience, and the ticks
in between. So what nobody wants any more is wanted for `linger_s` longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf

import trio

from broker.core.demand import EVERYTHING, Demand
from broker.core.ticks import CHANNELS, Channel

_Key = tuple[Channel, str]
#: What may linger: clients can name symbols that no venue has, again and again.
MOST_LINGERING = 10_000


class Wanted:
    """`feeds.base.Wanted`, for one feed."""

    def __init__(
        self,
        demand: Demand,
        declared: Sequence[str] | None,
        linger_s: float,
        *,
        on_idle: Callable[[bool], None] = lambda is_idle: None,
    ) -> None:
        """Look at the demand for one feed.

        Args:
            demand: of the feed's venue.
            declared: the symbols that a pattern stands for, where the feed knows them.
            linger_s: how long something is wanted that nobody wants any more.
            on_idle: called with whether nothing is wanted that the feed could bring, as it waits in `wait_changed` for
                that to change.
        """
        self._demand = demand
        self._declared = tuple(declared or ())
        self._linger_s = linger_s
        #: Until when something is still wanted that nobody asks for, the next to end first.
        self._until: dict[_Key, float] = {}
        self._seen: frozenset[_Key] = frozenset()
        self._changed = trio.Event()
        self._on_idle = on_idle
        demand.listeners.append(self._on_change)

    def symbols(self, *channels: Channel) -> frozenset[str]:
        """See `feeds.base.Wanted.symbols`."""
        found = [(ch, sym) for ch, sym in self._now() if not channels or ch in channels]
        named = {sym for _, sym in found if sym != EVERYTHING}
        if len(named) < len({sym for _, sym in found}):
            named.update(self._declared)
        return frozenset(named)

    def everything(self, *channels: Channel) -> bool:
        """See `feeds.base.Wanted.everything`."""
        return any(sym == EVERYTHING and (not channels or ch in channels) for ch, sym in self._now())

    async def wait_changed(self, *channels: Channel) -> None:
        """See `feeds.base.Wanted.wait_changed`."""
        await trio.lowlevel.checkpoint()
        while (now := frozenset(self._now())) == self._seen:
            self._changed = trio.Event()
            self._on_idle(self._is_idle(now, channels))
            with trio.move_on_at(min(self._until.values(), default=inf)):
                await self._changed.wait()
        self._on_idle(self._is_idle(now, channels))
        self._seen = now

    def _is_idle(self, now: frozenset[_Key], channels: tuple[Channel, ...]) -> bool:
        """Tell whether nothing is wanted that this feed could bring: the venue may have other feeds too."""
        served = channels or tuple(ch for ch in CHANNELS if ch != "status")
        return not any(
            ch in served and (sym == EVERYTHING or not self._declared or sym in self._declared)
            for ch, sym in now
        )

    def begin_anew(self) -> None:
        """Forget what was seen, as a new life of the feed has asked the venue for nothing yet."""
        self._seen = frozenset()

    def _now(self) -> Iterator[_Key]:
        """Yield what is wanted, and what has been until a short while ago."""
        now = trio.current_time()
        for key in [key for key, until in self._until.items() if until <= now]:
            del self._until[key]
        for ch in CHANNELS:
            yield from ((ch, sym) for sym in self._demand.wanted[ch])
        yield from self._until

    def _on_change(self, ch: Channel, sym: str, is_wanted: bool) -> None:
        if is_wanted:
            self._until.pop((ch, sym), None)
        else:
            self._until[ch, sym] = trio.current_time() + self._linger_s
            if len(self._until) > MOST_LINGERING:
                del self._until[next(iter(self._until))]
        self._changed.set()
