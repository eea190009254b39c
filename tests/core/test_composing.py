"""Merged trades and composed books say all that their parts said."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.books import BookState
from broker.core.composing import BookComposer, TradeMerger, compose_books, merge_trades
from broker.core.ticks import Book, Level, Trade

#: Few prices, in several spellings each.
PRICES = st.sampled_from(["9", "9.0", "9.00", "9.5", "9.50", "95e-1", "10", "10.0", "1e1", "0.5", "00.50"])
#: A third of them zero, as venues write it.
SIZES = st.sampled_from(["0", "0.0", "0.00000000", "0E-8", "1", "2.50", "0.01", "100", "1e-8"])
LEVELS = st.lists(st.tuples(PRICES, SIZES), max_size=6)
NANOS = st.integers(0, 2**62)


def books(*kinds: str) -> st.SearchStrategy[Book]:
    return st.builds(
        Book,
        sym=st.just("SIM:A"),
        seq=st.integers(1, 9),
        ts=NANOS,
        rts=NANOS,
        kind=st.sampled_from(kinds),
        bids=LEVELS,
        asks=LEVELS,
    )


SNAPSHOTS = books("snapshot")
BOOKS = books("delta", "delta", "delta", "delta", "snapshot")
TRADES = st.builds(
    Trade,
    sym=st.just("SIM:A"),
    seq=st.integers(1, 9),
    ts=NANOS,
    rts=NANOS,
    price=PRICES,
    size=st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9})?", fullmatch=True) | SIZES,
    side=st.sampled_from(["buy", "sell", None]),
    id=st.text("0123456789", max_size=5),
    count=st.integers(1, 99) | st.just(msgspec.UNSET),
)


def book_after(ticks: Sequence[Book]) -> tuple[list[tuple[Decimal, Decimal]], ...]:
    """Return what a client holds that knows nothing of spellings: numbers, by the order of the ticks."""
    sides: tuple[dict[Decimal, Decimal], ...] = {}, {}
    for tick in ticks:
        for side, levels in zip(sides, (tick.bids, tick.asks), strict=True):
            if tick.kind == "snapshot":
                side.clear()
            for price, size in levels:
                side[Decimal(price)] = Decimal(size)
    return tuple(sorted((price, size) for price, size in side.items() if size) for side in sides)


def delta(bids: list[Level], asks: list[Level], seq: int = 1) -> Book:
    return Book(sym="SIM:A", seq=seq, ts=seq, rts=seq, kind="delta", bids=bids, asks=asks)


def snapshot(bids: list[Level], asks: list[Level], seq: int = 1) -> Book:
    return Book(sym="SIM:A", seq=seq, ts=seq, rts=seq, kind="snapshot", bids=bids, asks=asks)


def trade(size: str, **changes: object) -> Trade:
    one = Trade(sym="SIM:A", seq=1, ts=1, rts=1, price="1", size=size, side="buy", id="1")
    return msgspec.structs.replace(one, **changes)


def conflate(ticks: Sequence[Book], starts: Sequence[bool]) -> list[Book]:
    """Compose runs of ticks; a new run begins where ``starts`` says."""
    composed: list[Book] = []
    composer: BookComposer | None = None
    for tick, is_start in zip(ticks, starts, strict=True):
        if composer is None or is_start:
            composer = BookComposer()
            composed.append(tick)
        composer.add(tick)
        composed[-1] = composer.tick()
    return composed


@given(SNAPSHOTS, st.lists(st.tuples(BOOKS, st.booleans()), max_size=12))
def test_clients_book_is_the_same_whatever_was_composed(first: Book, rest: list[tuple[Book, bool]]) -> None:
    ticks = [first, *(tick for tick, _ in rest)]
    composed = conflate(ticks, [True, *(is_start for _, is_start in rest)])
    assert book_after(composed) == book_after(ticks)
    state, whole = BookState(), BookState()
    for tick in composed:
        state.apply(tick)
    for tick in ticks:
        whole.apply(tick)
    assert state.levels() == whole.levels()
    assert (composed[-1].seq, composed[-1].ts, composed[-1].rts) == (
        ticks[-1].seq,
        ticks[-1].ts,
        ticks[-1].rts,
    )


@given(st.lists(BOOKS, min_size=2, max_size=8))
def test_composed_book_names_each_level_once_best_first(ticks: list[Book]) -> None:
    composed = compose_books(ticks[0], ticks[1])
    for tick in ticks[2:]:
        composed = compose_books(composed, tick)
    if composed is ticks[-1]:
        assert composed.kind == "snapshot"
        return
    for levels, is_reversed in ((composed.bids, True), (composed.asks, False)):
        prices = [Decimal(price) for price, _ in levels]
        assert prices == sorted(set(prices), reverse=is_reversed)
        zeros = [size for _, size in levels if not Decimal(size)]
        assert set(zeros) <= ({"0"} if composed.kind == "delta" else set())


@given(st.lists(BOOKS, min_size=1, max_size=8))
def test_composing_one_by_one_is_composing_in_pairs(ticks: list[Book]) -> None:
    composer = BookComposer()
    composer.add(ticks[0])
    paired = ticks[0]
    for tick in ticks[1:]:
        paired = compose_books(paired, tick)
        composer.add(tick)
    assert book_after([composer.tick()]) == book_after([paired])
    assert composer.tick().kind == paired.kind


def test_removal_stays_in_a_composed_delta_and_goes_out_of_a_composed_snapshot() -> None:
    removal = delta([("9.50", "0.00000000")], [("11", "0")], seq=2)
    changed = delta([("9.5", "3"), ("9", "1")], [("12", "1")])
    assert compose_books(changed, removal) == delta(
        [("9.50", "0"), ("9", "1")], [("11", "0"), ("12", "1")], seq=2
    )
    whole = snapshot([("9.5", "3"), ("9", "1")], [("11", "1"), ("12", "1")])
    assert compose_books(whole, removal) == snapshot([("9", "1")], [("12", "1")], seq=2)


def test_level_that_comes_back_is_as_it_came_back() -> None:
    composed = compose_books(delta([("1.5", "0")], []), delta([("1.50", "2.00")], []))
    assert composed.bids == [("1.50", "2.00")]


def test_newer_snapshot_says_everything() -> None:
    newer = snapshot([("9", "1")], [])
    assert compose_books(delta([("10", "1")], [("11", "0")]), newer) is newer
    assert compose_books(snapshot([("10", "1")], []), newer) is newer


def test_single_book_is_passed_on_as_it_came() -> None:
    composer = BookComposer()
    only = delta([("1", "0.00")], [])
    composer.add(only)
    assert composer.tick() is only


def test_level_whose_price_is_no_number_is_left_out() -> None:
    composed = compose_books(delta([("abc", "1"), ("9", "1")], []), delta([("10", "1")], [("NaN", "1")]))
    assert composed.bids == [("10", "1"), ("9", "1")]


@given(st.lists(BOOKS, min_size=1, max_size=8))
def test_composing_changes_nothing_of_what_it_was_given(ticks: list[Book]) -> None:
    before = copy.deepcopy(ticks)
    composer = BookComposer()
    given_out: list[tuple[Book, Book]] = []
    for tick in ticks:
        composer.add(tick)
        given_out.append((composer.tick(), copy.deepcopy(composer.tick())))
    assert ticks == before
    assert all(tick == then for tick, then in given_out)


@given(st.lists(BOOKS, min_size=1, max_size=8))
def test_size_of_a_composed_book_is_about_that_of_its_bytes(ticks: list[Book]) -> None:
    composer = BookComposer()
    assert composer.size == 0
    for tick in ticks:
        composer.add(tick)
    # A single tick may name a level twice, which counts once.
    composer.add(delta([], [], seq=3))
    packed = len(msgspec.msgpack.encode(composer.tick()))
    assert packed - 8 <= composer.size <= packed + 40


@given(st.lists(TRADES, min_size=2, max_size=12))
def test_merged_trade_has_all_the_volume_and_all_the_trades(trades: list[Trade]) -> None:
    merger = TradeMerger()
    merged = trades[0]
    merger.add(trades[0])
    for one in trades[1:]:
        merger.add(one)
        merged = merge_trades(merged, one)
    assert merger.tick() == merged
    assert Fraction(merged.size) == sum(Fraction(one.size) for one in trades)
    assert merged.count == sum(1 if one.count is msgspec.UNSET else one.count for one in trades)
    newest = trades[-1]
    assert (merged.price, merged.seq, merged.ts, merged.rts, merged.id) == (
        newest.price,
        newest.seq,
        newest.ts,
        newest.rts,
        newest.id,
    )
    sides = {one.side for one in trades}
    assert merged.side == (sides.pop() if len(sides) == 1 else None)


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        (["1", "2"], "3"),
        (["0.10000000", "0.2"], "0.30000000"),
        (["1e-8", "1"], "1.00000001"),
        (["99999999999999999999.9", "0.00000000000000000001"], "99999999999999999999.90000000000000000001"),
    ],
)
def test_summed_size_keeps_the_digits(sizes: list[str], total: str) -> None:
    assert merge_trades(trade(sizes[0]), trade(sizes[1])).size == total


def test_side_that_was_lost_does_not_come_back() -> None:
    merger = TradeMerger()
    for side in ("buy", "sell", "buy"):
        merger.add(trade("1", side=side))
    assert merger.tick().side is None


def test_single_trade_is_passed_on_as_it_came() -> None:
    merger = TradeMerger()
    only = trade("1")
    merger.add(only)
    assert merger.tick() is only
    assert only.count is msgspec.UNSET


def test_trade_without_a_number_is_refused_and_costs_nothing_that_was_merged() -> None:
    merger = TradeMerger()
    merger.add(trade("1"))
    with pytest.raises(InvalidOperation):
        merger.add(trade("one"))
    merger.add(trade("2"))
    assert (merger.tick().size, merger.tick().count) == ("3", 2)


@given(st.lists(TRADES, min_size=1, max_size=8))
def test_merging_changes_nothing_of_what_it_was_given(trades: list[Trade]) -> None:
    before = copy.deepcopy(trades)
    merger = TradeMerger()
    given_out: list[tuple[Trade, Trade]] = []
    for one in trades:
        merger.add(one)
        given_out.append((merger.tick(), copy.deepcopy(merger.tick())))
    assert trades == before
    assert all(one == then for one, then in given_out)


@given(st.lists(TRADES, min_size=1, max_size=12))
def test_size_of_a_merged_trade_is_about_that_of_its_bytes(trades: list[Trade]) -> None:
    merger = TradeMerger()
    assert merger.size == 0
    for one in trades:
        merger.add(one)
    packed = len(msgspec.msgpack.encode(merger.tick()))
    assert packed - 24 <= merger.size <= packed + 64
