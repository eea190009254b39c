"""What the parsers of Kraken's two APIs share: the books of one connection, and what becomes of bad frames. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Literal

from broker.core.errors import FrameError
from broker.core.ticks import Book, Channel, Level, Tick
from feeds.frames import check_decimals, is_json
from feeds.kraken_book import KrakenBook
from feeds.kraken_names import Api, symbol_of, venue_pair
from feeds.refusals import named
from feeds.venue import VenueParser, VenueRefused

_APIS: tuple[Api, ...] = ("v1", "v2")
_WRONG = re.compile(
    r"\bpairs?\b|symbol|depth|not supported|unsupported|not found|invalid|malformed|must be", re.IGNORECASE
)
_BUSY = re.compile(
    r"\brate\b|exceeded|too many|try again|unavailable|busy|internal|timeout|maintenance|already subscribed",
    re.IGNORECASE,
)


def refusal(text: str | None, pair: str | None, spellings: Mapping[str, str]) -> VenueRefused:
    """Make the venue's error message an exception.

    Args:
        text: its words.
        pair: which one it is about, if it says so beside its words.
        spellings: of the pairs that were asked for, to our symbols.

    It is permanent where it is about what was asked for (``Currency pair not supported FOO/USD``, ``Subscription
    depth not supported``), and passing where it is about the moment (``Exceeded msg rate``, ``Service:Unavailable``).
    """
    said = text or "an error without a text"
    of = f" ({pair[:40]})" if pair and pair not in said else ""
    is_permanent = _WRONG.search(said) is not None and _BUSY.search(said) is None
    symbols = named(f"{pair or ''} {said}", spellings)
    return VenueRefused(f"the venue says: {said[:300]}{of}", permanent=is_permanent, symbols=symbols)


class KrakenParser(VenueParser):
    """The frames of one connection; a subclass knows their shape.

    Args:
        venue: the part before the colon of every symbol.
        symbols: what was subscribed to, if it is known: frames of others are refused.
    """

    def __init__(self, venue: str = "KRAKEN", symbols: Collection[str] | None = None) -> None:
        self._venue = venue
        self._symbols = None if symbols is None else frozenset(symbols)
        #: Its errors spell pairs as they were asked for.
        self._spellings = {
            venue_pair(symbol.partition(":")[2], api).upper(): symbol
            for symbol in symbols or ()
            for api in _APIS
        }
        self._books: dict[str, KrakenBook] = {}
        self._lost: set[str] = set()
        self._ended_since: set[tuple[Channel, str]] = set()
        self._gaps: list[tuple[Channel, str]] = []

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`."""
        try:
            return self._ticks(frame, rts)
        except FrameError as error:
            if not isinstance(error, VenueRefused):
                text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
                for symbol in self._suspects(text, is_torn=not is_json(frame)):
                    self._break(symbol)
            error.frame = frame[:512]
            raise

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """Return nothing: this venue sends its snapshots over the WebSocket."""
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        for symbol in sorted(self._books):
            self._break(symbol)
        self._lost.clear()
        self._ended_since.clear()

    def forget(self, symbol: str) -> None:
        """See `VenueParser.forget`."""
        self._break(symbol)
        self._lost.discard(symbol)

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def take_lost(self) -> set[str]:
        """Return the symbols whose book has to be asked for again, and forget them."""
        lost, self._lost = self._lost, set()
        return lost

    def take_ended(self) -> set[tuple[Channel, str]]:
        """Return the subscriptions to quotes and trades that the venue says have ended, and forget them."""
        ended, self._ended_since = self._ended_since, set()
        return ended

    def is_live(self, symbol: str) -> bool:
        """Tell whether the book of a symbol is whole and served."""
        return symbol in self._books

    def _ticks(self, frame: str | bytes, rts: int) -> list[Tick]:
        """Return the ticks of one frame; raises nothing but `FrameError`."""
        raise NotImplementedError

    def _suspects(self, text: str, *, is_torn: bool) -> Iterable[str]:
        """Return the symbols whose book an unreadable frame may have changed.

        Args:
            text: the frame.
            is_torn: it is no JSON, so what it shows may be damaged too.
        """
        raise NotImplementedError

    def _all_books(self) -> list[str]:
        # One that hasn't come yet may have come in this frame.
        return sorted(self._symbols or self._books)

    def _shown(self, pairs: Collection[str], *, is_torn: bool) -> list[str]:
        """Return the symbols of the pairs that an unreadable frame shows; all, where it shows none for sure."""
        known = self._known(pairs)
        is_sure = bool(pairs) and (len(known) == len(pairs) or not is_torn)
        return known if is_sure else self._all_books()

    def _snapshot(
        self, symbol: str, depth: int, bids: Sequence[Level], asks: Sequence[Level], checksum: int | None
    ) -> tuple[list[Level], list[Level]]:
        """Begin a book; return what is served of it.

        Raises:
            FrameError: a level is no number, or the checksum is another; the book is not served.
        """
        check_decimals(*chain.from_iterable(bids), *chain.from_iterable(asks))
        book = KrakenBook(depth, bids, asks)
        self._check(symbol, book, checksum)
        self._books[symbol] = book
        self._lost.discard(symbol)
        bids, asks = book.levels
        return bids.copy(), asks.copy()

    def _update(
        self, symbol: str, bids: Sequence[Level], asks: Sequence[Level], checksum: int | None
    ) -> tuple[list[Level], list[Level]]:
        """Change a book; return what is served of it: nothing, if there has been no snapshot.

        Raises:
            FrameError: a level is no number, or the checksum is another; the book is served no more.
        """
        check_decimals(*chain.from_iterable(bids), *chain.from_iterable(asks))
        book = self._books.get(symbol)
        if book is None:
            return [], []
        changes = book.update(bids, asks)
        self._check(symbol, book, checksum)
        return changes

    def _check(self, symbol: str, book: KrakenBook, checksum: int | None) -> None:
        if checksum is not None and not book.matches(checksum):
            self._break(symbol)
            raise FrameError(f"the book of {symbol} does not match its checksum")

    def _break(self, symbol: str) -> None:
        """Stop serving a book until its next snapshot."""
        # Where it isn't known what was subscribed to, as in a recording, nothing can be asked for again.
        if self._symbols is not None:
            self._lost.add(symbol)
        if self._books.pop(symbol, None) is not None:
            self._gaps.append(("book", symbol))

    def _symbol(self, pair: str) -> str:
        symbol = symbol_of(self._venue, pair)
        if self._symbols is not None and symbol not in self._symbols:
            raise FrameError(f"nobody subscribed to {pair[:80]!r}")
        return symbol

    def _known(self, pairs: Iterable[str]) -> list[str]:
        """Return the symbols of pairs that a broken frame shows, without what is no pair."""
        known = []
        for pair in pairs:
            try:
                known.append(self._symbol(pair))
            except FrameError:
                continue
        return known


def book_ticks(
    symbol: str, *, ts: int, rts: int, is_snapshot: bool, sides: tuple[list[Level], list[Level]]
) -> list[Tick]:
    """Return the tick of a book; none for a change that changes nothing."""
    bids, asks = sides
    if not is_snapshot and not bids and not asks:
        return []
    kind: Literal["snapshot", "delta"] = "snapshot" if is_snapshot else "delta"
    return [Book(sym=symbol, ts=ts, rts=rts, kind=kind, bids=bids, asks=asks)]
