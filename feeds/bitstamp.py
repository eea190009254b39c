"""Bitstamp: trades, books, and quotes from the top of the books, with snapshots of the books by REST.

Source: see `feeds.bitstamp_frames` for the frames and `feeds.bitstamp_depth` for how a book is joined. Limits of the
venue that show here (https://www.bitstamp.net/websocket/v2/ and /api/, from search excerpts, 2026-11-21):

* 1024 subscriptions a connection, each in a frame of its own of at most 512 bytes; a connection lives for at most
  90 days, and ends a few seconds after ``bts:request_reconnect``, so we leave when it comes.
* ``bts:heartbeat`` is answered: that tells a quiet market from a connection that is dead.
* 400 REST requests a second, and 10,000 in ten minutes.

Without the venue itself it can't be checked how old its REST answers may be, and which words its errors have. An
error may come without its channel: then it was about the subscriptions that are not confirmed. A pair that the venue
does not know may also just stay silent, and then its snapshot is an HTTP 404.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec
import trio
from pydantic import field_validator, model_validator

from broker.core.errors import FeedError
from feeds.base import FeedContext, VenueSocket
from feeds.bitstamp_frames import BitstampParser, native_of
from feeds.frames import canonical
from feeds.rest_snapshots import RestSnapshots
from feeds.venue import VenueFeed, VenueOptions, VenueParser, VenueRefused, Verb, checked_url

_MAX_SUBSCRIPTIONS = 1024
_HEARTBEAT_S = 20.0
#: A subscription that isn't confirmed so long behind an error is what the error was about.
_CONFIRMED_S = 5.0
_HEARTBEAT = '{"event":"bts:heartbeat"}'
_PAIR = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{2,10}(-PERP)?")


class Bitstamp(VenueFeed):
    """Bitstamp, live."""

    venue = "BITSTAMP"
    silence_s = 3 * _HEARTBEAT_S
    is_no_trade = re.compile('"bids"|"asks"|order_book_|live_orders_')

    class Options(VenueOptions):
        """Keys of a feed of the type ``bitstamp``."""

        type: Literal["bitstamp"] = "bitstamp"
        url: str = "wss://ws.bitstamp.net"
        rest_url: str = "https://www.bitstamp.net"

        @field_validator("symbols")
        @classmethod
        def _are_pairs(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
            for symbol in symbols:
                if _PAIR.fullmatch(symbol) is None:
                    raise ValueError(f"{symbol!r} is no pair of Bitstamp: write it like 'BTC-USD'")
            if len({native_of(symbol) for symbol in symbols}) < len(symbols):
                raise ValueError("two of the symbols are the same pair to the venue, which writes no dash")
            return symbols

        @field_validator("rest_url")
        @classmethod
        def _is_http(cls, url: str) -> str:
            return checked_url(url, "http://", "https://")

        @model_validator(mode="after")
        def _fit_one_connection(self) -> Bitstamp.Options:
            count = len(self.symbols) * len(_venue_channels(self))
            if count > _MAX_SUBSCRIPTIONS:
                raise ValueError(
                    f"{len(self.symbols)} symbols are {count} subscriptions, and the venue allows "
                    f"{_MAX_SUBSCRIPTIONS} a connection: split them over several feeds"
                )
            return self

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._names = {native_of(symbol): symbol for symbol in options.symbols}
        self.symbols = [canonical(self.venue, symbol) for symbol in options.symbols]
        #: An error of the venue without a channel, and when it will be clear which one it was about.
        self._unnamed: tuple[VenueRefused, float] | None = None

    def symbol_frames(self, verb: Verb, names: Sequence[str]) -> list[str]:
        """See `VenueFeed.symbol_frames`."""
        return [
            msgspec.json.encode({"event": f"bts:{verb}", "data": {"channel": prefix + native}}).decode()
            for native in map(native_of, names)
            for prefix in _venue_channels(self.options)
        ]

    def new_parser(self) -> BitstampParser:
        """See `VenueFeed.new_parser`."""
        return BitstampParser(self.venue, self._names, self.options.channels)

    def snapshot_url(self, native: str) -> str:
        """Return where the snapshot of a pair's book is."""
        return f"{self.options.rest_url}/api/v2/order_book/{native}/"

    async def connection(self, ctx: FeedContext) -> None:
        """See `VenueFeed.connection`; fetches the snapshots and sends heartbeats beside it."""
        failure: FeedError | None = None
        self._is_beating = False
        self._unnamed = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._snapshots = RestSnapshots(
                ctx,
                nursery,
                self.snapshot_url,
                self.flush,
                note_heard=self.note_heard,
                is_refusal=self._is_refusal,
            )
            # Caught in here, as a nursery would wrap it in a group.
            try:
                await super().connection(ctx)
            except FeedError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def connection_ended(self) -> None:
        """See `VenueFeed.connection_ended`."""
        self._snapshots.stop()

    async def after_frame(self, socket: VenueSocket, parser: VenueParser) -> None:
        """Start to fetch the snapshots that the frame made necessary."""
        assert isinstance(parser, BitstampParser)
        if not self._is_beating:
            self._is_beating = True
            self._nursery.start_soon(_beat, socket)
        for native in parser.take_wanted():
            self._snapshots.fetch(native, parser)
        if refused := self._snapshots.take_refused():
            native, words = refused
            raise VenueRefused(words, permanent=True, symbols={self._symbol(native)})
        self._blame(parser)

    async def take_refusal(
        self, ctx: FeedContext, socket: VenueSocket, parser: VenueParser, refusal: VenueRefused
    ) -> None:
        """See `VenueFeed.take_refusal`; an error without a channel is about what the venue does not confirm."""
        if refusal.permanent and not refusal.symbols and len(self.subscribed) > 1:
            self._unnamed = self._unnamed or (refusal, trio.current_time() + _CONFIRMED_S)
        else:
            await super().take_refusal(ctx, socket, parser, refusal)

    def _blame(self, parser: BitstampParser) -> None:
        if self._unnamed is None or trio.current_time() < self._unnamed[1]:
            return
        (refusal, _), self._unnamed = self._unnamed, None
        unconfirmed = [
            native
            for native in self._names
            for prefix in _venue_channels(self.options)
            if prefix + native not in parser.confirmed
        ]
        symbols = self.subscribed.intersection(map(self._symbol, unconfirmed))
        if symbols:
            raise VenueRefused(str(refusal), permanent=True, symbols=symbols)

    def _symbol(self, native: str) -> str:
        return canonical(self.venue, self._names[native])

    def _is_refusal(self, native: str, error: FeedError) -> bool:
        """Tell whether the venue does not have a pair: it has no page, and nothing has come of it."""
        return "HTTP 404" in str(error) and self._symbol(native) not in self._heard


async def _beat(socket: VenueSocket) -> None:
    """Ask for a sign of life now and then; that the connection has ended is for the reader to tell."""
    while True:
        await trio.sleep(_HEARTBEAT_S)
        try:
            await socket.send(_HEARTBEAT)
        except FeedError:
            return


def _venue_channels(options: VenueOptions) -> list[str]:
    books = ["diff_order_book_"] if {"book", "quote"}.intersection(options.channels) else []
    return books + (["live_trades_"] if "trade" in options.channels else [])
