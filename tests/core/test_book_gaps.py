"""Books of a feed that misses something: whoever follows the protocol never holds a wrong one.

A feed publishes snapshots and deltas, says now and then that it has missed something, and breaks the rules as well:
deltas between that and its snapshot. Readers come, go, fall behind, change their contract, resume. Each keeps books as
the protocol has it: a snapshot is the book, a delta changes it, behind a gap there is none until the next snapshot.
"""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core import outbox
from broker.core.codecs import JSON, MSGPACK, Codec
from broker.core.history import HistoryLimits
from broker.core.ticks import Book
from tests.core.pair import Client, Market, types
from tests.core.test_sessions import SMALL

Levels = dict[str, str]
Sides = dict[str, Levels]

SYMBOLS = ("SIM:A", "SIM:B")
_levels = st.dictionaries(st.sampled_from("123"), st.sampled_from("012"), max_size=2)
SIDES = st.fixed_dictionaries({"bids": _levels, "asks": _levels})
SYM = st.sampled_from(["SIM:A", *SYMBOLS])
#: What a feed does next with a book.
ACTS = st.lists(
    st.tuples(SYM, st.sampled_from(["snapshot", "delta", "delta", "delta", "gap"]), SIDES),
    min_size=1,
    max_size=6,
)
DELIVERIES = st.sampled_from(
    [
        {"mode": "latest"},
        {"mode": "latest", "max_rate": 2},
        {"mode": "latest", "max_age_ms": 300},
        {"mode": "every"},
        {"mode": "every"},
        {"mode": "every", "queue": 3},
        {"mode": "every", "queue": 4, "overflow": "degrade"},
        {"mode": "every", "max_age_ms": 300},
    ]
)
WANTED = st.sampled_from([["SIM:A", "SIM:B"], ["*"], ["SIM:*", "SIM:B"]])


def change(book: Sides, sides: Sides) -> Sides:
    """Return a book behind a delta; with an empty one, what a snapshot says."""
    both = {side: {**book[side], **sides[side]} for side in ("bids", "asks")}
    return {
        side: {price: size for price, size in levels.items() if size != "0"} for side, levels in both.items()
    }


EMPTY: Sides = {"bids": {}, "asks": {}}


class Venue:
    """A feed, and what it knows itself.

    Attributes:
        now: each symbol's book; ``None`` from a gap to the next snapshot, and before the first.
        record: the same behind each tick, by symbol and ``seq``.
    """

    def __init__(self, market: Market) -> None:
        self.market = market
        self.now: dict[str, Sides | None] = dict.fromkeys(SYMBOLS)
        self.record: dict[tuple[str, int], Sides | None] = {}

    def do(self, sym: str, act: str, sides: Sides) -> None:
        if act == "gap":
            self.now[sym] = None
            self.market.router.gap("book", sym)
            return
        known = self.now[sym]
        if act == "delta" and known is None and not self.market.seq("book", sym):
            act = "snapshot"
        if act == "snapshot":
            sides = known = change(EMPTY, sides)
        elif known is not None:
            known = change(known, sides)
        self.now[sym] = known
        lists = {side: sorted(levels.items(), reverse=side == "bids") for side, levels in sides.items()}
        self.market.publish(Book(sym=sym, ts=1, rts=2, kind=act, **lists))  # type: ignore[arg-type]  # one of two
        self.record[sym, self.market.seq("book", sym)] = known


