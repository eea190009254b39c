"""Coinbase Exchange: quotes, trades and books of its public WebSocket feed.

Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels, as search excerpts of it said on 2026-11-21.
Not obvious there:

* ``side`` of a ``match`` is the maker's; ours is the aggressor's, so it is turned round.
* ``last_match`` is a trade from before the subscription, so it is no news; but it says which one has to follow.
* Messages of ``matches`` may be dropped or out of order (page ``overview``, "Sequence Numbers"). ``trade_id`` has no
  holes within a product, as recordings show too, so a hole in it is a gap.
* ``level2`` wants a login nowadays, ``level2_batch`` (the same messages, every 50 ms) does not.
* Level 2 messages carry no sequence: the venue guarantees their delivery. So the one way to lose one is a
  frame that can't be read, and then the book is not served until the venue has sent it anew; nor is one that stays
  crossed, as something was lost all the same.
* A request that names one product that isn't there is ignored as a whole; its error names one of these
  (https://github.com/coinbase/coinbase-pro-node/issues/174, read 2026-11-21), so the others are asked for again.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from pydantic import field_validator

from broker.core.errors import FrameError
from broker.core.ticks import Book, Channel, Level, Quote, Side, Tick, Trade
from feeds.book_feed import BookFeed
from feeds.book_top import BookTop
from feeds.frames import (
    canonical,
    check_decimals,
    decode,
    delta_levels,
    one_side,
    snapshot_levels,
    text_to_ns,
)
from feeds.refusals import named
from feeds.torn_frames import BookSigns
from feeds.trade_ids import TradeIds
from feeds.venue import VenueOptions, VenueParser, VenueRefused, Verb

_AGGRESSOR: dict[str, Side] = {"buy": "sell", "sell": "buy"}
_VENUE_CHANNELS = {"quote": "ticker", "trade": "matches", "book": "level2_batch"}
_PRODUCT = re.compile(r"[A-Z0-9]+-[A-Z0-9]+")

_MakerSide = Literal["buy", "sell"]
_Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Ticker(Struct, tag_field="type", tag="ticker"):
    product_id: str
    best_bid: str | None = None
    best_ask: str | None = None
    #: The sizes came in 2022; older recordings do without.
    best_bid_size: str | None = None
    best_ask_size: str | None = None
    time: str | None = None


class _Match(Struct, tag_field="type", tag="match"):
    product_id: str
    trade_id: _Id
    price: str
    size: str
    side: _MakerSide
    time: str


class _LastMatch(Struct, tag_field="type", tag="last_match"):
    product_id: str
    trade_id: _Id | None = None


class _Snapshot(Struct, tag_field="type", tag="snapshot"):
    product_id: str
    bids: list[Level]
    asks: list[Level]
    time: str | None = None


class _Update(Struct, tag_field="type", tag="l2update"):
    product_id: str
    changes: list[tuple[_MakerSide, str, str]]
    time: str | None = None


class _Error(Struct, tag_field="type", tag="error"):
    message: str = ""
    reason: str | None = None


#: Known, and without anything for us.
_NO_NEWS = (
    *("subscriptions", "heartbeat", "status", "auction", "rfq_match"),
    *("received", "open", "done", "change", "activate"),
)
_MESSAGES: list[Any] = [
    *(_Ticker, _Match, _LastMatch, _Snapshot, _Update, _Error),
    *(msgspec.defstruct("_NoNews", [], tag_field="type", tag=name) for name in _NO_NEWS),
]
_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(reduce(operator.or_, _MESSAGES))

_SIGNS = BookSigns(
    kind=re.compile(r'"type"\s*:\s*"(\w*)'),
    kinds=("l2update", "snapshot"),
    mark=re.compile(r'"(?:changes|bids|asks)"'),
    name=re.compile(r'"product_id"\s*:\s*"([A-Z0-9-]{1,60})"'),
)


class CoinbaseParser(VenueParser):
    """The frames of one connection; remembers which books have had their snapshot.

    Args:
        venue: the part before the colon of every symbol.
        products: what was subscribed to, if it is known: frames of others are refused.
    """

    def __init__(self, venue: str = "COINBASE", products: Collection[str] | None = None) -> None:
        self._venue = venue
        self._products = None if products is None else frozenset(products)
        self._spellings = {product: canonical(venue, product) for product in products or ()}
        #: The books that are served.
        self._tops: dict[str, BookTop] = {}
        self._lost: set[str] = set()
        self._trades = TradeIds()
        self._gaps: list[tuple[Channel, str]] = []

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`."""
        try:
            tick = self._tick(decode(_DECODER, frame), rts)
        except FrameError as error:
            if not isinstance(error, VenueRefused):
                self._distrust(frame)
            error.frame = frame[:512]
            raise
        return [] if tick is None else [tick]

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """Return nothing: this venue sends its snapshots over the WebSocket."""
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        for product in sorted(self._tops):
            self._break(product)
        self._lost.clear()
        self._trades.clear()

    def forget(self, symbol: str) -> None:
        """See `VenueParser.forget`."""
        product = symbol.removeprefix(f"{self._venue}:")
        self._break(product)
        self._lost.discard(product)
        self._trades.forget(product)

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def take_lost(self) -> set[str]:
        """Return the products whose book has to be asked for again, and forget them."""
        lost, self._lost = self._lost, set()
        return lost

    def is_live(self, symbol: str) -> bool:
        """See `feeds.book_feed.BookParser.is_live`."""
        return symbol.removeprefix(f"{self._venue}:") in self._tops

    def _tick(self, message: Any, rts: int) -> Tick | None:
        match message:
            case _Update():
                return self._delta(message, rts)
            case _Ticker():
                return self._quote(message, rts)
            case _Match():
                return self._trade(message, rts)
            case _LastMatch() if message.trade_id is not None:
                self._symbol(message.product_id)
                self._trades.take(message.product_id, message.trade_id)
            case _Snapshot():
                return self._snapshot(message, rts)
            case _Error():
                raise _refusal(message, self._spellings)
        return None

    def _quote(self, message: _Ticker, rts: int) -> Quote:
        bid, bid_size = one_side(message.best_bid, message.best_bid_size)
        ask, ask_size = one_side(message.best_ask, message.best_ask_size)
        return Quote(
            sym=self._symbol(message.product_id),
            ts=_time(message.time, rts),
            rts=rts,
            bid=bid,
            bid_size=bid_size,
            ask=ask,
            ask_size=ask_size,
        )

    def _trade(self, message: _Match, rts: int) -> Trade | None:
        check_decimals(message.price, message.size)
        trade = Trade(
            sym=self._symbol(message.product_id),
            ts=text_to_ns(message.time),
            rts=rts,
            price=message.price,
            size=message.size,
            side=_AGGRESSOR[message.side],
            id=str(message.trade_id),
        )
        place = self._trades.take(message.product_id, message.trade_id)
        if place == "hole":
            self._gaps.append(("trade", trade.sym))
        return None if place == "old" else trade

    def _snapshot(self, message: _Snapshot, rts: int) -> Book:
        book = Book(
            sym=self._symbol(message.product_id),
            ts=_time(message.time, rts),
            rts=rts,
            kind="snapshot",
            bids=snapshot_levels(message.bids, bids=True),
            asks=snapshot_levels(message.asks, bids=False),
        )
        top = self._tops[message.product_id] = BookTop()
        top.apply(book)
        self._lost.discard(message.product_id)
        return book

    def _delta(self, message: _Update, rts: int) -> Book | None:
        book = Book(
            sym=self._symbol(message.product_id),
            ts=_time(message.time, rts),
            rts=rts,
            kind="delta",
            bids=delta_levels(
                [(price, size) for side, price, size in message.changes if side == "buy"], bids=True
            ),
            asks=delta_levels(
                [(price, size) for side, price, size in message.changes if side == "sell"], bids=False
            ),
        )
        top = self._tops.get(message.product_id)
        # Changes of a book that nobody has seen whole are of no use to anybody.
        if top is None or not message.changes:
            return None
        top.apply(book)
        if top.is_torn:
            self._break(message.product_id)
            return None
        return book

    def _distrust(self, frame: str | bytes) -> None:
        """Stop serving the books of which this unreadable frame may have been an update."""
        # One that hasn't come yet may have come in this frame.
        for product in _SIGNS.suspects(frame, self._tops.keys() | (self._products or ())):
            self._break(product)

    def _break(self, product: str) -> None:
        self._lost.add(product)
        if self._tops.pop(product, None) is not None:
            self._gaps.append(("book", self._symbol(product)))

    def _symbol(self, product: str) -> str:
        if self._products is not None and product not in self._products:
            raise FrameError(f"nobody subscribed to {product[:80]!r}")
        return canonical(self._venue, product)


