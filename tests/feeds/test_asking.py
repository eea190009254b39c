"""When a broken book is asked for again, and what is done about answers that do not come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import FeedError
from feeds.asking import Asking, Pauses


def test_pauses_grow_up_to_a_minute_and_are_forgotten_in_calm_times() -> None:
    pauses, now, seen = Pauses(), 0.0, []
    for _ in range(9):
        due = pauses.until("BTCUSD", now)
        seen.append(due - now)
        now = due
        pauses.note("BTCUSD", now)
    assert seen == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert pauses.until("ETHUSD", now) == now
    assert pauses.until("BTCUSD", now + 119) == now + 119
    pauses.note("BTCUSD", now + 120)
    assert pauses.until("BTCUSD", now + 120) == now + 121


@given(st.lists(st.floats(0, 200), max_size=60))
def test_however_often_a_book_breaks_there_is_a_pause_before_it_is_asked_for_again(gaps: list[float]) -> None:
    pauses, now = Pauses(), 0.0
    asked: list[float] = []
    for gap in gaps:
        now += gap
        if pauses.until("A", now) <= now:
            pauses.note("A", now)
            asked.append(now)
    assert all(later - earlier >= 0.999 for earlier, later in pairwise(asked))


def test_book_that_breaks_is_asked_for_at_once_and_then_with_pauses() -> None:
    asking = Asking()
    asking.asked(["A", "B"], 0)
    assert asking.due(["A"], ["A"], 5) == ["A"]
    assert asking.due(["A"], ["A"], 5.5) == []
    assert asking.due(["A"], [], 6) == ["A"]
    assert asking.due([], [], 6.5) == []
    assert asking.due(["A"], ["A"], 7) == []
    assert asking.due(["A", "B"], ["B"], 8) == ["A", "B"]


def test_answer_that_does_not_come_is_waited_for_and_then_a_connection_is_given_up_once() -> None:
    asking = Asking()
    for connection in range(3):
        begun = 1000 * connection
        asking.begin()
        asking.asked(["A"], begun)
        assert asking.due(["A"], [], begun + 29) == []
        assert asking.due(["A"], [], begun + 30) == ["A"]
        assert asking.due(["A"], [], begun + 59) == []
        if connection:
            assert asking.due(["A"], [], begun + 60) == ["A"]
        else:
            with pytest.raises(FeedError, match="book of A has not come"):
                asking.due(["A"], [], begun + 60)


def test_book_that_has_come_is_worth_a_new_connection_again() -> None:
    asking = Asking()
    for begun in (0, 1000):
        asking.begin()
        asking.asked(["A"], begun)
        asking.due(["A"], [], begun + 30)
        with pytest.raises(FeedError):
            asking.due(["A"], [], begun + 60)
        asking.begin()
        asking.asked(["A"], begun + 70)
        asking.due([], [], begun + 71)


def test_refused_request_is_waited_for_no_more() -> None:
    asking = Asking()
    asking.asked(["A"], 0)
    assert asking.due(["A"], [], 1) == []
    asking.hurry()
    assert asking.due(["A"], [], 1) == ["A"]
