"""Coinbase Advanced Trade's frames. Pure.

Source: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels, its page
``websocket-overview`` ("Sequence numbers"), and
https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/advanced-trade-asyncapi.json, from search excerpts,
2026-11-21. What is not obvious there:

* One subscribes to ``level2`` and gets ``l2_data``; a size there is the new one, and zero removes the level.
* ``sequence_num`` counts the frames of the connection, whatever their channel. The page says "for each product";
  clients that recorded it found one count for all, from 0. A hole means that frames of any channel are lost; a
  lower number is old, and 0 a new connection.
* ``side`` of a trade is taken for the maker's, as it is on the Exchange, whose trades these are; the page doesn't say.
* ``snapshot`` trades are from before the subscription, so they are no news; an update has those of 250 ms.
* New kinds of frames may be added at any time, says the page; they are counted as refused, and break no book.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct, field

from broker.core.errors import FrameError
from broker.core.ticks import Book, Channel, Level, Quote, Side, Tick, Trade
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
from feeds.venue import VenueParser, VenueRefused

_AGGRESSOR: dict[str, Side] = {"BUY": "sell", "SELL": "buy"}
#: Channels that are known, and without anything for us.
_NO_NEWS = frozenset(
    ("heartbeats", "subscriptions", "candles", "status", "ticker_batch", "user", "futures_balance_summary")
)
_SIGNS = BookSigns(
    kind=re.compile(r'"channel"\s*:\s*"(\w*)'),
    kinds=("l2_data",),
    mark=re.compile(r'"new_quantity"'),
    name=re.compile(r'"product_id"\s*:\s*"([A-Z0-9-]{1,60})"'),
    of_several=True,
)

_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Frame(Struct):
    channel: str = ""
    timestamp: str | None = None
    sequence: _Number | None = field(name="sequence_num", default=None)
    events: Raw = field(default_factory=Raw)
    kind: str = field(name="type", default="")
    message: str = ""


class _Change(Struct):
    side: Literal["bid", "offer", "ask"]
    price: str = field(name="price_level")
    size: str = field(name="new_quantity")


class _BookEvent(Struct):
    kind: Literal["snapshot", "update"] = field(name="type")
    product_id: str
    updates: list[_Change]


class _Trade(Struct):
    trade_id: Annotated[str, Meta(min_length=1, max_length=64)]
    product_id: str
    price: str
    size: str
    side: str
    time: str


class _TradeEvent(Struct):
    kind: Literal["snapshot", "update"] = field(name="type")
    trades: list[_Trade]


class _Ticker(Struct):
    product_id: str
    bid: str | None = field(name="best_bid", default=None)
    bid_size: str | None = field(name="best_bid_quantity", default=None)
    ask: str | None = field(name="best_ask", default=None)
    ask_size: str | None = field(name="best_ask_quantity", default=None)


class _TickerEvent(Struct):
    tickers: list[_Ticker]


_FRAME = msgspec.json.Decoder(_Frame)
_BOOK_EVENTS = msgspec.json.Decoder(list[_BookEvent])
_TRADE_EVENTS = msgspec.json.Decoder(list[_TradeEvent])
_TICKER_EVENTS = msgspec.json.Decoder(list[_TickerEvent])


class CoinbaseAdvancedParser(VenueParser):
    """The frames of one connection; remembers its count, and which books have had their snapshot.

    Args:
        venue: the part before the colon of every symbol.
        products: what was subscribed to, if it is known: frames of others are refused.
    """

    def __init__(self, venue: str = "COINBASE", products: Collection[str] | None = None) -> None:
        self._venue = venue
        self._products = None if products is None else frozenset(products)
        self._spellings = {product: canonical(venue, product) for product in products or ()}
        self._books: set[str] = set()
        #: What has been served besides books: a hole may have torn it too.
        self._seen: set[tuple[Channel, str]] = set()
        self._last: int | None = None
        #: Frames that could not be read since then: each may have had a number.
        self._unread = 0
        self._gaps: list[tuple[Channel, str]] = []
        self._lost: set[str] = set()

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`."""
        message: _Frame | None = None
        try:
            message = decode(_FRAME, frame)
            return self._dispatch(message, rts) if self._is_next(message.sequence) else []
        except FrameError as error:
            if not isinstance(error, VenueRefused):
                self._unread += message is None
                self._distrust(frame)
            error.frame = frame[:512]
            raise

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """Return nothing: this venue sends its snapshots over the WebSocket."""
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        for product in sorted(self._books):
            self._break(product)
        self._lost.clear()
        self._seen.clear()
        self._last, self._unread = None, 0

    def forget(self, symbol: str) -> None:
        """See `VenueParser.forget`."""
        product = symbol.removeprefix(f"{self._venue}:")
        self._break(product)
        self._lost.discard(product)

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
        return symbol.removeprefix(f"{self._venue}:") in self._books

    def _is_next(self, sequence: int | None) -> bool:
        """Take the number of a frame; return whether it is news. A hole breaks everything."""
        last, unread = self._last, self._unread
        if sequence is None:
            return True
        if sequence == 0 and last is not None:
            self.reset()
        elif last is not None and sequence <= last:
            return False
        elif last is not None and sequence > last + 1 + unread:
            self._tear()
        self._last, self._unread = sequence, 0
        return True

    def _dispatch(self, frame: _Frame, rts: int) -> list[Tick]:
        match frame.channel:
            case "l2_data":
                at = _time(frame.timestamp, rts)
                books = [self._book(event, at, rts) for event in decode(_BOOK_EVENTS, bytes(frame.events))]
                return [book for book in books if book is not None]
            case "market_trades":
                events = decode(_TRADE_EVENTS, bytes(frame.events))
                news = [trade for event in events if event.kind == "update" for trade in event.trades]
                trades = [self._trade(trade, rts) for trade in news]
                return [*sorted(trades, key=_age)]
            case "ticker":
                at = _time(frame.timestamp, rts)
                events_of_tickers = decode(_TICKER_EVENTS, bytes(frame.events))
                return [self._quote(each, at, rts) for event in events_of_tickers for each in event.tickers]
            case channel if channel in _NO_NEWS:
                return []
        if frame.kind == "error":
            raise _refusal(frame.message, self._spellings)
        raise FrameError(f"a frame of no known channel: {frame.channel[:40]!r}")

    def _book(self, event: _BookEvent, at: int, rts: int) -> Book | None:
        symbol = self._symbol(event.product_id)
        bids: list[Level] = [(each.price, each.size) for each in event.updates if each.side == "bid"]
        asks: list[Level] = [(each.price, each.size) for each in event.updates if each.side != "bid"]
        if event.kind == "snapshot":
            book = Book(
                sym=symbol,
                ts=at,
                rts=rts,
                kind="snapshot",
                bids=snapshot_levels(bids, bids=True),
                asks=snapshot_levels(asks, bids=False),
            )
            self._books.add(event.product_id)
            self._lost.discard(event.product_id)
            return book
        book = Book(
            sym=symbol,
            ts=at,
            rts=rts,
            kind="delta",
            bids=delta_levels(bids, bids=True),
            asks=delta_levels(asks, bids=False),
        )
        # Changes of a book that nobody has seen whole are of no use to anybody.
        return book if event.updates and event.product_id in self._books else None

    def _trade(self, trade: _Trade, rts: int) -> Trade:
        symbol = self._symbol(trade.product_id)
        check_decimals(trade.price, trade.size)
        self._seen.add(("trade", symbol))
        return Trade(
            sym=symbol,
            ts=text_to_ns(trade.time),
            rts=rts,
            price=trade.price,
            size=trade.size,
            side=_AGGRESSOR.get(trade.side),
            id=trade.trade_id,
        )

    def _quote(self, ticker: _Ticker, at: int, rts: int) -> Quote:
        symbol = self._symbol(ticker.product_id)
        bid, bid_size = one_side(ticker.bid, ticker.bid_size)
        ask, ask_size = one_side(ticker.ask, ticker.ask_size)
        self._seen.add(("quote", symbol))
        return Quote(sym=symbol, ts=at, rts=rts, bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size)

    def _distrust(self, frame: str | bytes) -> None:
        """Stop serving the books of which this unreadable frame may have been a change."""
        for product in _SIGNS.suspects(frame, self._books.union(self._products or ())):
            self._break(product)

    def _tear(self) -> None:
        """Tell that frames are lost, nobody knows of what."""
        for product in sorted(self._books.union(self._products or ())):
            self._break(product)
        self._gaps += sorted(self._seen)

    def _break(self, product: str) -> None:
        self._lost.add(product)
        if product in self._books:
            self._books.discard(product)
            self._gaps.append(("book", self._symbol(product)))

    def _symbol(self, product: str) -> str:
        if self._products is not None and product not in self._products:
            raise FrameError(f"nobody subscribed to {product[:80]!r}")
        return canonical(self._venue, product)


def _age(tick: Trade) -> tuple[int, int]:
    return tick.ts, int(tick.id) if tick.id.isascii() and tick.id.isdigit() else 0


def _time(text: str | None, rts: int) -> int:
    return rts if text is None else text_to_ns(text)


def _refusal(message: str, spellings: Mapping[str, str]) -> VenueRefused:
    text = message or "an error without a text"
    wrong = re.search(r"not a valid|invalid|malformed|not found|unknown|authenti", text, re.IGNORECASE)
    busy = re.search(r"rate limit|too many|try again|unavailable|internal|timeout", text, re.IGNORECASE)
    return VenueRefused(
        f"the venue says: {text[:300]}",
        permanent=wrong is not None and busy is None,
        symbols=named(text, spellings),
    )
