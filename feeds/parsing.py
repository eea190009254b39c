"""Base of the simplest adapters: a venue as a table and a pure function. See ``examples/feeds/parse_only.py``.

What is not in the adapter is here: connecting, subscribing, decimals and times checked, symbols both ways, and
that no book is served with a hole in it. A delta that has no snapshot before it is refused. A frame that can't be
read while a book is served may have been a part of it: then the connection is given up, and the next one begins with
the venue's snapshots.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, ClassVar, TypeAlias

import msgspec
import trio
from pydantic import field_validator

from broker.core.errors import FeedError, FrameError
from broker.core.tick_lines import odd_values
from broker.core.ticks import Book, Channel, Tick
from feeds.base import FeedContext, VenueSocket
from feeds.mistakes import (
    is_symbol_of,
    mistake_in_parse,
    mistake_in_subscribe,
    mistake_in_url,
    mistake_in_venue,
    no_ticks,
    symbol_of,
    wrong_symbol,
    wrong_tick,
    wrong_value,
)
from feeds.venue import VenueFeed, VenueOptions, VenueParser

#: What is sent: text as it is, or an object that becomes JSON. ``{symbol}`` in it: once for each symbol, with the
#: venue's name in its place. A text that is ``{symbols}`` and nothing else becomes the list of all.
Frame: TypeAlias = str | Mapping[str, Any]
Frames: TypeAlias = Frame | Sequence[Frame]

ONE, ALL = "{symbol}", "{symbols}"
_JSON = msgspec.json.Decoder(float_hook=str)
#: Not a venue's channels, so nobody can configure them; an adapter that has them serves them.
_ALWAYS: frozenset[Channel] = frozenset({"bar", "status"})

_NO_SNAPSHOT = "a delta without a snapshot"


def read_json(frame: str | bytes) -> Any:
    """Return what a frame of JSON says. A number with a point or an exponent is a text, with the digits sent.

    Raises:
        FrameError: it is not JSON.
    """
    try:
        return _JSON.decode(frame)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {error}", frame, kind="not JSON") from None


class ParseFeed(VenueFeed):
    """A venue over one WebSocket, said by three attributes and one function.

    Attributes:
        url: of the WebSocket; the option ``url`` replaces it.
        subscribe: what to send once connected, in order; by channel, if that is a table: then only what is
            configured is asked for.
        keepalive: what the venue has to be sent every `keepalive_s` seconds, or it ends the connection; pings of
            WebSocket itself are answered anyway. ``None``: nothing.
        keepalive_s: see above.
    """

    class Options(VenueOptions):
        """Keys of every adapter of this kind; those of your own inherit from it."""

        #: The adapter's own, if it is empty.
        url: str = ""

        @field_validator("on_demand")
        @classmethod
        def _has_all(cls, on_demand: bool) -> bool:
            if on_demand:
                raise ValueError("this adapter always subscribes to all of its symbols")
            return on_demand

    venue: str
    url: ClassVar[str]
    subscribe: ClassVar[Frames | Mapping[Channel, Frames]] = ()
    keepalive: ClassVar[Frame | None] = None
    keepalive_s: ClassVar[float] = 20.0

    def __init__(self, options: Options) -> None:
        """Raises ValueError where the adapter, or a symbol in its options, can't be right."""
        super().__init__(options)
        kind = type(self)
        mistake = (
            mistake_in_venue(getattr(self, "venue", None))
            or ("" if options.url else mistake_in_url(getattr(self, "url", None)))
            or mistake_in_subscribe(self.subscribe)
            or mistake_in_parse(kind.parse, ParseFeed.parse)
        )
        if mistake:
            raise ValueError(mistake)
        self.symbols = [symbol_of(self.venue, name) for name in options.symbols]
        self._canonical = {
            self.venue_name(name): symbol for name, symbol in zip(options.symbols, self.symbols, strict=True)
        }
        self._keepalive_at = inf

    # ── what an adapter says ─────────────────────────────────────────────────────────────────────

    def parse(self, frame: str | bytes, rts: int) -> Iterable[Tick]:
        """Return the ticks of one frame, none for what is no news. Pure.

        Whatever it raises refuses the frame: ``msg["price"]`` needs no look at whether it is there. So does a tick
        that is not as `broker.core.ticks` says.

        Args:
            rts: when it was received, in nanoseconds of Unix time; for the ticks' ``rts``, and for their ``ts``
                where the venue does not say.
        """
        raise NotImplementedError

    def venue_name(self, name: str) -> str:
        """Return the venue's spelling of a symbol (``BTC-USD``); the same, unless you say otherwise."""
        return name

    def symbol(self, venue_name: str) -> str:
        """Return the canonical symbol, with the venue, of a name in the venue's spelling.

        Raises:
            FrameError: it was not subscribed to.
        """
        try:
            return self._canonical[venue_name]
        except (KeyError, TypeError):
            raise FrameError(f"{venue_name!r:.80} was not subscribed to", kind="not subscribed to") from None

    def has(self, venue_name: object) -> bool:
        """Tell whether a name in the venue's spelling is one of the symbols: for a venue that sends others, too."""
        return isinstance(venue_name, str) and venue_name in self._canonical

    # ── what is done with it (feeds.venue.VenueFeed) ─────────────────────────────────────────────

    def stream_url(self) -> str:
        """See `VenueFeed.stream_url`."""
        return self.options.url or self.url

    def subscribe_frames(self) -> list[str]:
        """See `VenueFeed.subscribe_frames`."""
        frames = self.subscribe
        if isinstance(frames, Mapping) and set(frames) <= {"quote", "trade", "book"}:
            return [
                text for ch in self.options.channels if ch in frames for text in self._filled_in(frames[ch])
            ]
        return list(self._filled_in(frames))  # type: ignore[arg-type]  # a frame, or several

    def new_parser(self) -> VenueParser:
        """See `VenueFeed.new_parser`."""
        return _Parser(self)

    async def after_frame(self, socket: VenueSocket, parser: VenueParser) -> None:
        """See `VenueFeed.after_frame`."""
        assert isinstance(parser, _Parser)
        if parser.broken:
            raise FeedError(f"connecting again, as a frame may have been a part of a book: {parser.broken}")

    async def connection(self, ctx: FeedContext) -> None:
        """See `VenueFeed.connection`."""
        self._keepalive_at = inf if self.keepalive is None else trio.current_time() + self.keepalive_s
        await super().connection(ctx)

    async def _receive(self, socket: VenueSocket, heard_at: float) -> str | bytes | None:
        while True:
            with trio.move_on_at(self._keepalive_at):
                return await super()._receive(socket, heard_at)
            self._keepalive_at = trio.current_time() + self.keepalive_s
            for frame in self._filled_in(self.keepalive or ()):
                await socket.send(frame)

    def _filled_in(self, frames: Frames) -> Iterator[str]:
        for frame in [frames] if isinstance(frames, str | Mapping) else frames:
            text = frame if isinstance(frame, str) else msgspec.json.encode(frame).decode()
            names = list(self._canonical)
            text = text.replace(f'"{ALL}"', msgspec.json.encode(names).decode())
            if ONE in text:
                # As it stands within quotes; a name has nothing that would need a backslash.
                yield from (text.replace(ONE, name) for name in names)
            else:
                yield text


