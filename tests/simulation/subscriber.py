"""A simulated subscriber: it comes, asks, reads as it can, leaves in some way, and comes back.

It believes nothing: what it got it counts by `seq` (`account.py`) and compares with what was published
(`contents.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.contents import Contents
from tests.simulation.contracts import CHANNELS, draw_contract
from tests.simulation.life import Life
from tests.simulation.network import SimListener, Weather
from tests.simulation.oracle import Key, Oracle
from tests.simulation.wires import HttpStream, WebSocket, Wire
from tests.simulation.world import World

WIRES = ("ws-json", "ws-msgpack", "sse", "ndjson", "sse-1.0", "ndjson-1.0")
WIRE_WEIGHTS = (5, 5, 3, 3, 1, 1)


@dataclass
class Wanted:
    """A subscription that the client asks for again when it comes back.

    Attributes:
        number: of it in the present session, once acknowledged.
    """

    ch: str
    symbols: list[str]
    delivery: dict[str, Any]
    snapshot_is_due: bool = False
    number: int | None = None


@dataclass
class Place:
    """Where a client could go on.

    Attributes:
        high: the newest `seq` of each topic that had come by then.
        books: and its books.
        is_exact: nothing came behind the cursor; otherwise what came is forgotten, as it comes again.
    """

    cursor: str
    high: dict[Key, int]
    books: Contents
    is_exact: bool = True


@dataclass
class Rules:
    """What is the same for all clients of a run.

    Attributes:
        symbols: by venue.
        until: from then on nobody does anything of its own accord, in seconds.
    """

    world: World
    oracle: Oracle
    listener: SimListener
    symbols: dict[str, list[str]]
    until: float
    fail: Callable[[str], None]
    lives: list[Life] = field(default_factory=list)


class Client:
    """One subscriber over all of its connections.

    Attributes:
        high: the newest `seq` of each topic that came.
        contents: what it knows of the market.
        wanted: what it is subscribed to, names before patterns.
    """

    def __init__(self, number: int, rules: Rules) -> None:
        self.number = number
        self.rules = rules
        self.rng = rules.world.child()
        self.contents = Contents(rules.oracle)
        self.high: dict[Key, int] = {}
        self.wanted: list[Wanted] = []
        self.channels: list[str] = []
        self.place: Place | None = None
        self._old_place: Place | None = None
        self._lives_left = self.rng.choice((0, 0, 1, 2, 3))
        rules.world.after(self.rng.uniform(0, rules.until * 0.6), self.connect)

    # ── coming and going ─────────────────────────────────────────────────────────────────────────

    def connect(self) -> None:
        """Begin a life."""
        rules, rng = self.rules, self.rng
        kind = rng.choices(WIRES, WIRE_WEIGHTS)[0]
        place = self._choose_place()
        if place is None:
            self.wanted = self._draw_wanted(is_http="ws" not in kind)
        if place is None or not place.is_exact:
            self.contents, self.high = Contents(rules.oracle), {}
        else:
            self.high, self.contents = dict(place.high), place.books.copy()
        self._put_in_order(is_http="ws" not in kind)
        life = Life(self, len(rules.lives), self._wire(kind), place)
        rules.lives.append(life)
        life.start(draw_weather(rng) if rules.world.now < rules.until else Weather())

    def _put_in_order(self, *, is_http: bool) -> None:
        """Put names before patterns, so that no subscription takes over what another has just resumed.

        A stream has one list of symbols and one contract for all of its channels.
        """
        self.wanted.sort(
            key=lambda wanted: [symbol.endswith("*") for symbol in sorted(wanted.symbols, reverse=True)]
        )
        if is_http:
            first = self.wanted[0]
            channels = dict.fromkeys(wanted.ch for wanted in self.wanted)
            due = any(wanted.snapshot_is_due for wanted in self.wanted)
            self.wanted = [Wanted(ch, first.symbols, first.delivery, due) for ch in channels]

    def _wire(self, kind: str) -> Wire:
        if kind.startswith("ws"):
            return WebSocket(self.rng, is_json=kind == "ws-json", answers_pings=self.rng.random() < 0.8)
        format_, _, version = kind.partition("-")
        return HttpStream(format_=format_, chunked=version != "1.0")

    def _choose_place(self) -> Place | None:
        """Return where to go on, if at all: where it was, where it was long ago, or nowhere that exists."""
        luck = self.rng.random()
        if self.place is None or not self.wanted or luck < 0.15:
            return None
        if luck < 0.2:
            return Place("0bad0-7", {}, Contents(self.rules.oracle))
        if luck < 0.35 and self._old_place is not None:
            return self._old_place
        return Place(self.place.cursor, dict(self.high), self.contents.copy(), self.place.is_exact)

    def _draw_wanted(self, *, is_http: bool) -> list[Wanted]:
        wanted: list[Wanted] = []
        channels = self.channels = self.rng.sample(CHANNELS, self.rng.choice((1, 1, 1, 2, 2, 3)))
        symbols = self.draw_symbols()
        delivery = draw_contract(self.rng, channels[0])
        for ch in channels:
            if not is_http:
                symbols, delivery = self.draw_symbols(), draw_contract(self.rng, ch)
            wanted.append(Wanted(ch, symbols, delivery))
        return wanted

    def want(self, ch: str) -> Wanted:
        """Return one more subscription to ask for."""
        wanted = Wanted(ch, self.draw_symbols(), draw_contract(self.rng, ch))
        self.wanted.append(wanted)
        return wanted

    def draw_symbols(self) -> list[str]:
        """Return names, or a pattern, or both, mostly few: as most clients want."""
        rng = self.rng
        venue = rng.choice(list(self.rules.symbols))
        names = self.rules.symbols[venue]
        luck = rng.random()
        if luck < 0.15:
            return ["*"]
        if luck < 0.35:
            return [f"{venue}:*"]
        if luck < 0.45:
            return [rng.choice(names), f"{venue}:*"]
        return rng.sample(names, rng.randint(1, min(3, len(names))))

    def life_ended(self) -> None:
        """Come back after a while, if there are lives left."""
        world = self.rules.world
        if self._lives_left and world.now < self.rules.until:
            self._lives_left -= 1
            world.after(self.rng.choice((0.0, 0.05, 0.3, 1.0)), self.connect)

    # ── what it remembers ────────────────────────────────────────────────────────────────────────

    def at_cursor(self, cursor: str, *, is_exact: bool) -> None:
        """Note where to go on; ``is_exact``: all that came so far is before it."""
        if is_exact and self.place is not None and self._old_place is None and self.rng.random() < 0.1:
            self._old_place = Place(cursor, dict(self.high), self.contents.copy())
        self.place = Place(cursor, {}, self.contents, is_exact)

    def off_cursor(self) -> None:
        """Note that ticks came behind the last cursor, as with the parts of a snapshot over SSE."""
        if self.place is not None:
            self.place.is_exact = False


def draw_weather(rng: random.Random) -> Weather:
    """Return how a connection is: mostly fine."""
    luck = rng.random()
    if luck < 0.5:
        return Weather(room=rng.choice((8192, 65_536)))
    if luck < 0.7:
        return Weather(latency_s=0.04, room=4096, short=0.3, again=0.05, segment=200)
    if luck < 0.85:
        return Weather(latency_s=0.01, bytes_per_s=rng.choice((3000, 20_000)), room=2048, short=0.1)
    return Weather(latency_s=0.1, bytes_per_s=100_000, room=rng.choice((600, 1500)), again=0.2, segment=60)
