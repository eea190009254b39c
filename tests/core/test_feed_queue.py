"""The queue of a feed that is ahead of the broker: bounded, in order, and everything is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby
from typing import Any, Literal, TypeVar

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker.core.books import BookState
from broker.core.feed_queue import FeedQueue, Item, Missed, Rewound
from broker.core.ticks import Bar, Book, FeedState, Level, Quote, Status, Tick, Trade

T = TypeVar("T", bound=Any)

SYMBOLS = st.sampled_from(["SIM:A", "SIM:B", "SIM:C"])
PRICES = st.sampled_from(["9", "9.5", "9.50", "10"])
LEVELS = st.lists(st.tuples(PRICES, st.sampled_from(["0", "0.00", "1", "2.5"])), max_size=3)


def quote(sym: str) -> Quote:
    return Quote(sym=sym, ts=0, rts=0, bid="1", bid_size="1", ask=None, ask_size=None)


def trade(sym: str, size: str) -> Trade:
    return Trade(sym=sym, ts=0, rts=0, price="1", size=size, side=None, id="1")


def book(sym: str, kind: Literal["snapshot", "delta"], bids: list[Level], asks: list[Level]) -> Book:
    return Book(sym=sym, ts=0, rts=0, kind=kind, bids=bids, asks=asks)


def status(sym: str, state: FeedState) -> Status:
    return Status(sym=sym, ts=0, rts=0, state=state)


def bar(sym: str, interval: str) -> Bar:
    prices: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close"), "1")
    return Bar(sym=sym, ts=0, rts=0, interval=interval, start=0, volume="1", count=1, final=False, **prices)


#: Their `ts` is given by their place in the stream, so that order can be seen.
TICKS: st.SearchStrategy[Tick] = st.one_of(
    st.builds(quote, SYMBOLS),
    st.builds(trade, SYMBOLS, st.sampled_from(["1", "0.25", "3.00"])),
    st.builds(book, SYMBOLS, st.sampled_from(["snapshot", "delta"]), LEVELS, LEVELS),
    st.builds(status, SYMBOLS, st.sampled_from(["live", "halted"])),
    st.builds(bar, SYMBOLS, st.sampled_from(["1s", "1m"])),
)
#: A tick or a mark to be added, or how many to take.
STEPS = st.lists(
    st.one_of(
        TICKS,
        TICKS,
        TICKS,
        st.builds(Missed, st.sampled_from(["quote", "book"]), SYMBOLS),
        st.just(Rewound()),
        st.integers(1, 5),
    ),
    max_size=40,
)


def run(queue: FeedQueue, steps: Sequence[Item | int]) -> tuple[list[Item], list[Item]]:
    """Carry out the steps, then take all; return what went in, and what came out."""
    added: list[Item] = []
    taken: list[Item] = []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            got = queue.take(step)
            assert len(got) <= step
            taken += got
        elif isinstance(step, Missed | Rewound):
            added.append(step)
            queue.add([step])
        else:
            # Drawn values may be the same object twice.
            tick = msgspec.structs.replace(step, ts=number)
            added.append(tick)
            queue.add([msgspec.structs.replace(tick)])
        check_account(queue, added, taken)
    while queue:
        taken += queue.take(3)
    check_account(queue, added, taken)
    return added, taken


def check_account(queue: FeedQueue, added: list[Item], taken: list[Item]) -> None:
    marks = sum(isinstance(item, Missed | Rewound) for item in [*queue._plain, *queue._slots.values()])
    gone = len(ticks_of(taken)) + queue.conflated + queue.dropped
    assert len(ticks_of(added)) == gone + len(queue) - marks


def ticks_of(items: Sequence[Item]) -> list[Tick]:
    return [item for item in items if not isinstance(item, Missed | Rewound)]


def of_type(kind: type[T], items: Sequence[Item], sym: str) -> list[T]:
    return [item for item in items if isinstance(item, kind) and item.sym == sym]


@given(STEPS, st.integers(1, 6), st.sampled_from([600, 1 << 20]))
def test_nothing_is_lost_but_what_a_newer_one_says(
    steps: list[Item | int], most_ticks: int, most_bytes: int
) -> None:
    queue = FeedQueue(most_ticks, most_bytes)
    added, taken = run(queue, steps)
    for sym in ("SIM:A", "SIM:B", "SIM:C"):
        sizes = [Fraction(one.size) for one in of_type(Trade, taken, sym)]
        assert sum(sizes) == sum(Fraction(one.size) for one in of_type(Trade, added, sym))
        assert book_after(taken, sym) == book_after(added, sym)
        if not any(isinstance(item, Missed) and item.reason == "overflow" for item in taken):
            for kind in (Quote, Bar):
                assert of_type(kind, taken, sym)[-1:] == of_type(kind, added, sym)[-1:]
            assert changes(of_type(Status, taken, sym)) == changes(of_type(Status, added, sym))


@given(STEPS, st.integers(1, 6))
def test_ticks_of_a_topic_stay_in_order(steps: list[Item | int], most_ticks: int) -> None:
    _, taken = run(FeedQueue(most_ticks), steps)
    newest: dict[tuple[str, str], int] = {}
    for tick in ticks_of(taken):
        assert newest.get((tick.ch, tick.sym), -1) < tick.ts
        newest[tick.ch, tick.sym] = tick.ts


@given(st.lists(TICKS, max_size=60), st.integers(1, 6))
def test_queue_holds_no_more_than_its_bound_and_one_for_each_trade_and_book(
    ticks: list[Tick], most_ticks: int
) -> None:
    queue = FeedQueue(most_ticks)
    topics = set()
    for tick in ticks:
        if isinstance(tick, Trade | Book):
            topics.add((tick.ch, tick.sym))
        queue.add([msgspec.structs.replace(tick)])
        assert len(queue) <= most_ticks + len(topics)


@given(STEPS, st.integers(1, 6))
def test_queue_with_room_passes_on_all_as_it_came(steps: list[Item | int], most_ticks: int) -> None:
    queue = FeedQueue(most_ticks)
    waiting: list[Item] = []
    for step in steps:
        if isinstance(step, int):
            assert queue.take(step) == waiting[:step]
            del waiting[:step]
        elif len(waiting) < most_ticks:
            queue.add([step])
            waiting.append(step)
    assert queue.take(1000) == waiting
    assert (queue.conflated, queue.dropped, queue.is_conflating) == (0, 0, False)


def book_after(items: Sequence[Item], sym: str) -> object:
    """Return the levels, as far as they are known: from a mark to the next snapshot they are not."""
    state = BookState()
    for item in items:
        if isinstance(item, Missed) and (item.ch, item.sym) == ("book", sym):
            state.lose()
        elif isinstance(item, Book) and item.sym == sym:
            state.apply(item)
    return state.is_known, state.levels()


def changes(ticks: Sequence[Status]) -> list[str]:
    return [state for state, _ in groupby(tick.state for tick in ticks)]


def quotes(*names: str) -> list[Item]:
    return [quote(f"SIM:{name}") for name in names]


def test_oldest_topics_are_dropped_and_told_once_ahead_of_what_is_left() -> None:
    queue = FeedQueue(2)
    queue.add(quotes("A", "B", "C", "D", "A", "E"))
    assert queue.dropped == 4
    queue.add([trade("SIM:A", "1")])
    taken = queue.take(100)
    told = [item for item in taken if isinstance(item, Missed)]
    assert taken[: len(told)] == told
    assert Counter(told) == Counter(Missed("quote", f"SIM:{name}", "overflow") for name in "ABCD")
    assert [tick.sym for tick in ticks_of(taken)] == ["SIM:A", "SIM:E", "SIM:A"]


def test_topic_that_ticked_again_is_not_the_oldest() -> None:
    queue = FeedQueue(2)
    queue.add(quotes("A", "B", "A", "C"))
    assert queue.take(100) == [Missed("quote", "SIM:B", "overflow"), *quotes("A", "C")]


def test_topic_that_is_dropped_again_after_it_was_told_is_told_again() -> None:
    queue = FeedQueue(1)
    queue.add(quotes("A", "B"))
    assert queue.take(1) == [Missed("quote", "SIM:A", "overflow")]
    queue.add(quotes("A"))
    assert queue.take(1) == [Missed("quote", "SIM:B", "overflow")]
    queue.add(quotes("B"))
    assert queue.take(1) == [Missed("quote", "SIM:A", "overflow")]
    assert ticks_of(queue.take(9)) == quotes("B")


def test_trades_and_books_make_no_room_for_quotes_and_quotes_none_for_them() -> None:
    queue = FeedQueue(2)
    for name in "ABCDEF":
        queue.add([trade(f"SIM:{name}", "1")])
    queue.add(quotes("A", "B"))
    assert queue.dropped == 0
    assert len(queue.take(100)) == 8


def test_each_change_of_state_is_kept_and_a_state_that_stays_is_replaced() -> None:
    queue = FeedQueue(4)
    states: list[FeedState] = ["live", "live", "halted", "live", "live", "live"]
    queue.add(status("SIM:A", state) for state in states)
    assert [tick.state for tick in of_type(Status, queue.take(100), "SIM:A")] == ["live", "halted", "live"]
    assert queue.conflated == 3


def test_books_of_too_many_bytes_are_composed_before_they_are_too_many_ticks() -> None:
    queue = FeedQueue(1000, 100_000)
    side = [(str(price), "1") for price in range(1, 1001)]
    for _ in range(50):
        queue.add([book("SIM:A", "snapshot", side, [])])
    assert len(queue) == 1


def test_conflating_ends_when_the_queue_has_been_emptied() -> None:
    queue = FeedQueue(3)
    queue.add(quotes("A", "A", "A", "A"))
    assert queue.is_conflating
    assert len(queue.take(100)) == 1
    assert not queue.is_conflating
    queue.add(quotes("A", "A", "A"))
    assert len(queue.take(100)) == 3


def test_mark_stands_ahead_of_the_snapshot_that_followed_it() -> None:
    queue = FeedQueue(2)
    delta = book("SIM:A", "delta", [("1", "1")], [])
    whole = book("SIM:A", "snapshot", [("2", "1")], [])
    queue.add([delta, Missed("book", "SIM:A"), whole])
    assert queue.take(100) == [Missed("book", "SIM:A"), whole]
    assert (queue.conflated, queue.dropped) == (0, 1)


def test_delta_behind_a_mark_does_not_become_one_with_the_book_before_it() -> None:
    queue = FeedQueue(2)
    whole = book("SIM:A", "snapshot", [("2", "1")], [])
    stray = book("SIM:A", "delta", [("3", "1")], [])
    queue.add([whole, Missed("book", "SIM:A"), stray])
    assert queue.is_conflating
    assert queue.take(100) == [Missed("book", "SIM:A"), stray]
