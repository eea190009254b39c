"""Bitstamp's frames, and the bodies of its REST pages that go with them. Pure.

Source: https://www.bitstamp.net/websocket/v2/ and https://www.bitstamp.net/api/ (``order_book``,
``trading-pairs-info``, ``markets``), from search excerpts, 2026-11-21. What is not obvious there:

* ``type`` of a trade is the aggressor's side: 0 buys, 1 sells.
* ``price`` and ``amount`` are JSON numbers, ``price_str`` and ``amount_str`` the same with the venue's digits.
* There is no channel of quotes: a quote is the top of the rebuilt book, whenever it changes. ``order_book_*``
  brings the top 100 several times a second; as quotes those would lag behind the book that is there anyway.
* A book that stays crossed has missed a change, so it is given up.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Raw, Struct, field

from broker.core.errors import FrameError
from broker.core.ticks import Book, Channel, Level, Side, Tick, Trade
from feeds.bitstamp_depth import DiffChain
from feeds.book_top import BookTop
from feeds.frames import check_decimals, checked_ns, decode, delta_levels, is_part_of_object, snapshot_levels
from feeds.pairs import PairNames, split_pair
from feeds.venue import VenueChannel, VenueParser, VenueRefused

#: What pairs end with, the longer ones first. Those that are base assets too, such as PYUSD, only if they quote pairs.
QUOTE_ASSETS = ("EURCV", "RLUSD", "USDT", "USDC", "EURC", "USD", "EUR", "GBP", "BTC", "ETH", "PAX", "DAI")
ALL_CHANNELS: tuple[VenueChannel, ...] = ("quote", "trade", "book")

_DIFFS, _TRADES = "diff_order_book_", "live_trades_"
#: Channels of which nothing changes a book.
_OTHERS = (_TRADES, "live_orders_", "order_book_", "detail_order_book_", "funding_rate_")
_PERPETUAL = "-perp"
_NATIVE = re.compile(r"[a-z0-9]{1,40}(?:-perp)?")
_MICROS = re.compile(r"[0-9]{1,16}")
_CHANNEL_IN_TEXT = re.compile(r'"channel"\s*:\s*"([a-z_]*_)([a-z0-9-]{1,60})"')
#: Events that are known, and without anything for us.
_NO_NEWS = frozenset(
    (
        *("bts:unsubscription_succeeded", "bts:heartbeat"),
        *("order_created", "order_changed", "order_deleted", "funding_rate_saved"),
    )
)
_SIDES: tuple[Side, Side] = ("buy", "sell")


class _Frame(Struct):
    event: str
    channel: str = ""
    content: Raw = field(name="data", default_factory=Raw)


class _Diff(Struct):
    microtimestamp: str
    bids: list[Level]
    asks: list[Level]


class _Trade(Struct):
    id: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    price: str = field(name="price_str")
    size: str = field(name="amount_str")
    side: Literal[0, 1] = field(name="type")
    microtimestamp: str


class _Failure(Struct):
    code: Any = None
    message: str = ""


class _Market(Struct):
    """One line of ``trading-pairs-info``, or of ``markets``, which calls its symbol otherwise."""

    name: str = ""
    url_symbol: str = ""
    market_symbol: str = ""


_FRAME = msgspec.json.Decoder(_Frame)
_DIFF = msgspec.json.Decoder(_Diff)
_TRADE = msgspec.json.Decoder(_Trade)
_FAILURE = msgspec.json.Decoder(_Failure)
_MARKETS = msgspec.json.Decoder(list[_Market])


def native_of(symbol: str) -> str:
    """Turn ``BTC-USD`` into ``btcusd``, and ``BTC-USD-PERP`` into ``btcusd-perp``."""
    pair = symbol.lower()
    return pair.removesuffix(_PERPETUAL).replace("-", "") + (_PERPETUAL if pair.endswith(_PERPETUAL) else "")


def name_of(native: str) -> str:
    """Turn ``btcusd`` into ``BTC-USD`` by the quote asset, and ``btcusd-perp`` into ``BTC-USD-PERP``."""
    pair = native.removesuffix(_PERPETUAL)
    return split_pair(pair.upper(), QUOTE_ASSETS) + native[len(pair) :].upper()


def pair_of_book_url(url: str) -> str | None:
    """Return the pair that a REST order book URL asks for; ``None`` for any other URL."""
    path = _path(url)
    where, _, pair = path.rpartition("/")
    return pair if where.endswith("/order_book") and _NATIVE.fullmatch(pair) else None


class BitstampParser(VenueParser):
    """The frames of one connection, and the snapshots that go with them.

    Args:
        venue: the part before the colon of every symbol.
        names: the venue's pair to our name, if it is known what was subscribed to: frames of others are refused.
        channels: what is served; quotes come of the book, whether it is served or not.
    """

    def __init__(
        self,
        venue: str = "BITSTAMP",
        names: Mapping[str, str] | None = None,
        channels: Collection[VenueChannel] = ALL_CHANNELS,
    ) -> None:
        self._names = PairNames(venue, name_of, names)
        self._channels = channels
        self._subscribed = frozenset(names or ())
        self._books: dict[str, DiffChain] = {}
        self._tops: dict[str, BookTop] = {}
        #: Pairs whose subscription was confirmed, and of which it isn't known since when by the venue's clock.
        self._undated: set[str] = set()
        self._gaps: list[tuple[Channel, str]] = []
        self._wanted: set[str] = set()
        #: Channels whose subscription was confirmed.
        self.confirmed: set[str] = set()

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`."""
        message: _Frame | None = None
        try:
            message = decode(_FRAME, frame)
            return self._dispatch(message, rts)
        except FrameError as error:
            if not isinstance(error, VenueRefused):
                self._distrust(frame, is_torn=message is None)
            error.frame = frame[:512]
            raise

    def parse_snapshot(self, native: str, body: str | bytes, rts: int) -> list[Tick]:
        """Take the body of a REST order book for one of the venue's pairs.

        Raises:
            FrameError: it is no such body; it may also be the venue's error message.
        """
        rest = decode(_DIFF, body)
        book = Book(
            sym=self._symbol(native),
            ts=_time(rest.microtimestamp),
            rts=rts,
            kind="snapshot",
            bids=snapshot_levels(rest.bids, bids=True),
            asks=snapshot_levels(rest.asks, bids=False),
        )
        return self._served(native, self._chain(native).snapshot(book))

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse_body`: order books, and the list of pairs for their names."""
        native = pair_of_book_url(url)
        if native is not None:
            return self.parse_snapshot(native, body, rts)
        if _path(url).endswith(("/trading-pairs-info", "/markets")):
            self._learn(decode(_MARKETS, body))
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        for native in self._books:
            self._break(native)
            self._books[native].is_confirmed = False
        self._undated.clear()
        self.confirmed.clear()
        self._wanted.clear()

    def forget(self, symbol: str) -> None:
        """See `VenueParser.forget`."""
        for native in [each for each in self._books if self._symbol(each) == symbol]:
            self._break(native)
            del self._books[native]
            self._undated.discard(native)
            self.confirmed.difference_update((_DIFFS + native, _TRADES + native))
            self._wanted.discard(native)

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def take_wanted(self) -> set[str]:
        """Return the venue's pairs that want a snapshot since the last call."""
        wanted, self._wanted = self._wanted, set()
        return wanted

    def wants_snapshot(self, native: str) -> bool:
        """Tell whether the book of this pair waits for a snapshot."""
        chain = self._books.get(native)
        return chain is not None and chain.wants_snapshot

    def _dispatch(self, frame: _Frame, rts: int) -> list[Tick]:
        channel = frame.channel
        match frame.event:
            case "data" if channel.startswith(_DIFFS):
                return self._delta(channel.removeprefix(_DIFFS), decode(_DIFF, bytes(frame.content)), rts)
            case "trade" if channel.startswith(_TRADES):
                return self._trade(channel.removeprefix(_TRADES), decode(_TRADE, bytes(frame.content)), rts)
            case "bts:subscription_succeeded" if channel.startswith(_DIFFS):
                self.confirmed.add(channel)
                self._confirm(channel.removeprefix(_DIFFS))
                return []
            case "bts:subscription_succeeded":
                self.confirmed.add(channel)
                return []
            case "bts:request_reconnect":
                raise VenueRefused("the venue asks to connect again", permanent=False)
            case "bts:error":
                raise _refusal(frame, self._pair_of(channel))
            case "data" if channel.startswith(_OTHERS):
                return []
            case event if event in _NO_NEWS:
                return []
        raise FrameError(f"an event of no known kind: {frame.event[:40]!r} on {channel[:60]!r}")

    def _confirm(self, native: str) -> None:
        self._symbol(native)
        self._chain(native).is_confirmed = True
        self._note(native)

    def _delta(self, native: str, diff: _Diff, rts: int) -> list[Tick]:
        delta = Book(
            sym=self._symbol(native),
            ts=_time(diff.microtimestamp),
            rts=rts,
            kind="delta",
            bids=delta_levels(diff.bids, bids=True),
            asks=delta_levels(diff.asks, bids=False),
        )
        chain = self._chain(native)
        books = chain.change(delta)
        if chain.is_broken:
            chain.is_broken = False
            self._tell(native)
        return [*self._served(native, books), *self._date(delta.ts)]

    def _trade(self, native: str, trade: _Trade, rts: int) -> list[Tick]:
        check_decimals(trade.price, trade.size)
        tick = Trade(
            sym=self._symbol(native),
            ts=_time(trade.microtimestamp),
            rts=rts,
            price=trade.price,
            size=trade.size,
            side=_SIDES[trade.side],
            id=str(trade.id),
        )
        books = self._date(tick.ts)
        return [tick, *books] if "trade" in self._channels else books

    def _date(self, at: int) -> list[Tick]:
        """Let books whose subscription was confirmed know the time of the first frame behind that."""
        if not self._undated:
            return []
        undated, self._undated = self._undated, set()
        return [tick for each in sorted(undated) for tick in self._served(each, self._books[each].hear(at))]

    def _served(self, native: str, books: Iterable[Book]) -> list[Tick]:
        """Return the ticks of what a chain lets through; none, and the book is given up, if it is torn."""
        ticks: list[Tick] = []
        for book in books:
            top = self._tops.setdefault(native, BookTop()) if book.kind == "snapshot" else self._tops[native]
            quote = top.apply(book)
            if top.is_torn:
                self._break(native)
                ticks = []
                break
            if "book" in self._channels and (book.kind == "snapshot" or book.bids or book.asks):
                ticks.append(book)
            if quote is not None and "quote" in self._channels:
                ticks.append(quote)
        self._note(native)
        return ticks

    def _note(self, native: str) -> None:
        chain = self._books[native]
        if chain.wants_snapshot:
            self._wanted.add(native)
        if chain.wants_time:
            self._undated.add(native)

    def _distrust(self, frame: str | bytes, *, is_torn: bool) -> None:
        """Stop serving the books of which this unreadable frame may have been a change.

        What shows its channel was of that one. What is torn before it (the channel comes last) and begins or ends
        like a frame may have been of any, unless it shows what only trades and orders have.
        """
        text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
        shown = _CHANNEL_IN_TEXT.search(text)
        suspects: list[str] = []
        # Where a frame is damaged, its pair may be too.
        if shown is not None and shown[1] == _DIFFS and (shown[2] in self._books or not is_torn):
            suspects = [shown[2]]
        elif shown is None or shown[1] not in _OTHERS:
            suspects = sorted(self._books) if is_part_of_object(text) and '"amount' not in text else []
        for native in suspects:
            if native in self._books:
                self._break(native)
                self._note(native)

    def _break(self, native: str) -> None:
        """Give a book up until a snapshot joins; tell of it, if it was served."""
        chain = self._books[native]
        was_live = chain.is_live
        chain.reset()
        if was_live:
            self._tell(native)

    def _tell(self, native: str) -> None:
        self._tops.pop(native, None)
        symbol = self._symbol(native)
        channels: tuple[VenueChannel, ...] = ("quote", "book")
        self._gaps += [(channel, symbol) for channel in channels if channel in self._channels]

    def _chain(self, native: str) -> DiffChain:
        return self._books.setdefault(native, DiffChain())

    def _pair_of(self, channel: str) -> frozenset[str]:
        """Return the symbol that a channel is of, if it was subscribed to."""
        for prefix in (_DIFFS, _TRADES):
            native = channel.removeprefix(prefix)
            if native != channel and native in self._subscribed:
                return frozenset((self._symbol(native),))
        return frozenset()

    def _learn(self, markets: list[_Market]) -> None:
        for market in markets:
            base, _, quote = market.name.partition("/")
            native = market.url_symbol or market.market_symbol
            if quote and not native.endswith(_PERPETUAL):
                self._names.learn(native, base, quote)

    def _symbol(self, native: str) -> str:
        if _NATIVE.fullmatch(native) is None:
            raise FrameError(f"no pair: {native[:80]!r}")
        return self._names.symbol(native)


def _path(url: str) -> str:
    try:
        return urlsplit(url).path.rstrip("/")
    except ValueError:
        return ""


def _time(micros: str) -> int:
    if _MICROS.fullmatch(micros) is None:
        raise FrameError(f"no time in microseconds: {micros[:40]!r}")
    return checked_ns(int(micros) * 1000)


def _refusal(frame: _Frame, symbols: frozenset[str]) -> VenueRefused:
    try:
        failure = msgspec.json.decode(frame.content, type=_Failure)
    except msgspec.MsgspecError:
        failure = _Failure()
    text = failure.message or "an error without a text"
    wrong = re.search(r"invalid|incorrect|bad subscription|not exist|unknown|unauthori", text, re.IGNORECASE)
    busy = re.search(r"rate|limit|too many|try again|unavailable|internal|timeout", text, re.IGNORECASE)
    on = f" (on {frame.channel[:60]})" if frame.channel else ""
    is_permanent = wrong is not None and busy is None
    return VenueRefused(f"the venue says: {text[:300]}{on}", permanent=is_permanent, symbols=symbols)
