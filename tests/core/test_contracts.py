"""Every contract on trades and books, changed at will: nothing is lost, doubled or out of order unnoticed."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.core.books import BookState
from broker.core.delivery import DeliveryLimits
from broker.core.mailbox import Level
from broker.core.session import SessionLimits
from broker.core.ticks import Book, Trade
from tests.core.pair import Client, Market

SYMBOLS = ("SIM:A", "SIM:B")
DELIVERIES: list[dict[str, Any]] = [
    {"mode": "every", "queue": 1000, "overflow": "gap"},
    {"mode": "every", "queue": 3, "overflow": "gap"},
    {"mode": "every", "queue": 3, "overflow": "degrade"},
    {"mode": "every", "queue": 1000, "overflow": "evict"},
    {"mode": "latest"},
    {"mode": "latest", "max_rate": 2},
    {"mode": "latest", "max_rate": 0.5},
]
PRICES = st.integers(1, 6).map(str)
LEVELS = st.lists(st.tuples(PRICES, st.sampled_from(["0", "1", "2", "0.000"])), max_size=3)


class ContractMachine(RuleBasedStateMachine):
    """One subscription of two symbols, beside a record of all that was published."""

    @initialize(ch=st.sampled_from(["trade", "book"]), delivery=st.sampled_from(DELIVERIES))
    def begin(self, ch: str, delivery: dict[str, Any]) -> None:
        self.ch = ch
        self.market = Market(symbols=list(SYMBOLS))
        limits = SessionLimits(delivery=DeliveryLimits(queue_ticks=2000, queue_bytes=1 << 20))
        self.client = Client(self.market, limits=limits)
        self.sizes: dict[tuple[str, int], Decimal] = {}
        self.published: dict[str, int] = defaultdict(int)
        for sym in SYMBOLS:
            self.offer_book(sym, [("5", "1")], [("6", "1")], "snapshot")
        self.client.subscribe(ch, *SYMBOLS, delivery=delivery)
        self.client.take()
        self.start = dict(self.published)
        self.books = {sym: BookState() for sym in SYMBOLS}
        self.seen = defaultdict(int, self.published)
        self.broken: set[str] = set()
        self.volume: dict[str, Decimal] = defaultdict(Decimal)
        self.told: set[tuple[str, int]] = set()
        self.sent_at: dict[str, list[float]] = defaultdict(list)
        self.read = 0
        self.rate: float | None = delivery.get("max_rate")
        if ch == "book":
            for message in self.client.messages:
                for tick in message.get("data", []):
                    self.books[tick["sym"]].apply(book_of(tick))
        self.read = len(self.client.messages)

    def offer_book(self, sym: str, bids: list[Any], asks: list[Any], kind: str) -> None:
        if self.ch != "book":
            return
        tick = Book(sym=sym, ts=1, rts=1, kind=kind, bids=bids, asks=asks)  # type: ignore[arg-type]
        self.market.publish(tick)
        self.published[sym] = tick.seq

    @rule(
        sym=st.sampled_from(SYMBOLS),
        size=st.decimals(0, 100, places=3),
        bids=LEVELS,
        asks=LEVELS,
        kind=st.sampled_from(["delta"] * 9 + ["snapshot"]),
        side=st.sampled_from(["buy", "sell", None]),
    )
    def publish(self, sym: str, size: Decimal, bids: Any, asks: Any, kind: str, side: Any) -> None:
        if self.ch == "book":
            self.offer_book(sym, bids, asks, kind)
            return
        tick = Trade(sym=sym, ts=1, rts=1, price="5", size=str(size), side=side, id="x")
        self.market.publish(tick)
        self.published[sym] = tick.seq
        self.sizes[sym, tick.seq] = size

    @rule(seconds=st.floats(0, 1.5))
    def let_time_pass(self, seconds: float) -> None:
        self.market.now += seconds

    @rule()
    def take(self) -> None:
        self.client.take()
        self.take_in()

    @rule()
    def wait(self) -> None:
        self.client.wait()
        self.take_in()

    @rule(delivery=st.sampled_from(DELIVERIES))
    def modify(self, delivery: dict[str, Any]) -> None:
        self.take_in()
        answer = self.client.request("modify", sub=1, delivery=delivery)
        assert answer["type"] == "ack", answer
        assert answer["delivery"].items() >= delivery.items()
        self.rate = answer["delivery"]["max_rate"]
        self.sent_at.clear()

    def take_in(self) -> None:
        for message in self.client.messages[self.read :]:
            if message["type"] == "update":
                for tick in message["data"]:
                    self.take_in_tick(tick)
            elif message["type"] == "gap":
                for seq in range(message["from"], message["to"] + 1):
                    assert (message["sym"], seq) not in self.told
                    assert seq > self.seen[message["sym"]]
                    self.told.add((message["sym"], seq))
                self.broken.add(message["sym"])
        self.read = len(self.client.messages)

    def take_in_tick(self, tick: dict[str, Any]) -> None:
        sym, seq = tick["sym"], tick["seq"]
        assert seq > self.seen[sym]
        if self.ch == "book":
            if tick["kind"] == "snapshot":
                self.broken.discard(sym)
            self.books[sym].apply(book_of(tick))
        else:
            covered = [(sym, n) for n in range(self.seen[sym] + 1, seq + 1) if (sym, n) not in self.told]
            assert tick.get("count", 1) == len(covered)
            assert Decimal(tick["size"]) == sum(self.sizes[key] for key in covered)
        self.seen[sym] = seq
        if self.rate is not None:
            self.sent_at[sym].append(self.market.now)

    @invariant()
    def account_is_true(self) -> None:
        if not hasattr(self, "client"):
            return
        self.take_in()
        (entry,) = self.client.session.ledger()
        offered = sum(self.published[sym] - self.start.get(sym, 0) for sym in SYMBOLS)
        received = [
            tick
            for message in self.client.messages
            if message["type"] == "update"
            for tick in message["data"]
        ]
        mailbox = self.client.session.subscriptions[1].mailbox
        assert entry.offered == offered
        assert entry.offered == entry.delivered + entry.conflated + entry.dropped + entry.pending
        assert entry.delivered == len(received)
        told_later = sum((gap.last or 0) - (gap.first or 0) + 1 for gap in mailbox._gaps)
        told = len(self.told) + told_later
        # What a queue of bytes drops beyond its length is only counted, until somebody asks.
        is_named = not getattr(mailbox._queue, "has_unnamed", False)
        assert entry.dropped == told if is_named else entry.dropped > told
        assert mailbox.bytes >= 0
        assert bool(mailbox.bytes) == bool(len(mailbox))

    @invariant()
    def rate_is_kept(self) -> None:
        for times in getattr(self, "sent_at", {}).values():
            assert self.rate is not None
            for earlier, later in pairwise(times):
                assert later - earlier >= 0.5 / self.rate - 1e-9
            for first, last in zip(times, times[3:], strict=False):
                assert last - first >= 2 / self.rate - 1e-9, "three in a row take two intervals at least"

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        # In the end it comes, though no other tick follows.
        for _ in range(4):
            self.market.now += 4.0
            self.client.take()
            self.take_in()
        mailbox = self.client.session.subscriptions[1].mailbox
        assert len(mailbox) == 0
        assert mailbox.level is Level.LIVE
        assert mailbox.is_clear
        for sym in SYMBOLS:
            missing = range(self.seen[sym] + 1, self.published[sym] + 1)
            assert all((sym, seq) in self.told for seq in missing)
            if self.ch == "book" and sym not in self.broken:
                state = self.market.topics.get("book", sym).book
                assert state is not None
                assert self.books[sym].levels() == state.levels()


def book_of(tick: dict[str, Any]) -> Book:
    sides = {side: [tuple(level) for level in tick[side]] for side in ("bids", "asks")}
    return Book(sym=tick["sym"], seq=tick["seq"], ts=1, rts=1, kind=tick["kind"], **sides)


TestContracts = ContractMachine.TestCase


def test_subscriber_is_told_once_that_it_is_pressed_and_once_that_it_has_recovered() -> None:
    market = Market(symbols=list(SYMBOLS))
    client = Client(market)
    client.subscribe("trade", "SIM:A", delivery={"queue": 10})
    for _ in range(3):
        market.trades(*["SIM:A"] * 2)
        client.wait()
    assert [m for m in client.messages if m["type"] == "notice"] == [
        {"type": "notice", "state": "pressed", "sub": 1, "queued": 6, "limit": 10}
    ]
    client.take()
    client.take()
    assert [m["state"] for m in client.messages if m["type"] == "notice"] == ["pressed", "recovered"]
    assert client.gaps == []


def test_degraded_subscriber_gets_the_latest_until_it_has_caught_up_and_every_tick_from_then_on() -> None:
    market = Market(symbols=list(SYMBOLS))
    client = Client(market)
    client.subscribe("quote", *SYMBOLS, delivery={"mode": "every", "queue": 4, "overflow": "degrade"})
    market.quotes(*["SIM:A"] * 6, "SIM:B")
    client.wait()
    market.quotes("SIM:A", "SIM:A")
    client.wait()
    client.take()
    client.take()
    market.quotes("SIM:A", "SIM:A")
    client.take()
    assert client.seqs("quote", "SIM:A") == [8, 9, 10]
    assert client.seqs("quote", "SIM:B") == [1]
    states = [m["state"] for m in client.messages if m["type"] == "notice"]
    assert states == ["degraded", "recovered"]
    (entry,) = client.request("list")["ledger"]
    assert (entry["offered"], entry["delivered"], entry["conflated"], entry["dropped"]) == (11, 4, 7, 0)


def test_many_deltas_over_a_small_book_become_the_book() -> None:
    market = Market(symbols=list(SYMBOLS))
    client = Client(market)
    market.publish(Book(sym="SIM:A", ts=1, rts=1, kind="snapshot", bids=[("1", "1")], asks=[]))
    client.subscribe("book", "SIM:A", delivery={"mode": "latest"})
    client.take()
    for price in range(2, 5000):
        gone, new = (str(price - 1), "0"), (str(price), "1")
        market.publish(Book(sym="SIM:A", ts=1, rts=1, kind="delta", bids=[new, gone], asks=[]))
        if price % 100 == 0:
            client.wait()
    (tick,) = client.take()[-1]["data"]
    assert (tick["kind"], tick["bids"]) == ("snapshot", [["4999", "1"]])


def test_quiet_symbol_is_served_at_once_and_busy_ones_by_one_beat() -> None:
    market = Market(symbols=list(SYMBOLS))
    client = Client(market)
    client.subscribe("quote", *SYMBOLS, delivery={"max_rate": 2})
    writes = []
    for step in range(100):
        market.now = step / 20
        market.quotes("SIM:A")
        if step >= 7:
            market.quotes("SIM:B")
        if messages := client.take():
            writes.append((market.now, sum(len(message["data"]) for message in messages)))
    assert writes[0] == (0.0, 1)
    assert len(writes) <= 12, "two symbols, one beat of two a second, and one write for each that was quiet"
    assert all(ticks == 2 for _, ticks in writes[4:])
