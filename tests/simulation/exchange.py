"""A venue in memory that has an hour of bad luck: its books are known, its connections are what they are.

Frames are written after the venues' public descriptions, as `tests/feeds` has them: Coinbase Exchange's channels
``ticker``, ``matches`` and ``level2_batch``, and Kraken's v2 ``ticker``, ``trade`` and ``book``.
"""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import trio

from broker.core.errors import FeedError
from broker.core.ticks import Level
from tests.feeds.kraken_frames import PlainBook
from tests.simulation.world import World

#: What goes wrong next, and how often relative to the rest. Each is a method of `Exchange`.
TROUBLES = {
    "drop": 4,
    "reset": 3,
    "mute": 2,
    "half_open": 2,
    "garbage": 6,
    "torn": 8,
    "hole": 4,
    "refuse": 2,
    "too_many": 1,
    "unavailable": 1,
    "complain": 1,
    "quiet": 2,
    "burst": 6,
}
#: Versions of a book that are remembered, to compare what subscribers have with.
REMEMBERED = 150
_LATENCY_S = 0.02
_GARBAGE = ("\x00\xff", "<html>502 Bad Gateway</html>", "[]", "null", "{}", '{"type":7}', "{" * 500)

#: Bids and asks, as sets of levels.
Levels = tuple[frozenset[Level], frozenset[Level]]


class Dialect(ABC):
    """How a venue speaks.

    Attributes:
        venue: of the canonical symbols.
        depth: levels of a side.
        names: of the symbols, the venue's to ours.
        tells_holes: whether a frame that is left out shows.
    """

    venue: str
    depth: int
    names: dict[str, str]
    tells_holes: bool
    channels: tuple[str, ...]
    book_channel: str
    complaint: str

    @abstractmethod
    def asked(self, request: dict[str, Any]) -> list[tuple[str, str, str]]:
        """Return what a request is about: verb, channel, name."""

    @abstractmethod
    def answer(self, verb: str, channel: str, name: str) -> str | None: ...

    @abstractmethod
    def book(
        self, name: str, kind: str, bids: list[Level], asks: list[Level], book: PlainBook, at: int
    ) -> str:
        """Return a frame of a book: whole, or what changed; ``at`` in nanoseconds."""

    @abstractmethod
    def quote(self, name: str, book: PlainBook, at: int) -> str: ...

    @abstractmethod
    def trade(self, name: str, number: int, price: str, at: int) -> str: ...


class CoinbaseDialect(Dialect):
    """Coinbase Exchange."""

    venue, depth, tells_holes = "COINBASE", 1000, False
    names = {"BTC-USD": "COINBASE:BTC-USD", "ETH-USD": "COINBASE:ETH-USD"}  # noqa: RUF012  # a constant
    channels, book_channel = ("ticker", "matches", "level2_batch"), "level2_batch"
    complaint = '{"type":"error","message":"Rate limit exceeded","reason":"too many requests"}'

    def asked(self, request: dict[str, Any]) -> list[tuple[str, str, str]]:
        return [
            (request["type"], channel, name)
            for channel in request["channels"]
            for name in request["product_ids"]
        ]

    def answer(self, verb: str, channel: str, name: str) -> str | None:
        return '{"type":"subscriptions","channels":[]}'

    def book(
        self, name: str, kind: str, bids: list[Level], asks: list[Level], book: PlainBook, at: int
    ) -> str:
        if kind == "snapshot":
            frame: dict[str, Any] = {"type": "snapshot", "product_id": name, "bids": bids, "asks": asks}
        else:
            changes = [("buy", *level) for level in bids] + [("sell", *level) for level in asks]
            frame = {"type": "l2update", "product_id": name, "changes": changes}
        return json.dumps({**frame, "time": _rfc3339(at)})

    def quote(self, name: str, book: PlainBook, at: int) -> str:
        (bid, bid_size), (ask, ask_size) = book.bids[0], book.asks[0]
        frame = {"type": "ticker", "product_id": name, "best_bid": bid, "best_bid_size": bid_size}
        return json.dumps({**frame, "best_ask": ask, "best_ask_size": ask_size, "time": _rfc3339(at)})

    def trade(self, name: str, number: int, price: str, at: int) -> str:
        frame = {"type": "match", "product_id": name, "trade_id": number, "price": price, "size": "0.1"}
        return json.dumps({**frame, "side": "buy", "time": _rfc3339(at)})


