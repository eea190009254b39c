"""Kraken: quotes, trades and books of its public WebSocket API, v2 or v1.

Source: see `feeds.kraken_v2_frames`, `feeds.kraken_v1_frames` and `feeds.kraken_book`; requests as
https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/ (book, ticker, trade, ping) and .../spot-websocket-v1/
describe them (search excerpts, 2026-11-21).

Books are checked with the venue's CRC32 after every change; one that fails is not served until the venue has sent it
anew. Quotes are ``ticker`` with ``event_trigger: bbo`` (v2) or ``spread`` (v1), which come with every change of the
best prices; the default of v2 and the ``ticker`` of v1 come with trades only.

Only the venue itself can show: how many pairs one request may name (split here into requests of 200) and how often it
may be asked ("varies depending on the load"); the wording of its errors, by which permanent ones are told from passing
ones; whether a v1 subscription to ``trade`` begins with the last 50 trades, as its page says but the recordings of 2021
don't show; when it closes idle connections (a ping is sent every 30 s); and that a change below the ten best
levels, which the checksum doesn't cover, is never lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import trio
from pydantic import field_validator

from broker.core.ticks import Channel
from feeds.asking import Pauses
from feeds.base import FeedContext, VenueSocket
from feeds.book_feed import BookFeed
from feeds.kraken_names import Api, symbol_of, venue_pair
from feeds.kraken_parser import KrakenParser
from feeds.kraken_v1_frames import KrakenV1Parser
from feeds.kraken_v2_frames import KrakenV2Parser
from feeds.venue import VenueOptions, VenueParser, Verb

_URLS: dict[Api, str] = {"v1": "wss://ws.kraken.com", "v2": "wss://ws.kraken.com/v2"}
_PAIRS_PER_REQUEST = 200
_PING_S = 30.0


class Kraken(BookFeed):
    """Kraken, live."""

    venue = "KRAKEN"
    #: Books of v1, of which a torn frame shows the sides.
    is_no_trade = re.compile(r'"[ab]s?"\s*:')

    class Options(VenueOptions):
        """Keys of a feed of the type ``kraken``; symbols may be written as ``BTC-USD`` or ``XBT-USD``."""

        type: Literal["kraken"] = "kraken"
        #: Another server than the venue's own.
        url: str = ""
        #: ``v1`` is frozen; v2 has ids of trades, times of quotes, and a checksum on snapshots too.
        api: Api = "v2"
        #: Levels of a book on each side.
        depth: Literal[10, 25, 100, 500, 1000] = 100

        @field_validator("symbols")
        @classmethod
        def _are_pairs(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
            pairs = [venue_pair(symbol, "v2") for symbol in symbols]
            for symbol, pair in zip(symbols, pairs, strict=True):
                if pairs.count(pair) > 1:
                    raise ValueError(f"{symbol!r} is listed twice: XBT is BTC, and XDG is DOGE")
            return symbols

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        pairs = [venue_pair(name, options.api) for name in options.symbols]
        #: Our symbol to the venue's pair.
        self._pairs = {symbol_of(self.venue, pair): pair for pair in pairs}
        self.symbols = list(self._pairs)
        #: Subscriptions that the venue has ended.
        self._ended: set[tuple[Channel, str]] = set()
        self._pauses = Pauses()
        self._ping_at = 0.0
        # Those of v1 have no numbers.
        self.counts_trades = options.api == "v2"

    def stream_url(self) -> str:
        """See `VenueFeed.stream_url`."""
        return self.options.url or _URLS[self.options.api]

    def symbol_frames(self, verb: Verb, names: Sequence[str]) -> list[str]:
        """See `VenueFeed.symbol_frames`."""
        pairs = [venue_pair(name, self.options.api) for name in names]
        return [frame for channel in self.options.channels for frame in self._requests(verb, channel, pairs)]

    def new_parser(self) -> KrakenParser:
        """See `VenueFeed.new_parser`."""
        if self.options.api == "v1":
            return KrakenV1Parser(self.venue, self._pairs)
        return KrakenV2Parser(self.venue, self._pairs, self.options.depth)

    def ask_frames(self, names: Sequence[str]) -> list[str]:
        """See `BookFeed.ask_frames`: a new subscription begins with a snapshot."""
        pairs = [venue_pair(name, self.options.api) for name in names]
        return [
            frame for verb in ("unsubscribe", "subscribe") for frame in self._requests(verb, "book", pairs)
        ]

    def symbols_of(self, natives: set[str]) -> set[str]:
        """See `BookFeed.symbols_of`: they are canonical already."""
        return natives.intersection(self.symbols)

    async def connection(self, ctx: FeedContext) -> None:
        """See `VenueFeed.connection`."""
        self._ended.clear()
        self._ping_at = trio.current_time() + _PING_S
        await super().connection(ctx)

    async def after_frame(self, socket: VenueSocket, parser: VenueParser) -> None:
        """Ask for what broke or has ended, and send a ping when it is time.

        The venue's heartbeats, one a second where there is nothing else, make this come round often enough.
        """
        assert isinstance(parser, KrakenParser)
        await super().after_frame(socket, parser)
        self._ended |= parser.take_ended()
        if self._ended:
            await self._begin_ended(socket)
        if trio.current_time() >= self._ping_at:
            self._ping_at = trio.current_time() + _PING_S
            await socket.send('{"event":"ping"}' if self.options.api == "v1" else '{"method":"ping"}')

    async def _begin_ended(self, socket: VenueSocket) -> None:
        """Subscribe again to the quotes and trades whose subscription the venue has ended, unless we did."""
        now = trio.current_time()
        for channel, symbol in sorted(self._ended):
            name = f"{channel} of {symbol}"
            if symbol in self.subscribed and now < self._pauses.until(name, now):
                continue
            self._ended.discard((channel, symbol))
            if symbol in self.subscribed:
                self._pauses.note(name, now)
                for frame in self._requests("subscribe", channel, [self._pairs[symbol]]):
                    await socket.send(frame)

    def _requests(self, method: str, channel: str, pairs: list[str]) -> list[str]:
        """Return the frames that begin or end a subscription to some pairs."""
        make = _v1_request if self.options.api == "v1" else _v2_request
        starts = range(0, len(pairs), _PAIRS_PER_REQUEST)
        parts = [pairs[start : start + _PAIRS_PER_REQUEST] for start in starts]
        requests = [make(method, channel, part, self.options.depth) for part in parts]
        return [msgspec.json.encode(request).decode() for request in requests]


def _v1_request(method: str, channel: str, pairs: list[str], depth: int) -> dict[str, Any]:
    subscriptions: dict[str, dict[str, Any]] = {
        "quote": {"name": "spread"},
        "trade": {"name": "trade"},
        "book": {"name": "book", "depth": depth},
    }
    return {"event": method, "pair": pairs, "subscription": subscriptions[channel]}


def _v2_request(method: str, channel: str, pairs: list[str], depth: int) -> dict[str, Any]:
    params: dict[str, dict[str, Any]] = {
        "quote": {"channel": "ticker", "symbol": pairs, "event_trigger": "bbo"},
        "trade": {"channel": "trade", "symbol": pairs, "snapshot": False},
        "book": {"channel": "book", "symbol": pairs, "depth": depth},
    }
    return {"method": method, "params": params[channel]}