class Reader:
    """A client that keeps books as the protocol says.

    Attributes:
        books: those it holds, each with the ``seq`` behind which it is right.
        told: symbols of which it knows that it has no book.
        named: how many ticks gaps have named, by subscription.
        upto: the last of them, by symbol: a snapshot from before it, which had to wait, does not mend the book.
    """

    def __init__(self, venue: Venue, codec: Codec) -> None:
        self.venue = venue
        self.codec = codec
        self.books: dict[str, tuple[int, Sides]] = {}
        self.told: set[str] = set()
        self.connect()

    def connect(self) -> None:
        self.client = Client(self.venue.market, self.codec)
        self.named: dict[int, int] = defaultdict(int)
        self.upto: dict[str, int] = defaultdict(int)
        self.subs: dict[int, dict[str, Any]] = {}
        self.read = 0

    def subscribe(self, symbols: list[str], delivery: dict[str, Any], **fields: Any) -> None:
        answer = self.client.request("subscribe", ch="book", symbols=symbols, delivery=delivery, **fields)
        self.take_in()
        if answer["type"] == "ack":
            self.subs[answer["sub"]] = delivery

    def take_in(self) -> None:
        for message in self.client.messages[self.read :]:
            match message["type"]:
                case "snapshot" | "update":
                    for tick in message["data"]:
                        self.take_in_tick(tick)
                case "gap":
                    self.take_in_gap(message)
        self.read = len(self.client.messages)

    def take_in_gap(self, gap: dict[str, Any]) -> None:
        self.books.pop(gap["sym"], None)
        self.told.add(gap["sym"])
        if gap["from"] is not None:
            self.named[gap["sub"]] += gap["to"] - gap["from"] + 1
            self.upto[gap["sym"]] = gap["to"]

    def take_in_tick(self, tick: dict[str, Any]) -> None:
        sym, seq = tick["sym"], tick["seq"]
        sides = {side: dict(map(tuple, tick[side])) for side in ("bids", "asks")}
        if tick["kind"] == "snapshot" and seq >= self.upto[sym]:
            self.books[sym] = seq, change(EMPTY, sides)
            self.told.discard(sym)
        elif tick["kind"] == "snapshot":
            return
        elif sym in self.books:
            self.books[sym] = seq, change(self.books[sym][1], sides)
        else:
            assert sym in self.told, f"{sym}: delta {seq} came onto nothing, and nothing was said"
            return
        assert self.books[sym][1] == self.venue.record[sym, seq], f"{sym}: behind {seq}"

    def take(self, writes: int) -> None:
        taken = self.client.take(writes)
        self.take_in()
        if len(taken) < writes:
            self.check_that_it_is_up_to_date()

    def check_that_it_is_up_to_date(self) -> None:
        """All that may be sent has come: what is not known is not held, what is held is the newest."""
        is_paced = any("max_rate" in delivery for delivery in self.subs.values())
        for sym, (seq, book) in self.books.items():
            known = self.venue.now[sym]
            assert known is not None, f"{sym}: the feed has no book, and the client holds that of {seq}"
            assert is_paced or book == known

    def check_account(self) -> None:
        for entry in self.client.heartbeat()["ledger"]:
            self.take_in()
            parts = sum(entry[part] for part in ("delivered", "conflated", "dropped", "pending"))
            assert entry["offered"] == parts
            assert entry["dropped"] == self.named[entry["sub"]]


