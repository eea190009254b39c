"""Base of the feeds that follow a venue over one WebSocket: connect, subscribe, parse, publish.

A venue is a URL, a few frames to subscribe with, and a pure parser for each connection. What the parser
can't say in ticks (a book that broke) it keeps for `VenueParser.take_gaps`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from math import inf
from typing import Annotated, ClassVar, Literal, Protocol

import trio
from pydantic import Field, field_validator

from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.ticks import Channel, Status, Tick, Trade
from feeds.base import Feed, FeedContext, FeedOptions, VenueSocket
from feeds.frames import is_json
from feeds.refusals import Refusals

VenueChannel = Literal["quote", "trade", "book"]
Verb = Literal["subscribe", "unsubscribe"]
#: How often a feed on demand looks at what is wanted: venues count the messages they get.
DEMAND_S = 1.0


class VenueRefused(FrameError):
    """The frame is the venue's own word that it refuses something.

    Attributes:
        permanent: asking again is of no use.
        symbols: those that it is about, canonical; none: the venue does not say, or it is about all of them.
    """

    def __init__(
        self,
        message: str,
        frame: str | bytes = b"",
        *,
        permanent: bool,
        symbols: Collection[str] = (),
    ) -> None:
        super().__init__(message, frame)
        self.permanent = permanent
        self.symbols = frozenset(symbols)


class VenueParser(Protocol):
    """A venue's frames of one connection, and recorded HTTP bodies, turned into ticks. Pure.

    Raises nothing but `FrameError`, whatever it is given.
    """

    def parse(self, frame: str | bytes, rts: int) -> list[Tick]:
        """Return the ticks of one frame; ``rts`` is when it was received, in nanoseconds of Unix time."""

    def parse_body(self, url: str, body: str | bytes, rts: int) -> list[Tick]:
        """Return the ticks that the body of an HTTP answer brings; none for a page that isn't needed."""

    def reset(self) -> None:
        """Forget what the last connection said, as a new one begins; books served so far become gaps."""

    def forget(self, symbol: str) -> None:
        """Serve a book no more until its next snapshot, as it was unsubscribed from; it becomes a gap.

        Needs nothing of a parser whose feed can't be on demand.

        Args:
            symbol: canonical.
        """
        return

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """Return the topics that broke since the last call, and forget them."""


