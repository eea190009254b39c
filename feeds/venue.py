"""Base of the feeds that follow a venue over one WebSocket: connect, subscribe, parse, publish.

A venue is a URL, a few frames to subscribe with, and a pure parser for each connection. What the parser
can't say in ticks (a book that broke) it keeps for `VenueParser.take_gaps`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal, Protocol

import trio
from pydantic import Field, field_validator

from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.ticks import Channel, Tick
from feeds.base import Feed, FeedContext, FeedOptions, VenueSocket

VenueChannel = Literal["quote", "trade", "book"]


class VenueRefused(FrameError):
    """The frame is the venue's own word that it refuses something.

    Attributes:
        permanent: asking again is of no use.
    """

    def __init__(self, message: str, frame: str | bytes = b"", *, permanent: bool) -> None:
        super().__init__(message, frame)
        self.permanent = permanent


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

    def take_gaps(self) -> list[tuple[Channel, str]]:
        """Return the topics that broke since the last call, and forget them."""


class VenueOptions(FeedOptions):
    """Options of every venue."""

    symbols: Annotated[tuple[str, ...], Field(min_length=1)]
    #: The venue's WebSocket; another one if it is to be a server of your own.
    url: str
    channels: Annotated[tuple[VenueChannel, ...], Field(min_length=1)] = ("quote", "trade", "book")
    #: Connected, but without a tick for so long: connect again. Raise it for names that hardly trade.
    stale_after_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0

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


def hand_over(ctx: FeedContext, parser: VenueParser, ticks: Callable[[], list[Tick]]) -> None:
    """Publish what a call of the parser returns; count a `FrameError`; pass on the gaps that it found.

    Raises:
        FeedError: the frame was the venue's refusal; permanent where the venue says so.
    """
    parsed: list[Tick] = []
    try:
        parsed = ticks()
    except VenueRefused as refusal:
        raise (FeedPermanentError if refusal.permanent else FeedError)(str(refusal)) from None
    except FrameError as error:
        ctx.refused(error)
    for channel, symbol in parser.take_gaps():
        ctx.gap(channel, symbol)
    for tick in parsed:
        ctx.publish(tick)


class VenueFeed(Feed):
    """A venue over one WebSocket; a subclass says which.

    Attributes:
        silence_s: a venue that sends something at least so often, whatever the market does, is given up when it
            doesn't; ``None``: it may be silent.
    """

    symbols: Sequence[str]
    silence_s: ClassVar[float | None] = None

    def __init__(self, options: VenueOptions) -> None:
        self.options = options
        self.stale_after_s = options.stale_after_s
        self._flushing = trio.Lock()

    def stream_url(self) -> str:
        """Return where to connect."""
        return self.options.url

    def subscribe_frames(self) -> list[str]:
        """Return what to send once connected, in order."""
        return []

    def new_parser(self) -> VenueParser:
        """Return a parser for one connection."""
        raise NotImplementedError

    async def run(self, ctx: FeedContext) -> None:
        """See `Feed.run`; ends only by raising, as a venue has always more to give."""
        async with ctx.connect_ws(self.stream_url()) as socket:
            for frame in self.subscribe_frames():
                await socket.send(frame)
            parser = self.new_parser()
            while True:
                received = await self._receive(socket)
                hand_over(ctx, parser, partial(parser.parse, received, ctx.time_ns()))
                await self.after_frame(socket, parser)
                await self.flush(ctx)

    async def _receive(self, socket: VenueSocket) -> str | bytes:
        if self.silence_s is None:
            return await socket.receive()
        with trio.move_on_after(self.silence_s):
            return await socket.receive()
        raise FeedError(
            f"{self.stream_url()}: nothing has come for {self.silence_s:g} s, not even a heartbeat"
        )

    async def flush(self, ctx: FeedContext) -> None:
        """Flush what was published; one task at a time, as a context promises nothing about more."""
        async with self._flushing:
            await ctx.flush()

    async def after_frame(self, socket: VenueSocket, parser: VenueParser) -> None:
        """Do what a frame calls for besides its ticks, such as asking for a book again."""
