"""Base of the venues whose books come whole over their WebSocket, with each subscription to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from feeds.asking import Asking
from feeds.base import FeedContext, VenueSocket
from feeds.venue import VenueFeed, VenueOptions, VenueParser, VenueRefused

#: How often it is looked which books are missing, where none has just broken.
_LOOK_S = 1.0


class BookParser(VenueParser, Protocol):
    """A parser that knows which of its books are whole."""

    def take_lost(self) -> set[str]:
        """Return the books, in the venue's spelling, that have to be asked for again, and forget them."""

    def is_live(self, symbol: str) -> bool:
        """Tell whether the book of a canonical symbol is whole and served."""


class BookFeed(VenueFeed):
    """A venue whose books are subscribed to anew when they break or don't come.

    A book that fails again and again is asked for with growing pauses (`feeds.asking`), and costs the others nothing.
    """

    def __init__(self, options: VenueOptions) -> None:
        super().__init__(options)
        self._asking = Asking()
        self._look_for_books_at = 0.0

    @property
    def has_books(self) -> bool:
        """Whether books are subscribed to."""
        return "book" in self.options.channels

    def ask_frames(self, names: Sequence[str]) -> list[str]:
        """Return what brings the whole books of some of the options' symbols again: at least one."""
        raise NotImplementedError

    async def connection(self, ctx: FeedContext) -> None:
        """See `VenueFeed.connection`."""
        self._asking.begin()
        await super().connection(ctx)

    def will_come(self, symbols: Sequence[str]) -> None:
        """See `VenueFeed.will_come`."""
        self._asking.asked(symbols, trio.current_time())

    async def take_refusal(
        self, ctx: FeedContext, socket: VenueSocket, parser: VenueParser, refusal: VenueRefused
    ) -> None:
        """See `VenueFeed.take_refusal`."""
        if self.refuses_whole:
            self._asking.hurry()
        await super().take_refusal(ctx, socket, parser, refusal)

    async def after_frame(self, socket: VenueSocket, parser: VenueParser) -> None:
        """Ask for books that broke or have not come.

        Heartbeats, or frames of other symbols, make this come round often enough.
        """
        parser_of_books: BookParser = parser  # type: ignore[assignment]  # `new_parser` returns one
        now = trio.current_time()
        lost = parser_of_books.take_lost()
        if not self.has_books or (not lost and now < self._look_for_books_at):
            return
        self._look_for_books_at = now + _LOOK_S
        missing = [
            each for each in self.symbols if each in self.subscribed and not parser_of_books.is_live(each)
        ]
        due = self._asking.due(missing, self.symbols_of(lost), now)
        if due:
            for frame in self.ask_frames(self._names_of(due)):
                await socket.send(frame)

    def symbols_of(self, natives: set[str]) -> set[str]:
        """Return the canonical symbols of what `BookParser.take_lost` names, as far as they are the options'."""
        names = dict(zip(self.options.symbols, self.symbols, strict=True))
        return {names[each] for each in natives if each in names}
