"""Binance spot: quotes, trades and books of its combined streams, with snapshots of the books by REST.

Source: see `feeds.binance_frames` for the frames and `feeds.binance_depth` for how a book is joined. Limits
of the venue that show here: 1024 streams a connection, 5 messages a second from the client, and a REST
budget of 6000 a minute, of which a snapshot of 1000 levels takes 50. Streams of a symbol that is not there are no
error, but silent; its REST pages say so (``-1121``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import inf
from typing import Literal

import msgspec
import trio
from pydantic import field_validator, model_validator

from broker.core.errors import FeedError
from feeds.base import FeedContext, VenueSocket
from feeds.binance_frames import BinanceParser, split_symbol
from feeds.frames import canonical
from feeds.rest_snapshots import RestSnapshots
from feeds.venue import VenueFeed, VenueOptions, VenueParser, VenueRefused, Verb, checked_url

_STREAMS = {"quote": "bookTicker", "trade": "trade", "book": "depth@100ms"}
_MAX_STREAMS = 1024
#: Servers refuse longer request lines; with more streams than fit they are subscribed to by message.
_MAX_URL = 4000
_STREAMS_PER_MESSAGE = 200
#: How long a fetched snapshot holds its place where so many symbols would spend the budget: 120 of them a minute.
_PACE_S = 2.0
_UNPACED_SYMBOLS = 100
#: Of a symbol that is there something comes within this time, or it is looked whether it is there.
_PROBE_S = 30.0
_BAD_SYMBOL = re.compile(r'"code"\s*:\s*-1121\b')


class Binance(VenueFeed):
    """Binance spot, live."""

    venue = "BINANCE"
    counts_trades = True
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
        self._probe_at = inf
        self._combined_url = f"{options.url}/stream?streams={'/'.join(self._streams(options.symbols))}"

    def stream_url(self) -> str:
        """See `VenueFeed.stream_url`: the streams are part of it, if they fit."""
        return self._combined_url if self._is_in_url() else f"{self.options.url}/stream"

    def symbol_frames(self, verb: Verb, names: Sequence[str]) -> list[str]:
        """See `VenueFeed.symbol_frames`: nothing, where the URL says it all."""
        if self._is_in_url():
            return []
        streams = self._streams(names)
        starts = range(0, len(streams), _STREAMS_PER_MESSAGE)
        parts = [streams[start : start + _STREAMS_PER_MESSAGE] for start in starts]
        requests = [
            {"method": verb.upper(), "params": part, "id": number} for number, part in enumerate(parts, 1)
        ]
        return [msgspec.json.encode(request).decode() for request in requests]

    def snapshot_url(self, native: str) -> str:
        """Return where the snapshot of a symbol's book is."""
        return self._depth_url(native, levels=1000)

    def _depth_url(self, native: str, *, levels: int) -> str:
        return f"{self.options.rest_url}{self.depth_path}?symbol={native}&limit={levels}"

    def new_parser(self) -> BinanceParser:
        """See `VenueFeed.new_parser`."""
        return BinanceParser(self.venue, self._names)

    async def connection(self, ctx: FeedContext) -> None:
        """See `VenueFeed.connection`; fetches the snapshots beside it."""
        failure: FeedError | None = None
        async with trio.open_nursery() as nursery:
            pace_s = _PACE_S if len(self._names) > _UNPACED_SYMBOLS else 0.0
            self._snapshots = RestSnapshots(
                ctx,
                nursery,
                self.snapshot_url,
                self.flush,
                note_heard=self.note_heard,
                is_refusal=_is_refusal,
                pace_s=pace_s,
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
        assert isinstance(parser, BinanceParser)
        if refused := self._snapshots.take_refused():
            native, words = refused
            raise VenueRefused(words, permanent=True, symbols={canonical(self.venue, self._names[native])})
        self._probe()
        for native in parser.take_wanted():
            self._snapshots.fetch(native, parser)

    def will_come(self, symbols: Sequence[str]) -> None:
        """See `VenueFeed.will_come`."""
        self._probe_at = trio.current_time() + _PROBE_S

    def _probe(self) -> None:
        """Ask whether there are the symbols of which nothing has come: their streams are silent, and no error."""
        if trio.current_time() < self._probe_at:
            return
        self._probe_at = inf
        silent = self.subscribed - self._heard
        for native, name in self._names.items():
            if canonical(self.venue, name) in silent:
                self._snapshots.probe(native, self._depth_url(native, levels=5))

    def _streams(self, names: Iterable[str]) -> list[str]:
        natives = [name.replace("-", "").lower() for name in names]
        return [f"{native}@{_STREAMS[channel]}" for native in natives for channel in self.options.channels]

    def _is_in_url(self) -> bool:
        return len(self._combined_url) <= _MAX_URL and not self.options.on_demand


def _is_refusal(native: str, error: FeedError) -> bool:
    """Tell whether a failure says that there is no such symbol (``/docs/binance-spot-api-docs/errors``)."""
    return error.reason == "refused" and _BAD_SYMBOL.search(str(error)) is not None


def native_names(symbols: tuple[str, ...]) -> dict[str, str]:
    """Map the venue's spelling to ours: ``BTCUSDT`` to ``BTC-USDT``, whichever of the two was given."""
    return {name.replace("-", ""): name if "-" in name else split_symbol(name) for name in symbols}
