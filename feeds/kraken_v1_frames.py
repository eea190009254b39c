"""Kraken's frames, WebSocket API v1: arrays for market data, objects with an ``event`` for all else. Pure.

Source: https://docs.kraken.com/api/docs/websocket-v1/ (book, spread, ticker, trade) and
https://docs.kraken.com/exchange/api-reference/spot-websocket-v1/ (the same, subscriptionstatus, systemstatus,
heartbeat), as search excerpts of them said on 2026-11-21. Not obvious there:

* A book update has one object or two (asks and bids), before channel and pair; the checksum is in the last one. A
  snapshot has none.
* A level has a fourth field ``r`` where it is told again because it came back into the depth; its time is then an
  old one.
* ``side`` of a trade is the taker's, as ours. Trades have no id. A subscription begins with the last 50 trades,
  which are no news.
* ``ticker`` comes with trades only, ``spread`` with every change of the best prices, and has a time. A pair that has
  had a ``spread`` gets its quotes from there alone, or they could go back in time.
* The number in front of an array is deprecated, but is all that a frame without its end shows of what it was.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct, field

from broker.core.errors import FrameError
from broker.core.ticks import Channel, Level, Quote, Tick, Trade
from feeds.frames import check_decimals, checked_ns, decode, one_side
from feeds.kraken_book import depth_of_snapshot
from feeds.kraken_parser import KrakenParser, book_ticks, refusal

#: As many trades as a subscription begins with.
_TRADES_AT_FIRST = 50
_SECONDS = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?")
_BOOK = re.compile(r"book(?:-([1-9][0-9]{0,4}))?")
_END = re.compile(r'"([a-z]+)(?:-\d+)?"\s*,\s*"([A-Za-z0-9.]+)\\?/([A-Za-z0-9.]+)"\s*\]\s*\Z')
#: The channels, other than books, that are subscribed to.
_OURS: dict[str, Channel] = {"spread": "quote", "trade": "trade"}
_OTHER_CHANNELS = ("ticker", "trade", "spread", "ohlc")
_BEGINNING = re.compile(r"\[\s*(\d{1,15})\s*,")


class _Level(Struct, array_like=True, gc=False):
    price: str
    size: str
    time: str


class _Sides(Struct):
    asks: list[_Level] | None = field(name="a", default=None)
    bids: list[_Level] | None = field(name="b", default=None)
    all_asks: list[_Level] | None = field(name="as", default=None)
    all_bids: list[_Level] | None = field(name="bs", default=None)
    checksum: Annotated[str, Meta(pattern=r"^[0-9]{1,10}$")] | None = field(name="c", default=None)


class _Touch(Struct, array_like=True, gc=False):
    price: str
    #: The size in whole lots; of no use.
    whole: Any
    size: str


class _Ticker(Struct):
    ask: _Touch = field(name="a")
    bid: _Touch = field(name="b")


class _Spread(Struct, array_like=True, gc=False):
    bid: str
    ask: str
    time: str
    bid_size: str
    ask_size: str


class _Trade(Struct, array_like=True, gc=False):
    price: str
    size: str
    time: str
    side: Literal["b", "s", "buy", "sell"]


class _Subscription(Struct):
    name: str | None = None


class _Event(Struct):
    event: str
    status: str | None = None
    message: str | None = field(name="errorMessage", default=None)
    pair: str | None = None
    channel: str | None = field(name="channelName", default=None)
    number: int | None = field(name="channelID", default=None)
    subscription: _Subscription | None = None


_ARRAY = msgspec.json.Decoder(list[Raw])
_TEXT = msgspec.json.Decoder(str)
_EVENT = msgspec.json.Decoder(_Event)
_SIDES = msgspec.json.Decoder(_Sides)
_TICKER = msgspec.json.Decoder(_Ticker)
_SPREAD = msgspec.json.Decoder(_Spread)
_TRADES = msgspec.json.Decoder(list[_Trade])


class KrakenV1Parser(KrakenParser):
    """The frames of one v1 connection."""

    def __init__(self, venue: str = "KRAKEN", symbols: Collection[str] | None = None) -> None:
        super().__init__(venue, symbols)
        #: The books that the numbers in front of arrays stand for, as the venue has told; of other channels, none.
        self._numbers: dict[int, set[str]] = {}
        self._has_spread: set[str] = set()
        self._has_trades: set[str] = set()

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        super().reset()
        self._numbers.clear()
        self._has_trades.clear()

    def forget(self, symbol: str) -> None:
        """See `VenueParser.forget`."""
        super().forget(symbol)
        self._has_trades.discard(symbol)

    def _ticks(self, frame: str | bytes, rts: int) -> list[Tick]:
        if frame.lstrip()[:1] not in ("[", b"["):
            return self._event(decode(_EVENT, frame))
        parts = decode(_ARRAY, frame)
        if len(parts) < 4:
            raise FrameError("an array of no known shape")
        channel, pair = _text(bytes(parts[-2])), _text(bytes(parts[-1]))
        depth = _depth_of(channel)
        if depth is not None:
            return self._book(pair, depth, parts[1:-2], rts)
        content = bytes(parts[1])
        match channel:
            case "ticker":
                return self._quote(pair, decode(_TICKER, content), rts)
            case "spread":
                return self._spread(pair, decode(_SPREAD, content), rts)
            case "trade":
                return self._trades(pair, decode(_TRADES, content), rts)
        # Candles and what else the venue has; nobody asked for them.
        return []

    def _event(self, event: _Event) -> list[Tick]:
        """Look at what isn't market data; heartbeats, pongs and the system's state are no news."""
        if event.event == "error":
            raise refusal(event.message, event.pair, self._spellings)
        if event.event != "subscriptionStatus":
            return []
        channel = event.channel or (event.subscription.name if event.subscription else None) or ""
        if event.status == "error":
            # What isn't there needn't be unsubscribed from.
            if event.message != "Subscription Not Found":
                raise refusal(event.message, event.pair, self._spellings)
        elif event.status == "unsubscribed":
            self._ended(channel, event.pair)
        elif event.number is not None and event.pair is not None:
            books = self._known([event.pair]) if channel.startswith("book") else []
            self._numbers.setdefault(event.number, set()).update(books)
        return []

    def _ended(self, channel: str, pair: str | None) -> None:
        """Note that a subscription has ended; the venue may end it unasked, and then it is begun again."""
        for symbol in self._known([pair or ""]):
            if channel.startswith("book"):
                if self.is_live(symbol):
                    self._break(symbol)
            elif channel in _OURS and self._symbols is not None:
                # A recorder, of which the symbols aren't known, ends its subscriptions as it likes.
                self._ended_since.add((_OURS[channel], symbol))
                if channel == "trade" and symbol in self._has_trades:
                    self._has_trades.discard(symbol)
                    self._gaps.append(("trade", symbol))

    def _quote(self, pair: str, ticker: _Ticker, rts: int) -> list[Tick]:
        symbol = self._symbol(pair)
        bid, bid_size = one_side(ticker.bid.price, ticker.bid.size)
        ask, ask_size = one_side(ticker.ask.price, ticker.ask.size)
        if symbol in self._has_spread:
            return []
        # It has no time of its own.
        return [Quote(sym=symbol, ts=rts, rts=rts, bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size)]

    def _spread(self, pair: str, spread: _Spread, rts: int) -> list[Tick]:
        symbol = self._symbol(pair)
        bid, bid_size = one_side(spread.bid, spread.bid_size)
        ask, ask_size = one_side(spread.ask, spread.ask_size)
        ts = _to_ns(spread.time)
        self._has_spread.add(symbol)
        return [Quote(sym=symbol, ts=ts, rts=rts, bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size)]

    def _trades(self, pair: str, trades: list[_Trade], rts: int) -> list[Tick]:
        symbol = self._symbol(pair)
        check_decimals(*(number for trade in trades for number in (trade.price, trade.size)))
        ticks: list[Tick] = [
            Trade(
                sym=symbol,
                ts=_to_ns(trade.time),
                rts=rts,
                price=trade.price,
                size=trade.size,
                side="buy" if trade.side[0] == "b" else "sell",
                id="",
            )
            for trade in trades
        ]
        is_first = symbol not in self._has_trades
        self._has_trades.add(symbol)
        return [] if is_first and len(ticks) >= _TRADES_AT_FIRST else ticks

    def _book(self, pair: str, depth: int, contents: list[Raw], rts: int) -> list[Tick]:
        """Return the tick of a snapshot or change; ``depth`` is 0 where the channel's name does not say it."""
        symbol = self._symbol(pair)
        parts = [decode(_SIDES, bytes(content)) for content in contents]
        snapshots = [part for part in parts if part.all_asks is not None or part.all_bids is not None]
        changes = [part for part in parts if part.asks is not None or part.bids is not None]
        if len(snapshots) + len(changes) != len(parts) or bool(snapshots) == bool(changes):
            raise FrameError("neither a snapshot of a book nor a change")
        book = self._books.get(symbol)
        if book is not None and depth and book.depth != depth:
            # The same book was subscribed to with two depths: the first one is served.
            return []
        bids = [level for part in parts for level in (part.bids or part.all_bids or ())]
        asks = [level for part in parts for level in (part.asks or part.all_asks or ())]
        ts = max((_to_ns(level.time) for level in (*bids, *asks)), default=rts)
        checksum = next((int(part.checksum) for part in parts if part.checksum is not None), None)
        if snapshots:
            levels = _levels(bids), _levels(asks)
            sides = self._snapshot(symbol, depth or depth_of_snapshot(*levels), *levels, checksum)
        else:
            sides = self._update(symbol, _levels(bids), _levels(asks), checksum)
        return book_ticks(symbol, ts=ts, rts=rts, is_snapshot=bool(snapshots), sides=sides)

    def _suspects(self, text: str, *, is_torn: bool) -> Iterable[str]:
        """See `KrakenParser._suspects`: by its end, else by its number; any book, if neither says.

        An object is no market data, and what neither begins nor ends like an array was none either.
        """
        stripped = text.strip()
        if not stripped.startswith("[") and not stripped.endswith("]"):
            return []
        end = _END.search(text)
        if end is not None and end[1] in _OTHER_CHANNELS:
            return []
        if end is not None:
            return self._shown([f"{end[2]}/{end[3]}"], is_torn=is_torn)
        beginning = _BEGINNING.match(stripped)
        known = self._numbers.get(int(beginning[1])) if beginning is not None else None
        return self._all_books() if known is None else sorted(known)


@lru_cache(maxsize=4096)
def _text(text: bytes) -> str:
    """Decode the name of a channel or pair; cached, as they come again with every frame."""
    return decode(_TEXT, text)


@lru_cache(maxsize=64)
def _depth_of(channel: str) -> int | None:
    """Return the depth in the name of a book's channel, 0 if it has none; ``None``: it is no book's."""
    match = _BOOK.fullmatch(channel)
    return None if match is None else int(match[1] or 0)


def _levels(levels: list[_Level]) -> list[Level]:
    return [(level.price, level.size) for level in levels]


def _to_ns(seconds: str) -> int:
    match = _SECONDS.fullmatch(seconds)
    if match is None:
        raise FrameError(f"not a time in seconds: {seconds[:80]!r}")
    return checked_ns(int(match[1]) * 1_000_000_000 + int((match[2] or "").ljust(9, "0")))
