"""Binance spot: quotes, trades and books of its combined streams, with snapshots of the books by REST.

Source: see `feeds.binance_frames` for the frames and `feeds.binance_depth` for how a book is joined. Limits
of the venue that show here: 1024 streams a connection, 5 messages a second from the client, and a REST
budget of 6000 a minute, of which a snapshot of 1000 levels takes 50.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec
import trio
from pydantic import field_validator, model_validator

from broker.core.errors import FeedError
from feeds.base import FeedContext, VenueSocket
from feeds.binance_frames import BinanceParser, split_symbol
from feeds.frames import canonical
from feeds.rest_snapshots import RestSnapshots
from feeds.venue import VenueFeed, VenueOptions, VenueParser, checked_url

_STREAMS = {"quote": "bookTicker", "trade": "trade", "book": "depth@100ms"}
_MAX_STREAMS = 1024
#: Servers refuse longer request lines; with more streams than fit they are subscribed to by message.
_MAX_URL = 4000
_STREAMS_PER_MESSAGE = 200
#: How long a fetched snapshot holds its place where so many symbols would spend the budget: 120 of them a minute.
_PACE_S = 2.0
_UNPACED_SYMBOLS = 100


class Binance(VenueFeed):
    """Binance spot, live."""

    venue = "BINANCE"
    #: Path of a snapshot at the REST server.
    depth_path = "/api/v3/depth"

    class Options(VenueOptions):
        """Keys of a feed of the type ``binance``."""

        type: Literal["binance"] = "binance"
        url: str = "wss://stream.binance.com:9443"
        rest_url: str = "https://api.binance.com"

        @field_validator("symbols")
        @classmethod
        def _are_symbols(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
            for symbol in symbols:
                if re.fullmatch(r"[A-Z0-9]{2,20}(-[A-Z0-9]{2,20})?", symbol) is None:
                    raise ValueError(f"{symbol!r} is no symbol of Binance: write it like 'BTC-USDT'")
            if len(native_names(symbols)) < len(symbols):
                raise ValueError("a symbol is listed twice, with and without a dash")
            return symbols

        @field_validator("rest_url")
        @classmethod
        def _is_http(cls, url: str) -> str:
            return checked_url(url, "http://", "https://")

        @model_validator(mode="after")
        def _fit_one_connection(self) -> Binance.Options:
            streams = len(self.symbols) * len(self.channels)
            if streams > _MAX_STREAMS:
                raise ValueError(
                    f"{len(self.symbols)} symbols on {len(self.channels)} channels are {streams} streams, "
                    f"and the venue allows {_MAX_STREAMS} a connection: split them over several feeds"
                )
            return self

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._names = native_names(options.symbols)
        self.symbols = [canonical(self.venue, name) for name in self._names.values()]
        self._streams = [
            f"{native.lower()}@{_STREAMS[channel]}" for native in self._names for channel in options.channels
        ]
        self._combined_url = f"{options.url}/stream?streams={'/'.join(self._streams)}"

    def stream_url(self) -> str:
        """See `VenueFeed.stream_url`: the streams are part of it, if they fit."""
        return self._combined_url if self._fits_url() else f"{self.options.url}/stream"

    def subscribe_frames(self) -> list[str]:
        """See `VenueFeed.subscribe_frames`."""
        if self._fits_url():
            return []
        starts = range(0, len(self._streams), _STREAMS_PER_MESSAGE)
        parts = [self._streams[start : start + _STREAMS_PER_MESSAGE] for start in starts]
        requests = [
            {"method": "SUBSCRIBE", "params": part, "id": number} for number, part in enumerate(parts, 1)
        ]
        return [msgspec.json.encode(request).decode() for request in requests]

    def snapshot_url(self, native: str) -> str:
        """Return where the snapshot of a symbol's book is."""
        return f"{self.options.rest_url}{self.depth_path}?symbol={native}&limit=1000"

    def new_parser(self) -> BinanceParser:
        """See `VenueFeed.new_parser`."""
        return BinanceParser(self.venue, self._names)

    async def run(self, ctx: FeedContext) -> None:
        """See `VenueFeed.run`; fetches the snapshots beside it."""
        failure: FeedError | None = None
        async with trio.open_nursery() as nursery:
            pace_s = _PACE_S if len(self._names) > _UNPACED_SYMBOLS else 0.0
            self._snapshots = RestSnapshots(ctx, nursery, self.snapshot_url, self.flush, pace_s=pace_s)
            # Caught in here, as a nursery would wrap it in a group.
            try:
                await super().run(ctx)
            except FeedError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def after_frame(self, socket: VenueSocket, parser: VenueParser) -> None:
        """Start to fetch the snapshots that the frame made necessary."""
        assert isinstance(parser, BinanceParser)
        for native in parser.take_wanted():
            self._snapshots.fetch(native, parser)

    def _fits_url(self) -> bool:
        return len(self._combined_url) <= _MAX_URL


def native_names(symbols: tuple[str, ...]) -> dict[str, str]:
    """Map the venue's spelling to ours: ``BTCUSDT`` to ``BTC-USDT``, whichever of the two was given."""
    return {name.replace("-", ""): name if "-" in name else split_symbol(name) for name in symbols}
