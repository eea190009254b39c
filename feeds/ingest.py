"""Ticks that other programs send to ``POST /v1/ingest``, one JSON object a line, with a key.

What a line has to look like is in `broker.core.tick_lines`. The requests themselves are `broker.transports.ingest`'s.
"""

from __future__ import annotations

from typing import Literal

import trio
from pydantic import SecretStr, field_validator

from broker.core.tick_lines import TickLines
from feeds.base import Feed, FeedContext
from feeds.line_intake import LineIntake, LineOptions

#: Requests of one feed at a time; a stream of lines that goes on is one.
MOST_REQUESTS = 16
LEAST_KEY = 16


class Ingest(Feed):
    """Ticks that other programs send to ``POST /v1/ingest``, with a key."""

    class Options(LineOptions):
        """Keys of a feed of the type ``ingest``."""

        type: Literal["ingest"] = "ingest"
        #: What a request has to show: ``Authorization: Bearer KEY``. Of this feed alone.
        key: SecretStr

        @field_validator("key")
        @classmethod
        def _can_stand_in_a_header(cls, key: SecretStr) -> SecretStr:
            text = key.get_secret_value()
            if not LEAST_KEY <= len(text) <= 256 or not all("!" <= char <= "~" for char in text):
                raise ValueError(f"must be {LEAST_KEY} to 256 letters, digits and signs, without blanks")
            return key

    def __init__(self, options: Options) -> None:
        self.key = options.key.get_secret_value()
        self.venue = options.venue
        self.symbols = options.canonical()
        self.can_pause = options.can_pause
        self.stale_after_s = options.stale_after_s
        self._ticks = TickLines(self.venue, self.symbols)
        self._ctx: FeedContext | None = None
        self._requests = 0
        self._flushing = trio.Lock()
        self._finished = trio.Event()

    async def run(self, ctx: FeedContext) -> None:
        """See `Feed.run`; all that comes comes with requests."""
        # Kept between two lives: whoever sends is not to wait for a backoff.
        self._ctx = ctx
        while True:
            # A request that broke off leaves gaps, and can't wait for anything itself.
            await self._finished.wait()
            self._finished = trio.Event()
            await self._flush()

    @property
    def is_running(self) -> bool:
        """Whether requests can be taken at all."""
        return self._ctx is not None

    def begin(self) -> LineIntake | None:
        """Begin a request; `finish` has to follow. ``None``: there are too many."""
        assert self._ctx is not None
        if self._requests >= MOST_REQUESTS:
            return None
        self._requests += 1
        return LineIntake(self._ctx, self._ticks, self._flush)

    def finish(self) -> None:
        """End a request that `begin` has begun."""
        self._requests -= 1
        self._finished.set()

    async def _flush(self) -> None:
        """Flush; one request at a time, as a context promises nothing about more."""
        assert self._ctx is not None
        async with self._flushing:
            await self._ctx.flush()
