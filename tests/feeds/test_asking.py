"""How often a broken book is asked for again, and how long its answer may take."""

from __future__ import annotations

import pytest

from broker.core.errors import FeedError
from feeds.asking import Asking


def test_book_that_breaks_four_times_within_a_minute_ends_the_connection() -> None:
    asking = Asking()
    for now in (0, 10, 20):
        asking.ask("BTCUSD", now)
    asking.ask("ETHUSD", 30)
    with pytest.raises(FeedError, match="book of BTCUSD can't be read"):
        asking.ask("BTCUSD", 59)


def test_book_that_breaks_now_and_then_is_asked_for_each_time() -> None:
    asking = Asking()
    for now in range(0, 2000, 21):
        asking.ask("BTCUSD", now)


def test_answer_that_does_not_come_ends_the_connection() -> None:
    asking = Asking()
    asking.check({"BTCUSD"}, 100)
    asking.ask("BTCUSD", 0)
    asking.check({"BTCUSD"}, 29)
    with pytest.raises(FeedError, match="BTCUSD was asked for again, and has not come within 30 s"):
        asking.check({"BTCUSD"}, 30)


def test_answer_that_has_come_is_awaited_no_more() -> None:
    asking = Asking()
    asking.ask("BTCUSD", 0)
    asking.check(set(), 29)
    asking.check({"BTCUSD"}, 31)