class _Parser(VenueParser):
    """The frames of one connection; remembers which books are whole.

    Attributes:
        broken: why the connection has to be given up; empty if it has not.
    """

    def __init__(self, feed: ParseFeed) -> None:
        self.broken = ""
        self._feed = feed
        self._channels = _ALWAYS.union(feed.options.channels)
        self._books: set[str] = set()
        self._gaps: list[tuple[Channel, str]] = []

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`; all of a frame's ticks, or none. But a delta without a snapshot goes alone."""
        made: Iterable[Tick] = ()
        try:
            made = self._feed.parse(frame, rts) or ()
            ticks = [self._checked(tick) for tick in made]
            served = [tick for tick in ticks if tick.ch in self._channels]
            continued = [tick for tick in served if self._continues(tick)]
        except FrameError as error:
            error.frame = error.frame or frame[:512]
            self._distrust(str(error))
            raise
        except Exception as error:
            # A mistake in the adapter, or something that it does not know of the venue: either way the frame's.
            text = no_ticks(made, error)
            self._distrust(text)
            raise FrameError(text, frame, kind=type(error).__name__) from error
        if served and not continued:
            raise FrameError(f"a delta of {served[0].sym} before its snapshot", frame, kind=_NO_SNAPSHOT)
        return continued

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """Return nothing: such an adapter asks no page."""
        return []

    def reset(self) -> None:
        """See `VenueParser.reset`."""
        self._gaps += [("book", sym) for sym in sorted(self._books)]
        self._books.clear()

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """See `VenueParser.take_gaps`."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def _checked(self, tick: Tick) -> Tick:
        try:
            checked: Tick = msgspec.convert(msgspec.to_builtins(tick), Tick)
        except (msgspec.ValidationError, TypeError) as error:
            raise wrong_tick(tick, error, self._feed.venue) from None
        for field, value in odd_values(checked):
            raise wrong_value(checked, field, value)
        if not is_symbol_of(checked.sym, self._feed.venue):
            raise wrong_symbol(checked.sym, self._feed.venue)
        return checked

    def _continues(self, tick: Tick) -> bool:
        """Tell whether a tick can be served; note the snapshots."""
        if not isinstance(tick, Book):
            return True
        if tick.kind == "snapshot":
            self._books.add(tick.sym)
        return tick.sym in self._books

    def _distrust(self, why: str) -> None:
        if self._books:
            self.broken = why
            self.reset()
