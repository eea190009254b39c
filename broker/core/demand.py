"""What subscribers want of a venue now: topics that somebody gets, and patterns that stand for all. Pure.

`broker.core.topics` tells it when a topic gets its first subscriber and loses its last, and when a pattern is watched
for the first time or no more; nothing is told, or asked, with a tick.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.core.ticks import CHANNELS, Channel

#: Stands for every symbol of the venue, in place of one.
EVERYTHING = "*"


class Demand:
    """What is wanted of one venue.

    Attributes:
        wanted: by channel, the symbols in the order in which they were asked for; `EVERYTHING` while a pattern
            takes in all that may come.
        listeners: called without waiting with channel, symbol (or `EVERYTHING`), and whether it is wanted now.
    """

    __slots__ = ("listeners", "venue", "wanted")

    def __init__(self, venue: str) -> None:
        self.venue = venue
        self.wanted: dict[Channel, dict[str, None]] = {ch: {} for ch in CHANNELS}
        self.listeners: list[Callable[[Channel, str, bool], None]] = []

    def begin(self, ch: Channel, sym: str) -> None:
        """Note that somebody wants it; harmless if it was wanted already."""
        if sym not in self.wanted[ch]:
            self.wanted[ch][sym] = None
            self._tell(ch, sym, True)

    def end(self, ch: Channel, sym: str) -> None:
        """Note that nobody wants it any more; harmless if nobody did."""
        if sym in self.wanted[ch]:
            del self.wanted[ch][sym]
            self._tell(ch, sym, False)

    def _tell(self, ch: Channel, sym: str, is_wanted: bool) -> None:
        for listener in self.listeners:
            listener(ch, sym, is_wanted)
