"""Which part of a recording a subscription gets, and what it is told before and between."""

from __future__ import annotations

from broker.core.encoding import pack_tick, tick_to_json
from broker.core.playhead import Playhead
from broker.core.replay import Item, Plan, Played, Shown, Skipped, Turned
from broker.core.ticks import Book, Level, Tick
from tests.fakes import ACME, BETA, trade


def plan(since: int | None = None, after: tuple[str, int] | None = None) -> Plan:
    return Plan("r", None, since, after)


def encoded(tick: Tick, seq: int) -> bytes:
    tick.seq = seq
    return pack_tick(tick) if seq % 2 else tick_to_json(tick)


def book(kind: str, *bids: Level, at: int = 1) -> Book:
    return Book(sym=ACME, ts=at, rts=at, kind=kind, bids=list(bids), asks=[])  # type: ignore[arg-type]


def played(items: list[Item]) -> list[tuple[str, int]]:
    return [(item.sym, item.seq) for item in items if isinstance(item, Played)]


def of(kind: type, items: list[Item]) -> list[Item]:
    return [item for item in items if isinstance(item, kind)]


def test_all_of_the_channel_that_is_wanted_is_played_from_the_beginning() -> None:
    head = Playhead("trade", lambda sym: sym == ACME, plan())
    items = head.turn("e1", 4)
    for n in range(1, 4):
        items += head.tick(4 + 3 * n, encoded(trade(ACME, n), n))
        items += head.tick(5 + 3 * n, encoded(trade(BETA, n), n))
        items += head.tick(6 + 3 * n, encoded(book("delta"), n))
    assert items[0] == Turned(4, "e1")
    assert played(items) == [(ACME, 1), (ACME, 2), (ACME, 3)]
    assert len(items) == 4


def test_time_shows_the_state_of_before_and_plays_what_was_received_since() -> None:
    head = Playhead("trade", lambda sym: True, plan(since=5))
    items = head.turn("e1", 0)
    for n in range(1, 8):
        items += head.tick(n, encoded(trade(ACME, n), n))
    [turned, shown, *rest] = items
    assert turned == Turned(4, "e1")
    assert isinstance(shown, Shown)
    assert [(sym, seq) for sym, seq, _ in shown.states] == [(ACME, 4)]
    assert played(rest) == [(ACME, 5), (ACME, 6), (ACME, 7)]


def test_book_of_a_time_is_the_snapshot_that_its_deltas_made() -> None:
    head = Playhead("book", lambda sym: True, plan(since=10))
    head.turn("e1", 0)
    head.tick(1, encoded(book("snapshot", ("1", "5"), ("2", "5"), at=1), 1))
    head.tick(2, encoded(book("delta", ("2", "0"), ("3", "7"), at=2), 2))
    items = list(head.tick(3, encoded(book("delta", ("3", "8"), at=10), 3)))
    [shown] = of(Shown, items)
    assert isinstance(shown, Shown)
    [(sym, seq, raw)] = shown.states
    expected = Book(sym=ACME, seq=2, ts=2, rts=2, kind="snapshot", bids=[("3", "7"), ("1", "5")], asks=[])
    assert (sym, seq, raw) == (ACME, 2, pack_tick(expected))
    assert played(items) == [(ACME, 3)]


def test_time_after_the_end_shows_the_last_state() -> None:
    head = Playhead("trade", lambda sym: True, plan(since=100))
    head.turn("e1", 0)
    head.tick(1, encoded(trade(ACME, 1), 1))
    assert [type(item) for item in head.end()] == [Turned, Shown]
    assert head.end() == []


def test_time_is_reached_for_every_channel_at_the_same_tick() -> None:
    heads = [Playhead(ch, lambda sym: True, plan(since=5)) for ch in ("trade", "quote")]
    for head in heads:
        head.turn("e1", 0)
        items = [*head.tick(1, encoded(trade(ACME, 1), 1)), *head.tick(2, encoded(trade(ACME, 7), 2))]
        assert items[0] == Turned(1, "e1")


def test_place_is_played_on_behind_without_a_snapshot() -> None:
    head = Playhead("trade", lambda sym: True, plan(after=("e1", 3)))
    items = head.turn("e1", 0)
    for n in range(1, 6):
        items += head.tick(n, encoded(trade(ACME, n), n))
    assert items[0] == Turned(3, "e1")
    assert played(items) == [(ACME, 4), (ACME, 5)]
    assert len(items) == 3


def test_missing_ticks_are_named_by_their_numbers() -> None:
    head = Playhead("trade", lambda sym: True, plan())
    head.turn("e1", 0)
    items = [*head.tick(1, encoded(trade(ACME, 1), 1)), *head.tick(9, encoded(trade(ACME, 9), 6))]
    assert items[1] == Skipped(2, ACME, 2, 5, "overflow"), (
        "whoever has been sent the first tick alone, is told"
    )
    assert played(items) == [(ACME, 1), (ACME, 6)]


