"""Our own protocol as a recording: what ``curl -N '/v1/stream?…&format=ndjson'`` saved. Pure.

`snapshot` and `update` messages carry the ticks; `gap` says that some are missing; the rest is ignored, and
so are bars and states, which the broker makes itself. A book is served from a snapshot on as long as its
``seq`` has no hole, so record it with ``mode=every``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from broker.core.errors import FrameError
from broker.core.ticks import Bar, Book, Channel, Quote, Status, Tick, Trade
from feeds.frames import canonical, checked_ns, decode
from feeds.venue import VenueParser


class _Line(Struct):
    type: str
    ticks: Raw = field(name="data", default_factory=Raw)
    ch: str | None = None
    sym: str | None = None


_LINE = msgspec.json.Decoder(_Line)
#: Not strict: times are texts in JSON.
_TICKS: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(
    list[Quote | Trade | Book | Bar | Status], strict=False
)


class OwnTicksParser(VenueParser):
    """The messages of one saved stream.

    Args:
        venue: instead of those recorded; ``None`` keeps them, several in one stream too.
    """

    def __init__(self, venue: str | None = None) -> None:
        self._venue = venue
        #: The last ``seq`` of each book that is whole.
        self._books: dict[str, int] = {}
        self._gaps: list[tuple[Channel, str]] = []

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`; the ticks keep the ``rts`` that they were recorded with."""
        line = decode(_LINE, frame)
        if line.type == "gap" and line.ch == "book" and line.sym is not None:
            self._break(line.sym)
        if line.type not in ("snapshot", "update"):
            return []
        try:
            ticks = decode(_TICKS, bytes(line.ticks))
            return [tick for tick in map(self._accept, ticks) if tick is not None]
        except FrameError as error:
            # The books that it may have changed can't be told any more.
            self.reset()
            error.frame = frame[:512]
            raise

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """Return nothing: such a recording has no HTTP answers."""
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        for recorded in list(self._books):
            self._break(recorded)

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def _accept(self, tick: Tick) -> Tick | None:
        if isinstance(tick, Bar | Status):
            return None
        recorded = tick.sym
        tick.sym = self._symbol(recorded)
        checked_ns(tick.ts)
        checked_ns(tick.rts)
        is_served = not isinstance(tick, Book) or self._continues(recorded, tick)
        tick.seq = 0
        return tick if is_served else None

    def _continues(self, recorded: str, book: Book) -> bool:
        if book.kind == "delta" and self._books.get(recorded) != book.seq - 1:
            self._break(recorded)
            return False
        self._books[recorded] = book.seq
        return True

    def _break(self, recorded: str) -> None:
        if self._books.pop(recorded, None) is not None:
            self._gaps.append(("book", self._symbol(recorded)))

    def _symbol(self, recorded: str) -> str:
        venue, _, name = recorded.partition(":")
        return canonical(self._venue or venue, name)