class KrakenDialect(Dialect):
    """Kraken v2, with the depth that its checksum covers whole."""

    venue, depth, tells_holes = "KRAKEN", 10, True
    names = {"BTC/USD": "KRAKEN:BTC-USD", "ETH/USD": "KRAKEN:ETH-USD"}  # noqa: RUF012  # a constant
    channels, book_channel = ("ticker", "trade", "book"), "book"
    complaint = '{"method":"subscribe","error":"Exceeded msg rate","success":false}'

    def asked(self, request: dict[str, Any]) -> list[tuple[str, str, str]]:
        params = request.get("params")
        if params is None:
            return []
        return [(request["method"], params["channel"], name) for name in params["symbol"]]

    def answer(self, verb: str, channel: str, name: str) -> str | None:
        result = {"channel": channel, "symbol": name} | ({"depth": self.depth} if channel == "book" else {})
        return json.dumps({"method": verb, "result": result, "success": True})

    def book(
        self, name: str, kind: str, bids: list[Level], asks: list[Level], book: PlainBook, at: int
    ) -> str:
        sides = [
            ",".join(f'{{"price":{price},"qty":{size}}}' for price, size in levels) for levels in (bids, asks)
        ]
        return (
            f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{name}","bids":[{sides[0]}],'
            f'"asks":[{sides[1]}],"checksum":{book.checksum()},"timestamp":"{_rfc3339(at)}"}}]}}'
        )

    def quote(self, name: str, book: PlainBook, at: int) -> str:
        (bid, bid_size), (ask, ask_size) = book.bids[0], book.asks[0]
        return (
            f'{{"channel":"ticker","type":"update","data":[{{"symbol":"{name}","bid":{bid},"bid_qty":{bid_size},'
            f'"ask":{ask},"ask_qty":{ask_size},"timestamp":"{_rfc3339(at)}"}}]}}'
        )

    def trade(self, name: str, number: int, price: str, at: int) -> str:
        return (
            f'{{"channel":"trade","type":"update","data":[{{"symbol":"{name}","side":"buy","price":{price},'
            f'"qty":0.1,"ord_type":"limit","trade_id":{number},"timestamp":"{_rfc3339(at)}"}}]}}'
        )