class BookMachine(RuleBasedStateMachine):
    """A feed, up to three readers, and places to which they go back."""

    def __init__(self) -> None:
        super().__init__()
        self.before = {name: getattr(outbox, name) for name in SMALL}
        for name, value in SMALL.items():
            setattr(outbox, name, value)
        self.readers: list[Reader] = []
        self.saved: list[tuple[str, dict[str, tuple[int, Sides]], set[str]]] = []

    def teardown(self) -> None:
        try:
            if self.readers:
                self.come_to_rest()
        finally:
            for name, value in self.before.items():
                setattr(outbox, name, value)

    @initialize(
        history=st.sampled_from([HistoryLimits(), HistoryLimits(), HistoryLimits(ticks=6)]),
        acts=ACTS,
        codec=st.sampled_from([JSON, MSGPACK]),
        symbols=WANTED,
        delivery=DELIVERIES,
    )
    def begin(
        self,
        history: HistoryLimits,
        acts: list[tuple[str, str, Sides]],
        codec: Codec,
        symbols: list[str],
        delivery: dict[str, Any],
    ) -> None:
        self.market = Market(history, symbols=list(SYMBOLS))
        self.venue = Venue(self.market)
        self.publish(acts)
        self.come(codec, symbols, delivery)

    # ── the feed ─────────────────────────────────────────────────────────────────────────────────

    @rule(acts=ACTS)
    def publish(self, acts: list[tuple[str, str, Sides]]) -> None:
        for act in acts:
            self.venue.do(*act)

    @rule(sym=SYM, old=SIDES, new=SIDES, between=st.booleans())
    def reset(self, sym: str, old: Sides, new: Sides, between: bool) -> None:
        """A venue's bad day, as an adapter should tell of it, or nearly so."""
        self.venue.do(sym, "snapshot", old)
        self.venue.do(sym, "gap", EMPTY)
        if between:
            self.venue.do(sym, "delta", new)
        self.venue.do(sym, "snapshot", new)

    @rule(which=st.integers(0, 2), sym=SYM, acts=st.permutations(["snapshot", "delta", "gap"]), new=SIDES)
    def fall_behind(self, which: int, sym: str, acts: list[str], new: Sides) -> None:
        """What waits for a reader goes over a gap, and the feed does not keep to the rules."""
        for act in ("snapshot", *acts, "delta"):
            self.venue.do(sym, act, new)
        self.wait(which)

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.5]))
    def let_time_pass(self, seconds: float) -> None:
        self.market.now += seconds

    # ── readers ──────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: len(self.readers) < 3)
    @rule(codec=st.sampled_from([JSON, MSGPACK]), symbols=WANTED, delivery=DELIVERIES)
    def come(self, codec: Codec, symbols: list[str], delivery: dict[str, Any]) -> None:
        reader = Reader(self.venue, codec)
        self.readers.append(reader)
        reader.subscribe(symbols, delivery)

    def pick(self, which: int) -> Reader:
        return self.readers[which % len(self.readers)]

    @rule(which=st.integers(0, 2), writes=st.sampled_from([1, 2, 1000]))
    def take(self, which: int, writes: int) -> None:
        self.pick(which).take(writes)

    @rule(which=st.integers(0, 2))
    def wait(self, which: int) -> None:
        """The wire is full."""
        reader = self.pick(which)
        reader.client.wait()
        reader.take_in()

    @rule(which=st.integers(0, 2), delivery=DELIVERIES)
    def modify(self, which: int, delivery: dict[str, Any]) -> None:
        reader = self.pick(which)
        for number in reader.subs:
            answer = reader.client.request("modify", sub=number, delivery=delivery)
            assert answer["type"] == "ack"
            reader.subs[number] = answer["delivery"]
            reader.subs[number] = {name: value for name, value in answer["delivery"].items() if value}
        reader.take_in()

    @rule(which=st.integers(0, 2), sym=SYM, delivery=DELIVERIES, resumes=st.booleans())
    def take_over(self, which: int, sym: str, delivery: dict[str, Any], resumes: bool) -> None:
        """Name a symbol that a pattern of the same session had; anew, or from where the session stands."""
        reader = self.pick(which)
        fields = {"cursor": reader.client.heartbeat()["cursor"]} if resumes else {}
        reader.take_in()
        reader.subscribe([sym], delivery, **fields)

    @rule(which=st.integers(0, 2))
    def hear(self, which: int) -> None:
        self.pick(which).check_account()

    @rule(which=st.integers(0, 2))
    def remember(self, which: int) -> None:
        """Keep what a reader has, and the cursor of that."""
        reader = self.pick(which)
        if reader.client.cursor is not None:
            self.saved.append((reader.client.cursor, deepcopy(reader.books), set(reader.told)))

    @rule(
        which=st.integers(0, 2),
        place=st.integers(0, 8),
        symbols=WANTED,
        delivery=DELIVERIES,
        snapshot=st.sampled_from([None, None, True]),
    )
    def resume(
        self, which: int, place: int, symbols: list[str], delivery: dict[str, Any], snapshot: bool | None
    ) -> None:
        """Lose the connection, and come back to where one was, or to an earlier place with what was known there."""
        reader = self.pick(which)
        cursor = reader.client.disconnect()
        if place < len(self.saved):
            cursor, books, told = self.saved[place]
            reader.books, reader.told = deepcopy(books), set(told)
        reader.connect()
        missing = set(SYMBOLS) - reader.books.keys() - reader.told
        if missing:
            # The snapshot had not come yet, so it is asked for again; the ticks behind the cursor come before it.
            reader.told |= missing
            snapshot = True
        fields = {} if snapshot is None else {"snapshot": snapshot}
        reader.subscribe(symbols, delivery, cursor=cursor, **fields)

    # ── what has to hold ─────────────────────────────────────────────────────────────────────────

    @invariant()
    def broker_shows_no_book_that_is_not_known(self) -> None:
        for sym in SYMBOLS if self.readers else ():
            topic = self.market.topics.get("book", sym)
            shown = self.market.tape.snapshot(topic, self.market.now)
            if topic.seq:
                books = [{"bids": dict(e.tick.bids), "asks": dict(e.tick.asks)} for e in shown]  # type: ignore[union-attr]
                known = self.venue.now[sym]
                assert books == ([] if known is None else [known])

    def come_to_rest(self) -> None:
        """Behind the next snapshot of the feed everybody has the book."""
        for sym in SYMBOLS:
            self.venue.do(sym, "snapshot", {"bids": {"1": "1"}, "asks": {"3": "1"}})
        for _ in range(3):
            self.market.now += 4.0
            for reader in self.readers:
                reader.client.take()
                reader.take_in()
        for sym in SYMBOLS:
            self.venue.do(sym, "snapshot", {"bids": {"1": "2"}, "asks": {"3": "2"}})
        for reader in self.readers:
            reader.take(1_000_000)
        # What a rate has held back.
        self.market.now += 4.0
        for reader in self.readers:
            reader.take(1_000_000)
            reader.check_account()
            assert {sym: book for sym, (_, book) in reader.books.items()} == self.venue.now
            for sub in reader.client.session.subscriptions.values():
                assert sub.mailbox.is_clear


