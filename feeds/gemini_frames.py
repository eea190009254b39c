"""Gemini's frames: level 2 of its market data, version 2, and its list of symbols for their names. Pure.

Source: https://docs.gemini.com/websocket/market-data/v2/level-2-data, ``…/v2/about`` and
https://docs.gemini.com/websocket/overview/sequence-numbers, from search excerpts, 2026-11-21. By then the venue calls
version 2 archived; it is the one that is recorded, and served. What is not obvious there:

* The first ``l2_updates`` of a subscription is the whole book, told by its ``trades``: the last 50 of them, from
  before. They are no news, but for those behind the last one served, when a book was asked for again.
* Nothing of a book has a time: it is when it was received.
* ``side`` of a trade is the aggressor's. Auctions and block trades have types of their own, which are left out.
* There is no channel of quotes: a quote is the top of the rebuilt book, whenever it changes.
* ``socket_sequence``, where a frame has it, counts the frames of the connection, heartbeats included. Level 2
  frames come without it, so a change that the venue loses shows only by a book that stays crossed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field

from broker.core.errors import FrameError
from broker.core.ticks import Book, Channel, Level, Side, Tick, Trade
from feeds.book_top import BookTop
from feeds.frames import (
    canonical,
    check_decimals,
    decode,
    delta_levels,
    epoch_to_ns,
    snapshot_levels,
)
from feeds.pairs import PairNames, split_pair
from feeds.refusals import named
from feeds.torn_frames import BookSigns
from feeds.venue import VenueChannel, VenueParser, VenueRefused

#: What symbols end with, the longer ones first.
QUOTE_ASSETS = (
    *("USDT", "USDC", "RLUSD", "USD", "EUR", "GBP", "SGD", "AUD", "CAD", "HKD", "DAI"),
    *("BTC", "ETH", "BCH", "LTC", "FIL"),
)
#: Pairs of GUSD, which end as those of bases with a G at their end do in USD (``PAXGUSD``).
_IN_GUSD = frozenset(("BTCGUSD", "ETHGUSD", "USDCGUSD", "DAIGUSD", "USDTGUSD"))
_PERPETUAL = "PERP"
ALL_CHANNELS: tuple[VenueChannel, ...] = ("quote", "trade", "book")

_NATIVE = re.compile(r"[A-Z0-9]{2,40}")
_SIGNS = BookSigns(
    kind=re.compile(r'"type"\s*:\s*"(\w*)'),
    kinds=("l2_updates",),
    mark=re.compile(r'"changes"'),
    name=re.compile(r'"symbol"\s*:\s*"([A-Z0-9]{2,40})"'),
)
#: How the types begin that are known, and without anything for us.
_NO_NEWS = (
    "heartbeat",
    "auction",
    "block_trade",
    "candles_",
    "mark_price",
    "funding_",
    "subscri",
    "unsubscri",
)

_Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Side = Literal["buy", "sell"]
#: Trades of auctions say ``auction``.
_SIDES: dict[str, Side] = {"buy": "buy", "sell": "sell"}


class _Trade(Struct):
    event_id: _Id
    timestamp: Annotated[int, Meta(ge=0, lt=10**17)]
    price: str
    size: str = field(name="quantity")
    side: str
    symbol: str = ""
    #: Since 2023 or so.
    trade_id: _Id | None = field(name="tid", default=None)


class _Frame(Struct):
    kind: str = field(name="type", default="")
    symbol: str = ""
    changes: list[tuple[_Side, str, str]] | None = None
    trades: list[_Trade] | None = None
    sequence: _Id | None = field(name="socket_sequence", default=None)
    result: str = ""
    reason: str = ""
    message: str = ""


class _Kind(Struct):
    """Any frame, as far as is needed to see whether it is one that nobody asked for."""

    kind: str = field(name="type")
    sequence: _Id | None = field(name="socket_sequence", default=None)


class _Details(Struct):
    symbol: str
    base: str = field(name="base_currency")
    quote: str = field(name="quote_currency")
    product: str = field(name="product_type", default="spot")


_FRAME = msgspec.json.Decoder(_Frame)
_KIND = msgspec.json.Decoder(_Kind)
_TRADE = msgspec.json.Decoder(_Trade)
_DETAILS = msgspec.json.Decoder(_Details)


def native_of(symbol: str) -> str:
    """Turn ``BTC-USD`` into ``BTCUSD``, and ``BTC-GUSD-PERP`` into ``BTCGUSDPERP``."""
    return symbol.replace("-", "")


def name_of(native: str) -> str:
    """Turn ``BTCUSD`` into ``BTC-USD`` by the quote asset, and ``BTCGUSDPERP`` into ``BTC-GUSD-PERP``."""
    if native.endswith(_PERPETUAL) and native.removesuffix(_PERPETUAL).endswith("GUSD"):
        return f"{split_pair(native.removesuffix(_PERPETUAL), ('GUSD',))}-{_PERPETUAL}"
    return split_pair(native, ("GUSD",) if native in _IN_GUSD else QUOTE_ASSETS)


class GeminiParser(VenueParser):
    """The frames of one connection; keeps the top of each book.

    Args:
        venue: the part before the colon of every symbol.
        names: the venue's symbol to our name, if it is known what was subscribed to: frames of others are refused.
        channels: what is served; quotes come of the book, whether it is served or not.
    """

    def __init__(
        self,
        venue: str = "GEMINI",
        names: Mapping[str, str] | None = None,
        channels: Collection[VenueChannel] = ALL_CHANNELS,
    ) -> None:
        self._names = PairNames(venue, name_of, names)
        self._channels = channels
        # Its errors may have either spelling.
        self._spellings = {
            spelling: canonical(venue, name)
            for native, name in (names or {}).items()
            for spelling in (native, name)
        }
        self._subscribed = frozenset(names or ())
        #: The books that are served.
        self._tops: dict[str, BookTop] = {}
        #: The newest trade of each symbol, and the newest that came with a whole book.
        self._last_trade: dict[str, int] = {}
        self._known_trade: dict[str, int] = {}
        self._sequence: int | None = None
        self._gaps: list[tuple[Channel, str]] = []
        self._lost: set[str] = set()

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`."""
        try:
            message = _decoded(frame)
            self._count(message.sequence)
            return self._dispatch(message, frame, rts)
        except FrameError as error:
            if not isinstance(error, VenueRefused):
                self._distrust(frame)
            error.frame = frame[:512]
            raise

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse_body`: only names are learnt, as the venue sends its books over the WebSocket."""
        if "/symbols/details/" in _path(url):
            details = decode(_DETAILS, body)
            if details.product == "spot":
                self._names.learn(details.symbol.upper(), details.base, details.quote)
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        for native in sorted(self._tops):
            self._break(native)
        self._lost.clear()
        self._sequence = None

    def forget(self, symbol: str) -> None:
        """See `VenueParser.forget`."""
        for native in [each for each in self._subscribed.union(self._tops) if self._symbol(each) == symbol]:
            self._break(native)
            self._lost.discard(native)

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def take_lost(self) -> set[str]:
        """Return the venue's symbols whose book has to be asked for again, and forget them."""
        lost, self._lost = self._lost, set()
        return lost

    def is_live(self, symbol: str) -> bool:
        """See `feeds.book_feed.BookParser.is_live`."""
        return native_of(symbol.partition(":")[2]) in self._tops

    def _dispatch(self, message: _Frame, frame: str | bytes, rts: int) -> list[Tick]:
        if message.result == "error" or message.kind == "error":
            raise _refusal(message, self._spellings)
        match message.kind:
            case "l2_updates" if message.changes is not None:
                return self._book(message.symbol, message.changes, message.trades, rts)
            case "trade":
                return self._trade(decode(_TRADE, frame), rts)
            case kind if kind.startswith(_NO_NEWS):
                return []
        raise FrameError(f"a frame of no known kind: {message.kind[:40]!r}")

    def _book(
        self, native: str, changes: list[tuple[_Side, str, str]], trades: list[_Trade] | None, rts: int
    ) -> list[Tick]:
        symbol = self._symbol(native)
        bids: list[Level] = [(price, size) for side, price, size in changes if side == "buy"]
        asks: list[Level] = [(price, size) for side, price, size in changes if side == "sell"]
        if trades is not None:
            book = Book(
                sym=symbol,
                ts=rts,
                rts=rts,
                kind="snapshot",
                bids=snapshot_levels(bids, bids=True),
                asks=snapshot_levels(asks, bids=False),
            )
            missed = self._missed(native, trades, rts)
            self._tops[native] = BookTop()
            self._lost.discard(native)
            return [*missed, *self._served(native, book)]
        book = Book(
            sym=symbol,
            ts=rts,
            rts=rts,
            kind="delta",
            bids=delta_levels(bids, bids=True),
            asks=delta_levels(asks, bids=False),
        )
        # Changes of a book that nobody has seen whole are of no use to anybody.
        return self._served(native, book) if native in self._tops and changes else []

    def _served(self, native: str, book: Book) -> list[Tick]:
        """Return what a book brings; nothing, and it is given up, if it is torn."""
        top = self._tops[native]
        quote = top.apply(book)
        if top.is_torn:
            self._break(native)
            return []
        ticks: list[Tick] = [book] if "book" in self._channels else []
        if quote is not None and "quote" in self._channels:
            ticks.append(quote)
        return ticks

    def _missed(self, native: str, trades: list[_Trade], rts: int) -> list[Tick]:
        """Return the trades that came with a whole book and behind the last one served, oldest first."""
        ticks = [self._checked(native, trade, rts) for trade in trades]
        last = self._last_trade.get(native)
        newest = max((trade.event_id for trade in trades), default=0)
        self._known_trade[native] = newest
        self._last_trade[native] = max(newest, last or 0)
        if last is None or "trade" not in self._channels:
            return []
        oldest_first = sorted(zip(trades, ticks, strict=True), key=_event_id)
        return [tick for trade, tick in oldest_first if trade.event_id > last]

    def _trade(self, trade: _Trade, rts: int) -> list[Tick]:
        """Return a trade of the stream, unless it came with a whole book already."""
        native = trade.symbol
        tick = self._checked(native, trade, rts)
        self._last_trade[native] = max(trade.event_id, self._last_trade.get(native, 0))
        is_news = trade.event_id > self._known_trade.get(native, -1)
        return [tick] if is_news and "trade" in self._channels else []

    def _checked(self, native: str, trade: _Trade, rts: int) -> Trade:
        check_decimals(trade.price, trade.size)
        return Trade(
            sym=self._symbol(native),
            ts=epoch_to_ns(trade.timestamp),
            rts=rts,
            price=trade.price,
            size=trade.size,
            side=_SIDES.get(trade.side),
            id=str(trade.event_id if trade.trade_id is None else trade.trade_id),
        )

    def _count(self, sequence: int | None) -> None:
        """Give all books up where the connection's own count shows a hole."""
        if sequence is None:
            return
        if self._sequence is not None and sequence != self._sequence + 1:
            for native in sorted(self._tops):
                self._break(native)
        self._sequence = sequence

    def _distrust(self, frame: str | bytes) -> None:
        """Stop serving the books of which this unreadable frame may have been a change."""
        # One that hasn't come yet may have come in this frame.
        for native in _SIGNS.suspects(frame, self._subscribed.union(self._tops)):
            self._break(native)

    def _break(self, native: str) -> None:
        self._lost.add(native)
        if self._tops.pop(native, None) is not None:
            symbol = self._symbol(native)
            channels: tuple[VenueChannel, ...] = ("quote", "book")
            self._gaps += [(channel, symbol) for channel in channels if channel in self._channels]

    def _symbol(self, native: str) -> str:
        if _NATIVE.fullmatch(native) is None:
            raise FrameError(f"no symbol: {native[:80]!r}")
        return self._names.symbol(native)


def _decoded(frame: str | bytes) -> _Frame:
    try:
        return decode(_FRAME, frame)
    except FrameError:
        # Candles have changes of another shape.
        envelope = decode(_KIND, frame)
        if not envelope.kind.startswith(_NO_NEWS):
            raise
        return _Frame(kind=envelope.kind, sequence=envelope.sequence)


def _event_id(pair: tuple[_Trade, Trade]) -> int:
    return pair[0].event_id


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _refusal(message: _Frame, spellings: Mapping[str, str]) -> VenueRefused:
    text = ": ".join(part for part in (message.reason, message.message) if part) or "an error without a text"
    wrong = re.search(
        r"invalid|unsupported|malformed|notfound|not found|unknown|missing", text, re.IGNORECASE
    )
    busy = re.search(r"rate ?limit|too many|maintenance|system|unavailable|timeout", text, re.IGNORECASE)
    return VenueRefused(
        f"the venue says: {text[:300]}",
        permanent=wrong is not None and busy is None,
        symbols=named(f"{text} {message.symbol}", spellings),
    )
