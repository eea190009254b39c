"""How long a feed may be mute: learnt from the feed, within bounds, and without flapping."""

from __future__ import annotations

from itertools import pairwise
from math import e

from hypothesis import given
from hypothesis import strategies as st

from broker.core.staleness import FACTOR, LEARN_INTERVALS, LEARN_S, MEMORY_S, Staleness

MOST_S = 60.0
LEAST_S = 10.0
#: Silences as markets have them: mostly short, some long.
silences = st.lists(
    st.one_of(st.floats(0.01, 1.0), st.floats(0.01, 20.0), st.floats(0.01, 300.0)), max_size=400
)


def taught(interval_s: float, most_s: float = MOST_S) -> tuple[Staleness, float]:
    """Return one that has heard a steady feed for long enough, and the time."""
    staleness, now = Staleness(most_s), 0.0
    staleness.heard(now)
    for _ in range(max(LEARN_INTERVALS, int(LEARN_S / interval_s) + 1)):
        now += interval_s
        staleness.heard(now)
    return staleness, now


def test_busy_feed_is_given_less_time_than_a_quiet_one() -> None:
    assert taught(0.1)[0].patience_s == LEAST_S
    assert taught(3.0)[0].patience_s == 30.0
    assert taught(20.0)[0].patience_s == MOST_S


def test_feed_that_is_not_known_yet_is_given_the_most() -> None:
    staleness, now = Staleness(MOST_S), 0.0
    for _ in range(LEARN_INTERVALS - 1):
        staleness.heard(now)
        assert staleness.patience_s == MOST_S
        now += 0.1
    for _ in range(2 * LEARN_INTERVALS):
        staleness.heard(now)
        now += 0.1
    assert staleness.patience_s == MOST_S, "30 s are no market"


def test_time_between_two_lives_is_no_silence_of_the_market() -> None:
    staleness, now = taught(0.1)
    staleness.begin()
    staleness.heard(now + 1000.0)
    assert staleness.patience_s == LEAST_S


def test_silence_is_forgotten_in_the_course_of_hours() -> None:
    staleness, now = taught(0.1)
    now += 5.0
    staleness.heard(now)
    assert staleness.patience_s == 50.0
    for _ in range(int(3 * MEMORY_S)):
        now += 1.0
        staleness.heard(now)
    assert staleness.patience_s == LEAST_S


def test_ticks_of_the_same_moment_are_no_intervals() -> None:
    staleness, now = taught(3.0)
    for _ in range(1000):
        staleness.heard(now)
    assert staleness.patience_s == 30.0


def test_who_gave_up_early_waits_the_most_for_half_an_hour() -> None:
    staleness, now = taught(0.1)
    staleness.gave_up()
    staleness.begin()
    for _ in range(1800):
        staleness.heard(now)
        assert staleness.patience_s == MOST_S
        now += 1.0


@given(silences, st.floats(0.5, 1000.0))
def test_patience_is_within_its_bounds_whatever_comes(gaps: list[float], most_s: float) -> None:
    staleness, now = Staleness(most_s), 0.0
    for gap in gaps:
        staleness.heard(now)
        assert staleness.least_s <= staleness.patience_s <= most_s
        if gap > staleness.patience_s:
            staleness.gave_up()
            staleness.begin()
        now += gap


@given(silences)
def test_feed_is_never_mute_while_it_is_as_it_was_in_the_last_hour(gaps: list[float]) -> None:
    staleness, now = taught(0.1)
    heard: list[tuple[float, float]] = []
    for gap in gaps:
        now += gap
        staleness.heard(now)
        heard.append((now, gap))
        longest = max(gap for at, gap in heard if at >= now - MEMORY_S)
        assert staleness.patience_s >= min(MOST_S, FACTOR * longest / e) - 1e-6


@given(silences)
def test_quiet_market_does_not_flap(gaps: list[float]) -> None:
    staleness, now = taught(0.1)
    early: list[float] = []
    for gap in gaps:
        now += gap
        if gap > staleness.patience_s:
            if staleness.patience_s < MOST_S:
                early.append(now)
            staleness.gave_up()
            staleness.begin()
        staleness.heard(now)
    assert all(later - sooner >= MEMORY_S / 2 for sooner, later in pairwise(early))