BookMachine.TestCase.settings = settings(
    max_examples=max(150, settings().max_examples), stateful_step_count=40, report_multiple_bugs=False
)
TestBookGaps = BookMachine.TestCase


# ── cases, one by one ────────────────────────────────────────────────────────────────────────────


def market_with_book() -> tuple[Market, Venue]:
    market = Market(symbols=list(SYMBOLS))
    venue = Venue(market)
    for sym in SYMBOLS:
        venue.do(sym, "snapshot", {"bids": {"1": "1"}, "asks": {}})
    return market, venue


DELTA: Sides = {"bids": {"2": "1"}, "asks": {}}


def extent(gap: dict[str, Any]) -> tuple[str, str, int | None, int | None]:
    return gap["sym"], gap["reason"], gap["from"], gap["to"]


def test_newcomer_between_gap_and_snapshot_gets_the_others_books_and_is_told_of_the_one() -> None:
    market, venue = market_with_book()
    venue.do("SIM:A", "gap", EMPTY)
    client = Client(market)
    client.subscribe("book", *SYMBOLS)
    gap, snapshot = client.take()
    assert extent(gap) == ("SIM:A", "feed_reset", None, 1)
    assert [tick["sym"] for tick in snapshot["data"]] == ["SIM:B"]
    venue.do("SIM:A", "snapshot", DELTA)
    (update,) = client.take()
    assert [(tick["seq"], tick["kind"], tick["bids"]) for tick in update["data"]] == [
        (2, "snapshot", [["2", "1"]])
    ]


def test_snapshot_that_was_asked_for_comes_empty_if_no_book_is_known() -> None:
    market, venue = market_with_book()
    venue.do("SIM:A", "gap", EMPTY)
    client = Client(market)
    client.subscribe("book", "SIM:A")
    assert types(client.take()) == ["gap", "snapshot"]
    assert client.messages[-1]["data"] == []


def test_snapshot_that_still_waits_when_the_book_is_lost_goes_ahead_of_the_gap() -> None:
    market, venue = market_with_book()
    client = Client(market)
    client.subscribe("book", "SIM:A")
    venue.do("SIM:A", "gap", EMPTY)
    assert types(client.take()) == ["snapshot", "gap"]


