"""Books beside a naive model: a dictionary from price, as a number, to what was sent last."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.books import BookState, with_plain_removals
from broker.core.ticks import Book, Level

#: Few prices, in several spellings each.
PRICES = st.sampled_from(["9", "9.0", "9.00", "9.5", "9.50", "10", "10.0", "0.5", "0.50", "100", "0"])
LEVELS = st.lists(st.tuples(PRICES, st.sampled_from(["0", "1", "2.50"])), max_size=6)
BOOKS = st.builds(
    Book,
    sym=st.just("SIM:A"),
    ts=st.integers(0, 99),
    rts=st.integers(0, 99),
    kind=st.sampled_from(["snapshot", "delta", "delta", "delta"]),
    bids=LEVELS,
    asks=LEVELS,
)


def naive(side: dict[Decimal, Level], levels: list[Level]) -> None:
    for level in levels:
        side.pop(Decimal(level[0]), None)
        if level[1] != "0":
            side[Decimal(level[0])] = level


@given(st.lists(BOOKS, max_size=12), st.booleans())
def test_levels_are_what_the_deltas_leave_best_first(ticks: list[Book], look_often: bool) -> None:
    state = BookState()
    bids: dict[Decimal, Level] = {}
    asks: dict[Decimal, Level] = {}
    for tick in ticks:
        state.apply(tick)
        if tick.kind == "snapshot":
            bids, asks = {}, {}
        naive(bids, tick.bids)
        naive(asks, tick.asks)
        assert (state.ts, state.rts) == (tick.ts, tick.rts)
        if look_often:
            state.levels()
    assert state.levels() == (
        [bids[price] for price in sorted(bids, reverse=True)],
        [asks[price] for price in sorted(asks)],
    )


def book(kind: str, bids: list[Level], asks: list[Level]) -> Book:
    return Book(sym="SIM:A", ts=1, rts=1, kind=kind, bids=bids, asks=asks)  # type: ignore[arg-type]  # one of the kinds


def test_last_spelling_of_a_price_is_kept() -> None:
    state = BookState()
    state.apply(book("snapshot", [("1.5", "1")], []))
    state.apply(book("delta", [("1.50", "2")], []))
    assert state.levels() == ([("1.50", "2")], [])


def test_removal_in_another_spelling_removes_and_of_an_absent_level_does_nothing() -> None:
    state = BookState()
    state.apply(book("snapshot", [("10", "1")], [("11.0", "1")]))
    state.apply(book("delta", [("10.00", "0"), ("9", "0")], [("11", "0")]))
    assert state.levels() == ([], [])


def test_levels_that_were_given_out_do_not_change_afterwards() -> None:
    state = BookState()
    state.apply(book("snapshot", [("10", "1")], []))
    before = state.levels()
    state.apply(book("delta", [("10", "0")], []))
    assert before == ([("10", "1")], [])


def test_price_that_is_no_number_has_no_place_in_a_book() -> None:
    state = BookState()
    state.apply(
        book(
            "snapshot",
            [("10", "1"), ("abc", "1"), ("11", "1")],
            [("NaN", "1"), ("12", "1"), ("Infinity", "2")],
        )
    )
    bids, asks = state.levels()
    assert bids == [("11", "1"), ("10", "1")]
    assert ("12", "1") in asks
    assert ("NaN", "1") not in asks


@pytest.mark.parametrize("zero", ["0", "0.0", "0.00000000", "00", "0E-8", "-0", "0."])
def test_level_of_no_size_is_removed_however_the_zero_is_spelt(zero: str) -> None:
    state = BookState()
    state.apply(book("snapshot", [("10", "1"), ("9", zero)], [("11", "0.01")]))
    state.apply(book("delta", [("10", zero)], []))
    assert state.levels() == ([], [("11", "0.01")])


def test_exponent_is_not_mistaken_for_zeros_at_the_end() -> None:
    state = BookState()
    state.apply(book("snapshot", [("1.5e10", "1"), ("1.5e1", "2"), ("15", "3")], []))
    assert state.levels()[0] == [("1.5e10", "1"), ("15", "3")]


def test_size_that_is_no_text_is_refused_and_changes_nothing() -> None:
    state = BookState()
    state.apply(book("snapshot", [("10", "1")], []))
    with pytest.raises(TypeError):
        state.apply(book("snapshot", [("9", "1")], [("11", 5)]))  # type: ignore[list-item]  # an adapter's mistake
    assert state.levels() == ([("10", "1")], [])


def test_removal_is_passed_on_in_the_protocols_spelling() -> None:
    plain = book("delta", [("10", "0"), ("9", "0.10")], [("11", "1e-8")])
    assert with_plain_removals(plain) is plain
    odd = book("delta", [("10", "0.00000000"), ("9", "0.10")], [("11", "0E-8")])
    assert with_plain_removals(odd) == book("delta", [("10", "0"), ("9", "0.10")], [("11", "0")])
    assert odd.bids[0] == ("10", "0.00000000"), "what was given is not changed"


def test_snapshot_is_passed_on_without_levels_of_no_size() -> None:
    odd = book("snapshot", [("10", "0.0"), ("9", "1")], [("11", "0.00")])
    assert with_plain_removals(odd) == book("snapshot", [("9", "1")], [])
