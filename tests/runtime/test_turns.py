"""Whose turn it is: never early, less than a second late, and not all at once."""

from __future__ import annotations

from collections import Counter
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from broker.runtime.turns import LONGEST_TURNS, PLACES, TURN_S, Turns


def run(turns: Turns[int], until: float) -> list[tuple[float, int]]:
    """Return whose turn was when."""
    had = []
    while turns.next_at <= until:
        at = turns.next_at
        had += [(at, member) for member in turns.take()]
    return had


@given(
    begun=st.floats(0, 1e6),
    before=st.integers(0, 50),
    delays=st.lists(st.floats(-5, 20), min_size=1, max_size=30),
)
def test_turn_comes_once_when_it_is_due_or_less_than_a_second_later(
    begun: float, before: int, delays: list[float]
) -> None:
    turns: Turns[int] = Turns(begun)
    run(turns, begun + before * TURN_S)
    now = turns.next_at
    for member, delay in enumerate(delays):
        turns.add(member, now + delay)
    had = run(turns, now + 25)
    assert sorted(member for _, member in had) == list(range(len(delays)))
    for at, member in had:
        late = at - max(now, now + delays[member])
        assert -1e-6 < late <= PLACES * TURN_S + 1e-6


def test_those_who_came_together_have_their_turns_spread_over_the_second() -> None:
    turns: Turns[int] = Turns(100.0)
    for member in range(200):
        turns.add(member, 100.0)
    had = Counter(at for at, _ in run(turns, 102.0))
    assert list(had.values()) == [200 // PLACES] * PLACES


def test_member_keeps_its_place_so_that_what_is_due_every_second_has_an_even_beat() -> None:
    turns: Turns[int] = Turns(0.0)
    turns.add(0, 0.0)
    turns.add(1, 0.0)
    times = []
    while turns.next_at < 5:
        at = turns.next_at
        for member in turns.take():
            turns.add(member, at + 0.75)
            if member == 1:
                times.append(at)
    assert times == [TURN_S + second for second in range(5)]


def test_who_has_left_has_no_turn_whether_he_was_waiting_or_not() -> None:
    turns: Turns[int] = Turns(0.0)
    for member in range(3):
        turns.add(member, 0.0)
    assert turns.take() == [0]
    turns.remove(0)
    turns.remove(1)
    turns.remove(1)
    assert [member for _, member in run(turns, 5.0)] == [2]


def test_what_is_never_due_is_looked_at_once_an_hour() -> None:
    turns: Turns[int] = Turns(0.0)
    turns.add(0, inf)
    ((at, _),) = run(turns, 3700.0)
    assert at >= LONGEST_TURNS * TURN_S
