"""Coinbase Advanced Trade: quotes, trades and books of its public WebSocket.

Its products are those of Coinbase Exchange, from the same order books, so their symbols are the same: run one of the
two feeds for a symbol, not both. This one needs no login for books of every change, and its frames are counted.

Source: see `feeds.coinbase_advanced_frames`; of the page ``websocket-overview`` there: one channel a request, within
5 s; channels fall silent after a minute or so without ``heartbeats``, which come every second; 8 requests a second
without a login.

Without the venue itself it can't be checked that a second subscription on the same connection begins with a
snapshot (where none comes the next connection is to bring it), nor which words its errors have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec
from pydantic import field_validator

from feeds.book_feed import BookFeed
from feeds.coinbase_advanced_frames import CoinbaseAdvancedParser
from feeds.frames import canonical
from feeds.venue import VenueOptions, Verb

_VENUE_CHANNELS = {"quote": "ticker", "trade": "market_trades", "book": "level2"}
_PRODUCT = re.compile(r"[A-Z0-9]+(-[A-Z0-9]+){1,3}")
#: The only two that it sends under this name; what is in USDC otherwise comes as the product in USD.
_IN_USDC = frozenset(("USDT-USDC", "EURC-USDC"))


class CoinbaseAdvanced(BookFeed):
    """Coinbase Advanced Trade, live."""

    venue = "COINBASE"
    silence_s = 15.0
    refuses_whole = True
    is_no_trade = re.compile(r'"channel"\s*:\s*"(?!market_trades)\w+"')

    class Options(VenueOptions):
        """Keys of a feed of the type ``coinbase_advanced``."""

        type: Literal["coinbase_advanced"] = "coinbase_advanced"
        url: str = "wss://advanced-trade-ws.coinbase.com"

        @field_validator("symbols")
        @classmethod
        def _are_products(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
            for symbol in symbols:
                if _PRODUCT.fullmatch(symbol) is None or len(symbol) > 50:
                    raise ValueError(f"{symbol!r} is no product of Coinbase: write it like 'BTC-USD'")
                if symbol.endswith("-USDC") and symbol not in _IN_USDC:
                    raise ValueError(
                        f"{symbol!r} comes as {symbol[:-1]!r}, whose order book is the same: write that"
                    )
            return symbols

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.symbols = [canonical(self.venue, product) for product in options.symbols]

    def opening_frames(self) -> list[str]:
        """See `VenueFeed.opening_frames`."""
        return [msgspec.json.encode({"type": "subscribe", "channel": "heartbeats"}).decode()]

    def symbol_frames(self, verb: Verb, names: Sequence[str]) -> list[str]:
        """See `VenueFeed.symbol_frames`."""
        channels = [_VENUE_CHANNELS[channel] for channel in self.options.channels]
        return [_request(verb, list(names), channel) for channel in channels]

    def new_parser(self) -> CoinbaseAdvancedParser:
        """See `VenueFeed.new_parser`."""
        return CoinbaseAdvancedParser(self.venue, self.options.symbols)

    def ask_frames(self, names: Sequence[str]) -> list[str]:
        """See `BookFeed.ask_frames`: a new subscription begins with a snapshot."""
        return [_request(verb, list(names), _VENUE_CHANNELS["book"]) for verb in ("unsubscribe", "subscribe")]


def _request(verb: str, products: list[str], channel: str) -> str:
    request = {"type": verb, "product_ids": products, "channel": channel}
    return msgspec.json.encode(request).decode()
