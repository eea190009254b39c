"""Replays of one recording that are sent together: where they stand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from broker.core.playing import _merge
from broker.core.replay import Plan, Played, Replay, Skipped, Turned


def replays() -> list[tuple[Any, Replay]]:
    """Return two of one recording, at the beginning of its first tape."""
    sub = SimpleNamespace(mailbox=SimpleNamespace(replayed=lambda ticks: None))
    both = [Replay(Plan("r", None, None, None), 0, "own") for _ in range(2)]
    for replay in both:
        replay.put(Turned(0, "e9"))
        replay.pop()
    return [(sub, replay) for replay in both]


def test_tick_that_one_replay_sent_is_behind_the_other_that_was_read_up_to_it() -> None:
    group = replays()
    (_, books), (_, trades) = group
    trades.read_to(4)
    books.put(Played(5, "X:A", 1, 0, b"{}"))
    assert _merge(group, 9, 999) == [b"{}"]
    assert (books.position, trades.position) == (5, 5), "or a resume would bring it twice"


def test_tick_waits_for_another_replay_that_was_not_read_so_far() -> None:
    group = replays()
    (_, books), (_, trades) = group
    trades.read_to(3)
    books.put(Played(5, "X:A", 1, 0, b"{}"))
    assert _merge(group, 9, 999) == []
    assert trades.position == 3
    trades.put(Played(4, "X:A", 1, 0, b"[]"))
    assert _merge(group, 9, 999) == [b"[]", b"{}"]
    assert (books.position, trades.position) == (5, 5)


def test_place_is_before_what_is_missing_until_that_is_told() -> None:
    [(_, replay), _] = replays()
    replay.put(Played(1, "X:A", 1, 0, b"{}"))
    replay.put(Skipped(2, "X:A", 2, 5, "overflow"))
    replay.put(Played(9, "X:A", 6, 0, b"[]"))
    places = []
    while len(replay):
        replay.pop()
        places.append(replay.position)
    assert places == [1, 8, 9], "a resume from the first is told of the gap"


def test_place_at_the_end_of_a_tape_has_its_last_tick_behind_it() -> None:
    [(_, replay), _] = replays()
    replay.put(Played(1, "X:A", 1, 0, b"{}"))
    replay.put(Skipped(2, "X:A", None, None, "feed_reset"))
    replay.put(Turned(0, "e10"))
    replay.pop()
    assert replay.position == 1, "or a resume would bring it twice"