def test_book_without_its_beginning_waits_for_its_state() -> None:
    head = Playhead("book", lambda sym: True, plan())
    head.turn("e1", 0)
    assert list(head.tick(7, encoded(book("delta", ("1", "1")), 7))) == []
    state = encoded(book("snapshot", ("1", "1")), 8)
    assert head.states(8, [state]) == [Shown(8, [(ACME, 8, state)])]
    assert played(list(head.tick(9, encoded(book("delta"), 8)))) == [], "it is in the snapshot"
    assert played(list(head.tick(10, encoded(book("delta"), 9)))) == [(ACME, 9)]


def test_state_helps_a_book_behind_a_hole_and_is_not_repeated_for_a_whole_one() -> None:
    head = Playhead("book", lambda sym: True, plan())
    head.turn("e1", 0)
    head.tick(1, encoded(book("snapshot"), 1))
    assert list(head.states(1, [encoded(book("snapshot"), 1)])) == []
    state = encoded(book("snapshot"), 5)
    assert of(Skipped, list(head.tick(9, encoded(book("delta"), 5)))) == [Skipped(2, ACME, 2, 4, "overflow")]
    assert head.states(9, [state]) == [Shown(9, [(ACME, 5, state)])]
    assert list(head.states(9, [state])) == []


def test_state_behind_a_hole_tells_what_is_missing_before_any_tick_does() -> None:
    head = Playhead("book", lambda sym: True, plan())
    head.turn("e1", 0)
    head.tick(1, encoded(book("snapshot"), 1))
    state = encoded(book("snapshot"), 5)
    assert head.states(8, [state]) == [
        Skipped(2, ACME, 2, 5, "overflow"),
        Shown(8, [(ACME, 5, state)]),
    ]
    assert played(list(head.tick(9, encoded(book("delta"), 6)))) == [(ACME, 6)]


def test_place_before_a_hole_is_told_of_it_though_a_state_stands_behind() -> None:
    head = Playhead("trade", lambda sym: True, plan(after=("e1", 2)))
    items = head.turn("e1", 0)
    for n in (1, 2):
        items += head.tick(n, encoded(trade(ACME, n), n))
    items += head.states(8, [encoded(trade(ACME, 7), 7)])
    items += head.tick(9, encoded(trade(ACME, 8), 8))
    assert items[:2] == [Turned(2, "e1"), Skipped(3, ACME, 3, 7, "overflow")]
    assert played(items) == [(ACME, 8)]


def test_tape_of_another_epoch_begins_with_a_reset_of_all_that_was_played() -> None:
    head = Playhead("trade", lambda sym: True, plan())
    head.turn("e1", 0)
    head.tick(1, encoded(trade(ACME, 1), 1))
    head.tick(2, encoded(trade(BETA, 1), 1))
    assert head.turn("e2", 0) == [
        Skipped(3, ACME, None, None, "feed_reset"),
        Skipped(3, BETA, None, None, "feed_reset"),
        Turned(0, "e2"),
    ]
    assert played(list(head.tick(1, encoded(trade(ACME, 1), 1)))) == [(ACME, 1)]


def test_place_at_the_end_of_an_epoch_goes_on_with_the_next() -> None:
    head = Playhead("trade", lambda sym: True, plan(after=("e1", 2)))
    head.turn("e1", 0)
    head.tick(1, encoded(trade(ACME, 1), 1))
    head.tick(2, encoded(trade(ACME, 2), 2))
    assert head.turn("e2", 0) == [
        Turned(2, "e1"),
        Skipped(3, ACME, None, None, "feed_reset"),
        Turned(0, "e2"),
    ]


def test_ticks_that_were_missed_at_the_venue_are_told_once_it_plays() -> None:
    head = Playhead("book", lambda sym: True, plan(since=5))
    head.turn("~r", 0)
    assert head.lose(0, "book", ACME) == ()
    head.tick(1, encoded(book("snapshot", at=5), 1), 5)
    assert head.lose(1, "book", ACME) == [Skipped(1, ACME, None, None, "feed_reset")]
    assert head.lose(1, "quote", ACME) == ()


def test_book_that_was_not_whole_at_the_time_waits_for_its_state() -> None:
    head = Playhead("book", lambda sym: True, plan(since=5))
    head.turn("e1", 0)
    head.tick(1, encoded(book("delta", at=1), 7))
    items = list(head.tick(2, encoded(book("delta", at=5), 8)))
    assert items == [Turned(1, "e1")]
    state = encoded(book("snapshot"), 8)
    assert head.states(2, [state]) == [Shown(2, [(ACME, 8, state)])]