def test_delta_between_gap_and_snapshot_is_a_tick_and_makes_no_book() -> None:
    market, venue = market_with_book()
    client = Client(market)
    client.subscribe("book", "SIM:A", delivery={"mode": "every"})
    client.take()
    venue.do("SIM:A", "gap", EMPTY)
    venue.do("SIM:A", "delta", DELTA)
    gap, update = client.take()
    assert extent(gap) == ("SIM:A", "feed_reset", None, None)
    assert [(tick["seq"], tick["kind"]) for tick in update["data"]] == [(2, "delta")]
    assert market.tape.snapshot(market.topics.get("book", "SIM:A"), 0.0) == []


def test_every_tick_before_the_gap_comes_before_it_and_is_not_lost() -> None:
    market, venue = market_with_book()
    for codec in (JSON, MSGPACK):
        client = Client(market, codec)
        client.subscribe("book", *SYMBOLS, delivery={"mode": "every"})
        client.take()
        # From here on its ticks wait as bytes.
        market.now += 1
        start = market.seq("book", "SIM:A")
        venue.do("SIM:A", "snapshot", DELTA)
        client.take()
        venue.do("SIM:A", "delta", DELTA)
        venue.do("SIM:A", "gap", EMPTY)
        venue.do("SIM:B", "delta", DELTA)
        venue.do("SIM:A", "snapshot", DELTA)
        before = len(client.messages)
        client.take()
        assert types(client.messages[before:]) == ["update", "gap", "update"]
        assert client.seqs("book", "SIM:A") == [start + 1, start + 2, start + 3]
        (entry,) = client.request("list")["ledger"]
        assert (entry["offered"], entry["delivered"], entry["dropped"]) == (4, 4, 0)


def test_latest_lets_go_of_what_waits_of_a_lost_book_and_names_it() -> None:
    market, venue = market_with_book()
    for fields in ({}, {"max_rate": 0.5}):
        client = Client(market)
        client.subscribe("book", "SIM:A", delivery={"mode": "latest", **fields})
        first = market.seq("book", "SIM:A") + 1
        venue.do("SIM:A", "delta", DELTA)
        client.take()
        venue.do("SIM:A", "delta", DELTA)
        venue.do("SIM:A", "delta", DELTA)
        client.wait()
        venue.do("SIM:A", "gap", EMPTY)
        told = client.take()
        assert [extent(gap)[1:] for gap in told] == [
            ("feed_reset", first + 1, first + 2),
            ("feed_reset", None, None),
        ]
        venue.do("SIM:A", "snapshot", DELTA)
        market.now += 4
        (update,) = client.take()
        assert [(tick["seq"], tick["kind"]) for tick in update["data"]] == [(first + 3, "snapshot")]
        (entry,) = client.request("list")["ledger"]
        assert (entry["offered"], entry["delivered"], entry["dropped"], entry["conflated"]) == (4, 2, 2, 0)


def test_whoever_resumes_from_before_the_gap_is_told_of_it_in_its_place() -> None:
    market, venue = market_with_book()
    client = Client(market)
    client.subscribe("book", "SIM:A", delivery={"mode": "every"})
    client.take()
    cursor = client.disconnect()
    venue.do("SIM:A", "delta", DELTA)
    venue.do("SIM:A", "gap", EMPTY)
    venue.do("SIM:A", "snapshot", DELTA)
    every, latest = Client(market), Client(market)
    every.subscribe("book", "SIM:A", delivery={"mode": "every"}, cursor=cursor)
    assert types(every.take()) == ["update", "gap", "update"]
    latest.subscribe("book", "SIM:A", delivery={"mode": "latest"}, cursor=cursor)
    gap, update = latest.take()
    assert extent(gap) == ("SIM:A", "feed_reset", None, None)
    assert [(tick["seq"], tick["kind"]) for tick in update["data"]] == [(3, "snapshot")]


def test_latest_that_resumes_while_the_book_is_lost_is_told_which_ticks_it_does_not_get() -> None:
    market, venue = market_with_book()
    client = Client(market)
    client.subscribe("book", "SIM:A", delivery={"mode": "latest"})
    client.take()
    cursor = client.disconnect()
    venue.do("SIM:A", "delta", DELTA)
    venue.do("SIM:A", "gap", EMPTY)
    back = Client(market)
    back.subscribe("book", "SIM:A", delivery={"mode": "latest"}, cursor=cursor)
    assert [extent(gap)[1:] for gap in back.take()] == [("feed_reset", 2, 2), ("feed_reset", None, None)]
    assert back.request("list")["ledger"][0]["dropped"] == 1