def _time(text: str | None, rts: int) -> int:
    return rts if text is None else text_to_ns(text)


def _refusal(error: _Error, spellings: Mapping[str, str]) -> VenueRefused:
    text = ": ".join(part for part in (error.message, error.reason) if part) or "an error without a text"
    wrong = re.search(r"failed to subscribe|not a valid|invalid|malformed|authenti", text, re.IGNORECASE)
    busy = re.search(r"rate limit|too many|try again|unavailable|internal|timeout", text, re.IGNORECASE)
    return VenueRefused(
        f"the venue says: {text[:300]}",
        permanent=wrong is not None and busy is None,
        symbols=named(text, spellings),
    )


class Coinbase(BookFeed):
    """Coinbase Exchange, live."""

    venue = "COINBASE"
    refuses_whole = True
    counts_trades = True

    class Options(VenueOptions):
        """Keys of a feed of the type ``coinbase``."""

        type: Literal["coinbase"] = "coinbase"
        url: str = "wss://ws-feed.exchange.coinbase.com"

        @field_validator("symbols")
        @classmethod
        def _are_products(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
            for symbol in symbols:
                if _PRODUCT.fullmatch(symbol) is None or len(symbol) > 50:
                    raise ValueError(f"{symbol!r} is no product of Coinbase: write it like 'BTC-USD'")
            return symbols

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.symbols = [canonical(self.venue, product) for product in options.symbols]

    def symbol_frames(self, verb: Verb, names: Sequence[str]) -> list[str]:
        """See `VenueFeed.symbol_frames`."""
        channels = [_VENUE_CHANNELS[channel] for channel in self.options.channels]
        return [_request(verb, list(names), channels)]

    def new_parser(self) -> CoinbaseParser:
        """See `VenueFeed.new_parser`."""
        return CoinbaseParser(self.venue, self.options.symbols)

    def ask_frames(self, names: Sequence[str]) -> list[str]:
        """See `BookFeed.ask_frames`: a new subscription begins with a snapshot."""
        books = [_VENUE_CHANNELS["book"]]
        return [_request(verb, list(names), books) for verb in ("unsubscribe", "subscribe")]


def _request(verb: str, products: list[str], channels: list[str]) -> str:
    request = {"type": verb, "product_ids": products, "channels": channels}
    return msgspec.json.encode(request).decode()