class VenueOptions(FeedOptions):
    """Options of every venue."""

    symbols: Annotated[tuple[str, ...], Field(min_length=1)]
    #: The venue's WebSocket; another one if it is to be a server of your own.
    url: str
    channels: Annotated[tuple[VenueChannel, ...], Field(min_length=1)] = ("quote", "trade", "book")
    #: Connected, but without a tick for so long, or for a sixth of it where ticks always come: connect again. Raise it
    #: for names that hardly trade.
    stale_after_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    #: Subscribe upstream only to the symbols that somebody downstream wants, and connect only then.
    on_demand: bool = False
    #: For how long a symbol stays subscribed to that nobody wants any more; for ``on_demand`` only.
    linger_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0

    @field_validator("symbols", "channels")
    @classmethod
    def _no_doubles(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is listed twice")
        return names

    @field_validator("url")
    @classmethod
    def _is_ws(cls, url: str) -> str:
        return checked_url(url, "ws://", "wss://")


def checked_url(url: str, *schemes: str) -> str:
    """Return ``url`` without a slash at its end, or raise ``ValueError`` if it has none of the schemes."""
    scheme = next((each for each in schemes if url.startswith(each)), None)
    if scheme is None or not url[len(scheme) :].strip("/"):
        raise ValueError(f"{url!r} must be {' or '.join(schemes)} and a host")
    return url.rstrip("/")


def hand_over(
    ctx: FeedContext,
    parser: VenueParser,
    ticks: Callable[[], list[Tick]],
    *,
    on_refused: Callable[[], None] = lambda: None,
) -> list[Tick]:
    """Publish and return what a call of the parser returns; count a `FrameError`; pass on the gaps that it found.

    Args:
        on_refused: called where the frame can't be read.

    Raises:
        VenueRefused: the frame was the venue's refusal.
    """
    parsed: list[Tick] = []
    try:
        parsed = ticks()
    except VenueRefused:
        raise
    except FrameError as error:
        ctx.refused(error)
        on_refused()
    for channel, symbol in parser.take_gaps():
        ctx.gap(channel, symbol)
    for tick in parsed:
        ctx.publish(tick)
    return parsed


class VenueFeed(Feed):
    """A venue over one WebSocket; a subclass says which.

    Attributes:
        symbols: canonical, in the order of the options.
        subscribed: those of them that this connection has asked for.
        silence_s: a venue that sends something at least so often, whatever the market does, is given up when it
            doesn't; ``None``: it may be silent.
        refuses_whole: a request for several symbols of which the venue lacks one is refused as a whole.
        counts_trades: its parser notices by their numbers that trades are missing. If not, a frame that can't be read
            and may have been a trade is a gap.
        is_no_trade: finds what only frames without trades show; for those that can't be read.
    """

    symbols: Sequence[str]
    silence_s: ClassVar[float | None] = None
    refuses_whole: ClassVar[bool] = False
    counts_trades: bool = False
    is_no_trade: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")

    def __init__(self, options: VenueOptions) -> None:
        self.options = options
        self.stale_after_s = options.stale_after_s
        self.linger_s = options.linger_s
        self.subscribed: set[str] = set()
        #: Those that had a trade on this connection.
        self._traded: set[str] = set()
        #: Those that had any tick on this connection.
        self._heard: set[str] = set()
        self._refusals = Refusals()
        self._flushing = trio.Lock()
        self._look_at = 0.0

    def stream_url(self) -> str:
        """Return where to connect."""
        return self.options.url

    def opening_frames(self) -> list[str]:
        """Return what to send once connected, ahead of any subscription."""
        return []

    def symbol_frames(self, verb: Verb, names: Sequence[str]) -> list[str]:
        """Return what begins or ends the subscriptions to some symbols, in order.

        Args:
            verb: which of both.
            names: of the options' symbols, as they stand there; at least one.
        """
        raise NotImplementedError(f"{type(self).__name__} can't subscribe to single symbols")

    def subscribe_frames(self) -> list[str]:
        """Return what is sent to get everything that is configured."""
        return [*self.opening_frames(), *self.symbol_frames("subscribe", self.options.symbols)]

    def new_parser(self) -> VenueParser:
        """Return a parser for one connection."""
        raise NotImplementedError

    async def run(self, ctx: FeedContext) -> None:
        """See `Feed.run`; ends only by raising, as a venue has always more to give."""
        while True:
            if self.options.on_demand:
                while not self._wanted(ctx):
                    await ctx.wanted.wait_changed(*self._wanted_channels())
            await self.connection(ctx)

    async def connection(self, ctx: FeedContext) -> None:
        """Follow the venue over one connection; return if nothing is wanted of it any more.

        Raises:
            FeedError: the connection is of no more use.
        """
        self.subscribed.clear()
        self._heard.clear()
        async with ctx.connect_ws(self.stream_url()) as socket:
            parser = self.new_parser()
            try:
                await self._follow(ctx, socket, parser)
                self._end(ctx, parser)
            except FeedError:
                self._end(ctx, parser)
                # Closing may take seconds; until then subscribers must not take the old books for the venue's.
                await self.flush(ctx)
                raise
            finally:
                self._end(ctx, parser)

    async def _follow(self, ctx: FeedContext, socket: VenueSocket, parser: VenueParser) -> None:
        on_demand = self.options.on_demand
        symbols = self._wanted(ctx) if on_demand else self._not_refused(self.symbols)
        is_partial = on_demand or len(symbols) < len(self.symbols)
        for frame in self.opening_frames() if is_partial else self.subscribe_frames():
            await socket.send(frame)
        if is_partial:
            await self._subscribe(socket, symbols)
        else:
            self._note_subscribed(symbols)
        heard_at = trio.current_time()
        while self.subscribed:
            received = await self._receive(socket, heard_at)
            if received is not None:
                heard_at = trio.current_time()
                try:
                    ticks = hand_over(
                        ctx,
                        parser,
                        partial(parser.parse, received, ctx.time_ns()),
                        on_refused=partial(self._distrust, ctx, received),
                    )
                    self.note_heard(ctx, ticks)
                    await self.after_frame(socket, parser)
                except VenueRefused as refusal:
                    await self.take_refusal(ctx, socket, parser, refusal)
            if on_demand and trio.current_time() >= self._look_at:
                await self._follow_demand(ctx, socket, parser)
            await self.flush(ctx)

    def _end(self, ctx: FeedContext, parser: VenueParser) -> None:
        """Make gaps of the books that were served, and where trades may be missed from now on. Harmless twice."""
        self.connection_ended()
        parser.reset()
        for channel, symbol in parser.take_gaps():
            ctx.gap(channel, symbol)
        self._miss_trades(ctx, self._traded)
        self.subscribed.clear()

    def _distrust(self, ctx: FeedContext, frame: str | bytes) -> None:
        """Tell that trades may be missed, if this frame that can't be read may have been one, nobody knows whose."""
        if self.counts_trades or not self._traded:
            return
        text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
        if self.is_no_trade.search(text) is None and ("trade" in text or not is_json(frame)):
            self._miss_trades(ctx, self._traded)

    def _miss_trades(self, ctx: FeedContext, symbols: Collection[str]) -> None:
        """Tell that trades may be missed from now on; where there was none since the last gap, that one still holds."""
        for symbol in sorted(self._traded.intersection(symbols)):
            ctx.gap("trade", symbol)
        self._traded.difference_update(list(symbols))

    def note_heard(self, ctx: FeedContext, ticks: list[Tick]) -> None:
        """Take note of ticks that were published, and tell behind them which symbols are refused."""
        is_first = bool(ticks) and not self._heard
        for tick in ticks:
            self._heard.add(tick.sym)
            if type(tick) is Trade:
                self._traded.add(tick.sym)
        if self._refusals and ticks:
            self._tell_refused(ctx, {tick.sym for tick in ticks}, is_first=is_first)

    # ── what the venue refuses ───────────────────────────────────────────────────────────────────

    def _not_refused(self, symbols: Iterable[str]) -> list[str]:
        now = trio.current_time()
        return [symbol for symbol in symbols if not self._refusals.holds(symbol, now)]

    async def take_refusal(
        self, ctx: FeedContext, socket: VenueSocket, parser: VenueParser, refusal: VenueRefused
    ) -> None:
        """Go on without the symbols that the venue refuses.

        Raises:
            FeedError: the refusal is about something else, and so of the connection, or there is no symbol left;
                permanent where the venue says so.
        """
        if not refusal.permanent:
            raise FeedError(str(refusal), reason="venue") from None
        named = refusal.symbols or (self.subscribed if len(self.subscribed) == 1 else frozenset())
        if not named or (not refusal.symbols and self._heard):
            # Whatever it was that we asked for, it is not what the connection brings.
            if not self._heard:
                raise FeedPermanentError(str(refusal), reason="venue") from None
            ctx.refused(refusal)
            return
        # Each channel's request is answered on its own, so the same refusal may come several times.
        symbols = [each for each in self.symbols if each in self.subscribed.intersection(named)]
        for symbol in symbols:
            if self._refusals.note(symbol, str(refusal), trio.current_time()):
                ctx.log.warning("symbol refused", symbol=symbol, error=str(refusal))
        self._leave(ctx, parser, symbols)
        if not self._not_refused(self.symbols):
            self._refusals.forgive()
            raise FeedPermanentError(str(refusal), reason="venue", unless_live=True) from None
        if self._heard:
            self._tell(ctx, symbols)
        unheard = [each for each in self.symbols if each in self.subscribed - self._heard]
        if symbols and self.refuses_whole:
            await self._subscribe(socket, unheard)

    def _tell_refused(self, ctx: FeedContext, heard: set[str], *, is_first: bool) -> None:
        """Tell subscribers which symbols are refused, behind the first tick, with which the supervisor has told that
        all symbols are live; and which the venue has again.
        """
        for symbol in sorted(heard):
            if symbol in self._refusals and symbol in self.subscribed:
                self._refusals.served(symbol)
                now = ctx.time_ns()
                ctx.publish(Status(sym=symbol, ts=now, rts=now, state="live", text=""))
        if is_first:
            self._tell(ctx, [each for each in self.symbols if each not in self.subscribed])

    def _tell(self, ctx: FeedContext, symbols: Iterable[str]) -> None:
        for status in self._refusals.statuses(symbols, ctx.time_ns()):
            ctx.publish(status)

    def connection_ended(self) -> None:
        """Stop publishing what runs beside the connection; called before its books become gaps, maybe twice."""

    # ── on demand ────────────────────────────────────────────────────────────────────────────────

    def _wanted(self, ctx: FeedContext) -> list[str]:
        """Return which of the symbols somebody wants on any of the channels, in their order, and the venue has."""
        wanted = ctx.wanted.symbols(*self._wanted_channels())
        return self._not_refused(symbol for symbol in self.symbols if symbol in wanted)

    def _wanted_channels(self) -> list[Channel]:
        return [*self.options.channels, *(["bar"] if "trade" in self.options.channels else [])]  # type: ignore[list-item]

    async def _follow_demand(self, ctx: FeedContext, socket: VenueSocket, parser: VenueParser) -> None:
        """Subscribe to what somebody has begun to want, and unsubscribe from what nobody wants any more."""
        self._look_at = trio.current_time() + DEMAND_S
        wanted = self._wanted(ctx)
        await self._subscribe(socket, [symbol for symbol in wanted if symbol not in self.subscribed])
        unwanted = [symbol for symbol in self.symbols if symbol in self.subscribed.difference(wanted)]
        if not unwanted:
            return
        self._leave(ctx, parser, unwanted)
        for frame in self.symbol_frames("unsubscribe", self._names_of(unwanted)):
            await socket.send(frame)

    def _leave(self, ctx: FeedContext, parser: VenueParser, symbols: Sequence[str]) -> None:
        """Serve these symbols no more on this connection."""
        for symbol in symbols:
            parser.forget(symbol)
        for channel, symbol in parser.take_gaps():
            ctx.gap(channel, symbol)
        self._miss_trades(ctx, symbols)
        self.subscribed.difference_update(symbols)
        self._heard.difference_update(symbols)

    async def _subscribe(self, socket: VenueSocket, symbols: Sequence[str]) -> None:
        if symbols:
            self._note_subscribed(symbols)
            for frame in self.symbol_frames("subscribe", self._names_of(symbols)):
                await socket.send(frame)

    def _note_subscribed(self, symbols: Sequence[str]) -> None:
        self.subscribed.update(symbols)
        self.will_come(symbols)

    def will_come(self, symbols: Sequence[str]) -> None:
        """Note that these (canonical) symbols are being subscribed to."""

    def _names_of(self, symbols: Iterable[str]) -> list[str]:
        names = dict(zip(self.symbols, self.options.symbols, strict=True))
        return [names[symbol] for symbol in symbols]

    async def _receive(self, socket: VenueSocket, heard_at: float) -> str | bytes | None:
        """Return the next frame; ``None`` where it is time to look at what is wanted."""
        silent_at = inf if self.silence_s is None else heard_at + self.silence_s
        with trio.move_on_at(min(silent_at, self._look_at if self.options.on_demand else inf)):
            return await socket.receive()
        if trio.current_time() < silent_at:
            return None
        raise FeedError(
            f"{self.stream_url()}: nothing has come for {self.silence_s:g} s, not even a heartbeat",
            reason="silent",
        )

    async def flush(self, ctx: FeedContext) -> None:
        """Flush what was published; one task at a time, as a context promises nothing about more."""
        async with self._flushing:
            await ctx.flush()

    async def after_frame(self, socket: VenueSocket, parser: VenueParser) -> None:
        """Do what a frame calls for besides its ticks, such as asking for a book again."""
