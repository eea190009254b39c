"""Both mailboxes beside a model that is obviously right: a list of everything that was ever offered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core.delivery import Delivery, DeliveryLimits
from broker.core.history import HistoryLimits
from broker.core.mailbox import Mailbox, Missing, Verdict
from broker.core.tape import Entry, Tape
from broker.core.ticks import Bar, Quote, Status, Tick, Trade
from broker.core.topics import Topic, Topics
from tests.fakes import put

LIMITS = DeliveryLimits(queue_ticks=50, queue_bytes=2000)
SYMBOLS = ("SIM:A", "SIM:B", "SIM:C")


def latest(max_age_ms: int | None = None) -> Delivery:
    return Delivery("latest", None, 0, None, None, max_age_ms)


def every(queue: int = 8, overflow: str = "gap") -> Delivery:
    return Delivery("every", None, 0, queue, overflow, None)  # type: ignore[arg-type]  # one of the two


def quote(sym: str = "SIM:A") -> Quote:
    return Quote(sym=sym, ts=1, rts=2, bid="1", bid_size="1", ask=None, ask_size=None)


def trade(sym: str = "SIM:A", id_: str = "1") -> Trade:
    return Trade(sym=sym, ts=1, rts=2, price="1", size="1", side=None, id=id_)


def status(state: str, sym: str = "SIM:A") -> Status:
    return Status(sym=sym, ts=1, rts=2, state=state)  # type: ignore[arg-type]  # one of the states


def bar(interval: str, sym: str = "SIM:A") -> Bar:
    ones: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close", "volume"), "1")
    return Bar(sym=sym, ts=1, rts=2, interval=interval, start=0, count=1, final=False, **ones)


def a_tape() -> Tape:
    return Tape("e1", Topics(), HistoryLimits())


def offer_all(mailbox: Mailbox, *ticks: Tick) -> Verdict:
    verdict = Verdict.KEEP
    for entry in put(a_tape(), ticks):
        verdict = mailbox.offer(entry)
    return verdict


class MailboxMachine(RuleBasedStateMachine):
    """What is offered, taken, expired and changed, against lists."""

    contract: ClassVar[Delivery]

    def __init__(self) -> None:
        super().__init__()
        self.tape = a_tape()
        self.now = 0.0
        self.mailbox = Mailbox("quote", self.contract, LIMITS)
        self.mailbox.topic_count = len(SYMBOLS)
        self.offered: list[Entry] = []
        self.received: list[Entry] = []
        self.told: list[Missing] = []
        self.evicted = False
        #: Between two rounds the inbox may hold ticks that nobody has looked at; looking would settle them.
        self.is_settled = True

    # What a session does with a mailbox.

    @rule(
        ticks=st.lists(
            st.one_of(
                st.builds(quote, st.sampled_from(SYMBOLS)),
                st.builds(status, st.sampled_from(["live", "stale"]), st.sampled_from(SYMBOLS)),
                st.builds(bar, st.sampled_from(["1s", "1m"]), st.sampled_from(SYMBOLS)),
                st.builds(trade, st.sampled_from(SYMBOLS), st.sampled_from(["1", "2" * 60, "3" * 900])),
            ),
            max_size=12,
        ),
        settle=st.booleans(),
    )
    def offer(self, ticks: list[Tick], settle: bool) -> None:
        self.now += 1.0
        entries = put(self.tape, ticks, self.now)
        self.offered += entries
        self.mailbox.inbox += entries
        self.is_settled = settle

    @precondition(lambda self: not self.evicted)
    @rule()
    def take_all(self) -> None:
        self.is_settled = True
        self._receive(self.mailbox.take())
        assert len(self.mailbox) == 0

    @precondition(lambda self: not self.evicted)
    @rule(back=st.integers(0, 20))
    def take_a_prefix(self, back: int) -> None:
        self.is_settled = True
        upto = max(0, self.tape.offset - back)
        self._receive(self.mailbox.take(upto))
        assert all(entry.offset > upto for entry in self.mailbox.peek())

    @precondition(lambda self: not self.evicted)
    @rule(most=st.integers(1, 20))
    def take_fresh(self, most: int) -> None:
        had_gaps = self.mailbox.has_gaps
        taken = self.mailbox.take_fresh(most)
        self.is_settled = True
        if taken is not None:
            assert not had_gaps, "they would have to be told first"
            assert len(taken) <= most
            self._receive(taken)
            assert len(self.mailbox) == 0

    @precondition(lambda self: not self.evicted)
    @rule(age=st.integers(0, 5))
    def expire(self, age: int) -> None:
        self.is_settled = True
        self.mailbox.expire(self.now - age)
        assert all(entry.at >= self.now - age for entry in self.mailbox.peek())

    @precondition(lambda self: not self.evicted)
    @rule(
        delivery=st.sampled_from([latest(), every(), every(3), every(8, "evict"), every(2, "evict")]),
    )
    def modify(self, delivery: Delivery) -> None:
        self.is_settled = True
        before = self.mailbox.ledger(1)
        if not self.mailbox.change(delivery):
            assert self.mailbox.ledger(1) == before

    @rule()
    def hear_gaps(self) -> None:
        self.told += self.mailbox.take_gaps()

    def _receive(self, entries: list[Entry]) -> None:
        # A session tells the gaps first, whenever it sends.
        self.told += self.mailbox.take_gaps()
        self.received += entries

    # What has to hold.

    @precondition(lambda self: self.is_settled)
    @invariant()
    def account_adds_up_and_is_true(self) -> None:
        self.evicted |= self.mailbox.settle() is Verdict.EVICT
        ledger = self.mailbox.ledger(1)
        assert ledger.offered == ledger.delivered + ledger.conflated + ledger.dropped + ledger.pending
        assert ledger.offered == len(self.offered)
        assert ledger.delivered == len(self.received)
        assert ledger.pending == len(list(self.mailbox.peek())) == len(self.mailbox)

    @precondition(lambda self: self.is_settled)
    @invariant()
    def bounds_hold(self) -> None:
        queued = list(self.mailbox.peek())
        if self.mailbox.delivery.mode == "latest":
            assert len(queued) <= LIMITS.queue_ticks + 2 * len(SYMBOLS) or self.evicted
            return
        assert self.mailbox.delivery.queue is not None
        assert len(queued) <= self.mailbox.delivery.queue
        assert self.mailbox.bytes == sum(entry.size for entry in queued)
        assert self.mailbox.bytes <= LIMITS.queue_bytes or len(queued) == 1

    @precondition(lambda self: self.is_settled)
    @invariant()
    def queue_is_in_the_order_of_the_tape_behind_what_was_received(self) -> None:
        offsets = [entry.offset for entry in [*self.received, *self.mailbox.peek()]]
        assert offsets == sorted(set(offsets))
        assert self.mailbox.first_offset() == next((item.offset for item in self.mailbox.peek()), None)

    @precondition(lambda self: self.is_settled)
    @invariant()
    def every_seq_is_received_or_queued_or_told_or_conflated_exactly_once(self) -> None:
        told_or_will_be = [*self.told, *self.mailbox._gaps]
        fate: Counter[tuple[Topic, int]] = Counter()
        for entry in [*self.received, *self.mailbox.peek()]:
            fate[entry.topic, entry.seq] += 1
        told = 0
        for gap in told_or_will_be:
            assert gap.first is not None
            assert gap.last is not None
            told += gap.last - gap.first + 1
            fate.update((gap.topic, seq) for seq in range(gap.first, gap.last + 1))
        assert told == self.mailbox.dropped
        offered = {(entry.topic, entry.seq) for entry in self.offered}
        assert set(fate) <= offered
        assert not fate or max(fate.values()) == 1
        assert len(offered) - len(fate) == self.mailbox.conflated

    @precondition(lambda self: self.is_settled)
    @invariant()
    def newest_of_each_key_survives_conflation(self) -> None:
        newest = {entry.key: entry for entry in self.offered}
        kept = {entry.offset for entry in [*self.received, *self.mailbox.peek()]}
        gone = {
            (gap.topic, seq)
            for gap in [*self.told, *self.mailbox._gaps]
            if gap.first is not None and gap.last is not None
            for seq in range(gap.first, gap.last + 1)
        }
        for entry in newest.values():
            assert entry.offset in kept or (entry.topic, entry.seq) in gone


class LatestMachine(MailboxMachine):
    contract = latest()


class EveryMachine(MailboxMachine):
    contract = every()


class EvictMachine(MailboxMachine):
    contract = every(6, "evict")


TestLatest = LatestMachine.TestCase
TestEvery = EveryMachine.TestCase
TestEvict = EvictMachine.TestCase


def test_over_the_limit_the_oldest_are_dropped_as_one_gap() -> None:
    mailbox = Mailbox("quote", every(2), LIMITS)
    assert offer_all(mailbox, *[trade() for _ in range(5)]) is Verdict.KEEP
    (gap,) = mailbox.take_gaps()
    assert (gap.first, gap.last, gap.reason) == (1, 3, "overflow")
    assert [entry.seq for entry in mailbox.take()] == [4, 5]


def test_bytes_bound_the_queue_as_well() -> None:
    mailbox = Mailbox("quote", every(1000), DeliveryLimits(queue_bytes=500))
    offer_all(mailbox, *[trade(id_="x" * 100) for _ in range(10)])
    assert 0 < mailbox.bytes <= 500
    assert mailbox.dropped == 10 - len(mailbox)


def test_tick_larger_than_the_bound_is_still_delivered_alone() -> None:
    mailbox = Mailbox("quote", every(1000), DeliveryLimits(queue_bytes=500))
    offer_all(mailbox, trade(), trade(id_="x" * 1000))
    assert [entry.seq for entry in mailbox.take()] == [2]


@pytest.mark.parametrize(
    "look",
    [lambda box: box.ledger(1), len, Mailbox.peek, lambda box: box.expire(0.0)],
    ids=["ledger", "len", "peek", "expire"],
)
def test_eviction_is_not_forgotten_when_somebody_else_settles_first(look: Callable[[Mailbox], Any]) -> None:
    mailbox = Mailbox("quote", every(1, "evict"), LIMITS)
    mailbox.inbox += put(a_tape(), [trade(), trade()])
    look(mailbox)
    assert mailbox.settle() is Verdict.EVICT


def test_evicting_queue_keeps_what_it_had_and_names_what_it_did_not_take() -> None:
    mailbox = Mailbox("quote", every(2, "evict"), LIMITS)
    assert offer_all(mailbox, trade(), trade(), trade()) is Verdict.EVICT
    assert [entry.seq for entry in mailbox.peek()] == [1, 2]
    assert [(gap.first, gap.last) for gap in mailbox.take_gaps()] == [(3, 3)]


def test_each_change_of_state_survives_conflation_and_its_repetitions_do_not() -> None:
    mailbox = Mailbox("quote", latest(), LIMITS)
    offer_all(mailbox, *map(status, ["live", "live", "down", "down", "live"]))
    assert [entry.seq for entry in mailbox.take()] == [2, 4, 5]


def test_bars_of_one_interval_do_not_replace_those_of_another() -> None:
    mailbox = Mailbox("quote", latest(), LIMITS)
    offer_all(mailbox, *map(bar, ["1s", "1m", "1s", "1s"]))
    assert [entry.seq for entry in mailbox.take()] == [2, 4]


def test_states_that_pile_up_evict_in_the_end() -> None:
    mailbox = Mailbox("quote", latest(), LIMITS)
    mailbox.topic_count = 1
    verdict = offer_all(mailbox, *[status(("live", "down")[n % 2]) for n in range(60)])
    assert verdict is Verdict.EVICT
    assert mailbox.ledger(1).pending == 60


def test_latest_that_is_too_old_is_told_as_stale() -> None:
    mailbox, tape = Mailbox("quote", latest(500), LIMITS), a_tape()
    for at, sym in ((0.0, "SIM:A"), (0.0, "SIM:A"), (1.0, "SIM:B")):
        mailbox.inbox += put(tape, [quote(sym)], at)
    mailbox.expire(0.5)
    (gap,) = mailbox.take_gaps()
    assert (gap.topic.sym, gap.first, gap.last, gap.reason) == ("SIM:A", 2, 2, "stale")
    assert [entry.topic.sym for entry in mailbox.take()] == ["SIM:B"]


def test_reset_that_a_stalled_reader_has_not_heard_yet_is_told_once() -> None:
    mailbox, topic = Mailbox("quote", every(), LIMITS), Topic("trade", "SIM:A")
    for _ in range(1000):
        mailbox.note_gap(topic, None, None, "feed_reset")
    assert len(mailbox.take_gaps()) == 1
    mailbox.note_gap(topic, None, None, "feed_reset")
    assert len(mailbox.take_gaps()) == 1
