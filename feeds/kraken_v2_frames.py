"""Kraken's frames, WebSocket API v2: objects with a ``channel``, or with a ``method`` where they answer. Pure.

Source: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/ (book, ticker, trade, status, heartbeat,
ping), as search excerpts of them said on 2026-11-21. Not obvious there:

* Prices and sizes are JSON numbers "containing full precision": zeros at the end are significant, and the checksum is
  over the digits as sent. So they are read as text, and the precisions of the ``instrument`` channel (about 1 MB for
  all pairs) are not needed.
* ``side`` of a trade is the taker's, as ours. The snapshot of ``trade`` is the last 50 trades, which are no news.
* ``trade_id`` is "a sequence number, unique per book": a hole in it is a gap.
* Books have had a ``timestamp`` in their updates for long, in their snapshots and in ``ticker`` only lately.
* A frame doesn't say with which depth its book was subscribed to; the answer to the subscription does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct, field

from broker.core.errors import FrameError
from broker.core.ticks import Level, Quote, Tick, Trade
from feeds.frames import check_decimals, decode, is_part_of_object, one_side, text_to_ns
from feeds.kraken_book import depth_of_snapshot
from feeds.kraken_parser import KrakenParser, book_ticks, refusal
from feeds.trade_ids import TradeIds

_CHANNEL_IN_TEXT = re.compile(r'"channel"\s*:\s*"(\w*)')
_PAIRS_IN_TEXT = re.compile(r'"symbol"\s*:\s*"([A-Za-z0-9.]+)\\?/([A-Za-z0-9.]+)"')
#: Wider than any number that a price can be.
_MOST_BITS = 200


class _Answer(Struct):
    channel: str | None = None
    symbol: str | None = None
    depth: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class _Envelope(Struct):
    """Any frame, as far as is needed to see which it is."""

    channel: str | None = None
    kind: str | None = field(name="type", default=None)
    content: Raw = field(name="data", default_factory=Raw)
    method: str | None = None
    success: bool | None = None
    result: _Answer | None = None
    error: str | None = None
    #: Written so where the venue refuses to read at all.
    other_error: str | None = field(name="Error", default=None)
    symbol: str | None = None


class _Level(Struct, gc=False):
    price: Any
    qty: Any


class _Book(Struct):
    symbol: str
    bids: list[_Level]
    asks: list[_Level]
    checksum: Annotated[int, Meta(ge=0, lt=2**32)]
    timestamp: str | None = None


class _Ticker(Struct):
    symbol: str
    bid: Any = None
    bid_qty: Any = None
    ask: Any = None
    ask_qty: Any = None
    timestamp: str | None = None


class _Trade(Struct):
    symbol: str
    side: Literal["buy", "sell"]
    price: Any
    qty: Any
    trade_id: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    timestamp: str


_ENVELOPE = msgspec.json.Decoder(_Envelope)
# The hook gets the text of every number with a point or an exponent where the type is Any.
_BOOKS = msgspec.json.Decoder(list[_Book], float_hook=str)
_TICKERS = msgspec.json.Decoder(list[_Ticker], float_hook=str)
_TRADES = msgspec.json.Decoder(list[_Trade], float_hook=str)


class KrakenV2Parser(KrakenParser):
    """The frames of one v2 connection.

    Args:
        venue: the part before the colon of every symbol.
        symbols: what was subscribed to, if it is known: frames of others are refused.
        depth: asked for, if it is known. What the venue confirms goes before it; where neither is known, the depth
            is as the snapshot looks.
    """

    def __init__(
        self, venue: str = "KRAKEN", symbols: Collection[str] | None = None, depth: int | None = None
    ) -> None:
        super().__init__(venue, symbols)
        self._depth = depth
        self._depths: dict[str, int] = {}
        self._trades = TradeIds()

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        super().reset()
        self._trades.clear()

    def forget(self, symbol: str) -> None:
        """See `VenueParser.forget`."""
        super().forget(symbol)
        self._trades.forget(symbol)

    def _ticks(self, frame: str | bytes, rts: int) -> list[Tick]:
        envelope = decode(_ENVELOPE, frame)
        if envelope.channel is None:
            self._answer(envelope)
            return []
        content = bytes(envelope.content)
        match envelope.channel:
            case "book":
                is_snapshot = _is_snapshot(envelope.kind)
                return [
                    tick for book in decode(_BOOKS, content) for tick in self._book(book, is_snapshot, rts)
                ]
            case "ticker":
                return [self._quote(ticker, rts) for ticker in decode(_TICKERS, content)]
            case "trade":
                trades = [self._trade(trade, rts) for trade in decode(_TRADES, content)]
                news = [trade for trade in trades if self._is_news(trade)]
                return [] if _is_snapshot(envelope.kind) else [*news]
        # Heartbeats, the system's state, candles and what else the venue has.
        return []

    def _answer(self, answer: _Envelope) -> None:
        """Look at the answer to a request; pongs are no news."""
        error = answer.error or answer.other_error
        if error is not None or answer.success is False:
            # What isn't there needn't be unsubscribed from.
            if answer.method != "unsubscribe":
                raise refusal(error, answer.symbol, self._spellings)
        elif answer.method is None:
            raise FrameError("a frame of no known shape")
        elif answer.result is not None and answer.result.channel == "book":
            self._book_answer(answer.method, answer.result)

    def _book_answer(self, method: str, result: _Answer) -> None:
        for symbol in self._known([result.symbol or ""]):
            if method == "subscribe" and result.depth is not None:
                self._depths[symbol] = result.depth
            elif method == "unsubscribe" and self.is_live(symbol):
                self._break(symbol)

    def _book(self, book: _Book, is_snapshot: bool, rts: int) -> list[Tick]:
        symbol = self._symbol(book.symbol)
        ts = rts if book.timestamp is None else text_to_ns(book.timestamp)
        bids, asks = _levels(book.bids), _levels(book.asks)
        if is_snapshot:
            depth = self._depths.get(symbol) or self._depth or depth_of_snapshot(bids, asks)
            sides = self._snapshot(symbol, depth, bids, asks, book.checksum)
        else:
            sides = self._update(symbol, bids, asks, book.checksum)
        return book_ticks(symbol, ts=ts, rts=rts, is_snapshot=is_snapshot, sides=sides)

    def _quote(self, ticker: _Ticker, rts: int) -> Quote:
        bid, bid_size = one_side(_text_or_none(ticker.bid), _text_or_none(ticker.bid_qty))
        ask, ask_size = one_side(_text_or_none(ticker.ask), _text_or_none(ticker.ask_qty))
        return Quote(
            sym=self._symbol(ticker.symbol),
            ts=rts if ticker.timestamp is None else text_to_ns(ticker.timestamp),
            rts=rts,
            bid=bid,
            bid_size=bid_size,
            ask=ask,
            ask_size=ask_size,
        )

    def _trade(self, trade: _Trade, rts: int) -> Trade:
        price, size = _text(trade.price), _text(trade.qty)
        check_decimals(price, size)
        return Trade(
            sym=self._symbol(trade.symbol),
            ts=text_to_ns(trade.timestamp),
            rts=rts,
            price=price,
            size=size,
            side=trade.side,
            id=str(trade.trade_id),
        )

    def _is_news(self, trade: Trade) -> bool:
        place = self._trades.take(trade.sym, int(trade.id))
        if place == "hole":
            self._gaps.append(("trade", trade.sym))
        return place != "old"

    def _suspects(self, text: str, *, is_torn: bool) -> Iterable[str]:
        """See `KrakenParser._suspects`.

        A torn or garbled frame mostly still shows what it was. What shows no channel but begins or ends like a frame
        may have been for any book; what does neither was none.
        """
        channel = _CHANNEL_IN_TEXT.search(text)
        if '"method"' in text or (channel is None and not is_part_of_object(text)):
            return []
        if channel is not None and not "book".startswith(channel[1]) and '"checksum"' not in text:
            return []
        pairs = [f"{base}/{quote}" for base, quote in _PAIRS_IN_TEXT.findall(text)] if channel else []
        return self._shown(pairs, is_torn=is_torn)


def _is_snapshot(kind: str | None) -> bool:
    if kind not in ("snapshot", "update"):
        raise FrameError(f"neither a snapshot nor an update: {str(kind)[:40]!r}")
    return kind == "snapshot"


def _levels(levels: list[_Level]) -> list[Level]:
    return [(_text(level.price), _text(level.qty)) for level in levels]


def _text(number: Any) -> str:
    """Return a number's digits as sent; texts are numbers too, as some of the venue's own examples have it."""
    if isinstance(number, str):
        return number
    if not isinstance(number, int) or isinstance(number, bool) or number.bit_length() > _MOST_BITS:
        raise FrameError(f"not a number: {type(number).__name__}")
    return str(number)


def _text_or_none(number: Any) -> str | None:
    return None if number is None else _text(number)
