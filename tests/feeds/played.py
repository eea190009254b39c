"""What comes out of a recording: ticks counted, frames refused, and the books that they make."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path

from broker.core.books import BookState
from broker.core.errors import FrameError
from broker.core.ticks import Book, Channel, Quote, Tick
from feeds.recordings import find_files, read_merged
from feeds.venue import VenueParser
from tests.feeds.fakes import assert_well_formed


class Played:
    """All of one recording through one parser.

    Attributes:
        counts: ticks by channel.
        refused: frames refused, by reason.
        gaps: topics that broke, in order.
        books: as the ticks leave them.
        quotes: the last of each symbol.
    """

    def __init__(self, path: Path, parser: VenueParser) -> None:
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.gaps: list[tuple[Channel, str]] = []
        self.books: dict[str, BookState] = {}
        self.quotes: dict[str, Quote] = {}
        with read_merged(find_files(str(path))) as records:
            for record in records:
                try:
                    if record.kind == "frame":
                        self._take(parser.parse(record.payload, record.at))
                    elif record.kind == "body":
                        self._take(parser.parse_body(record.url, record.payload, record.at))
                except FrameError as error:
                    self.refused[str(error)] += 1
                self.gaps += parser.take_gaps()

    def _take(self, ticks: list[Tick]) -> None:
        assert_well_formed(ticks)
        for tick in ticks:
            self.counts[tick.ch] += 1
            if isinstance(tick, Book):
                self.books.setdefault(tick.sym, BookState()).apply(tick)
            elif isinstance(tick, Quote):
                self.quotes[tick.sym] = tick

    def crossed(self) -> list[str]:
        """Return the symbols whose book bids as much as it asks, or more."""
        tops = {symbol: book.levels() for symbol, book in self.books.items()}
        return [
            symbol
            for symbol, (bids, asks) in tops.items()
            if bids and asks and Decimal(bids[0][0]) >= Decimal(asks[0][0])
        ]

    def differing(self) -> list[str]:
        """Return the symbols whose last quote isn't the top of their book."""
        return [
            symbol
            for symbol, quote in self.quotes.items()
            for bids, asks in [self.books[symbol].levels()]
            if (quote.bid, quote.bid_size) != (bids[0] if bids else (None, None))
            or (quote.ask, quote.ask_size) != (asks[0] if asks else (None, None))
        ]
