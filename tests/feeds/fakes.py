"""What a feed runs against in tests: a context that keeps everything, and a venue that follows a script."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from broker.core.demand import Demand
from broker.core.errors import FrameError
from broker.core.ticks import Book, Channel, Tick
from broker.runtime.wanted import Wanted
from broker.transports import upstream
from feeds.base import Feed, VenueSocket

#: Wall time in tests: a fixed moment after every recording.
NOW = 1_800_000_000_000_000_000
RECORDINGS = Path(__file__).parents[2] / ".." / "shared" / "data"
FRAMES = Path(__file__).parents[1] / "frames"


def recording(name: str) -> Path:
    """Return a recording that is not part of the project, or skip the test."""
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"needs the recordings beside the checkout: {path} is missing")
    return path


def golden(name: str) -> list[bytes]:
    """Return the frames of a file in ``tests/frames``, without its comments."""
    return [line for line in (FRAMES / name).read_bytes().splitlines() if line and not line.startswith(b"//")]


class FakeLog:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))


class FakeContext:
    """A `feeds.base.FeedContext` that keeps what it is given; its WebSockets and GETs are real.

    Attributes:
        story: ticks and gaps in the order in which they came.
        flushed: how many ticks had been published by each flush, and at what time of trio's clock.
        gate: flushes wait for it.
        left: gaps that the feed told of as the test ended it.
        demand: what subscribers want; `wanted` shows it to the feed.
    """

    def __init__(self) -> None:
        self.log = FakeLog()
        self.story: list[Tick | tuple[str, Channel, str]] = []
        self.refusals: list[FrameError] = []
        self.rewinds = 0
        self.flushed: list[tuple[float, int]] = []
        self.gate = trio.Event()
        self.gate.set()
        self.left: list[tuple[Channel, str]] = []
        self.is_over = False
        self._waiting = trio.lowlevel.ParkingLot()
        self.get: Callable[[str], Awaitable[bytes]] = upstream.get_body
        self.demand = Demand("FAKE")
        self.wanted = Wanted(self.demand, None, 30.0)

    @property
    def ticks(self) -> list[Tick]:
        return [each for each in self.story if not isinstance(each, tuple)]

    @property
    def gaps(self) -> list[tuple[Channel, str]]:
        return [(each[1], each[2]) for each in self.story if isinstance(each, tuple)]

    @property
    def early_gaps(self) -> list[tuple[Channel, str]]:
        """Those behind which there were ticks; the others are of the connection's end."""
        last = max((n for n, each in enumerate(self.story) if not isinstance(each, tuple)), default=-1)
        return [(each[1], each[2]) for each in self.story[: last + 1] if isinstance(each, tuple)]

    def publish(self, tick: Tick) -> None:
        self.story.append(tick)
        self._waiting.unpark_all()

    async def flush(self) -> None:
        self.flushed.append((trio.current_time(), len(self.ticks)))
        await trio.lowlevel.checkpoint()
        await self.gate.wait()

    def gap(self, ch: Channel, sym: str) -> None:
        if self.is_over:
            self.left.append((ch, sym))
            return
        self.story.append(("gap", ch, sym))
        self._waiting.unpark_all()

    def rewind(self) -> None:
        self.rewinds += 1

    def refused(self, error: FrameError) -> None:
        self.refusals.append(error)
        self._waiting.unpark_all()

    def connect_ws(
        self, url: str, *, max_message_bytes: int = 16 << 20
    ) -> AbstractAsyncContextManager[VenueSocket]:
        return upstream.connect_ws(url, max_message_bytes=max_message_bytes)

    async def get_body(self, url: str) -> bytes:
        return await self.get(url)

    async def get_json(self, url: str) -> Any:
        return msgspec.json.Decoder(float_hook=str).decode(await self.get(url))

    def time_ns(self) -> int:
        return NOW

    async def wait_for(self, is_enough: Callable[[FakeContext], bool]) -> None:
        """Wait until what it was given satisfies the caller; for tests over real sockets."""
        with trio.fail_after(60):
            while not is_enough(self):
                await self._waiting.park()


Script = Callable[[WebSocketConnection, str], Awaitable[None]]


@asynccontextmanager
async def scripted_venue(script: Script) -> AsyncGenerator[str, None]:
    """Serve WebSockets on a free port of this machine; the script gets each and its path. Yields the URL."""

    async def handle(request: WebSocketRequest) -> None:
        socket = await request.accept()
        try:
            await script(socket, request.path)
        except ConnectionClosed:
            return

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handle, "127.0.0.1", 0, None))
        yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def scripted_server(
    handle: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncGenerator[int, None]:
    """Serve TCP on a free port of this machine, for what no decent server does. Yields the port."""

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            await handle(stream)
        except trio.BrokenResourceError:
            return

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, guarded, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def assert_well_formed(ticks: list[Tick]) -> None:
    """Check every constraint of the tick types, and what they can't say: best first, and times that fit."""
    for tick in ticks:
        assert msgspec.convert(msgspec.to_builtins(tick), type(tick)) == tick
        assert msgspec.json.encode(tick).isascii()
        assert 0 <= tick.ts < 2**63
        assert tick.seq == 0
        if isinstance(tick, Book):
            assert_best_first(tick)


def assert_best_first(book: Book) -> None:
    """Check the order of both sides, and that an empty level is written as ``"0"`` and only in deltas."""
    for levels, sign in ((book.bids, -1), (book.asks, 1)):
        prices = [sign * Decimal(price) for price, _ in levels]
        assert prices == sorted(prices)
        removals = [size for _, size in levels if Decimal(size) == 0]
        assert all(size == "0" for size in removals)
        assert not removals or book.kind == "delta"


async def run_until(feed: Feed, ctx: FakeContext, is_enough: Callable[[FakeContext], bool]) -> None:
    """Run a feed until the context has seen enough; what the feed raises before that comes out as it is."""
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            try:
                await feed.run(ctx)
            except Exception as failure:
                failures.append(failure)
                nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        await ctx.wait_for(is_enough)
        ctx.is_over = True
        nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]