class Connection:
    """A feed's WebSocket (`feeds.base.VenueSocket`), and the venue's end of it.

    Attributes:
        subscribed: channel and name of each subscription there is.
        is_mute: nothing comes any more, and nothing is read; the feed is not told.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.subscribed: set[tuple[str, str]] = set()
        self.is_mute = self.is_half_open = self.is_over = False
        self.opened_at = 0.0
        self._exchange = exchange
        self._say, self._hear = trio.open_memory_channel[str | FeedError](10_000)

    async def __aenter__(self) -> Connection:
        await trio.sleep(_LATENCY_S)
        self._exchange.admit(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._exchange.leave(self)
        if self.is_half_open:
            with trio.move_on_after(2.0):
                await trio.sleep_forever()

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_over:
            raise FeedError("the connection was lost", reason="closed")
        if not self.is_mute:
            self._exchange.hear(self, json.loads(message))

    async def receive(self) -> str:
        said = await self._hear.receive()
        if isinstance(said, FeedError):
            raise said
        return said

    def say(self, frame: str) -> None:
        """Send as the venue."""
        if not self.is_mute and not self.is_over:
            self._say.send_nowait(frame)

    def end(self, text: str) -> None:
        """End it: what was said still arrives, then the end does."""
        if not self.is_over and not self.is_mute:
            self._say.send_nowait(FeedError(text, reason="closed"))
            self.is_over = True


class Exchange:
    """One venue: its true books, and its troubles.

    Attributes:
        truth: by our symbol, the newest versions of its book by the time on their frames.
        troubles: what went wrong, and how often.
        faults: what a feed must not do.
        connects: attempts to connect, and those that were let in.
    """

    def __init__(self, dialect: Dialect, world: World, *, beat_s: float, trouble_s: float) -> None:
        """``beat_s``, ``trouble_s``: between two changes of a symbol, and two troubles, on average."""
        self.dialect = dialect
        self.truth: dict[str, dict[int, Levels]] = {sym: {} for sym in dialect.names.values()}
        self.troubles: Counter[str] = Counter()
        self.faults: list[str] = []
        self.connects: Counter[str] = Counter()
        self.is_closed = False
        self._world = world
        self._rng: random.Random = world.child()
        self._beat_s = beat_s
        self._trouble_s = trouble_s
        self._connections: list[Connection] = []
        self._books = {name: PlainBook(dialect.depth) for name in dialect.names}
        self._versions: deque[tuple[str, int]] = deque()
        self._refusing_until = self._quiet_until = 0.0
        self._refusal: Callable[[], FeedError] = lambda: FeedError("no connection", reason="connect")
        self._trades = 0
        self._damage: Callable[[str], str | None] | None = None
        for book in self._books.values():
            book.change(
                [(f"{100 - n}.0", "1.5") for n in range(8)], [(f"{110 + n}.0", "2.5") for n in range(8)]
            )
        for versions in self.truth.values():
            # As full as it will be: what is measured of memory begins here.
            for number in range(REMEMBERED):
                levels = [(f"{number}.{n}", "1.0") for n in range(8)]
                versions[-1 - number] = frozenset(levels), frozenset(levels)
        for name in dialect.names:
            world.after(self._rng.random() * beat_s, lambda name=name: self._beat(name))  # type: ignore[misc]
        world.after(trouble_s, self._go_wrong)

    # ── connections ──────────────────────────────────────────────────────────────────────────────

    def connect(self) -> Connection:
        """Return a connection that is not open yet."""
        self.connects["tried"] += 1
        return Connection(self)

    def admit(self, connection: Connection) -> None:
        """Let a connection in, or raise what refuses it."""
        if self._world.now < self._refusing_until:
            raise self._refusal()
        self.connects["open"] += 1
        if self._connections:
            self.faults.append(f"{self._world.now:.2f}: a second connection")
        connection.opened_at = self._world.now
        self._connections.append(connection)
        self._world.after(2.0, lambda: self._look_at(connection))

    def leave(self, connection: Connection) -> None:
        """Take the feed's end."""
        connection.is_over = True
        if connection in self._connections:
            self._connections.remove(connection)

    def hear(self, connection: Connection, request: dict[str, Any]) -> None:
        """Take a request, and answer it in a moment."""
        for verb, channel, name in self.dialect.asked(request):
            key = channel, name
            if (verb == "subscribe") == (key in connection.subscribed):
                self.faults.append(f"{self._world.now:.2f}: {verb} of {key}, though it is so already")
            if verb == "subscribe":
                connection.subscribed.add(key)
            else:
                connection.subscribed.discard(key)
            self._world.after(_LATENCY_S, lambda args=(verb, channel, name): self._answer(connection, *args))  # type: ignore[misc]

    def _answer(self, connection: Connection, verb: str, channel: str, name: str) -> None:
        if (answer := self.dialect.answer(verb, channel, name)) is not None:
            connection.say(answer)
        if verb == "subscribe" and channel == self.dialect.book_channel:
            book = self._books[name]
            at = self._remember(name)
            connection.say(self.dialect.book(name, "snapshot", book.bids, book.asks, book, at))

    def _look_at(self, connection: Connection) -> None:
        """A connection that lives has asked for everything, once."""
        everything = {(channel, name) for channel in self.dialect.channels for name in self.dialect.names}
        if not connection.is_over and not connection.is_mute and connection.subscribed != everything:
            self.faults.append(f"{self._world.now:.2f}: subscribed to {sorted(connection.subscribed)} only")

    # ── the market ───────────────────────────────────────────────────────────────────────────────

    def _beat(self, name: str) -> None:
        """Let a book change, and tell who wants to know."""
        if self.is_closed:
            return
        self._world.after(self._rng.uniform(0.5, 1.5) * self._beat_s, lambda: self._beat(name))
        if self._world.now >= self._quiet_until:
            self._change(name)

    def _change(self, name: str) -> None:
        rng, book, dialect = self._rng, self._books[name], self.dialect
        bids, asks = self._changes(book.bids, 100, -1), self._changes(book.asks, 110, 1)
        book.change(bids, asks)
        at = self._remember(name)
        kind = "update"
        self._tell(dialect.book_channel, name, dialect.book(name, kind, bids, asks, book, at))
        if rng.random() < 0.5:
            self._tell(dialect.channels[0], name, dialect.quote(name, book, at))
        if rng.random() < 0.3:
            self._trades += 1
            self._tell(dialect.channels[1], name, dialect.trade(name, self._trades, book.bids[0][0], at))

    def _changes(self, side: list[Level], start: int, sign: int) -> list[Level]:
        rng = self._rng
        if len(side) > 5 and rng.random() < 0.3:
            return [(rng.choice(side[1:])[0], "0.0")]
        prices = {f"{start + sign * rng.randrange(9)}.{rng.choice('05')}" for _ in range(rng.randint(1, 2))}
        return [(price, f"{rng.randint(1, 99)}.{rng.randint(0, 99):02}") for price in sorted(prices)]

    def _remember(self, name: str) -> int:
        """Note the book as it is now; return the time that tells this version, which no other has."""
        sym, book = self.dialect.names[name], self._books[name]
        at = self._world.time_ns() // 1000 * 1000
        while at in self.truth[sym]:
            at += 1000
        self.truth[sym][at] = frozenset(book.bids), frozenset(book.asks)
        if len(self.truth[sym]) > REMEMBERED:
            del self.truth[sym][next(iter(self.truth[sym]))]
        return at

    def _tell(self, channel: str, name: str, frame: str) -> None:
        for connection in self._connections:
            if (channel, name) not in connection.subscribed:
                continue
            damage = self._damage if channel == self.dialect.book_channel else None
            said = frame
            if damage is not None:
                self._damage = None
                damaged = damage(frame)
                if damaged is None:
                    continue
                said = damaged
            connection.say(said)

    # ── troubles ─────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Let nothing happen any more."""
        self.is_closed = True

    def end_day(self) -> None:
        """Disconnect everybody, as venues do once a day."""
        self.troubles["daily"] += 1
        self._end("closed with 1012 SERVICE_RESTART (24 hours are over)")

    def _go_wrong(self) -> None:
        if self.is_closed:
            return
        self._world.after(self._rng.expovariate(1 / self._trouble_s), self._go_wrong)
        name = self._rng.choices(list(TROUBLES), list(TROUBLES.values()))[0]
        if name == "hole" and not self.dialect.tells_holes:
            return
        self.troubles[name] += 1
        getattr(self, f"_{name}")()

    def _end(self, text: str) -> None:
        for connection in list(self._connections):
            connection.end(text)

    def _drop(self) -> None:
        self._end("closed with 1006 ABNORMAL_CLOSURE")

    def _reset(self) -> None:
        # In the middle of a frame, of which the library tells nothing.
        self._end("the connection was lost")

    def _mute(self) -> None:
        for connection in self._connections:
            connection.is_mute = True

    def _half_open(self) -> None:
        for connection in self._connections:
            connection.is_mute = connection.is_half_open = True

    def _garbage(self) -> None:
        for connection in self._connections:
            connection.say(self._rng.choice(_GARBAGE))

    def _torn(self) -> None:
        def tear(frame: str) -> str:
            at = self._rng.randrange(1, len(frame))
            return self._rng.choice((frame[:at], frame[at:], frame[: at - 1] + "\x07" + frame[at:]))

        self._damage = tear

    def _hole(self) -> None:
        self._damage = lambda frame: None

    def _refuse(self) -> None:
        self._refuse_with(lambda: FeedError("no connection: refused", reason="connect"), 5, 60)

    def _too_many(self) -> None:
        self._refuse_with(
            lambda: FeedError("refused with HTTP 429", reason="refused", retry_after_s=20.0), 15, 60
        )

    def _unavailable(self) -> None:
        self._refuse_with(lambda: FeedError("refused with HTTP 503", reason="refused"), 5, 120)

    def _refuse_with(self, refusal: Callable[[], FeedError], least_s: float, most_s: float) -> None:
        self._refusing_until = self._world.now + self._rng.uniform(least_s, most_s)
        self._refusal = refusal
        self._drop()

    def _complain(self) -> None:
        for connection in self._connections:
            connection.say(self.dialect.complaint)

    def _burst(self) -> None:
        """Let a book change fifty times within a second."""
        name = self._rng.choice(list(self._books))
        for number in range(50):
            self._world.after(number * 0.02, lambda: self._change(name))

    def _quiet(self) -> None:
        self._quiet_until = self._world.now + self._rng.uniform(5, 25)


def _rfc3339(at: int) -> str:
    seconds, rest = divmod(at, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06}Z"
