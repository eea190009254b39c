"""The account of one symbol's seq."""

from hypothesis import given
from hypothesis import strategies as st

from broker.client.sequence import Sequence

FATES = st.lists(st.sampled_from(["sent", "skipped", "told", "doubled"]), max_size=60)


@given(FATES)
def test_every_tick_is_received_told_or_skipped_and_none_counts_twice(fates: list[str]) -> None:
    sequence = Sequence()
    sequence.tick(1)
    received, skipped, told, seq = 1, 0, 0, 1
    for fate in fates:
        seq += 1
        if fate == "told":
            bounds = sequence.gap(seq, seq)
            assert bounds == (seq, seq)
            told += 1
        elif fate in ("sent", "doubled"):
            jumped = sequence.tick(seq)
            assert jumped is not None
            skipped += jumped
            received += 1
        if fate == "doubled":
            assert sequence.tick(seq) is None
    jumped = sequence.tick(seq + 1)
    assert jumped is not None
    assert received + skipped + jumped + told == seq


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 50))
def test_gap_is_cut_to_what_has_not_been_received(last: int, first: int, length: int) -> None:
    sequence = Sequence()
    sequence.tick(1)
    sequence.tick(last)
    bounds = sequence.gap(first, first + length)
    missing = [seq for seq in range(first, first + length + 1) if seq > last]
    assert bounds == ((missing[0], missing[-1]) if missing else None)


def test_gap_without_a_beginning_begins_behind_the_last_tick() -> None:
    sequence = Sequence()
    sequence.tick(7)
    assert sequence.gap(None, 12) == (8, 12)
    assert sequence.tick(13) == 0


def test_gap_of_a_feed_leaves_the_account_where_it_is() -> None:
    sequence = Sequence()
    sequence.tick(7)
    assert sequence.gap(None, None) == (None, None)
    assert sequence.tick(7) is None
    assert sequence.tick(9) == 1


def test_gap_further_on_explains_only_its_part_of_a_jump() -> None:
    sequence = Sequence()
    sequence.tick(10)
    assert sequence.gap(15, 16) == (15, 16)
    assert sequence.tick(20) == 7


def test_first_tick_is_right_whatever_its_number() -> None:
    assert Sequence().tick(99) == 0


def test_snapshot_sets_where_the_updates_go_on() -> None:
    sequence = Sequence()
    assert sequence.snapshot(5, 1, is_aside=False) == (True, 0)
    assert sequence.tick(5) is None
    assert sequence.tick(6) == 0


def test_snapshot_may_hold_several_ticks_of_one_symbol_in_any_order() -> None:
    sequence = Sequence()
    assert sequence.snapshot(100, 1, is_aside=False)[0]
    assert sequence.snapshot(95, 1, is_aside=False)[0]
    assert sequence.tick(101) == 0


def test_snapshot_that_repeats_what_is_known_is_no_news() -> None:
    sequence = Sequence()
    sequence.tick(5)
    assert sequence.snapshot(5, 1, is_aside=False) == (False, 0)


def test_snapshot_behind_a_gap_is_news_though_the_gap_covers_its_number() -> None:
    sequence = Sequence()
    sequence.tick(5)
    sequence.gap(None, 9)
    assert sequence.snapshot(9, 1, is_aside=False) == (True, 0)
    assert sequence.tick(10) == 0


def test_snapshot_aside_of_a_resume_does_not_swallow_the_ticks_that_follow() -> None:
    sequence = Sequence()
    sequence.tick(5)
    sequence.taken_up(is_new_epoch=False)
    assert sequence.snapshot(9, 2, is_aside=True) == (True, 0)
    assert [sequence.tick(seq) for seq in (6, 7, 8, 9)] == [0, 0, 0, 0]


def test_new_epoch_counts_from_one_again() -> None:
    sequence = Sequence()
    sequence.tick(500)
    sequence.taken_up(is_new_epoch=True)
    assert sequence.is_lost
    assert sequence.gap(None, None) == (None, None)
    assert not sequence.is_lost
    assert sequence.tick(1) == 0
