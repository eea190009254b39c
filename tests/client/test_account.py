"""The client's account of one subscription, against a broker of one symbol that is obviously right."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.client.account import Account
from broker.core.mailbox import LedgerEntry

SYM = "SIM:A"


@dataclass
class Broker:
    """Publishes one symbol to one subscription, and keeps its ledger by hand; ticks come at once.

    Attributes:
        waiting: ``seq`` of what is queued.
    """

    account: Account
    seq: int = 0
    offered: int = 0
    delivered: int = 0
    conflated: int = 0
    dropped: int = 0
    waiting: list[int] = field(default_factory=list)

    def publish(self) -> None:
        self.seq += 1
        self.offered += 1
        self.waiting.append(self.seq)

    def deliver(self) -> None:
        for seq in self.waiting:
            self.account.tick(SYM, seq)
        self.delivered += len(self.waiting)
        self.waiting.clear()

    def conflate(self) -> None:
        """Merge all that waits into the newest."""
        self.conflated += len(self.waiting[:-1])
        del self.waiting[:-1]

    def drop(self) -> None:
        """Drop the oldest, and say so."""
        if self.waiting:
            seq = self.waiting.pop(0)
            self.dropped += 1
            self.account.gap(SYM, seq, seq)

    def tell(self) -> None:
        """Tell of a gap that nobody knows the ends of."""
        self.account.gap(SYM, None, None)

    def ledger(self) -> LedgerEntry:
        counts = (self.offered, self.delivered, self.conflated, self.dropped, len(self.waiting))
        return LedgerEntry(1, *counts)

    def check(self) -> None:
        assert self.account.compare([self.ledger()]) == []


STEPS = st.lists(st.sampled_from(["publish", "publish", "deliver", "conflate", "drop", "tell", "check"]))


def run(steps: list[str], *, begin: int = 0) -> Broker:
    account = Account(1, is_strict=False, begins_at_zero=True)
    if begin:
        account.snapshot(SYM, begin, 1)
    broker = Broker(account, seq=begin)
    for step in steps:
        getattr(broker, step)()
    broker.deliver()
    return broker


@given(STEPS, st.integers(0, 5))
def test_true_ledger_agrees_at_every_place_of_the_stream(steps: list[str], begin: int) -> None:
    broker = run(steps, begin=begin)
    broker.check()
    assert broker.account.delivered == broker.delivered
    assert broker.account.conflated + broker.account.open == broker.conflated


LIES = st.fixed_dictionaries(
    {name: st.integers(-2, 2) for name in ("offered", "delivered", "conflated", "dropped")}
)


@given(STEPS, LIES.filter(lambda lies: any(lies.values())))
def test_every_lie_is_caught_where_nothing_is_pending(steps: list[str], lies: dict[str, int]) -> None:
    broker = run(steps)
    told = broker.ledger()
    wrong = LedgerEntry(
        1,
        told.offered + lies["offered"],
        told.delivered + lies["delivered"],
        told.conflated + lies["conflated"],
        told.dropped + lies["dropped"],
        0,
    )
    assert broker.account.compare([wrong])


@given(STEPS, st.sampled_from(["delivered", "dropped", "offered"]), st.sampled_from([-1, 1]))
def test_pending_ticks_hide_no_lie_about_what_was_delivered_dropped_or_offered(
    steps: list[str], field_: str, lie: int
) -> None:
    broker = run(steps)
    broker.publish()
    broker.publish()
    told = broker.ledger()
    counts = {name: getattr(told, name) for name in LedgerEntry.__struct_fields__}
    counts[field_] += lie
    if field_ != "offered":
        # By the law it looks all right.
        counts["offered"] += lie
    assert broker.account.compare([LedgerEntry(**counts)])


def test_differences_name_both_numbers() -> None:
    broker = run(["publish", "publish", "deliver"])
    (text,) = broker.account.compare([LedgerEntry(1, 3, 3, 0, 0, 0)])
    assert text == "delivered: the ledger says 3, and 2 ticks came"


def test_pending_ticks_may_have_conflated_others_but_not_in_mode_every() -> None:
    for is_strict in (False, True):
        account = Account(1, is_strict=is_strict, begins_at_zero=True)
        account.tick(SYM, 1)
        told = LedgerEntry(1, 5, 1, 3, 0, 1)
        assert account.compare([told]) == (
            ["conflated: the ledger says 3, and jumps in seq account for 0 (1 are pending)"]
            if is_strict
            else []
        )


def test_conflated_ticks_before_a_resumed_count_are_believed_once_and_held_to_ever_after() -> None:
    account = Account(1, is_strict=False)
    account.tick(SYM, 50)
    assert account.compare([LedgerEntry(1, 8, 1, 7, 0, 0)]) == []
    assert account.unknown == 7
    account.tick(SYM, 52)
    assert account.compare([LedgerEntry(1, 10, 2, 8, 0, 0)]) == []
    assert account.compare([LedgerEntry(1, 11, 2, 9, 0, 0)])


def test_resumed_count_goes_on_behind_the_last_tick_of_the_earlier_connection() -> None:
    account = Account(1, is_strict=False, begins={SYM: 10})
    account.tick(SYM, 15)
    assert account.conflated == 4
    assert account.compare([LedgerEntry(1, 5, 1, 4, 0, 0)]) == []
    assert account.unknown == 0


def test_resumed_count_begins_at_a_snapshot_that_nobody_asked_for() -> None:
    account = Account(7, is_strict=False, begins={SYM: 5}, is_resumed=True)
    account.snapshot(SYM, 9, 1)
    account.tick(SYM, 12)
    assert account.compare([LedgerEntry(7, 3, 1, 2, 0, 0)]) == []


def test_where_a_count_begins_is_believed_if_a_snapshot_was_asked_for_beside_a_cursor() -> None:
    for conflated in (2, 6):
        account = Account(7, is_strict=False, begins={SYM: 5}, is_resumed=True, is_aside=True)
        account.snapshot(SYM, 9, 1)
        account.tick(SYM, 12)
        ledger = LedgerEntry(7, conflated + 1, 1, conflated, 0, 0)
        assert account.compare([ledger]) == account.compare([ledger]) == []
        assert account.compare([LedgerEntry(7, conflated + 2, 1, conflated + 1, 0, 0)])


def test_symbol_that_no_snapshot_shows_begins_at_its_first_tick() -> None:
    account = Account(1, is_strict=True, begins_at_zero=True)
    account.tick(SYM, 3)
    assert account.compare([LedgerEntry(1, 1, 1, 0, 0, 0)]) == [
        "conflated: the ledger says 0, and jumps in seq account for 2"
    ]


def test_gap_told_before_the_snapshot_that_it_lies_behind_begins_there() -> None:
    account = Account(1, is_strict=False, begins_at_zero=True, awaits_snapshot=True)
    account.gap(SYM, 9, 9)
    # What was conflated before it can't be known yet.
    assert account.compare([LedgerEntry(1, 4, 0, 3, 1, 0)]) == []
    account.snapshot(SYM, 4, 1)
    account.snapshot(SYM, 5, 1)
    account.complete()
    account.tick(SYM, 10)
    assert account.compare([LedgerEntry(1, 5, 1, 3, 1, 0)]) == []
    assert account.compare([LedgerEntry(1, 6, 1, 4, 1, 0)])


def test_gap_of_a_symbol_that_the_snapshot_does_not_show_has_all_before_it_conflated() -> None:
    account = Account(1, is_strict=False, begins_at_zero=True, awaits_snapshot=True)
    account.gap(SYM, 4, 4)
    account.complete()
    assert account.compare([LedgerEntry(1, 4, 0, 3, 1, 0)]) == []
    assert account.compare([LedgerEntry(1, 5, 0, 4, 1, 0)])


def test_gap_with_an_end_that_nobody_knows_is_outside_the_account() -> None:
    account = Account(1, is_strict=True, begins_at_zero=True)
    account.gap(SYM, None, 20)
    account.tick(SYM, 21)
    account.gap(SYM, 22, None)
    account.tick(SYM, 40)
    assert account.compare([LedgerEntry(1, 2, 2, 0, 0, 0)]) == []


@pytest.mark.parametrize(("count", "is_right"), [(2, False), (3, True), (5, True)])
def test_merged_trade_stands_for_all_that_it_jumps_over(count: int, is_right: bool) -> None:
    account = Account(1, is_strict=False, begins_at_zero=True)
    account.tick(SYM, 1, 1)
    # More is right: the door of a broker under load merges trades before they are numbered.
    account.tick(SYM, 4, count)
    assert (account.compare([LedgerEntry(1, 4, 2, 2, 0, 0)]) == []) is is_right


def test_tick_that_comes_twice_is_a_fault_though_the_ledger_counts_it() -> None:
    account = Account(1, is_strict=True, begins_at_zero=True)
    account.tick(SYM, 1)
    account.tick(SYM, 1)
    assert account.compare([LedgerEntry(1, 2, 2, 0, 0, 0)]) == ["SIM:A: seq 1 came behind 1"]


def test_contract_made_stricter_allows_what_the_earlier_one_had_conflated() -> None:
    account = Account(1, is_strict=False, begins_at_zero=True)
    account.modify(is_strict=True)
    account.tick(SYM, 3)
    assert not account.is_strict
    assert account.compare([LedgerEntry(1, 3, 1, 2, 0, 0)]) == []
    assert account.is_strict
    account.tick(SYM, 5)
    assert account.compare([LedgerEntry(1, 5, 2, 2, 0, 1)])
