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

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import trio
from pydantic import field_validator

from broker.core.errors import FeedError
from feeds.base import FeedContext, VenueSocket
from feeds.kraken_names import Api, symbol_of, venue_pair
from feeds.kraken_parser import KrakenParser
from feeds.kraken_v1_frames import KrakenV1Parser
from feeds.kraken_v2_frames import KrakenV2Parser
from feeds.venue import VenueFeed, VenueOptions, VenueParser, Verb

_URLS: dict[Api, str] = {"v1": "wss://ws.kraken.com", "v2": "wss://ws.kraken.com/v2"}
_PAIRS_PER_REQUEST = 200
_PING_S = 30.0
#: How often one book is asked for again within a connection, and how long it may take to come, before the connection
#: itself is given up.
_ASK_AGAIN = 3
_SNAPSHOT_S = 30.0


class Kraken(VenueFeed):
    """Kraken, live."""

    venue = "KRAKEN"

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
        self._asked_again: Counter[str] = Counter()
        #: Books that are to come, and by when.
        self._awaited: dict[str, float] = {}
        self._ping_at = 0.0

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

    async def connection(self, ctx: FeedContext) -> None:
        """See `VenueFeed.connection`."""
        self._asked_again.clear()
        self._awaited.clear()
        self._ping_at = trio.current_time() + _PING_S
        await super().connection(ctx)

    def will_come(self, symbols: Sequence[str]) -> None:
        """See `VenueFeed.will_come`."""
        if "book" in self.options.channels:
            self._await(symbols)

    async def after_frame(self, socket: VenueSocket, parser: VenueParser) -> None:
        """Ask for books that broke, give up on those that don't come, and send a ping when it is time.

        The venue's heartbeats, one a second where there is nothing else, make this come round often enough.
        """
        assert isinstance(parser, KrakenParser)
        if "book" in self.options.channels:
            await self._ask_again(socket, parser)
            self._look_for_awaited(parser)
        if trio.current_time() >= self._ping_at:
            self._ping_at = trio.current_time() + _PING_S
            await socket.send('{"event":"ping"}' if self.options.api == "v1" else '{"method":"ping"}')

    async def _ask_again(self, socket: VenueSocket, parser: KrakenParser) -> None:
        lost = [symbol for symbol in sorted(parser.take_lost()) if symbol in self.subscribed]
        for symbol in lost:
            self._asked_again[symbol] += 1
            if self._asked_again[symbol] > _ASK_AGAIN:
                raise FeedError(f"the book of {symbol} can't be kept, however often it is asked for")
        self._await(lost)
        pairs = [self._pairs[symbol] for symbol in lost]
        for method in ("unsubscribe", "subscribe"):
            for frame in self._requests(method, "book", pairs):
                await socket.send(frame)

    def _await(self, symbols: Iterable[str]) -> None:
        self._awaited.update(dict.fromkeys(symbols, trio.current_time() + _SNAPSHOT_S))

    def _look_for_awaited(self, parser: KrakenParser) -> None:
        if not self._awaited:
            return
        self._awaited = {
            each: by
            for each, by in self._awaited.items()
            if not parser.is_live(each) and each in self.subscribed
        }
        late = [symbol for symbol, by in self._awaited.items() if by < trio.current_time()]
        if late:
            raise FeedError(f"the venue sent no book of {late[0]} within {_SNAPSHOT_S:g} s")

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
