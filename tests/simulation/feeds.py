"""Simulated feeds: they do everything that venues do, the bad days included."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import trio

from broker.core.errors import FeedError, FrameError
from broker.core.ticks import Book, Quote, Status, Tick, Trade
from tests.simulation.world import World

#: What a feed does next, and how often relative to the rest.
ACTS: dict[str, int] = {
    "trickle": 40,
    "burst": 12,
    "repeat": 6,
    "skip": 4,
    "reorder": 4,
    "reset": 3,
    "nonsense": 3,
    "halt": 2,
    "die": 2,
    "crash": 1,
    "mute": 1,
}
#: Prices, each with the other spelling that venues mix in.
PRICES = [(f"{100 + n}.5", f"{100 + n}.50") for n in range(8)]


class SimFeed:
    """A venue's feed; see `ACTS` for what it does.

    Attributes:
        until: when it stops being active, in seconds; from then on it waits.
    """

    is_checked = False
    #: It says itself what it missed between two lives.
    resumes = True

    def __init__(
        self, world: World, venue: str, symbols: Sequence[str], *, declares: bool, until: float, pace_s: float
    ) -> None:
        """``declares``: it says in advance which symbols it has. ``pace_s``: between two acts, on average."""
        self.venue = venue
        self.symbols = list(symbols) if declares else None
        self.stale_after_s: float | None = 0.6
        self.can_pause = world.rng.random() < 0.5
        self.until = until
        self._symbols = list(symbols)
        self._world = world
        self._rng: random.Random = world.child()
        self._pace_s = pace_s
        self._books: dict[str, tuple[dict[int, str], dict[int, str]]] = {}
        self._needs_snapshot: set[str] = set(symbols)
        self._last: list[Tick] = []
        self._ids = 0

    async def run(self, ctx: Any) -> None:
        """One connection's life."""
        for sym in self._symbols:
            if self._rng.random() < 0.5:
                self._lose(ctx, sym)
        while self._world.now < self.until:
            act = self._rng.choices(list(ACTS), list(ACTS.values()))[0]
            await getattr(self, f"_{act}")(ctx)
            await ctx.flush()
            await trio.sleep(self._rng.expovariate(1 / self._pace_s))
        if self._rng.random() < 0.5:
            return
        self.stale_after_s = None
        await trio.sleep_forever()

    # ── what it does ─────────────────────────────────────────────────────────────────────────────

    async def _trickle(self, ctx: Any) -> None:
        for _ in range(self._rng.randint(1, 3)):
            self._publish(ctx, self._tick())

    async def _burst(self, ctx: Any) -> None:
        sym = self._rng.choice(self._symbols)
        one = self._rng.random() < 0.5
        for _ in range(self._rng.randint(8, 30)):
            self._publish(ctx, self._tick(sym if one else None))

    async def _repeat(self, ctx: Any) -> None:
        for tick in self._last[-self._rng.randint(1, 4) :]:
            # The venue sends the same again; a book's deltas are repeated as well, and change nothing.
            self._publish(ctx, copy(tick))

    async def _skip(self, ctx: Any) -> None:
        self._lose(ctx, self._rng.choice(self._symbols))

    async def _reorder(self, ctx: Any) -> None:
        ticks = [self._tick() for _ in range(4)]
        for tick in ticks:
            tick.ts -= self._rng.randint(0, 3_000_000_000)
            self._publish(ctx, tick)

    async def _reset(self, ctx: Any) -> None:
        for sym in self._symbols:
            self._lose(ctx, sym)

    async def _nonsense(self, ctx: Any) -> None:
        """Publish what is no tick; the broker refuses it and goes on."""
        tick: Any = self._tick()
        if type(tick) is not Book:
            tick.sym = self._rng.choice((None, 7, "nowhere", "SIM:lower case"))
            ctx.publish(tick)
        ctx.publish(self._rng.choice(("text", None, 3)))
        ctx.refused(FrameError("nonsense", b"?"))

    async def _halt(self, ctx: Any) -> None:
        sym, now = self._rng.choice(self._symbols), ctx.time_ns()
        for state in self._rng.sample(("halted", "live", "stale", "live"), 3):
            self._publish(ctx, Status(sym=sym, ts=now, rts=now, state=state, text="as the venue says"))  # type: ignore[arg-type]

    async def _die(self, ctx: Any) -> None:
        if self._rng.random() < 0.3:
            self._lose(ctx, self._rng.choice(self._symbols))
        raise FeedError("the venue has closed the connection")

    async def _crash(self, ctx: Any) -> None:
        raise self._rng.choice((ValueError, KeyError, RuntimeError))("a mistake in the adapter")

    async def _mute(self, ctx: Any) -> None:
        await trio.sleep(self._rng.choice((0.3, 5.0)))

    # ── ticks ────────────────────────────────────────────────────────────────────────────────────

    def _publish(self, ctx: Any, tick: Tick) -> None:
        ctx.publish(tick)
        self._last = [*self._last[-7:], tick]

    def _lose(self, ctx: Any, sym: str) -> None:
        """Miss ticks of a symbol: what comes next on its book is a snapshot, now or after a while, or never."""
        for ch in self._rng.sample(("quote", "trade", "book"), 2):
            ctx.gap(ch, sym)
        ctx.gap("book", sym)
        self._last = [tick for tick in self._last if tick.sym != sym]
        self._needs_snapshot.add(sym)
        if self._rng.random() < 0.5:
            self._publish(ctx, self._snapshot(sym))

    def _tick(self, sym: str | None = None) -> Tick:
        make: Callable[[str], Tick] = self._rng.choice(
            (self._quote, self._quote, self._trade, self._trade, self._book)
        )
        return make(sym or self._rng.choice(self._symbols))

    def _quote(self, sym: str) -> Tick:
        now, rng = self._world.time_ns(), self._rng
        bid = None if rng.random() < 0.1 else rng.choice(PRICES)[0]
        ask = rng.choice(PRICES)[0]
        size = None if bid is None else "1"
        return Quote(
            sym=sym, ts=now, rts=now, bid=bid, bid_size=size, ask=ask, ask_size=str(rng.randint(1, 99))
        )

    def _trade(self, sym: str) -> Tick:
        now, rng = self._world.time_ns(), self._rng
        self._ids += 1
        side: Any = rng.choice(("buy", "sell", None))
        size = f"{rng.randint(0, 20)}.{rng.randint(1, 999):03d}"
        return Trade(
            sym=sym, ts=now, rts=now, price=rng.choice(PRICES)[0], size=size, side=side, id=str(self._ids)
        )

    def _book(self, sym: str) -> Tick:
        if sym in self._needs_snapshot or self._rng.random() < 0.05:
            return self._snapshot(sym)
        now = self._world.time_ns()
        bids, asks = (
            [self._change(side) for _ in range(self._rng.randint(0, 2))] for side in self._books[sym]
        )
        return Book(sym=sym, ts=now, rts=now, kind="delta", bids=_by_price(bids, -1), asks=_by_price(asks, 1))

    def _change(self, side: dict[int, str]) -> tuple[int, str]:
        level = self._rng.randrange(len(PRICES))
        if level in side and self._rng.random() < 0.4:
            del side[level]
            return level, "0"
        side[level] = str(self._rng.randint(1, 500))
        return level, side[level]

    def _snapshot(self, sym: str) -> Tick:
        self._needs_snapshot.discard(sym)
        now = self._world.time_ns()
        book: tuple[dict[int, str], dict[int, str]] = ({}, {})
        for side in book:
            for level in self._rng.sample(range(len(PRICES)), self._rng.randint(0, 5)):
                side[level] = str(self._rng.randint(1, 500))
        self._books[sym] = book
        bids, asks = (list(side.items()) for side in book)
        return Book(
            sym=sym, ts=now, rts=now, kind="snapshot", bids=_by_price(bids, -1), asks=_by_price(asks, 1)
        )


def _by_price(levels: list[tuple[int, str]], order: int) -> list[tuple[str, str]]:
    newest = dict(levels)
    return [
        (PRICES[level][len(newest[level]) % 2], newest[level])
        for level in sorted(newest, key=lambda n: n * order)
    ]