def test_ticks_on_both_sides_of_a_gap_never_become_one() -> None:
    for degrades in (True, False):
        market, venue = market_with_book()
        client = Client(market)
        queue = {"queue": 2, "overflow": "degrade"} if degrades else {}
        client.subscribe("book", "SIM:A", delivery={"mode": "every", **queue})
        client.take()
        venue.do("SIM:A", "snapshot", DELTA)
        venue.do("SIM:A", "gap", EMPTY)
        venue.do("SIM:A", "delta", DELTA)
        venue.do("SIM:A", "delta", DELTA)
        client.wait()
        if not degrades:
            assert client.request("modify", sub=1, delivery={"mode": "latest"})["type"] == "ack"
        told = [message for message in client.take() if message["type"] in ("gap", "update")]
        assert [extent(gap)[1:] for gap in told[:-1]] == [("feed_reset", 2, 2), ("feed_reset", None, None)]
        assert [(tick["seq"], tick["kind"]) for tick in told[-1]["data"]] == [(4, "delta")]
        (entry,) = client.request("list")["ledger"]
        assert (entry["delivered"], entry["conflated"], entry["dropped"]) == (1, 1, 1)


def test_whoever_resumes_behind_the_gap_and_asks_for_a_snapshot_is_told_that_there_is_none() -> None:
    market, venue = market_with_book()
    venue.do("SIM:A", "gap", EMPTY)
    venue.do("SIM:B", "delta", DELTA)
    client = Client(market)
    client.subscribe("book", *SYMBOLS, cursor=market.tape.cursor(), snapshot=True)
    gap, snapshot = client.take()
    assert extent(gap) == ("SIM:A", "feed_reset", None, None)
    assert [tick["sym"] for tick in snapshot["data"]] == ["SIM:B"]


def test_gap_of_a_subscription_that_has_ended_is_told_nevertheless() -> None:
    market, venue = market_with_book()
    client = Client(market)
    client.subscribe("book", "*")
    client.subscribe("book", "SIM:A")
    client.take()
    venue.do("SIM:A", "gap", EMPTY)
    client.request("unsubscribe", sub=2)
    (gap,) = client.gaps
    assert (gap["sub"], *extent(gap)) == (2, "SIM:A", "feed_reset", None, None)


def test_gap_that_happens_while_a_resume_still_reads_the_history_is_told_too() -> None:
    market, venue = market_with_book()
    cursor = market.tape.cursor()
    venue.do("SIM:A", "delta", DELTA)
    client = Client(market)
    client.subscribe("book", "SIM:A", delivery={"mode": "every"}, cursor=cursor)
    assert market.router.gap("book", "SIM:A") == [client.session.subscriptions[1].mailbox]
    assert types(client.take()) == ["update", "gap"]


def test_cursor_ahead_of_an_untold_gap_brings_it_back() -> None:
    market, venue = market_with_book()
    client = Client(market)
    client.subscribe("book", "SIM:A", delivery={"mode": "every"})
    client.take()
    venue.do("SIM:A", "delta", DELTA)
    venue.do("SIM:A", "gap", EMPTY)
    venue.do("SIM:B", "delta", DELTA)
    (update,) = client.take(1)
    assert update["type"] == "update"
    assert client.heartbeat()["cursor"] == update["cursor"]
    cursor = client.disconnect()
    back = Client(market)
    back.subscribe("book", "SIM:A", delivery={"mode": "every"}, cursor=cursor)
    assert types(back.take()) == ["gap"]


def test_feed_that_fails_over_and_over_is_told_once_to_whoever_does_not_read() -> None:
    market, venue = market_with_book()
    client = Client(market)
    client.subscribe("book", "SIM:A", delivery={"mode": "every"})
    client.take()
    for _ in range(5):
        venue.do("SIM:A", "gap", EMPTY)
    assert types(client.take()) == ["gap"]
    assert len(market.topics.get("book", "SIM:A").resets) == 1
