"""The top of a book, against a book that is sorted anew after each change."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from broker.core.books import BookState
from broker.core.ticks import Book, Level
from feeds import book_top
from feeds.book_top import BookTop

NS = 1_000_000_000
LEVELS = st.lists(
    st.tuples(
        st.sampled_from(
            ["1", "1.0", "1.5", "2", "2.00", "3", "1e1", "0.00000001", "123456789012345678901234567890.5"]
        ),
        st.sampled_from(["0", "1", "2.50"]),
    ),
    max_size=6,
)


def book(
    bids: list[Level], asks: list[Level], kind: Literal["snapshot", "delta"] = "delta", ts: int = 1
) -> Book:
    return Book(sym="V:A", ts=ts, rts=2, kind=kind, bids=bids, asks=asks)


def whole(levels: list[Level]) -> list[Level]:
    return [(price, size) for price, size in levels if size != "0"]


@given(st.lists(st.tuples(st.integers(0, 5), LEVELS, LEVELS), max_size=30))
def test_quote_is_the_top_of_the_sorted_book_and_comes_when_it_changes(
    steps: list[tuple[int, list[Level], list[Level]]],
) -> None:
    """What a change crosses is not told until it is uncrossed; a crossed snapshot is."""
    top, state, told = BookTop(), BookState(), None
    was_crossed, by_change = False, False
    for choice, bids, asks in steps:
        each = book(whole(bids), whole(asks), "snapshot") if choice == 0 else book(bids, asks)
        state.apply(each)
        quote = top.apply(each)
        (bid, bid_size), (ask, ask_size) = (
            levels[0] if levels else (None, None) for levels in state.levels()
        )
        is_crossed = bid is not None and ask is not None and Decimal(bid) >= Decimal(ask)
        by_change = is_crossed and each.kind == "delta" and (by_change or not was_crossed)
        was_crossed = is_crossed
        best = ((bid, bid_size), (ask, ask_size))
        assert (quote is not None) is (not by_change and (best != told or each.kind == "snapshot"))
        if quote is not None:
            told = ((quote.bid, quote.bid_size), (quote.ask, quote.ask_size))
            assert told == best


def test_book_that_is_crossed_for_a_moment_has_no_quote_meanwhile_and_is_not_torn() -> None:
    top = BookTop()
    top.apply(book([("10", "1")], [("11", "1")], "snapshot"))
    assert top.apply(book([("11.0", "1")], [], ts=NS)) is None
    assert top.apply(book([("9", "1")], [], ts=2 * NS)) is None
    assert not top.is_torn
    quote = top.apply(book([], [("11", "0"), ("12", "1")], ts=3 * NS))
    assert quote is not None
    assert (quote.bid, quote.ask, top.is_torn) == ("11.0", "12", False)


def test_book_that_is_crossed_and_uncrossed_to_what_it_was_is_whole() -> None:
    top = BookTop()
    top.apply(book([("10", "1")], [("11", "1")], "snapshot"))
    top.apply(book([("11", "1")], [], ts=NS))
    assert top.apply(book([("11", "0")], [], ts=2 * NS)) is None
    top.apply(book([("9", "1")], [], ts=5 * NS))
    assert not top.is_torn


def test_book_that_stays_crossed_is_torn() -> None:
    top = BookTop()
    top.apply(book([("10", "1")], [("11", "1")], "snapshot"))
    top.apply(book([("11", "1")], [], ts=NS))
    top.apply(book([("9", "1")], [], ts=2 * NS + 1))
    assert top.is_torn


def test_snapshot_that_is_crossed_is_what_the_venue_says() -> None:
    top = BookTop()
    assert top.apply(book([("12", "1")], [("11", "1")], "snapshot")) is not None
    assert top.apply(book([("12.5", "1")], [], ts=5 * NS)) is not None
    assert not top.is_torn


def test_quote_comes_only_when_the_top_changes() -> None:
    top = BookTop()
    assert top.apply(book([("10", "1")], [("11", "1")], "snapshot")) is not None
    assert top.apply(book([("9", "1")], [("12", "1")])) is None
    quote = top.apply(book([("10", "2")], []))
    assert quote is not None
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("10", "2", "11", "1")
    assert (quote.sym, quote.ts, quote.rts) == ("V:A", 1, 2)


def test_prices_that_come_and_go_for_ever_take_no_memory() -> None:
    side = book_top._Side(is_bids=True)
    side.load([("10", "1")])
    for number in range(10_000):
        side.change([(f"{number % 9}.5", "1")])
        side.change([(f"{number % 9}.5", "0")])
    assert len(side._heap) <= book_top._MOST_GONE + 2
    assert side.best() == ("10", "1")
