"""A subscriber of the worst hour: it stays, counts, and holds every book against the venue's own."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from broker.app import Broker
from broker.core.ticks import Tick
from tests.simulation.account import Step
from tests.simulation.conversation import Conversation, Message
from tests.simulation.exchange import Levels
from tests.simulation.network import SimListener, Weather
from tests.simulation.oracle import Key
from tests.simulation.subscriber import Wanted
from tests.simulation.wires import WebSocket
from tests.simulation.world import World

CHANNELS = ("book", "trade", "quote", "status")
#: How often one in five stalls, and for how long at most: less than the write deadline.
STALL_EVERY_S, STALL_S = 15.0, 3.0
STALLING = 5


class Count:
    """How far one topic is, and was: what `tests.simulation.account` asks of a record."""

    def __init__(self) -> None:
        self.seq = 0
        self._times: deque[float] = deque(maxlen=256)

    def append(self, at: float) -> None:
        self.seq += 1
        self._times.append(at)

    def seqs_at(self, at: float) -> tuple[int, int]:
        """Return the least and the most that ``seq`` was at a time of the last minutes."""
        later = sum(each >= at - 1e-9 for each in self._times)
        return self.seq - later, self.seq - sum(each > at + 1e-9 for each in self._times)


class Tape:
    """The numbers of what went on the tape, without the ticks: what a conversation asks of an oracle."""

    def __init__(self, world: World, broker: Broker) -> None:
        self.topics: dict[Key, Count] = {}
        self.epoch = broker.tape.epoch
        self.last_at = 0.0
        self._world = world
        publish = broker.fanout.publish

        def published(ticks: Iterable[Tick]) -> None:
            batch = list(ticks)
            publish(batch)
            for tick in batch:
                self.topics.setdefault((tick.ch, tick.sym), Count()).append(world.now)
                self.last_at = world.now

        broker.fanout.publish = published  # type: ignore[method-assign]

    def position(self, cursor: str) -> None:
        """Return nothing: nobody resumes here."""


class Contents:
    """The books that one subscriber keeps.

    Attributes:
        compared: how often a book was held against the venue's.
    """

    def __init__(self, truth: dict[str, dict[int, Levels]]) -> None:
        self.compared = 0
        self._truth = truth
        self._books: dict[str, tuple[dict[str, str], dict[str, str]]] = {}

    def lose_book(self, sym: str) -> None:
        """Forget a book: ticks of it were missed."""
        self._books.pop(sym, None)

    def take_snapshot(self, tick: Message, *, is_json: bool) -> str:
        """Take a tick of a snapshot in; return what is wrong with it."""
        return self._take(tick) if tick["ch"] == "book" else ""

    def take_update(self, tick: Message, step: Step, *, is_json: bool, is_exact: bool) -> str:
        """Take a tick of an update in; return what is wrong with it."""
        if tick["ch"] != "book":
            return ""
        if step.told:
            self.lose_book(tick["sym"])
        return self._take(tick)

    def _take(self, tick: Message) -> str:
        sym = tick["sym"]
        if tick["kind"] == "snapshot":
            self._books[sym] = {}, {}
        book = self._books.get(sym)
        if book is None:
            return ""
        for side, levels in zip(book, (tick["bids"], tick["asks"]), strict=True):
            for price, size in levels:
                if size == "0":
                    side.pop(price, None)
                else:
                    side[price] = size
        self.compared += 1
        ours = frozenset(book[0].items()), frozenset(book[1].items())
        if self._truth[sym].get(int(tick["ts"])) != ours:
            return f"the book of {sym} is not the venue's at {tick['ts']}"
        return ""


@dataclass
class Known:
    """What all subscribers share; what a conversation asks of the rules of its client."""

    world: World
    oracle: Any
    truth: dict[str, dict[int, Levels]]
    fail: Callable[[str], None]


class Watcher:
    """One subscriber over a WebSocket.

    Attributes:
        mode: of its subscriptions to market data.
        seen: gaps by channel and reason, seconds in each state summed over the symbols, messages.
        contents: its books.
    """

    def __init__(self, number: int, mode: str, delivery: dict[str, Any], rules: Known, listener: SimListener):
        self.mode = mode
        self.rules = rules
        self.seen: Counter[str] = Counter()
        self.contents: Any = Contents(rules.truth)
        self.high: dict[Key, int] = {}
        self.wanted = [Wanted(ch, ["*"], {} if ch == "status" else delivery) for ch in CHANNELS]
        self.is_over = self._is_resting = False
        self._states: dict[str, tuple[str, float]] = {}
        self._rng: random.Random = rules.world.child()
        self._wire = WebSocket(self._rng, is_json=True, answers_pings=True)
        self._wire.reply = self._say
        name = f"{mode} {number}"
        self._talk = Conversation(self, name, None, is_json=True)  # type: ignore[arg-type]
        # What the kernel has no room for is what can be conflated.
        weather = Weather(latency_s=0.01, room=65_536 if number % STALLING else 1024)
        self._link = listener.connect(self, weather, f"10.0.{len(mode)}.{number}")
        self._say(self._wire.request(self._rng, {}, None))
        self._next_id = 1
        for wanted in self.wanted:
            request = {"op": "subscribe", "ch": wanted.ch, "symbols": wanted.symbols}
            self._ask({**request, "delivery": wanted.delivery}, wanted)
        if number % STALLING == 0:
            rules.world.after(self._rng.uniform(0, STALL_EVERY_S), self._stall)

    def on_data(self, data: bytes) -> None:
        """Take what came."""
        for message, _ in self._wire.receive(data):
            self._count(message)
            self._talk.take(message)

    def on_eof(self) -> None:
        """Take the broker's end."""
        self.is_over = True
        self._link.close()

    def on_reset(self) -> None:
        """Take the broker's reset: it has no reason for one."""
        self.rules.fail(f"{self.mode}: reset")

    def rest(self) -> None:
        """Read everything from now on."""
        self._is_resting = True
        self._link.clear_up()

    def last_list(self) -> None:
        """Ask for the ledgers at rest: everything has to be accounted for."""
        self._talk.is_quiet = True
        self._ask({"op": "list"})

    def conclude(self) -> None:
        """Take the account at the end: all questions are answered, and the states have lasted until now."""
        if self._talk.pending or self._talk.closing is not None or self.is_over:
            self.rules.fail(f"{self.mode}: {self._talk.pending} pending, closing {self._talk.closing}")
        for sym in list(self._states):
            self._enter(sym, "")

    # ── what it sees ─────────────────────────────────────────────────────────────────────────────

    def _count(self, message: Message) -> None:
        self.seen["messages"] += 1
        if message["type"] == "gap":
            self.seen[f"gap {message['ch']} {message['reason']}"] += 1
        elif message["type"] in ("update", "snapshot"):
            for tick in message["data"]:
                self.seen[f"{tick['ch']} ticks"] += 1
                if tick["ch"] == "status":
                    self._enter(tick["sym"], tick["state"])
        elif message["type"] in ("notice", "closing"):
            self.seen[f"{message['type']} {message.get('state', '')}"] += 1

    def _enter(self, sym: str, state: str) -> None:
        now = self.rules.world.now
        before, since = self._states.pop(sym, ("", now))
        if before:
            self.seen[f"seconds {before}"] += round(now - since)
        if state:
            self._states[sym] = state, now

    # ── what it does ─────────────────────────────────────────────────────────────────────────────

    def _stall(self) -> None:
        world = self.rules.world
        if not self._is_resting:
            self._link.is_stalled = True
            world.after(self._rng.uniform(0, STALL_S), self._link.resume)
            world.after(self._rng.uniform(0.5, 1.5) * STALL_EVERY_S, self._stall)

    def _ask(self, request: Message, wanted: Wanted | None = None) -> None:
        request["id"] = self._next_id
        self._next_id += 1
        self._talk.asked(request, wanted)
        self._say(self._wire.encode(request))

    def _say(self, data: bytes) -> None:
        if not self.is_over:
            self._link.send(data)
