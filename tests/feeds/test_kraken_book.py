"""Kraken's book: its depth, its checksum, and what is served of a change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core.books import BookState
from broker.core.ticks import Book, Level
from feeds.kraken_book import KrakenBook, depth_of_snapshot
from tests.feeds.kraken_frames import PlainBook, checksum

_PRICES = st.integers(1, 30).map(lambda ticks: f"{ticks * 5 / 100:.2f}")
_SIZES = st.sampled_from(["0.00000000", "0", "1.00000000", "0.00000500", "20.50000000"])
_CHANGES = st.lists(st.tuples(_PRICES, _SIZES), max_size=6)


def side(*prices: str) -> list[Level]:
    return [(price, "1.0") for price in prices]


def test_checksum_is_the_one_of_the_venues_worked_example() -> None:
    asks = [(f"0.0{price}", "0.00000500") for price in range(5005, 5055, 5)]
    prices = (5000, 4995, 4990, 4980, 4975, 4970, 4965, 4960, 4955, 4950)
    bids = [(f"0.0{price}", "0.00000500") for price in prices]
    book = KrakenBook(1000, bids[::-1], asks[::-1])
    assert book.matches(974947235)
    assert not book.matches(974947236)
    book.update([("0.04940", "7")], [("0.05120", "7")])
    assert book.matches(974947235)


def test_book_with_fewer_than_ten_levels_is_checked_over_what_there_is() -> None:
    assert KrakenBook(10, side("1.5"), []).matches(checksum(side("1.5"), []))
    assert KrakenBook(10, [], []).matches(0)


def test_level_pushed_out_of_the_depth_is_served_as_a_removal() -> None:
    book = KrakenBook(3, side("9", "8", "7"), side("10", "11", "12"))
    assert book.update(side("8.5"), side("10.5")) == (
        [("8.5", "1.0"), ("7", "0")],
        [("10.5", "1.0"), ("12", "0")],
    )
    assert book.levels == (side("9", "8.5", "8"), side("10", "10.5", "11"))


def test_level_beyond_the_depth_is_not_served() -> None:
    book = KrakenBook(2, side("9", "8"), [])
    assert book.update(side("7"), []) == ([], [])
    assert book.levels == (side("9", "8"), [])


def test_level_that_comes_and_falls_out_in_one_message_is_not_served() -> None:
    book = KrakenBook(2, side("9", "7"), [])
    assert book.update(side("6", "8", "8.5"), []) == ([("8.5", "1.0"), ("7", "0")], [])


def test_last_change_of_a_price_holds_within_a_message() -> None:
    book = KrakenBook(10, side("9"), [])
    assert book.update([("9", "0"), ("9", "5")], []) == ([("9", "5")], [])
    assert book.update([("9.0", "6"), ("9.00", "0")], []) == ([("9.00", "0")], [])
    assert book.levels == ([], [])


def test_zeros_that_a_recorder_lost_are_filled_up_for_the_checksum() -> None:
    sent: list[Level] = [("0.5", "18097.1547"), ("0.5664", "1e-05"), ("0.566", "0.00000001")]
    full = checksum([("0.5664", "0.00001000"), ("0.5660", "0.00000001"), ("0.5000", "18097.15470000")], [])
    book = KrakenBook(10, sent, [])
    assert book.matches(full)
    # What the longest number was is known after it has gone, too.
    book.update([("0.566", "0"), ("0.5664", "0")], [])
    assert book.matches(checksum([("0.5000", "18097.15470000")], []))


def test_depth_of_a_snapshot_is_that_of_its_full_side() -> None:
    assert depth_of_snapshot(side(*"123"), side(*map(str, range(25)))) == 25
    assert depth_of_snapshot(side(*"123"), side(*"4567")) == 1000
    assert depth_of_snapshot([], side(*map(str, range(1200)))) == 1200


@given(st.integers(1, 12), _CHANGES, _CHANGES, st.lists(st.tuples(_CHANGES, _CHANGES), max_size=8))
def test_client_that_knows_no_depth_has_the_venues_book(
    depth: int, bids: list[Level], asks: list[Level], messages: list[tuple[list[Level], list[Level]]]
) -> None:
    venue, book, client = PlainBook(depth), KrakenBook(depth, bids, asks), BookState()
    venue.change(bids, asks)

    def serve(kind: str, levels: tuple[list[Level], list[Level]]) -> None:
        client.apply(
            Book(sym="K:A", ts=0, rts=0, kind=kind, bids=list(levels[0]), asks=list(levels[1]))  # type: ignore[arg-type]
        )
        assert client.levels() == (venue.bids, venue.asks) == book.levels
        assert book.matches(venue.checksum())

    serve("snapshot", book.levels)
    for changes in messages:
        venue.change(*changes)
        serve("delta", book.update(*changes))
