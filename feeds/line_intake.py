"""What other programs write, on its way to the broker: bytes to lines, lines to ticks, ticks to the context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated

from pydantic import Field, field_validator

from broker.core.lines import Lines
from broker.core.tick_lines import LineError, TickLines
from broker.core.ticks import Book, is_symbol
from feeds.base import FeedContext, FeedOptions

#: Errors that are kept to be told, of one stream of lines.
MOST_ERRORS = 20
#: Lines of so many bytes are looked at in one go: one or two milliseconds, in which nobody else has a turn.
SLICE_BYTES = 16 << 10


class LineOptions(FeedOptions):
    """Options of the feeds whose ticks other programs write."""

    #: The part before the colon of every symbol; lines of others are refused.
    venue: str
    #: The symbols that may come, without the venue; any, if none are named.
    symbols: tuple[str, ...] = ()
    #: Whether the program waits while the broker is behind; else what is too much is conflated.
    can_pause: bool = True
    #: Without a tick for so long, the feed is stale, and begins anew; never, if it is not set.
    stale_after_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @field_validator("venue")
    @classmethod
    def _can_stand_before_a_colon(cls, venue: str) -> str:
        if len(venue) > 32 or not is_symbol(f"{venue}:A"):
            raise ValueError("must be 1 to 32 capital letters, digits and _, like 'LAB'")
        return venue

    @field_validator("symbols")
    @classmethod
    def _are_names(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        for name in symbols:
            if not is_symbol(f"V:{name}") or len(name) > 31:
                raise ValueError(
                    f"{name!r:.80} must be 1 to 31 capital letters, digits and ._/+-, like 'ACME'"
                )
            if symbols.count(name) > 1:
                raise ValueError(f"{name!r} is listed twice")
        return symbols

    def canonical(self) -> list[str] | None:
        """Return the symbols with their venue, ``None`` if any may come."""
        return [f"{self.venue}:{name}" for name in self.symbols] or None


class LineIntake:
    """One stream of lines: a program's output, or the body of a request.

    Attributes:
        accepted, refused: lines that were ticks, and that were none.
        errors: the first of them.
    """

    def __init__(self, ctx: FeedContext, ticks: TickLines, flush: Callable[[], Awaitable[None]]) -> None:
        """``ticks`` may be shared by several streams; ``flush`` waits until the broker has room."""
        self.accepted = self.refused = 0
        self.errors: list[LineError] = []
        self._ctx = ctx
        self._ticks = ticks
        self._flush = flush
        self._lines = Lines()
        self._books: set[str] = set()

    async def take(self, data: bytes) -> None:
        """Publish the ticks of the lines that end in ``data``, and wait as the context's flush does."""
        for start in range(0, len(data), SLICE_BYTES):
            self._publish(self._lines.feed(data[start : start + SLICE_BYTES]))
            await self._flush()

    async def end(self) -> None:
        """Take the last line, if nothing stands behind it; the stream came to its end."""
        self._publish(self._lines.end())
        await self._flush()

    def abandon(self) -> None:
        """Give up the books that the stream was writing: it broke off, and nobody knows what was lost."""
        self._ticks.lose(self._books)
        self._tell_gaps()

    def _publish(self, lines: Iterable[bytes]) -> None:
        ctx, ticks = self._ctx, self._ticks
        rts = ctx.time_ns()
        for line in lines:
            overlong = self._lines.overlong
            try:
                if overlong is not None:
                    raise ticks.overlong(overlong, self._lines.number)
                if not line:
                    continue
                tick = ticks.parse(line, rts, self._lines.number)
            except LineError as error:
                self.refused += 1
                if len(self.errors) < MOST_ERRORS:
                    self.errors.append(error)
                ctx.refused(error)
                self._tell_gaps()
            else:
                self.accepted += 1
                if type(tick) is Book:
                    self._books.add(tick.sym)
                ctx.publish(tick)

    def _tell_gaps(self) -> None:
        for channel, symbol in self._ticks.take_gaps():
            self._ctx.gap(channel, symbol)
