"""The client's account against the real broker's ledgers, whatever happens between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from broker.client import events
from broker.client.effects import Puzzled
from broker.client.requests import Request
from broker.client.state import SubscriptionState
from broker.core import outbox
from broker.core.books import BookState
from broker.core.ticks import Book, Status, Tick
from tests.client.peers import SYMBOLS, Peers, bar, quote, trade

#: Writes of a few ticks, so that a short run has many of them.
SMALL = {"WRITE_TICKS": 4, "WRITE_BYTES": 500, "WRITE_BOOKS": 3, "WRITE_GAPS": 2}


def status(sym: str = "SIM:A", state: str = "live") -> Status:
    return Status(sym=sym, ts=1, rts=2, state=state)  # type: ignore[arg-type]  # one of the states


def book(sym: str = "SIM:A", price: int = 1, size: str = "1", kind: str = "delta") -> Book:
    return Book(sym=sym, ts=1, rts=2, kind=kind, bids=[(str(price), size)], asks=[])  # type: ignore[arg-type]


SYMBOL = st.sampled_from(SYMBOLS)
TICKS = st.one_of(
    st.builds(trade, SYMBOL),
    st.builds(quote, SYMBOL),
    st.builds(quote, st.just("SIM:A")),
    st.builds(status, SYMBOL, st.sampled_from(["live", "stale"])),
    st.builds(bar, SYMBOL, st.sampled_from(["1s", "1m"])),
    st.builds(book, SYMBOL, st.integers(1, 3), st.sampled_from(["0", "1", "2"])),
)
MAKERS: dict[str, Callable[[str], Tick]] = {
    "trade": trade, "quote": quote, "status": status, "bar": bar, "book": book
}  # fmt: skip
CHANNEL = st.sampled_from(["trade", "quote", "quote", "status", "bar", "book"])
NAMES = st.lists(st.sampled_from([*SYMBOLS, "SIM:*", "OTHER:*", "*"]), min_size=1, max_size=3, unique=True)
CONTRACTS: list[dict[str, Any]] = [
    {"mode": "every", "queue": 2},
    {"mode": "every", "queue": 5},
    {"mode": "every", "queue": 1000, "max_age_ms": 1},
    {"mode": "every", "queue": 2, "overflow": "degrade"},
    {"mode": "latest"},
    {"mode": "latest", "max_age_ms": 1},
    {"mode": "latest", "max_rate": 200},
]
DELIVERY = st.sampled_from([None, None, *CONTRACTS])


class Verified(RuleBasedStateMachine):
    """One client over several connections and brokers, with subscriptions that come, change and go."""

    def __init__(self) -> None:
        super().__init__()
        self.before = {name: getattr(outbox, name) for name in SMALL}
        for name, value in SMALL.items():
            setattr(outbox, name, value)
        self.states: list[SubscriptionState] = []

    def teardown(self) -> None:
        try:
            if hasattr(self, "peers"):
                self.drain()
        finally:
            for name, value in self.before.items():
                setattr(outbox, name, value)

    @initialize(codec=st.sampled_from(["json", "msgpack"]), history=st.sampled_from([3, 20, 1000]))
    def begin(self, codec: Any, history: int) -> None:
        self.peers = Peers(codec, history)
        self.peers.settle()

    @rule(ch=CHANNEL, names=NAMES, delivery=DELIVERY, snapshot=st.sampled_from([None, None, True, False]))
    def subscribe(self, ch: str, names: list[str], delivery: Any, snapshot: bool | None) -> None:
        self.states.append(self.peers.subscribe(ch, *names, delivery=delivery, snapshot=snapshot))

    @precondition(lambda self: self.states)
    @rule(ch=CHANNEL, names=NAMES, which=st.integers(0, 9), snapshot=st.sampled_from([None, True]))
    def subscribe_behind_a_cursor(self, ch: str, names: list[str], which: int, snapshot: bool | None) -> None:
        cursor = self.states[which % len(self.states)].cursor
        self.states.append(self.peers.subscribe(ch, *names, cursor=cursor, snapshot=snapshot))

    @precondition(lambda self: self.states)
    @rule(which=st.integers(0, 9))
    def unsubscribe(self, which: int) -> None:
        self.peers.client.unsubscribe(self.states.pop(which % len(self.states)))

    @precondition(lambda self: self.states)
    @rule(which=st.integers(0, 9), delivery=st.sampled_from(CONTRACTS))
    def modify(self, which: int, delivery: Any) -> None:
        state = self.states[which % len(self.states)]
        self.peers.client.ask(Request("modify", state, {"delivery": delivery}))

    @rule(ticks=st.lists(TICKS, min_size=1, max_size=10))
    def publish(self, ticks: list[Tick]) -> None:
        self.peers.publish(*ticks)

    @precondition(lambda self: self.states)
    @rule(which=st.integers(0, 9), sym=SYMBOL, count=st.integers(2, 8))
    def burst(self, which: int, sym: str, count: int) -> None:
        """Publish more of what somebody follows than his queue may take."""
        make = MAKERS[self.states[which % len(self.states)].ch]
        self.peers.publish(*[make(sym) for _ in range(count)])

    @rule(sym=SYMBOL, shows=st.booleans())
    def miss(self, sym: str, shows: bool) -> None:
        """A feed misses something of a book; its snapshot may take a while."""
        self.peers.router.gap("book", sym)
        if shows:
            self.peers.publish(book(sym, kind="snapshot"))

    @rule()
    def request(self) -> None:
        if self.peers.session is not None:
            self.peers.request()

    @rule(writes=st.integers(1, 3))
    def write(self, writes: int) -> None:
        for _ in range(writes):
            self.peers.write()

    @rule(messages=st.integers(1, 6))
    def receive(self, messages: int) -> None:
        self.peers.receive(messages)

    @rule()
    def wait(self) -> None:
        self.peers.now += 0.002

    @rule()
    def heartbeat(self) -> None:
        self.peers.heartbeat()

    @rule()
    def list_(self) -> None:
        self.peers.client.ask(Request("list"))

    @rule(is_new=st.sampled_from([False, False, False, True]))
    def come_back(self, is_new: bool) -> None:
        if is_new:
            self.peers.restart()
        self.peers.connect()

    @rule()
    def drain(self) -> None:
        """Nothing is under way and nothing pending: everything can be checked to the last tick."""
        self.peers.settle()
        # What a max_rate holds back comes when its time has come.
        self.peers.now += 1.0
        self.peers.settle()
        self.peers.client.ask(Request("list"))
        self.peers.settle()
        verdict = self.peers.client.verdict()
        assert not self.peers.disagreements, self.peers.disagreements
        assert verdict.agrees
        for state in self.states:
            item = state.verdict()
            # Nothing is pending, so all is exact, but for what the broker alone knows.
            assert item.is_exact or item.unknown or not item.checks or state.account.early
        for state in self.states:
            if state.ch == "book" and state.number is not None:
                self.books_are_right(state)
        assert not [effect for effect in self.peers.effects if isinstance(effect, Puzzled)]

    def books_are_right(self, state: SubscriptionState) -> None:
        """What an application makes of snapshots and deltas is the broker's own book."""
        books: dict[str, BookState] = {}
        for event in self.peers.seen[state]:
            if isinstance(event, events.Gap):
                books.pop(event.sym, None)
            elif not isinstance(event, events.Notice):
                for tick in event.ticks:
                    assert isinstance(tick, Book)
                    if tick.kind == "snapshot":
                        books[tick.sym] = BookState()
                    if tick.sym in books:
                        books[tick.sym].apply(tick)
        assert self.peers.session is not None
        assert state.number is not None
        assert not state.broken
        for topic in self.peers.session.subscriptions[state.number].topics:
            # A new broker's loss of all it knew is told with a symbol's first tick.
            if topic.sym in books and topic.seq:
                assert topic.book is not None
                assert books[topic.sym].levels() == topic.book.levels()


Verified.TestCase.settings = settings(
    max_examples=max(150, settings().max_examples), stateful_step_count=40, report_multiple_bugs=False
)
TestVerified = Verified.TestCase
