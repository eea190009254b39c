"""A feed that is recorded.

`recorded` puts itself between the feed and its context, so neither adapter nor supervisor knows of it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, cast

import trio

from broker.core.answers import json_of
from broker.core.encoding import pack_tick
from broker.core.errors import FeedError, FeedPermanentError
from broker.core.raw_recording import (
    Answered,
    Broke,
    Clocked,
    Ended,
    Failed,
    Missing,
    Opened,
    Published,
    Received,
    Rewound,
    Started,
)
from broker.core.ticks import CHANNELS, Channel, Tick
from broker.runtime.feed_runner import Feed
from broker.runtime.raw_recording import RawRecorder


def recorded(feed: Feed, recorder: RawRecorder) -> Feed:
    """Return the feed, but with all that it gets and publishes recorded."""
    return cast(Feed, _RecordedFeed(feed, recorder))


class _RecordedFeed:
    """All of the feed's own, but for the context that it runs with."""

    def __init__(self, feed: Feed, recorder: RawRecorder) -> None:
        self._feed = feed
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feed, name)

    async def run(self, ctx: Any) -> None:
        recorder = self._recorder
        recorder.put(Started(recorder.time_ns()))
        try:
            await self._feed.run(_Context(ctx, recorder))
        except trio.Cancelled:
            recorder.put(Ended(recorder.time_ns(), "cancelled", ""))
            raise
        except BaseException as exc:
            recorder.is_over = isinstance(exc, FeedPermanentError)
            recorder.put(Ended(recorder.time_ns(), "failed", f"{type(exc).__name__}: {exc}"[:500]))
            raise
        recorder.put(Ended(recorder.time_ns(), "returned", ""))
        recorder.is_over = True


class _Context:
    """The feed's context, with a note taken of what goes through it."""

    def __init__(self, ctx: Any, recorder: RawRecorder) -> None:
        self._ctx = ctx
        self._recorder = recorder
        self._publish = ctx.publish
        self.flush = ctx.flush

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def publish(self, tick: Tick) -> None:
        try:
            packed = pack_tick(tick)
        except (TypeError, ValueError, OverflowError):
            # It is none; the broker refuses it.
            packed = b""
        if packed:
            self._recorder.ticks += 1
            self._recorder.put(Published(packed), len(packed))
        self._publish(tick)

    def gap(self, ch: Channel, sym: str) -> None:
        self._ctx.gap(ch, sym)
        if ch in CHANNELS and isinstance(sym, str):
            self._recorder.put(Missing(ch, sym))

    def rewind(self) -> None:
        self._recorder.put(Rewound())
        self._ctx.rewind()

    def time_ns(self) -> int:
        now: int = self._ctx.time_ns()
        self._recorder.put(Clocked(now))
        return now

    def connect_ws(self, url: str, **options: Any) -> AbstractAsyncContextManager[Any]:
        return _Connection(self._ctx.connect_ws(url, **options), url, self._recorder)

    async def get_body(self, url: str) -> bytes:
        recorder = self._recorder
        try:
            body: bytes = await self._ctx.get_body(url)
        except FeedError as exc:
            recorder.put(Failed(recorder.time_ns(), url, str(exc)))
            raise
        recorder.put(Answered(recorder.time_ns(), url, body), len(body))
        return body

    async def get_json(self, url: str) -> Any:
        return json_of(url, await self.get_body(url))


class _Connection(AbstractAsyncContextManager[Any]):
    """A WebSocket to be, recorded."""

    def __init__(self, inner: AbstractAsyncContextManager[Any], url: str, recorder: RawRecorder) -> None:
        self._inner = inner
        self._url = url
        self._recorder = recorder

    async def __aenter__(self) -> _Socket:
        recorder = self._recorder
        try:
            socket = await self._inner.__aenter__()
        except FeedError as exc:
            recorder.put(Failed(recorder.time_ns(), self._url, str(exc)))
            raise
        number = recorder.new_connection()
        recorder.put(Opened(recorder.time_ns(), number, self._url))
        return _Socket(socket, number, recorder)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._inner.__aexit__(kind, raised, traceback)


class _Socket:
    """A venue's WebSocket; what is sent is not recorded, as it may be a key."""

    def __init__(self, socket: Any, number: int, recorder: RawRecorder) -> None:
        self._socket = socket
        self._number = number
        self._recorder = recorder
        self.send = socket.send

    async def receive(self) -> str | bytes:
        recorder = self._recorder
        try:
            frame: str | bytes = await self._socket.receive()
        except FeedError as exc:
            recorder.put(Broke(recorder.time_ns(), self._number, str(exc)))
            raise
        recorder.frames += 1
        raw = frame.encode("utf-8", "replace") if isinstance(frame, str) else frame
        recorder.put(Received(recorder.time_ns(), self._number, raw, isinstance(frame, str)), len(raw))
        return frame
