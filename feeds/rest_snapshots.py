"""Fetching snapshots of books by REST, for venues whose stream brings only what changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import trio

from broker.core.errors import FeedError
from broker.core.ticks import Tick
from feeds.asking import Pauses
from feeds.base import FeedContext
from feeds.venue import VenueParser, hand_over

#: Snapshots fetched at once.
_FETCHES = 4
_RETRY_S = 1.0
_MAX_RETRY_S = 30.0
#: What a venue may ask for with its ``Retry-After``.
_MAX_RETRY_AFTER_S = 900.0


class SnapshotParser(VenueParser, Protocol):
    """A parser whose books begin with the body of an HTTP answer."""

    def parse_snapshot(self, native: str, body: str | bytes, rts: int) -> list[Tick]:
        """Take a snapshot of one of the venue's symbols; return what can be served by now."""

    def wants_snapshot(self, native: str) -> bool:
        """Tell whether the book of this symbol waits for a snapshot."""


class RestSnapshots:
    """Fetches snapshots for one connection: each symbol once at a time, a few symbols at once.

    What fails, or is too old, is asked for again after 1 s, and each further time after twice as long, up to 30 s; so
    is the snapshot of a book that breaks again and again, up to 60 s.
    While the venue asks to be left alone nothing is fetched at all. The first failure of a connection is logged, and
    the first after each success.
    """

    def __init__(
        self,
        ctx: FeedContext,
        nursery: trio.Nursery,
        url_of: Callable[[str], str],
        flush: Callable[[FeedContext], Awaitable[None]],
        *,
        note_heard: Callable[[FeedContext, list[Tick]], None] = lambda ctx, ticks: None,
        is_refusal: Callable[[str, FeedError], bool] = lambda native, error: False,
        pace_s: float = 0.0,
    ) -> None:
        """Fetch nothing yet.

        Args:
            ctx: gets the ticks, and makes the requests.
            nursery: the fetching tasks live in it.
            url_of: the URL of a symbol's snapshot, in the venue's spelling.
            flush: flushes the context, one task at a time.
            note_heard: takes note of the ticks that were published.
            is_refusal: tells whether a failure says that the venue does not have this symbol.
            pace_s: how long each fetch keeps its place after its answer, where the venue's budget is short.
        """
        self._ctx = ctx
        self._nursery = nursery
        self._url_of = url_of
        self._flush = flush
        self._note_heard = note_heard
        self._is_refusal = is_refusal
        self._pace_s = pace_s
        self._refused: dict[str, str] = {}
        self._limit = trio.CapacityLimiter(_FETCHES)
        self._under_way: set[str] = set()
        self._not_before = 0.0
        self._is_failing = False
        self._is_over = False
        self._pauses = Pauses()

    def stop(self) -> None:
        """Publish nothing more: the connection that the snapshots are for has ended."""
        self._is_over = True

    def take_refused(self) -> tuple[str, str] | None:
        """Return a symbol that the venue does not have, in its spelling, and its words, and forget it."""
        return self._refused.popitem() if self._refused else None

    def fetch(self, native: str, parser: SnapshotParser) -> None:
        """Fetch a symbol's snapshot until the parser wants it no more; does nothing if that is under way."""
        if native not in self._under_way:
            self._under_way.add(native)
            self._nursery.start_soon(self._fetch, native, parser)

    def probe(self, native: str, url: str) -> None:
        """Ask a page of a symbol of which nothing has come, for nothing but whether the venue has it."""
        self._nursery.start_soon(self._probe, native, url)

    async def _probe(self, native: str, url: str) -> None:
        async with self._limit:
            await trio.sleep_until(self._not_before)
            try:
                await self._ctx.get_body(url)
            except FeedError as error:
                if self._is_refusal(native, error):
                    self._refused[native] = str(error)
            await trio.sleep(self._pace_s)

    async def _fetch(self, native: str, parser: SnapshotParser) -> None:
        await trio.sleep_until(self._pauses.until(native, trio.current_time()))
        retry_s = _RETRY_S
        while parser.wants_snapshot(native):
            async with self._limit:
                await trio.sleep_until(self._not_before)
                self._pauses.note(native, trio.current_time())
                await self._fetch_once(native, parser)
                await trio.sleep(self._pace_s)
            if native in self._refused:
                break
            if parser.wants_snapshot(native):
                await trio.sleep(retry_s)
                retry_s = min(2 * retry_s, _MAX_RETRY_S)
        self._under_way.discard(native)

    async def _fetch_once(self, native: str, parser: SnapshotParser) -> None:
        try:
            body = await self._ctx.get_body(self._url_of(native))
        except FeedError as error:
            if self._is_refusal(native, error):
                self._refused[native] = str(error)
                return
            if not self._is_failing:
                self._is_failing = True
                self._ctx.log.warning("snapshot_failed", symbol=native, error=str(error))
            if error.retry_after_s is not None:
                self._not_before = trio.current_time() + min(error.retry_after_s, _MAX_RETRY_AFTER_S)
            return
        self._is_failing = False
        if self._is_over:
            return
        parse = partial(parser.parse_snapshot, native, body, self._ctx.time_ns())
        self._note_heard(self._ctx, hand_over(self._ctx, parser, parse))
        await self._flush(self._ctx)
