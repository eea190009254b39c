"""Base of the simplest adapters: a venue as a table and a pure function. See ``examples/feeds/parse_only.py``.

What is not in the adapter is here: connecting, subscribing, decimals and times checked, symbols both ways, and
that no book is served with a hole in it. A delta that has no snapshot before it is refused. A frame that can't be
read while a book is served may have been a part of it: then the connection is given up, and the next one begins with
the venue's snapshots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, ClassVar, TypeAlias, TypeGuard

import msgspec
import trio
from pydantic import create_model, field_validator

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
from feeds.venue import VenueFeed, VenueOptions, VenueParser, Verb

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
    """A venue over one WebSocket, said by a few attributes and one function.

    Attributes:
        url: of the WebSocket; the option ``url`` replaces it.
        subscribe: what to send once connected, in order; by channel, if that is a table: then only what is
            configured is asked for. On demand, and without symbols that the venue refused, what has no ``{symbol}``
            or ``{symbols}`` in it is sent first, and the rest for the symbols that it is about.
        unsubscribe: what ends the subscriptions to some symbols, said in the same way, each with ``{symbol}`` or
            ``{symbols}`` in it. With it the adapter has the option ``on_demand``: it subscribes to what somebody wants
            (`FeedContext.wanted`), unsubscribes from what nobody has wanted for ``linger_s``, and connects only while
            there is something. A book that was unsubscribed from is served again from its next snapshot on.
        keepalive: what the venue has to be sent every `keepalive_s` seconds, or it ends the connection; pings of
            WebSocket itself are answered anyway. ``None``: nothing.
        keepalive_s: see above.
    """

    class Options(VenueOptions):
        """Keys of every adapter of this kind; those of your own inherit from it."""

        #: The adapter's own, if it is empty.
        url: str = ""
        #: Whether the adapter can begin and end subscriptions to single symbols.
        can_be_on_demand: ClassVar[bool] = False

        @field_validator("on_demand")
        @classmethod
        def _has_single(cls, on_demand: bool) -> bool:
            if on_demand and not cls.can_be_on_demand:
                raise ValueError(
                    "this adapter always subscribes to all of its symbols: it needs `subscribe` and `unsubscribe` "
                    f"with {ONE} or {ALL} in them"
                )
            return on_demand

    venue: str
    url: ClassVar[str]
    subscribe: ClassVar[Frames | Mapping[Channel, Frames]] = ()
    unsubscribe: ClassVar[Frames | Mapping[Channel, Frames]] = ()
    keepalive: ClassVar[Frame | None] = None
    keepalive_s: ClassVar[float] = 20.0

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        # The options have to know, as they refuse what the adapter can't do.
        can_be = all(any(map(_has_symbol, _all_of(each))) for each in (cls.subscribe, cls.unsubscribe))
        if can_be != cls.Options.can_be_on_demand:
            cls.Options = create_model(cls.Options.__name__, __base__=cls.Options, __module__=cls.__module__)  # type: ignore[misc]
            cls.Options.can_be_on_demand = can_be

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
        that is not as `broker.core.ticks` says. Where the venue refuses something, raise `feeds.venue.VenueRefused`:
        with ``symbols``, if it says which; then the feed goes on without these.

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
        """See `VenueFeed.subscribe_frames`: as they stand in the table."""
        return [
            text for each in self._configured(self.subscribe) for text in _filled_in(each, self._canonical)
        ]

    def opening_frames(self) -> list[str]:
        """See `VenueFeed.opening_frames`."""
        return [_text(each) for each in self._configured(self.subscribe) if not _has_symbol(each)]

    def symbol_frames(self, verb: Verb, names: Sequence[str]) -> list[str]:
        """See `VenueFeed.symbol_frames`."""
        frames = self._configured(self.subscribe if verb == "subscribe" else self.unsubscribe)
        natives = [self.venue_name(name) for name in names]
        return [text for each in frames if _has_symbol(each) for text in _filled_in(each, natives)]

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
            for text in _filled_in(self.keepalive or "", self._canonical):
                await socket.send(text)

    def _configured(self, frames: Frames | Mapping[Channel, Frames]) -> list[Frame]:
        """Return the frames of the configured channels, in their order."""
        if _is_table(frames):
            return [each for ch in self.options.channels if ch in frames for each in _list_of(frames[ch])]
        return _all_of(frames)


def _is_table(frames: Frames | Mapping[Channel, Frames]) -> TypeGuard[Mapping[Channel, Frames]]:
    return isinstance(frames, Mapping) and set(frames) <= {"quote", "trade", "book"}


def _all_of(frames: Frames | Mapping[Channel, Frames]) -> list[Frame]:
    """Return the frames of all channels."""
    if _is_table(frames):
        return [each for of_channel in frames.values() for each in _list_of(of_channel)]
    return _list_of(frames)  # type: ignore[arg-type]  # no table, so a frame or several


def _list_of(frames: Frames) -> list[Frame]:
    return [frames] if isinstance(frames, str | Mapping) else list(frames)


def _text(frame: Frame) -> str:
    return frame if isinstance(frame, str) else msgspec.json.encode(frame).decode()


def _has_symbol(frame: Frame) -> bool:
    text = _text(frame)
    return ONE in text or f'"{ALL}"' in text


def _filled_in(frame: Frame, natives: Iterable[str]) -> list[str]:
    """Return one frame with the venue's names in it: several, if it is one for each symbol."""
    names = list(natives)
    text = _text(frame).replace(f'"{ALL}"', msgspec.json.encode(names).decode())
    # As it stands within quotes; a name has nothing that would need a backslash.
    return [text.replace(ONE, name) for name in names] if ONE in text else [text]


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
        #: Books that were unsubscribed from: changes may still be on their way.
        self._left: set[str] = set()
        self._gaps: list[tuple[Channel, str]] = []

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """See `VenueParser.parse`; all of a frame's ticks, or none. But a delta without a snapshot goes alone."""
        made: Iterable[Tick] = ()
        try:
            made = self._feed.parse(frame, rts) or ()
            ticks = [self._checked(tick) for tick in made]
            served = [tick for tick in ticks if tick.ch in self._channels]
            continued = [tick for tick in served if self._continues(tick)]
            served = [tick for tick in served if tick.ch != "book" or tick.sym not in self._left]
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

    def forget(self, symbol: str) -> None:
        """See `VenueParser.forget`."""
        self._left.add(symbol)
        if symbol in self._books:
            self._books.discard(symbol)
            self._gaps.append(("book", symbol))

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
            self._left.discard(tick.sym)
        return tick.sym in self._books

    def _distrust(self, why: str) -> None:
        if self._books:
            self.broken = why
            self.reset()
