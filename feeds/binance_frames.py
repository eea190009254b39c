"""Binance's frames: combined streams and single ones, spot and USD-M futures. Pure.

Source: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams and
https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints (``/api/v3/depth``),
read 2026-11-21. What is not obvious there:

* ``m``: the buyer was the maker, so the aggressor sold.
* A spot ``bookTicker`` and a REST snapshot carry no time: theirs is when they were received.
* ``trade`` and ``aggTrade`` tell the same executions; of a symbol that has both only the kind seen first is
  served, else its volume would count twice.
* ``t`` and ``a`` have no holes within a symbol, as recordings show; the page doesn't say. A hole in them is a gap.
* Times are milliseconds, or microseconds on a connection with ``timeUnit=MICROSECOND``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Meta, Raw, Struct, field

from broker.core.errors import FrameError
from broker.core.ticks import Book, Channel, Level, Quote, Tick, Trade
from feeds.binance_depth import DepthChain, DepthEvent
from feeds.frames import (
    canonical,
    check_decimals,
    decode,
    delta_levels,
    epoch_to_ns,
    one_side,
    snapshot_levels,
)
from feeds.trade_ids import TradeIds
from feeds.venue import VenueParser, VenueRefused

#: What symbols end with, the longer ones first: the longest that fits is the quote asset.
QUOTE_ASSETS = (
    *("FDUSD", "BFUSD"),
    *(
        "USDT",
        "USDC",
        "TUSD",
        "BUSD",
        "USDP",
        "USDS",
        "USD1",
        "XUSD",
        "AEUR",
        "EURI",
        "IDRT",
        "BIDR",
        "BVND",
        "BKRW",
        "DOGE",
    ),
    *(
        "PAX",
        "DAI",
        "UST",
        "VAI",
        "EUR",
        "GBP",
        "TRY",
        "BRL",
        "JPY",
        "AUD",
        "RUB",
        "UAH",
        "NGN",
        "ZAR",
        "PLN",
    ),
    *("RON", "ARS", "MXN", "COP", "CZK", "IDR", "USD", "BTC", "ETH", "BNB", "XRP", "TRX", "DOT", "SOL"),
)
_STREAM = re.compile(r"(?:[^@\s]{1,64}|)@[!-~]{1,64}|![!-~]{1,64}")

_Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Epoch = Annotated[int, Meta(ge=0, lt=10**17)]


class _Failure(Struct):
    code: int = 0
    msg: str = ""


class _Envelope(Struct):
    """Any frame, as far as is needed to see which it is."""

    stream: str | None = None
    content: Raw = field(name="data", default_factory=Raw)
    kind: str | None = field(name="e", default=None)
    snapshot_id: int | None = field(name="lastUpdateId", default=None)
    #: Only the frames without a ``kind`` need it: a single ``bookTicker`` of spot.
    update_id: Any = field(name="u", default=None)
    request_id: int | str | None = field(name="id", default=None)
    error: _Failure | None = None
    code: int | None = None
    msg: str | None = None


class _BookTicker(Struct):
    symbol: str = field(name="s")
    bid: str = field(name="b")
    bid_size: str = field(name="B")
    ask: str = field(name="a")
    ask_size: str = field(name="A")
    time: _Epoch | None = field(name="T", default=None)


class _Trade(Struct):
    kind: Literal["trade"] = field(name="e")
    id: _Id = field(name="t")
    symbol: str = field(name="s")
    price: str = field(name="p")
    size: str = field(name="q")
    time: _Epoch = field(name="T")
    is_buyer_maker: bool = field(name="m")
    #: Futures only: insurance fund, ADL and ``NA`` (nothing, at a price of zero) are no public executions.
    origin: str = field(name="X", default="MARKET")


class _AggTrade(Struct):
    kind: Literal["aggTrade"] = field(name="e")
    id: _Id = field(name="a")
    symbol: str = field(name="s")
    price: str = field(name="p")
    size: str = field(name="q")
    time: _Epoch = field(name="T")
    is_buyer_maker: bool = field(name="m")


class _Depth(Struct):
    kind: Literal["depthUpdate"] = field(name="e")
    symbol: str = field(name="s")
    time: _Epoch = field(name="E")
    first: _Id = field(name="U")
    last: _Id = field(name="u")
    bids: list[Level] = field(name="b")
    asks: list[Level] = field(name="a")
    previous: Annotated[int, Meta(ge=-1, le=2**63 - 1)] | None = field(name="pu", default=None)


class _RestDepth(Struct):
    snapshot_id: _Id = field(name="lastUpdateId")
    bids: list[Level]
    asks: list[Level]
    time: _Epoch | None = field(name="T", default=None)


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_BOOK_TICKER = msgspec.json.Decoder(_BookTicker)
_TRADE = msgspec.json.Decoder(_Trade)
_AGG_TRADE = msgspec.json.Decoder(_AggTrade)
_DEPTH = msgspec.json.Decoder(_Depth)
_REST_DEPTH = msgspec.json.Decoder(_RestDepth)


@lru_cache(maxsize=16_384)
def split_symbol(native: str) -> str:
    """Turn ``BTCUSDT`` into ``BTC-USDT``; what ends with no known quote asset stays as it is."""
    for quote in QUOTE_ASSETS:
        if native.endswith(quote) and len(native) > len(quote):
            return f"{native[: -len(quote)]}-{quote}"
    return native


def symbol_of_depth_url(url: str) -> str | None:
    """Return the symbol that a REST depth URL asks for; ``None`` for any other URL."""
    try:
        parts = urlsplit(url)
        names = parse_qs(parts.query).get("symbol", [])
    except ValueError:
        return None
    return names[0] if parts.path.endswith("/depth") and len(names) == 1 else None


class BinanceParser(VenueParser):
    """The frames of one connection, and the snapshots that go with them.

    Args:
        venue: the part before the colon of every symbol.
        names: the venue's symbol to ours, if it is known what was subscribed to; frames of others are then
            refused. Without it names are split by `split_symbol`.
    """

    def __init__(self, venue: str = "BINANCE", names: Mapping[str, str] | None = None) -> None:
        self._venue = venue
        self._names = None if names is None else dict(names)
        self._books: dict[str, DepthChain] = {}
        self._trade_kind: dict[str, str] = {}
        self._trades = TradeIds()
        self._gaps: list[tuple[Channel, str]] = []
        self._wanted: set[str] = set()

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`."""
        try:
            return self._dispatch(decode(_ENVELOPE, frame), frame, rts)
        except FrameError as error:
            error.frame = frame[:512]
            raise

    def parse_snapshot(self, native: str, body: str | bytes, rts: int) -> list[Tick]:
        """Take the body of a REST depth answer for one of the venue's symbols.

        Raises:
            FrameError: it is no such body; it may also be the venue's error message.
        """
        rest = decode(_REST_DEPTH, body)
        book = Book(
            sym=self._symbol(native),
            ts=rts if rest.time is None else epoch_to_ns(rest.time),
            rts=rts,
            kind="snapshot",
            bids=snapshot_levels(rest.bids, bids=True),
            asks=snapshot_levels(rest.asks, bids=False),
        )
        chain = self._books.setdefault(native, DepthChain())
        return self._served(native, chain, chain.snapshot(rest.snapshot_id, book))

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse_body`: REST depth answers are needed, others not."""
        native = symbol_of_depth_url(url)
        return [] if native is None else self.parse_snapshot(native, body, rts)

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        for native, chain in self._books.items():
            if chain.is_live:
                self._gaps.append(("book", self._symbol(native)))
            chain.reset()
        self._trades.clear()
        self._wanted.clear()

    def forget(self, symbol: str) -> None:
        """See `VenueParser.forget`."""
        for native in [each for each in self._books if self._symbol(each) == symbol]:
            if self._books.pop(native).is_live:
                self._gaps.append(("book", symbol))
            self._wanted.discard(native)
        for native in [each for each in self._trade_kind if self._symbol(each) == symbol]:
            self._trades.forget(native)

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def take_wanted(self) -> set[str]:
        """Return the venue's symbols that began to want a snapshot since the last call."""
        wanted, self._wanted = self._wanted, set()
        return wanted

    def wants_snapshot(self, native: str) -> bool:
        """Tell whether events of this symbol wait for a snapshot."""
        chain = self._books.get(native)
        return chain is not None and chain.wants_snapshot

    def _dispatch(self, envelope: _Envelope, frame: str | bytes, rts: int) -> list[Tick]:
        if envelope.stream is not None:
            return self._combined(envelope.stream, bytes(envelope.content), rts)
        if envelope.kind is not None:
            return self._event(envelope.kind, None, frame, rts)
        if envelope.snapshot_id is not None:
            return self.parse_snapshot(self._only_symbol(), frame, rts)
        if envelope.error is not None or envelope.msg is not None:
            failure = envelope.error or _Failure(envelope.code or 0, envelope.msg or "")
            raise VenueRefused(f"the venue says: {failure.msg[:300]} ({failure.code})", permanent=False)
        if envelope.update_id is not None:
            return self._event("bookTicker", None, frame, rts)
        if envelope.request_id is not None:
            return []
        raise FrameError("a frame of no known shape")

    def _combined(self, stream: str, content: bytes, rts: int) -> list[Tick]:
        if _STREAM.fullmatch(stream) is None or content[:1] not in (b"{", b"["):
            raise FrameError(f"a frame of no known shape, of the stream {stream[:80]!r}")
        name, _, kind = stream.partition("@")
        kind, _, _ = kind.partition("@")
        return self._event("depthUpdate" if kind == "depth" else kind, name.upper(), content, rts)

    def _event(self, kind: str, name: str | None, content: str | bytes, rts: int) -> list[Tick]:
        """Parse one event; ``name`` is the symbol in its stream's name, where it came with one."""
        match kind:
            case "bookTicker":
                return self._quote(decode(_BOOK_TICKER, content), name, rts)
            case "depthUpdate":
                return self._delta(decode(_DEPTH, content), name, rts)
            case "trade":
                return self._trade(decode(_TRADE, content), name, rts)
            case "aggTrade":
                return self._trade(decode(_AGG_TRADE, content), name, rts)
        # Candles, day statistics, partial books and what else the venue has; nobody asked for them.
        return []

    def _quote(self, event: _BookTicker, name: str | None, rts: int) -> list[Tick]:
        # A stream of all symbols has none in its name.
        symbol = self._symbol(_same(event.symbol, name))
        bid, bid_size = one_side(event.bid, event.bid_size)
        ask, ask_size = one_side(event.ask, event.ask_size)
        ts = rts if event.time is None else epoch_to_ns(event.time)
        quote = Quote(sym=symbol, ts=ts, rts=rts, bid=bid, bid_size=bid_size, ask=ask, ask_size=ask_size)
        return [quote]

    def _trade(self, event: _Trade | _AggTrade, name: str | None, rts: int) -> list[Tick]:
        symbol = self._symbol(_same(event.symbol, name))
        check_decimals(event.price, event.size)
        trade = Trade(
            sym=symbol,
            ts=epoch_to_ns(event.time),
            rts=rts,
            price=event.price,
            size=event.size,
            side="sell" if event.is_buyer_maker else "buy",
            id=str(event.id),
        )
        if self._trade_kind.setdefault(event.symbol, event.kind) != event.kind:
            return []
        place = self._trades.take(event.symbol, event.id)
        if place == "hole":
            self._gaps.append(("trade", symbol))
        is_public = isinstance(event, _AggTrade) or event.origin == "MARKET"
        return [trade] if is_public and place != "old" else []

    def _delta(self, event: _Depth, name: str | None, rts: int) -> list[Tick]:
        symbol = self._symbol(_same(event.symbol, name))
        if event.last < event.first:
            raise FrameError(f"a depth event that ends ({event.last}) before it begins ({event.first})")
        delta = Book(
            sym=symbol,
            ts=epoch_to_ns(event.time),
            rts=rts,
            kind="delta",
            bids=delta_levels(event.bids, bids=True),
            asks=delta_levels(event.asks, bids=False),
        )
        chain = self._books.setdefault(event.symbol, DepthChain())
        waited = chain.wants_snapshot
        books = chain.event(DepthEvent(event.first, event.last, event.previous, delta))
        if chain.wants_snapshot and not waited:
            self._wanted.add(event.symbol)
        return self._served(event.symbol, chain, books)

    def _served(self, native: str, chain: DepthChain, books: list[Book]) -> list[Tick]:
        if chain.is_broken:
            chain.is_broken = False
            self._gaps.append(("book", self._symbol(native)))
        return [book for book in books if book.kind == "snapshot" or book.bids or book.asks]

    def _symbol(self, native: str) -> str:
        if self._names is None:
            return canonical(self._venue, split_symbol(native))
        if native not in self._names:
            raise FrameError(f"nobody subscribed to {native[:80]!r}")
        return canonical(self._venue, self._names[native])

    def _only_symbol(self) -> str:
        """Return whose book a snapshot without a name is: the only one's that there have been events of."""
        if len(self._books) != 1:
            seen = f"{len(self._books)} symbols have" if self._books else "no symbol has"
            raise FrameError(f"a snapshot that doesn't say of which symbol, and {seen} depth events so far")
        return next(iter(self._books))


def _same(symbol: str, name: str | None) -> str:
    if name and not name.startswith("!") and name != symbol:
        raise FrameError(f"an event of {symbol[:40]!r} in the stream of {name[:40]!r}")
    return symbol
