"""Gemini: trades, books, and quotes from the top of the books, of its market data, version 2.

Source: see `feeds.gemini_frames`. A subscription begins with the whole book; a book that broke is subscribed to
anew on the same connection. The venue sends a heartbeat every 5 s (recorded in 2021).

Without the venue itself it can't be checked that it answers a second subscription on the same connection with
a whole book (where it doesn't the connection is given up, and the next one begins with one), whether a
level 2 frame ever has a ``socket_sequence``, and which words its errors have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec
from pydantic import field_validator

from feeds.book_feed import BookFeed
from feeds.frames import canonical
from feeds.gemini_frames import GeminiParser, native_of
from feeds.venue import VenueOptions, Verb

_PAIR = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{3,5}(-PERP)?")


class Gemini(BookFeed):
    """Gemini, live."""

    venue = "GEMINI"
    silence_s = 30.0
    refuses_whole = True
    is_no_trade = re.compile("l2_updates|heartbeat")

    class Options(VenueOptions):
        """Keys of a feed of the type ``gemini``."""

        type: Literal["gemini"] = "gemini"
        url: str = "wss://api.gemini.com/v2/marketdata"

        @field_validator("symbols")
        @classmethod
        def _are_pairs(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
            for symbol in symbols:
                if _PAIR.fullmatch(symbol) is None:
                    raise ValueError(f"{symbol!r} is no symbol of Gemini: write it like 'BTC-USD'")
            if len({native_of(symbol) for symbol in symbols}) < len(symbols):
                raise ValueError("two of the symbols are the same to the venue, which writes no dash")
            return symbols

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._names = {native_of(symbol): symbol for symbol in options.symbols}
        self.symbols = [canonical(self.venue, symbol) for symbol in options.symbols]

    def symbol_frames(self, verb: Verb, names: Sequence[str]) -> list[str]:
        """See `VenueFeed.symbol_frames`."""
        return [_request(verb, [native_of(name) for name in names])]

    def new_parser(self) -> GeminiParser:
        """See `VenueFeed.new_parser`."""
        return GeminiParser(self.venue, self._names, self.options.channels)

    @property
    def has_books(self) -> bool:
        """See `BookFeed.has_books`: quotes come of them, too."""
        return set(self.options.channels) != {"trade"}

    def ask_frames(self, names: Sequence[str]) -> list[str]:
        """See `BookFeed.ask_frames`: a new subscription begins with a whole one."""
        natives = [native_of(each) for each in names]
        return [_request(verb, natives) for verb in ("unsubscribe", "subscribe")]

    def symbols_of(self, natives: set[str]) -> set[str]:
        """See `BookFeed.symbols_of`."""
        return {canonical(self.venue, self._names[each]) for each in natives if each in self._names}


def _request(verb: str, natives: list[str]) -> str:
    request = {"type": verb, "subscriptions": [{"name": "l2", "symbols": natives}]}
    return msgspec.json.encode(request).decode()
