"""A whole broker for tests, on a port of its own, and feeds that do what a test says."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from broker.core.history import HistoryLimits
from broker.core.router import Router
from broker.core.session import SessionLimits
from broker.core.tape import Entry, Tape
from broker.core.ticks import Book, Quote, Status, Tick, Trade
from broker.core.topics import Topics
from broker.runtime.budget import BudgetLimits
from broker.runtime.fanout import Fanout
from broker.runtime.feed_runner import FeedRunner
from broker.runtime.ingest import Ingest
from broker.runtime.sessions import Sessions, SessionTimes
from broker.transports.admin import Admin
from broker.transports.door import Door
from broker.transports.http_stream import HttpStreamTransport
from broker.transports.rest import Rest
from broker.transports.web import App, WebTransport
from broker.transports.websocket import WebSocketTransport

#: No test takes as long, on whatever clock, unless it says so.
GUARD_S = 300.0

ACME, BETA, GAMMA = SYMBOLS = ("SIM:ACME", "SIM:BETA", "SIM:GAMMA")


def quote(sym: str = ACME, n: int = 1) -> Quote:
    """Return a quote that can be told from others by ``n``."""
    return Quote(sym=sym, ts=n, rts=n, bid=str(n), bid_size="1", ask=None, ask_size=None)


def trade(sym: str = ACME, n: int = 1) -> Trade:
    """Return a trade that can be told from others by ``n``, in its price, its time and its id."""
    return Trade(sym=sym, ts=n, rts=n, price=str(n), size="1", side=None, id=str(n))


def trades(sym: str, count: int, start: int = 1) -> list[Tick]:
    """Return so many trades, numbered from ``start``."""
    return [trade(sym, n) for n in range(start, start + count)]


def fat_book(sym: str = ACME, levels: int = 500) -> Book:
    """Return a book of some 16 bytes a level: a few of them fill any socket."""
    side = [(f"{price}.00000", "1.0000") for price in range(1000, 1000 + levels)]
    return Book(sym=sym, ts=1, rts=1, kind="snapshot", bids=side[::-1], asks=[])


def put(tape: Tape, ticks: Iterable[Tick], at: float = 0.0) -> list[Entry]:
    """Put ticks on a tape whose topics nobody has asked for as bytes; return them as entries."""
    _, items = tape.append(ticks, at)
    return [item for item in items if isinstance(item, Entry)]


class ScriptedFeed:
    """A feed that does what the test tells it, one step after the other.

    Attributes:
        lives: how often it was started.
    """

    def __init__(
        self,
        venue: str = "SIM",
        symbols: Sequence[str] | None = SYMBOLS,
        *,
        stale_after_s: float | None = None,
        can_pause: bool = True,
    ) -> None:
        self.venue = venue
        self.symbols = symbols
        self.is_checked = False
        self.can_pause = can_pause
        self.stale_after_s = stale_after_s
        self.linger_s = 30.0
        self.resumes = False
        self.lives = 0
        self._steps, self._todo = trio.open_memory_channel[Callable[[Any], Awaitable[bool]]](1000)

    async def run(self, ctx: Any) -> None:
        self.lives += 1
        async for step in self._todo:
            if await step(ctx):
                return

    async def do(self, step: Callable[[Any], Awaitable[bool]]) -> None:
        """Let the feed carry out ``step`` with its context; wait until the broker has dealt with it.

        Returning true from ``step`` ends the feed's life.
        """
        await self._steps.send(step)
        await trio.testing.wait_all_tasks_blocked()

    async def publish(self, *ticks: Any) -> None:
        """Publish, and wait until it is on the tape."""

        async def step(ctx: Any) -> bool:
            for tick in ticks:
                ctx.publish(tick)
            await ctx.flush()
            return False

        await self.do(step)

    async def fail(self, exc: Exception) -> None:
        """Raise out of the feed."""

        async def step(ctx: Any) -> bool:
            raise exc

        await self.do(step)

    async def end(self) -> None:
        """Return out of the feed."""

        async def step(ctx: Any) -> bool:
            return True

        await self.do(step)


class NoUpstream:
    """There are no venues in these tests."""

    def connect_ws(self, url: str, *, max_message_bytes: int) -> Any:
        raise AssertionError(url)

    async def get_body(self, url: str) -> bytes:
        raise AssertionError(url)


@dataclass(frozen=True)
class Setup:
    """What a test wants to be otherwise; all times in seconds."""

    feeds: Sequence[ScriptedFeed] = ()
    symbols: Sequence[str] = SYMBOLS
    sessions: int = 1000
    per_address: int = 0
    limits: SessionLimits = field(default_factory=SessionLimits)
    budget: BudgetLimits = field(default_factory=BudgetLimits)
    times: SessionTimes = field(default_factory=SessionTimes)
    history: HistoryLimits = field(default_factory=HistoryLimits)
    handshake_timeout_s: float = 5.0
    write_deadline_s: float = 5.0
    drain_s: float = 3.0
    tls: ssl.SSLContext | None = None
    admin: Admin = "local"
    #: In place of the REST pages.
    app: App | None = None
    epoch: str = "e1"
    guard_s: float = GUARD_S


class RunningBroker:
    """The parts of a broker, put together as `broker.app` does it, with nothing that a test can't reach."""

    def __init__(self, setup: Setup, listener: socket.socket) -> None:
        self.setup = setup
        self.port: int = listener.getsockname()[1]
        self.topics = Topics()
        self.topics.declare("SIM", setup.symbols)
        self.tape = Tape(setup.epoch, self.topics, setup.history)
        self.router = Router(self.topics, self.tape)
        self.fanout = Fanout(self.router, max_gap_s=0.01)
        self.ingest = Ingest(self.topics, self.fanout, upstream=NoUpstream(), time_ns=time.time_ns)
        for number, feed in enumerate(setup.feeds):
            # The number is the seed: a backoff can be foretold.
            self.ingest.add(f"feed{number}", "scripted", feed, random.Random(number))
        self.sessions = Sessions(
            self.fanout,
            most=setup.sessions,
            most_per_address=setup.per_address,
            limits=setup.limits,
            budget=setup.budget,
            times=setup.times,
            server="tapecast/test",
            time_ns=time.time_ns,
        )
        websocket = WebSocketTransport(self.sessions, time_ns=time.time_ns)
        http_stream = HttpStreamTransport(self.sessions, time_ns=time.time_ns, rng=random.Random(1))
        self.rest = Rest(self.router, self.ingest, self.sessions, admin=setup.admin)
        web = WebTransport(setup.app or self.rest.app)
        self.door = Door(
            [listener],
            routes={
                "/v1/ws": websocket.serve,
                "/v1/stream": http_stream.serve,
                "/debug/echo": websocket.echo,
            },
            pages=web.serve,
            http2=web.serve_http2,
            tls=setup.tls,
            handshake_timeout_s=setup.handshake_timeout_s,
            write_deadline_s=setup.write_deadline_s,
            vanish_s=8.0,
        )
        self.stop = trio.Event()

    @property
    def runner(self) -> FeedRunner:
        """The first feed's supervisor."""
        return self.ingest.feeds[0]

    def publish(self, *ticks: Tick) -> None:
        """Put ticks on the tape as the ingest does, without a feed."""
        self.fanout.publish(ticks)

    async def run(self) -> None:
        """Run until ``stop``, then drain, as `broker.app.Broker.run` does."""
        async with trio.open_nursery() as connections, trio.open_nursery() as workers:
            workers.start_soon(self.ingest.run)
            workers.start_soon(self.fanout.run)
            workers.start_soon(self.sessions.look_after)
            workers.start_soon(self.rest.measure)
            workers.start_soon(self.door.serve, connections)
            await self.stop.wait()
            self.sessions.drain()
            with trio.move_on_after(self.setup.drain_s):
                while self.door.open:  # noqa: ASYNC110  # nothing tells when a count is nought
                    await trio.sleep(0.02)
            connections.cancel_scope.cancel()
            workers.cancel_scope.cancel()

    async def settled(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so that only the broker's own tasks bring about."""
        while not condition():  # noqa: ASYNC110  # whatever the condition looks at
            await trio.sleep(0.01)


@asynccontextmanager
async def open_broker(**changes: Any) -> AsyncIterator[RunningBroker]:
    """Run a broker on a free port of loopback; ``changes`` are those of `Setup`."""
    setup = Setup(**changes)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        listener.setblocking(False)
        broker = RunningBroker(setup, listener)
        # On a clock that jumps a test that waits in vain would go on for ever: the broker has timers.
        with trio.fail_after(setup.guard_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broker.run)
                await trio.testing.wait_all_tasks_blocked()
                yield broker
                nursery.cancel_scope.cancel()


def status_of(message: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (symbol, state) of the `status` ticks in an update or a snapshot."""
    return [(tick["sym"], tick["state"]) for tick in message["data"] if tick["ch"] == Status.ch]
