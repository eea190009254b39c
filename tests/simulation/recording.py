"""A recording as one of the feeds of a run: what a venue really sent, in front of subscribers at their worst."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import trio

from broker.core.ticks import Tick
from feeds.replay import Replay

#: Recordings are mostly calm; so fast, a run of seconds has something to do.
SPEED = 10.0


class RecordedFeed(Replay):
    """Plays a recording from its beginning, for as long as the other feeds are active."""

    def __init__(self, path: str, until: float) -> None:
        """``path``: as `tapecast replay` takes it. ``until``: when it stops, in seconds of Trio's clock."""
        super().__init__(Replay.Options(path=path, speed=SPEED))
        self._until = until

    async def run(self, ctx: Any) -> None:
        """See `feeds.base.Feed.run`."""
        with trio.move_on_at(self._until):
            await super().run(ctx)


class _Names:
    """The context of a feed of which nothing but its symbols matters."""

    time_ns = staticmethod(time.time_ns)

    def __init__(self) -> None:
        self.symbols: dict[str, None] = {}

    def publish(self, tick: Tick) -> None:
        self.symbols[tick.sym] = None

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def gap(self, ch: str, sym: str) -> None:
        """Nothing."""

    refused = rewind = gap


@cache
def symbols_of(path: str) -> tuple[str, ...]:
    """Return the symbols of a recording, in the order in which they come."""
    names = _Names()
    trio.run(Replay(Replay.Options(path=path, speed="max")).run, names)  # type: ignore[arg-type]  # enough of one
    return tuple(names.symbols)
